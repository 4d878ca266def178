//! A member whose memory changes by itself (reliability scenario B18), on real nodes.

use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::kv::{Command, KvStore, Logged};
use quorate::{Batch, EntryId, Fatal, StateMachine, StateMachineError, StateScan};
use quorate_tests::cluster::{Cluster, id};
use quorate_tests::wait::until;

/// Its memory holds another value than what was written under one key.
struct Flipped(KvStore);

const KEY: &[u8] = b"flipped";

fn flip(command: &Bytes) -> Bytes {
    match Logged::decode(command) {
        Ok(Logged {
            command: Some(Command::Put { key, .. }),
            tag,
            elapsed_ms,
            owner,
        }) if key == KEY => {
            let value = Bytes::from_static(b"another");
            Logged {
                command: Some(Command::Put { key, value }),
                tag,
                elapsed_ms,
                owner,
            }
            .encode()
        }
        _ => command.clone(),
    }
}

impl StateMachine for Flipped {
    fn applied(&self) -> EntryId {
        self.0.applied()
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let mut batch = batch.clone();
        for command in &mut batch.commands {
            command.data = flip(&command.data);
        }
        self.0.apply(&batch)
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError> {
        self.0.query(query)
    }

    fn scan(&mut self) -> Result<Option<Box<dyn StateScan>>, StateMachineError> {
        self.0.scan()
    }

    fn close(&mut self) -> Result<(), StateMachineError> {
        self.0.close()
    }
}

/// It is found out by the others, stops by itself and says why; they go on.
#[test]
fn b18_a_member_whose_state_differs_stops() {
    block_on(async {
        let mut cluster = Cluster::start_as(3, |config| {
            config.raft.compare_interval = Duration::from_secs(1);
        });
        let client = cluster.client(Duration::from_secs(20));
        client.put("a", "1").await.unwrap();
        let leader = cluster.leader().await;
        let bad = (1..=3).map(id).find(|node| *node != leader).unwrap();
        cluster.kill(bad);
        cluster.start_node_around(bad, Flipped);
        client.put("b", "2").await.unwrap();
        // As long as the states are equal, nobody minds.
        let before = cluster.converged().await.applied;
        until("another comparison", || async {
            client.put("b", "2").await.unwrap();
            let applied = cluster.converged().await.applied;
            (applied.value() > before.value() + 4).then_some(())
        })
        .await;
        client.put(KEY, "one").await.unwrap();
        let stopped = cluster.node(bad).stopped().await;
        let fatal = stopped.expect_err("it stops by itself");
        assert!(
            matches!(*fatal, Fatal::StateDiverged { .. }),
            "it stopped because {fatal}"
        );
        cluster.kill(bad);
        client.put("c", "3").await.unwrap();
        assert_eq!(client.get(KEY).await.unwrap().unwrap().data, "one");
        assert_eq!(cluster.statuses().await.len(), 2);
        client.close().await;
    });
}
