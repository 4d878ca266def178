//! A state machine for a state that fits in memory: the state is saved to one file, the log is compacted, and
//! members that were away for long get snapshots.
//!
//! A program brings a [`State`], and starts a node with it by [`NodeBuilder::start_saved`]. Without this, whoever
//! implements [`StateMachine`] with its defaults keeps the whole log, and reads all of it
//! into memory at every start.
//!
//! ```no_run
//! use std::collections::BTreeMap;
//!
//! use bytes::Bytes;
//! use quorate::saved::State;
//! use quorate::{Command, Credentials, Node, NodeConfig};
//! use serde::{Deserialize, Serialize};
//!
//! /// How often each word was said.
//! #[derive(Clone, Default, Serialize, Deserialize)]
//! struct Words(BTreeMap<Vec<u8>, u64>);
//!
//! impl State for Words {
//!     fn apply(&mut self, command: &Command) -> Bytes {
//!         let count = self.0.entry(command.data.to_vec()).or_default();
//!         *count += 1;
//!         count.to_string().into()
//!     }
//!
//!     fn query(&self, word: &[u8]) -> Bytes {
//!         let count = self.0.get(word).copied().unwrap_or_default();
//!         count.to_string().into()
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let credentials = Credentials::load("n1".as_ref())?;
//! let config = NodeConfig::new("127.0.0.1:7001".parse()?, "n1/data");
//! let node = Node::builder(config, credentials).start_saved(Words::default())?;
//! let answer = node.propose("hello".into()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Started by [`NodeBuilder::start_saved_once`], it carries out each command [once](crate::once), however often that was sent.
//!
//! # What it costs
//!
//! All of the state is written at every checkpoint, every five seconds or 36 MiB of commands while there are any
//! ([`Config::checkpoint_interval`], [`Config::checkpoint_bytes`]), on a thread of its own. Only the clone is made
//! on the thread that applies: where the state is large, keep its parts behind `Arc`. Besides the state there is
//! one clone in memory while it is written or compared; a member that gets a snapshot, and a node that starts, has
//! the encoded state in memory for a moment, and a former state besides.
//!
//! # When the program changes
//!
//! The state is encoded by [Postcard](https://docs.rs/postcard), in which the order and the types of fields
//! count, and their names do not. A program whose state has another form should still decode the former one: an
//! `enum` with a variant for each form does, if new ones are added at its end. Members of both versions may run at
//! the same time, and get each other's snapshots; one that cannot decode a snapshot refuses it, and says so.
//!
//! [`Config::checkpoint_interval`]: quorate_consensus::Config::checkpoint_interval
//! [`Config::checkpoint_bytes`]: quorate_consensus::Config::checkpoint_bytes

mod check;
mod checkpoint;
mod error;
mod file;
mod machine;
mod scan;
mod snapshot;

use bytes::Bytes;
use quorate_consensus::{Command, StateMachine};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::check::SavedFile;
pub use self::error::{Damage, SavedError};
pub use self::machine::Saved;
use crate::node::{Node, NodeBuilder, StartError};

/// The name of the state's file in a node's data folder.
pub const STATE_FILE: &str = "state";

/// How large a state may be, encoded: 1 GiB. It takes some seconds to be encoded or decoded then, and several
/// times as much memory, of which nobody should be able to ask for more by a length in a file or a message. A state
/// that has grown larger is not saved, which is logged as an error at every checkpoint; the log grows then, until
/// the state is smaller.
pub const STATE_BYTES_MAX: u64 = 1 << 30;

/// A state that fits in memory, and what commands and questions make of it.
pub trait State: Serialize + DeserializeOwned + Clone + Send + 'static {
    /// Whether equal states are encoded equally on all members, as they are with `Vec` and `BTreeMap`, and are not
    /// with `HashMap`. Then the members compare theirs every ten minutes, and one that differs stops itself. With
    /// `true` for a state that is not so, members stop without need. Default `false`: states are not compared.
    const COMPARED: bool = false;

    /// Carries out one committed command and returns the answer to it.
    ///
    /// It must be deterministic: what becomes of the state may depend on the state and the command only, never on a
    /// clock, on chance, on hash order or on the machine. A command that is refused, or makes no sense, gets an
    /// answer like any other. A panic stops the node, and every other one that applies the command.
    fn apply(&mut self, command: &Command) -> Bytes;

    /// Answers a question. A malformed one gets an answer as well.
    fn query(&self, query: &[u8]) -> Bytes;
}

impl NodeBuilder {
    /// Starts a node of a replicated state that is saved in [`STATE_FILE`] in the data folder. At the first start it
    /// is `empty`, which has to be the same on all members; later on, what was saved, to which the log is applied
    /// from there on.
    ///
    /// # Errors
    ///
    /// As [`NodeBuilder::start`], and when the state's file cannot be used.
    pub fn start_saved(self, empty: impl State) -> Result<Node, StartError> {
        self.start_saved_with(empty, |saved| saved)
    }

    /// As [`start_saved`](Self::start_saved), with what `around` makes of the saved state as the state machine: to watch
    /// what is applied.
    ///
    /// # Errors
    ///
    /// As [`start_saved`](Self::start_saved).
    pub fn start_saved_with<S: State, M: StateMachine>(
        self,
        empty: S,
        around: impl FnOnce(Saved<S>) -> M,
    ) -> Result<Node, StartError> {
        let owner = self.store_identity()?;
        self.check_port()?;
        let path = self.prepare_data_dir()?.join(STATE_FILE);
        let (files, background) = (self.kept_on(), !self.is_inline());
        let saved = Saved::open_in(files, &path, &owner, empty, background)?;
        self.start(around(saved))
    }
}

#[cfg(test)]
mod tests;
