//! A state that is saved, for worlds without the key-value store.

use bytes::Bytes;
use quorate::Command;
use quorate::saved::State;
use serde::{Deserialize, Serialize};

/// How much comes with a number, so that a few of them fill a log.
const BALLAST_BYTES: usize = 300;

/// Numbers, in the order in which they came.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Notes(Vec<u64>);

impl Notes {
    /// The command that adds `number`.
    pub(super) fn command(number: u64) -> Bytes {
        let mut command = vec![0; BALLAST_BYTES];
        command[..8].copy_from_slice(&number.to_le_bytes());
        command.into()
    }

    /// What an answer to a question says.
    pub(super) fn read(answer: &[u8]) -> Vec<u64> {
        postcard::from_bytes(answer).expect("an answer of this state")
    }
}

impl State for Notes {
    const COMPARED: bool = true;

    fn apply(&mut self, command: &Command) -> Bytes {
        let number = command.data.first_chunk().expect("a command of this state");
        self.0.push(u64::from_le_bytes(*number));
        self.0.len().to_string().into()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        let numbers = postcard::to_stdvec(&self.0);
        numbers.expect("numbers can be encoded").into()
    }
}
