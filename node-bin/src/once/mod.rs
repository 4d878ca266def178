//! Commands that are carried out once, however often they are sent, and from whichever member.
//!
//! Who loses a leader between a command and its answer does not know whether it was carried out, and may neither leave it
//! nor repeat it. A node that is started by [`NodeBuilder::start_saved_once`] numbers the commands it is given, and the
//! state keeps the last answers, so that [`NodeHandle::submit`](crate::NodeHandle::submit) can repeat one at the next
//! leader until it has its answer.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use quorate::saved::State;
//! use quorate::{Command, Credentials, Node, NodeConfig};
//! use serde::{Deserialize, Serialize};
//!
//! /// How much is in the till.
//! #[derive(Clone, Default, Serialize, Deserialize)]
//! struct Till(u64);
//!
//! impl State for Till {
//!     fn apply(&mut self, command: &Command) -> Bytes {
//!         self.0 += command.data.len() as u64;
//!         self.0.to_string().into()
//!     }
//!
//!     fn query(&self, _query: &[u8]) -> Bytes {
//!         self.0.to_string().into()
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let credentials = Credentials::load("n1".as_ref())?;
//! let config = NodeConfig::new("127.0.0.1:7001".parse()?, "n1/data");
//! let node = Node::builder(config, credentials).start_saved_once(Till::default())?;
//! // Whoever leads, and if that changes meanwhile.
//! let sum = node.submit("ooo".into(), Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # How
//!
//! As the sessions of the Raft dissertation (section 6.3), with the slots of NFS 4.1 (RFC 8881, section 2.10.6.1) instead of
//! one command at a time. Who sends is a start of a node, which the log counts durably, so that nobody has to open a
//! session and none expires: the next start of a node ends the former one. A start has [`SLOTS_MAX`] slots, and of each
//! the state keeps the number of the last command and its answer.

mod form;
mod slots;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use quorate_consensus::{Command, LogIndex, NodeId, StateMachine};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use self::form::{Said, split};
pub(crate) use self::slots::{Numbered, Slots};
use crate::node::{Node, NodeBuilder, StartError};
use crate::planted;
use crate::saved::{Saved, State};

/// How many commands of one node may be under way at a time: more wait in [`submit`](crate::NodeHandle::submit), and are
/// refused by [`propose`](crate::NodeHandle::propose). At a round trip of 20 ms these are 12,000 a second.
pub const SLOTS_MAX: u16 = 256;

/// The longest answer that is kept for who asks again: 16 KiB, so that those of a node do not come to more than 4 MiB. Of a
/// longer one it is only known that there was one.
pub const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Of how many nodes it is known what they sent: more than a cluster has members, and few enough that all they were answered can
/// be saved. Beyond it, who has sent nothing for longest is forgotten.
pub const NODES_MAX: usize = 64;

/// What stands before everything else where it is saved: for most other types the length of a sequence that cannot be, or a
/// number after which nothing may come.
const MARK: u64 = u64::MAX;

/// A [`State`] that carries out every numbered command once.
///
/// It is saved, compared and sent to other members like the state in it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(bound = "S: State")]
pub struct Once<S> {
    #[serde(deserialize_with = "marked")]
    mark: u64,
    heard: BTreeMap<NodeId, Heard>,
    state: S,
}

/// Reads the mark: a state that was saved without numbers has none, and must not be taken for one that has.
fn marked<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        MARK => Ok(MARK),
        _ => Err(Error::custom("its commands were not numbered")),
    }
}

/// What the last start of a node has sent.
#[derive(Clone, Serialize, Deserialize)]
struct Heard {
    start: u64,
    /// The entry of the last one.
    at: LogIndex,
    slots: BTreeMap<u16, Last>,
}

/// The last command in a slot.
#[derive(Clone, Serialize, Deserialize)]
struct Last {
    number: u64,
    /// `None` if it was too long.
    answer: Option<Bytes>,
}

/// Which command it is: the same each time it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Tag {
    node: NodeId,
    /// How often the node's log had been opened.
    start: u64,
    /// Less than [`SLOTS_MAX`].
    slot: u16,
    /// Greater than that of every other command before it in the slot.
    number: u64,
}

impl Tag {
    /// Whether it is one that `node` gives.
    pub(crate) fn is_of(&self, node: NodeId) -> bool {
        self.node == node
    }
}

impl<S: State> Once<S> {
    /// `state`, to which nobody has sent anything yet.
    fn new(state: S) -> Self {
        let heard = BTreeMap::new();
        let mark = MARK;
        Self { mark, heard, state }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// What is said of a command that has been here, or comes too late.
    fn known(&self, tag: Tag) -> Option<Said> {
        let heard = self.heard.get(&tag.node)?;
        if tag.start != heard.start {
            return (tag.start < heard.start).then_some(Said::Late);
        }
        let last = heard.slots.get(&tag.slot)?;
        if tag.number != last.number {
            return (tag.number < last.number).then_some(Said::Late);
        }
        Some(match &last.answer {
            Some(answer) => Said::Answer(answer.clone()),
            None => Said::NotKept,
        })
    }

    /// Keeps `answer` for who asks again.
    fn keep(&mut self, tag: Tag, at: LogIndex, answer: &Bytes) {
        let heard = self.heard.entry(tag.node).or_insert_with(|| Heard {
            start: tag.start,
            at,
            slots: BTreeMap::new(),
        });
        if heard.start != tag.start {
            heard.start = tag.start;
            heard.slots.clear();
        }
        heard.at = at;
        let fits = answer.len() <= ANSWER_BYTES_MAX;
        let last = Last {
            number: tag.number,
            // Not a part of a larger one, which would be held as a whole.
            answer: fits.then(|| Bytes::copy_from_slice(answer)),
        };
        heard.slots.insert(tag.slot, last);
        if self.heard.len() > NODES_MAX {
            let longest = self.heard.iter().min_by_key(|(_, heard)| heard.at);
            let longest = longest.map(|(&node, _)| node);
            longest.and_then(|node| self.heard.remove(&node));
        }
    }
}

impl<S> fmt::Debug for Once<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once")
            .field("nodes", &self.heard.len())
            .finish_non_exhaustive()
    }
}

impl<S: State> State for Once<S> {
    const COMPARED: bool = S::COMPARED;

    fn apply(&mut self, command: &Command) -> Bytes {
        let Some((tag, data)) = split(&command.data) else {
            return Said::Malformed.encode();
        };
        if let Some(said) = self.known(tag)
            && !planted::is("repeated-command-applied")
        {
            return said.encode();
        }
        let command = Command {
            id: command.id,
            data,
        };
        let answer = self.state.apply(&command);
        self.keep(tag, command.id.index, &answer);
        Said::Answer(answer).encode()
    }

    fn query(&self, query: &[u8]) -> Bytes {
        self.state.query(query)
    }
}

impl NodeBuilder {
    /// As [`start_saved`](Self::start_saved), of a state that carries out once whatever
    /// [`submit`](crate::NodeHandle::submit) and [`propose`](crate::NodeHandle::propose) send it, however often.
    ///
    /// All members have to be started so, from the first start on: a cluster cannot go over to it, nor back. What is saved by
    /// one is refused by the other, and the two kinds of nodes do not speak with each other. A command without a number, in the log of
    /// before or by [`NodeHandle::raft`](crate::NodeHandle::raft), is not carried out.
    ///
    /// The answers are a part of what is saved, and, where states are [compared](State::COMPARED), of that: they may depend on
    /// nothing but the state and the command, either.
    ///
    /// # Errors
    ///
    /// As [`start_saved`](Self::start_saved).
    pub fn start_saved_once(self, empty: impl State) -> Result<Node, StartError> {
        self.start_saved_once_with(empty, |saved| saved)
    }

    /// As [`start_saved_once`](Self::start_saved_once), with what `around` makes of the saved state as the state machine: to
    /// watch what is applied, with its numbers.
    ///
    /// # Errors
    ///
    /// As [`start_saved`](Self::start_saved).
    pub fn start_saved_once_with<S: State, M: StateMachine>(
        self,
        empty: S,
        around: impl FnOnce(Saved<Once<S>>) -> M,
    ) -> Result<Node, StartError> {
        self.numbering().start_saved_with(Once::new(empty), around)
    }
}

#[cfg(test)]
mod tests;
