//! A client that follows what happens to keys.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate::NodeId;
use quorate::kv::{Client, ClientError, Refusal, Watch, Watched};

use super::{AGAIN_AFTER, Tally};
use crate::check::replay::Told;
use crate::rng::Rng;
use crate::sim::runtime::Process;

/// Of a hundred answers, after how many it goes on at another node.
const ELSEWHERE_PERCENT: u64 = 20;

/// What watchers were told.
#[derive(Clone, Default)]
pub(super) struct Noted(Arc<Mutex<Vec<Told>>>);

impl Noted {
    pub(super) fn with<T>(&self, with: impl FnOnce(&mut Vec<Told>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Watcher {
    pub(super) client: Client,
    pub(super) process: Arc<Process>,
    pub(super) tally: Arc<Tally>,
    pub(super) noted: Noted,
    pub(super) rng: Rng,
}

impl Watcher {
    /// Goes on for as long as its process does.
    pub(super) async fn run(mut self) {
        let watched = self.draw();
        let mut watch = self.watch(&watched, None);
        loop {
            let next = self.next(&mut watch, &watched).await;
            watch = match next {
                Ok(()) if self.rng.chance(ELSEWHERE_PERCENT) => {
                    self.watch(&watched, watch.revision())
                }
                Ok(()) => continue,
                Err(ClientError::Refused {
                    refusal: Refusal::HistoryGone { .. },
                    ..
                }) => self.watch(&watched, None),
                Err(_) => {
                    self.process.sleep(AGAIN_AFTER).await;
                    let Watched { start, end } = watched.clone();
                    self.client.watch(start, end, watch.revision())
                }
            };
        }
    }

    async fn next(&self, watch: &mut Watch, watched: &Watched) -> Result<(), ClientError> {
        let after = watch.begin().await?;
        let changes = watch.next().await?;
        self.noted.with(|noted| {
            noted.push(Told {
                watched: watched.clone(),
                after,
                upto: watch.revision().unwrap_or(after),
                changes,
            });
        });
        Ok(())
    }

    /// All keys, or those of histories.
    fn draw(&mut self) -> Watched {
        match self.rng.chance(50) {
            true => Watched {
                start: Bytes::new(),
                end: None,
            },
            false => Watched {
                start: "h/".into(),
                end: Some("h0".into()),
            },
        }
    }

    /// Watches at some node, or at the leader: from when faults are over, as some nodes may not come back.
    fn watch(&mut self, watched: &Watched, after: Option<u64>) -> Watch {
        let Watched { start, end } = watched.clone();
        let nodes: Vec<NodeId> = self.client.nodes().collect();
        let node = *self.rng.pick(&nodes);
        match self.rng.chance(50) || self.tally.is_to_finish() {
            true => self.client.watch(start, end, after),
            false => self.client.reading_at(node).watch(start, end, after),
        }
    }
}
