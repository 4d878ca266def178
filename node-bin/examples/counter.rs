//! The smallest replicated state machine: a number. Three nodes, one of which is stopped on the way.
//!
//! ```text
//! cargo run --release -p quorate --example counter
//! ```

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::{
    Batch, CommandError, EntryId, Node, ORIGIN, ProposeError, StateMachine, StateMachineError,
};

#[path = "common/mod.rs"]
mod common;

/// A number in memory. After a restart the log brings it back, so nothing has to be saved. But with the defaults of
/// `StateMachine` the log is kept whole, and read into memory at every start: see `quorate::saved`, and the example
/// `lock-service`, for a state that is saved.
#[derive(Default)]
struct Counter(i64);

impl StateMachine for Counter {
    fn applied(&self) -> EntryId {
        ORIGIN
    }

    /// The same commands in the same order give the same number on every node: no clock, no chance, no machine
    /// has a say. What makes no sense is an answer like any other.
    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let answers = batch.commands.iter().map(|command| {
            let text = std::str::from_utf8(&command.data).unwrap_or_default();
            match text.parse::<i64>() {
                Ok(step) => {
                    self.0 = self.0.wrapping_add(step);
                    self.0.to_string().into()
                }
                Err(_) => Bytes::from_static(b"not a number"),
            }
        });
        Ok(answers.collect())
    }

    fn query(&mut self, _: &[u8]) -> Result<Bytes, StateMachineError> {
        Ok(self.0.to_string().into())
    }
}

/// Proposes at whoever leads. Every error says whether anything happened; only then is it safe to go on.
async fn add(nodes: &[Node], step: i64) -> Result<String, Box<dyn Error>> {
    loop {
        for node in nodes {
            match node.propose(step.to_string().into()).await {
                Ok(answer) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
                Err(CommandError::Propose(
                    ProposeError::NotLeader { .. } | ProposeError::Overloaded,
                )) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Nobody leads yet.
        async_io::Timer::after(Duration::from_millis(20)).await;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let cluster = common::Cluster::new("counter")?;
    let mut nodes = Vec::new();
    for (config, credentials) in cluster.seats()? {
        nodes.push(Node::builder(config, credentials).start(Counter::default())?);
    }
    block_on(async {
        for step in [1, 10, 100] {
            println!("add {step:>3} -> {}", add(&nodes, step).await?);
        }
        let stopped = nodes.remove(0);
        println!("stopping node {}", stopped.id().value());
        stopped.shutdown(Duration::from_secs(1)).await?;
        println!("add 1000 -> {}", add(&nodes, 1000).await?);
        for node in &nodes {
            // At any node, and of everything that was acknowledged before.
            let value = node.query(Bytes::new()).await?;
            println!(
                "node {} reads {}",
                node.id().value(),
                String::from_utf8_lossy(&value)
            );
        }
        Ok(())
    })
}
