//! Locks with fencing tokens: whoever holds a lock has a number that is higher than every holder's before, so
//! that what it protects can refuse a holder that has been away for too long and does not know it.
//!
//! A lock is not given back by time here: a clock would make the nodes differ. `break` takes it away from the holder
//! with a token, at whatever an operator or a watchdog decides, and the token does the rest.
//!
//! Every command may be carried out twice, so that it can be repeated when its outcome is unknown: acquiring a lock answers
//! with its holder, and the others name a token, which nobody has twice.
//!
//! ```text
//! cargo run --release -p quorate --example lock-service
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::saved::State;
use quorate::{CommandError, Node, ProposeError};
use serde::{Deserialize, Serialize};

#[path = "common/mod.rs"]
mod common;

#[derive(Serialize, Deserialize)]
enum Command {
    Acquire { lock: String, owner: String },
    Release { lock: String, token: u64 },
    Break { lock: String, token: u64 },
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Answer {
    Held { owner: String, token: u64 },
    Free,
    Malformed,
}

#[derive(Clone, Serialize, Deserialize)]
struct Holder {
    owner: String,
    token: u64,
}

/// In memory and, as it was some seconds ago, in a file; the log brings the rest back.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Locks(BTreeMap<String, Holder>);

impl Locks {
    /// `index` is the command's place in the log: it only ever rises, which makes it the token.
    fn carry_out(&mut self, command: Command, index: u64) -> Answer {
        match command {
            Command::Acquire { lock, owner } => {
                let new = Holder {
                    owner: owner.clone(),
                    token: index,
                };
                let holder = self.0.entry(lock).or_insert(new);
                Answer::Held {
                    owner: holder.owner.clone(),
                    token: holder.token,
                }
            }
            Command::Release { lock, token } | Command::Break { lock, token } => {
                if self
                    .0
                    .get(&lock)
                    .is_some_and(|holder| holder.token == token)
                {
                    self.0.remove(&lock);
                }
                self.look(&lock)
            }
        }
    }

    fn look(&self, lock: &str) -> Answer {
        match self.0.get(lock) {
            Some(Holder { owner, token }) => Answer::Held {
                owner: owner.clone(),
                token: *token,
            },
            None => Answer::Free,
        }
    }
}

fn encode(value: &impl Serialize) -> Bytes {
    let bytes = postcard::to_stdvec(value).expect("text and numbers can be encoded");
    bytes.into()
}

impl State for Locks {
    /// A map that is in order is encoded in the same way on every member. So they compare their states every ten
    /// minutes, and one that differs stops itself.
    const COMPARED: bool = true;

    fn apply(&mut self, command: &quorate::Command) -> Bytes {
        let answer = match postcard::from_bytes(&command.data) {
            Ok(decoded) => self.carry_out(decoded, command.id.index.value()),
            // The same on every node, so it is an answer like any other.
            Err(_) => Answer::Malformed,
        };
        encode(&answer)
    }

    fn query(&self, lock: &[u8]) -> Bytes {
        encode(&self.look(&String::from_utf8_lossy(lock)))
    }
}

async fn ask(nodes: &[Node], command: Command) -> Result<Answer, Box<dyn Error>> {
    let command = encode(&command);
    loop {
        for node in nodes {
            match node.propose(command.clone()).await {
                Ok(answer) => return Ok(postcard::from_bytes(&answer)?),
                Err(CommandError::Propose(
                    ProposeError::NotLeader { .. } | ProposeError::Overloaded,
                )) => {}
                // Carried out twice, it does no harm.
                Err(CommandError::Propose(ProposeError::OutcomeUnknown { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        async_io::Timer::after(Duration::from_millis(20)).await;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let cluster = common::Cluster::new("locks")?;
    let mut nodes = Vec::new();
    for (config, credentials) in cluster.seats()? {
        nodes.push(Node::builder(config, credentials).start_saved(Locks::default())?);
    }
    let lock = || "printer".to_owned();
    let acquire = |owner: &str| Command::Acquire {
        lock: lock(),
        owner: owner.to_owned(),
    };
    block_on(async {
        let first = ask(&nodes, acquire("alice")).await?;
        println!("alice asks: {first:?}");
        let Answer::Held { token, .. } = first else {
            return Err("alice was first".into());
        };
        println!("bob asks:   {:?}", ask(&nodes, acquire("bob")).await?);
        let broken = Command::Break {
            lock: lock(),
            token,
        };
        println!("broken:     {:?}", ask(&nodes, broken).await?);
        println!("bob asks:   {:?}", ask(&nodes, acquire("bob")).await?);
        let late = ask(
            &nodes,
            Command::Release {
                lock: lock(),
                token,
            },
        )
        .await?;
        println!("alice, late, releases with token {token}: {late:?}");

        for node in nodes.drain(..) {
            node.shutdown(Duration::from_secs(1)).await?;
        }
        for (config, credentials) in cluster.seats()? {
            nodes.push(Node::builder(config, credentials).start_saved(Locks::default())?);
        }
        let asked = ask(&nodes, acquire("carol")).await?;
        println!("all nodes were stopped and started; carol asks: {asked:?}");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What breaks a lock and arrives again takes it from nobody who has it by then.
    #[test]
    fn a_lock_is_broken_once() {
        let lock = || "printer".to_owned();
        let acquire = |owner: &str| Command::Acquire {
            lock: lock(),
            owner: owner.to_owned(),
        };
        let alices = || Command::Break {
            lock: lock(),
            token: 1,
        };
        let mut locks = Locks::default();
        locks.carry_out(acquire("alice"), 1);
        assert_eq!(locks.carry_out(alices(), 2), Answer::Free);
        let bobs = locks.carry_out(acquire("bob"), 3);
        assert_eq!(locks.carry_out(alices(), 4), bobs);
    }
}
