//! The names of nodes, looked up without a command having to wait for a name server that does not answer.

use std::collections::BTreeMap;
use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use async_io::Timer;
use futures_lite::future::or;
use quorate::kv::Client;
use quorate_consensus::NodeId;

use crate::cli::places::{Found, Place, begin_look_ups};
use crate::cli::{Failure, exit};

/// How much longer names are waited for once some node can be asked: name servers that are there answer in a fraction
/// of it, and of those that are not, resolvers wait for many seconds.
const LONGER: Duration = Duration::from_millis(500);

/// Where the nodes are, and what comes later.
pub(super) struct Whereabouts {
    /// All nodes that were given; those whose name stands for nothing, or not yet, without an address.
    pub(super) endpoints: BTreeMap<NodeId, Vec<SocketAddr>>,
    pub(super) late: Late,
}

/// Names that stand for nothing, or not yet, and the look-ups that are still under way.
pub(super) struct Late {
    found: Receiver<Found>,
    /// Why it is not known where these are. Guarded for lines.
    unknown: Mutex<BTreeMap<NodeId, String>>,
}

impl Whereabouts {
    /// Looks the names among `nodes` up by `look_up`: until all are known, or some are and the others take longer, at
    /// most for as long as `within`.
    pub(super) async fn find(
        nodes: Vec<(NodeId, Place)>,
        within: Duration,
        look_up: impl Fn(&Place) -> Result<Vec<SocketAddr>, String> + Clone + Send + 'static,
    ) -> Self {
        let begun = Instant::now();
        let mut endpoints: BTreeMap<NodeId, Vec<SocketAddr>> = nodes
            .iter()
            .map(|(node, place)| (*node, place.literal().into_iter().collect()))
            .collect();
        let names = nodes.into_iter().filter(|(_, it)| it.literal().is_none());
        let mut missing: BTreeMap<NodeId, Place> = names.collect();
        let found = begin_look_ups(missing.clone(), look_up);
        let (last, mut until) = (begun + within, begun + within);
        let mut unknown = BTreeMap::new();
        while !missing.is_empty() {
            if any_is_known(&endpoints) && until == last {
                until = last.min(Instant::now() + LONGER);
            }
            let next = async { found.recv().await.ok() };
            let timeout = async {
                Timer::at(until).await;
                None
            };
            let Some((node, result)) = or(next, timeout).await else {
                break;
            };
            missing.remove(&node);
            match result {
                Ok(addresses) => drop(endpoints.insert(node, addresses)),
                Err(error) => drop(unknown.insert(node, error)),
            }
        }
        let waited = begun.elapsed();
        let late = missing.iter();
        unknown.extend(late.map(|(node, name)| (*node, name.not_found_within(waited))));
        let unknown = Mutex::new(unknown);
        let late = Late { found, unknown };
        Self { endpoints, late }
    }

    /// Fails unless some node can be asked, and says which ones cannot be. A name that stands for nothing is no reason to
    /// give up as long as another one does: it may be that of a node that is down.
    pub(super) fn enough(self) -> Result<Self, Failure> {
        let errors: Vec<String> = {
            let unknown = self.late.unknown();
            let error = |(node, why): (&NodeId, &String)| format!("node {}: {why}", node.value());
            unknown.iter().map(error).collect()
        };
        if !any_is_known(&self.endpoints) {
            return Err(Failure::new(exit::UNAVAILABLE, errors.join("\n")));
        }
        for error in errors {
            let _ = writeln!(io::stderr(), "quorate: {error}; going on without it");
        }
        Ok(self)
    }
}

fn any_is_known(endpoints: &BTreeMap<NodeId, Vec<SocketAddr>>) -> bool {
    endpoints.values().any(|addresses| !addresses.is_empty())
}

impl Late {
    /// Tells `client` what is found after all, for as long as it is polled. A client of IPv4 only stays one.
    pub(super) async fn tell<T>(&self, client: Client) -> T {
        while let Ok((node, result)) = self.found.recv().await {
            match result {
                Ok(addresses) => {
                    self.unknown().remove(&node);
                    // It was given no more nodes than a cluster may have.
                    let _ = client.set_addresses(node, addresses);
                }
                Err(error) => drop(self.unknown().insert(node, error)),
            }
        }
        pending().await
    }

    /// Why it is not known where `node` is, if it was given by a name.
    pub(super) fn why_unknown(&self, node: NodeId) -> Option<String> {
        self.unknown().get(&node).cloned()
    }

    fn unknown(&self) -> MutexGuard<'_, BTreeMap<NodeId, String>> {
        // Every change is one step.
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Arc, Mutex};

    use futures_lite::future::block_on;

    use super::*;

    type Looked = Result<Vec<SocketAddr>, String>;

    fn id(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn nodes(places: &[&str]) -> Vec<(NodeId, Place)> {
        let places = (1..).zip(places);
        let places = places.map(|(node, place)| (id(node), Place::parse(place).unwrap()));
        places.collect()
    }

    fn at(last: u8) -> SocketAddr {
        ([127, 0, 0, last], 7).into()
    }

    /// A name server that answers for `slow` once the sender is used or gone, for `bad` that there is no such name, and
    /// at once for all others.
    fn server() -> (
        Sender<()>,
        impl Fn(&Place) -> Looked + Clone + Send + 'static,
    ) {
        let (answer, answers) = channel::<()>();
        let answers = Arc::new(Mutex::new(answers));
        let look_up = move |place: &Place| match place.to_string().as_str() {
            "slow:7" => {
                let _ = answers.lock().unwrap().recv();
                Ok(vec![at(9)])
            }
            "bad:7" => Err("`bad:7` cannot be resolved: no such name".into()),
            _ => Ok(vec![at(2)]),
        };
        (answer, look_up)
    }

    /// A node that can be asked is not kept waiting for the name of another one, which is told when it comes.
    #[test]
    fn a_slow_name_keeps_nobody_waiting() {
        for known in ["127.0.0.2:7", "n2:7"] {
            let (answer, look_up) = server();
            let nodes = nodes(&["slow:7", known, "bad:7"]);
            // For good, if it waited: nobody answers before it ends.
            let found = Whereabouts::find(nodes, Duration::from_secs(3600), look_up);
            let found = block_on(found).enough().unwrap();
            let expected = [(id(1), vec![]), (id(2), vec![at(2)]), (id(3), vec![])];
            assert_eq!(found.endpoints, BTreeMap::from(expected));
            let why = [1, 2, 3].map(|node| found.late.why_unknown(id(node)).unwrap_or_default());
            assert!(why[0].starts_with("`slow:7` cannot be resolved within"));
            assert!(why[1].is_empty() && why[2].ends_with("no such name"));
            answer.send(()).unwrap();
            let late = block_on(found.late.found.recv());
            assert_eq!(late, Ok((id(1), Ok(vec![at(9)]))));
        }
    }

    /// Names that come in time are all waited for, in whichever order.
    #[test]
    fn all_that_come_in_time_are_taken() {
        let (answer, look_up) = server();
        drop(answer);
        let nodes = nodes(&["slow:7", "n2:7", "127.0.0.3:7"]);
        let found = Whereabouts::find(nodes, Duration::from_secs(3600), look_up);
        let expected = [
            (id(1), vec![at(9)]),
            (id(2), vec![at(2)]),
            (id(3), vec![at(3)]),
        ];
        assert_eq!(block_on(found).endpoints, BTreeMap::from(expected));
    }

    /// Where nothing else is known, the time that the command was given is the end.
    #[test]
    fn names_alone_are_waited_for_in_time() {
        let (_answer, look_up) = server();
        let nodes = nodes(&["slow:7", "bad:7"]);
        let found = Whereabouts::find(nodes, Duration::from_millis(20), look_up);
        let failure = block_on(found).enough().map(drop).unwrap_err();
        assert_eq!(failure.code, exit::UNAVAILABLE);
        for said in [
            "node 1: `slow:7` cannot be resolved within",
            "node 2: `bad:7`",
        ] {
            assert!(failure.message.contains(said), "{failure}");
        }
    }
}
