//! Where nodes are, as people write it: names as well as addresses. What a name stands for may come late and
//! change, where nodes run in containers, and while a node is down its name may stand for nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use async_channel::Receiver;
use async_io::Timer;
use futures_lite::future::or;
use quorate::{ADDRESSES_MAX, NodeHandle};
use quorate_consensus::NodeId;
use quorate_quic_transport::PeerState;
use tracing::{debug, info, warn};

use super::{Failure, exit};

/// How often the name of a peer that is not connected is looked up: as often as one that does not answer is
/// dialled.
const LOOK_UP_EVERY: Duration = Duration::from_secs(2);

/// The longest name there is (RFC 1035, section 2.3.4), as it is written.
const NAME_CHARS_MAX: usize = 253;

/// `HOST:PORT`, whose host is an address or may be a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place(String);

impl Place {
    /// Checks how it is written, and looks nothing up.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` has no port; expected HOST:PORT"))?;
        let wrong = |what: String| Err(format!("`{text}` is not HOST:PORT: {what}"));
        if port.parse::<u16>().is_err() {
            return wrong(format!("`{port}` is not a port (1 to 65535)"));
        }
        if host.contains(':') {
            return wrong("an IPv6 address stands in brackets, such as [::1]:7001".into());
        }
        // Systems take `127.1` for 127.0.0.1, and wait for `10.0.0.300` to become somebody's name.
        let last = host.rsplit('.').find(|label| !label.is_empty());
        if last.is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
            return wrong(format!("`{host}` is not an address"));
        }
        let of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if last.is_none() || host.len() > NAME_CHARS_MAX || !host.bytes().all(of_names) {
            return wrong(format!("`{host}` is neither a name nor an address"));
        }
        Ok(Self(text.to_owned()))
    }

    /// As [`parse`](Self::parse), for a place that others are to dial: what stands for any address, or for any port, is
    /// only good for listening.
    pub(crate) fn to_dial(text: &str) -> Result<Self, String> {
        let place = Self::parse(text)?;
        let nobody = |why: &str| {
            Err(format!(
                "nobody can be reached at `{text}`: {why}; give one that others can dial"
            ))
        };
        if place.port() == Some(0) {
            return nobody("port 0 stands for any that is free");
        }
        match place.literal() {
            Some(address) if address.ip().to_canonical().is_unspecified() => {
                nobody("this address stands for all that a machine has")
            }
            _ => Ok(place),
        }
    }

    fn port(&self) -> Option<u16> {
        let (_, port) = self.0.rsplit_once(':')?;
        port.parse().ok()
    }

    /// The address, unless it is a name.
    pub(crate) fn literal(&self) -> Option<SocketAddr> {
        self.0.parse().ok()
    }

    /// Looks the name up, for as long as that takes: an address at least, IPv4 first. Nodes that listen on
    /// IPv4 only are common where names have both, and each address is given some seconds to answer.
    pub(crate) fn look_up(&self) -> Result<Vec<SocketAddr>, String> {
        let found = self.0.to_socket_addrs();
        let found = found.map_err(|error| format!("`{self}` cannot be resolved: {error}"))?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() {
            return Err(format!("`{self}` resolves to no address"));
        }
        Ok(addresses)
    }

    /// What it stands for now, once, for as long as that takes; of several addresses the first.
    pub(crate) fn first_address(&self) -> Result<SocketAddr, Failure> {
        first(self.look_up())
    }

    /// The same, by `look_up`, for as long as `within` at most: of name servers that do not answer, resolvers wait for many
    /// seconds. Nothing ends a look-up that has begun.
    pub(crate) async fn first_address_within(
        &self,
        within: Duration,
        look_up: impl Fn(&Self) -> Result<Vec<SocketAddr>, String> + Send + 'static,
    ) -> Result<SocketAddr, Failure> {
        if let Some(address) = self.literal() {
            return Ok(address);
        }
        let place = self.clone();
        let found = blocking::unblock(move || look_up(&place));
        let timeout = async {
            Timer::after(within).await;
            Err(self.not_found_within(within))
        };
        first(or(found, timeout).await)
    }

    /// That its name server has not answered, and not that there is no such name.
    pub(crate) fn not_found_within(&self, time: Duration) -> String {
        format!("`{self}` cannot be resolved within {} ms", time.as_millis())
    }
}

fn first(found: Result<Vec<SocketAddr>, String>) -> Result<SocketAddr, Failure> {
    found.map(|addresses| addresses[0]).map_err(|error| {
        Failure::new(exit::UNAVAILABLE, error)
            .help("check the name, and that its server answers; an address needs no server")
    })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Looks all `places` up at a time, so that one that takes long costs no more than it takes itself. Addresses
/// take no thread.
async fn look_up_all(places: impl IntoIterator<Item = (NodeId, Place)>) -> Vec<Found> {
    let begun: Vec<_> = places
        .into_iter()
        .map(|(node, place)| match place.literal() {
            Some(address) => (node, Ok(address)),
            None => (node, Err(blocking::unblock(move || place.look_up()))),
        })
        .collect();
    let mut looked_up = Vec::new();
    for (node, begun) in begun {
        let result = match begun {
            Ok(address) => Ok(vec![address]),
            Err(looking) => looking.await,
        };
        looked_up.push((node, result));
    }
    looked_up
}

/// What became of looking one name up.
pub(crate) type Found = (NodeId, Result<Vec<SocketAddr>, String>);

/// Looks all `places` up by `look_up`, a thread each. What is found comes as it is found, also after the receiver was put
/// aside; nothing ends a look-up that has begun.
pub(crate) fn begin_look_ups(
    places: impl IntoIterator<Item = (NodeId, Place)>,
    look_up: impl Fn(&Place) -> Result<Vec<SocketAddr>, String> + Clone + Send + 'static,
) -> Receiver<Found> {
    let places: Vec<_> = places.into_iter().collect();
    let (sender, found) = async_channel::bounded(places.len().max(1));
    for (node, place) in places {
        let (look_up, sender) = (look_up.clone(), sender.clone());
        let looking = blocking::unblock(move || {
            // Nobody may want to know any more.
            let _ = sender.try_send((node, look_up(&place)));
        });
        looking.detach();
    }
    found
}

/// The peers of a node that are known by name.
pub(crate) struct PeerNames(BTreeMap<NodeId, Known>);

struct Known {
    place: Place,
    /// What it stood for, or why it stood for nothing, when it was last looked up.
    last: Option<Result<Vec<SocketAddr>, String>>,
}

impl PeerNames {
    /// What there is to begin with, nothing for names, and who is to be looked up.
    pub(crate) fn of(
        peers: BTreeMap<NodeId, Place>,
    ) -> (BTreeMap<NodeId, Vec<SocketAddr>>, PeerNames) {
        let mut addresses = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (node, place) in peers {
            let literal = place.literal();
            addresses.insert(node, literal.into_iter().collect());
            if literal.is_none() {
                names.insert(node, Known { place, last: None });
            }
        }
        (addresses, PeerNames(names))
    }

    /// Looks the names of the peers up that `node` is not connected with, and tells it, for as long as it is
    /// polled.
    pub(crate) async fn keep_current(mut self, node: &NodeHandle) {
        self.0.remove(&node.id());
        if self.0.is_empty() {
            std::future::pending::<()>().await;
        }
        loop {
            let names = self.0.iter();
            let mut missing: Vec<_> = names.map(|(&node, it)| (node, it.place.clone())).collect();
            for link in node.peers() {
                if matches!(link.state, PeerState::Connected { .. }) {
                    let peer = link.identity.node_id().map(NodeId::from);
                    missing.retain(|(node, _)| Some(*node) != peer);
                }
            }
            for (peer, result) in look_up_all(missing).await {
                self.take(node, peer, result);
            }
            Timer::after(LOOK_UP_EVERY).await;
        }
    }

    /// Says what is new, and nothing again.
    fn take(&mut self, node: &NodeHandle, peer: NodeId, result: Result<Vec<SocketAddr>, String>) {
        let Some(known) = self.0.get_mut(&peer) else {
            return;
        };
        let is_news = known.last.as_ref() != Some(&result);
        let (own, name) = (node.id(), &known.place);
        match &result {
            Ok(addresses) if is_news => {
                info!(node = %own, %peer, %name, ?addresses, "the name of a peer stands for these");
                node.set_addresses(peer, addresses.clone());
            }
            Err(error) if is_news => {
                warn!(node = %own, %peer, error, "the name of a peer stands for nothing; it is looked up again until the two are connected");
            }
            _ => debug!(node = %own, %peer, %name, "looked up again, to the same effect"),
        }
        known.last = Some(result);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    /// What can be an address or a name is taken, before anything is looked up.
    #[test]
    fn places_are_checked() {
        for good in [
            "127.0.0.1:7001",
            "[::1]:7001",
            "localhost:7001",
            "n1.quorate.svc.cluster.local:7001",
            "n1.quorate.:7001",
            "node_1:7001",
            "10.0.0.300.nip.io:1",
            "1a:1",
        ] {
            let place = Place::parse(good).unwrap();
            assert_eq!(place.to_string(), good);
            assert_eq!(place.literal(), good.parse().ok());
        }
        let long = format!("{}:1", "n".repeat(NAME_CHARS_MAX + 1));
        for (bad, why) in [
            ("127.0.0.1", "has no port"),
            ("n1", "has no port"),
            ("n1:", "`` is not a port"),
            ("n1:70000", "`70000` is not a port"),
            ("n1:-1", "`-1` is not a port"),
            ("::1:7001", "in brackets"),
            (":7001", "`` is neither"),
            ("..:7001", "`..` is neither"),
            ("10.0.0.300:7001", "`10.0.0.300` is not an address"),
            ("127.1:7001", "`127.1` is not an address"),
            ("n 1:7001", "`n 1` is neither"),
            ("n1/:7001", "`n1/` is neither"),
            (&long, "is neither"),
        ] {
            let error = Place::parse(bad).unwrap_err();
            assert!(error.contains(why) && error.contains(bad), "{error}");
        }
    }

    /// What is only good for listening is not dialled.
    #[test]
    fn some_places_are_nobodys() {
        for (bad, why) in [
            ("0.0.0.0:7001", "all that a machine has"),
            ("[::]:7001", "all that a machine has"),
            ("[::ffff:0.0.0.0]:7001", "all that a machine has"),
            ("127.0.0.1:0", "any that is free"),
            ("n1:0", "any that is free"),
        ] {
            Place::parse(bad).unwrap();
            let error = Place::to_dial(bad).unwrap_err();
            assert!(error.contains(why) && error.contains(bad), "{error}");
        }
        for good in ["127.0.0.1:7001", "[::1]:1", "n1:7001"] {
            Place::to_dial(good).unwrap();
        }
        assert!(Place::to_dial("n1").unwrap_err().contains("has no port"));
    }

    /// A name that stands for nothing now may do so later: that is no mistake in what was written.
    #[test]
    fn a_name_without_an_address_is_unavailable() {
        let place = Place::to_dial("nosuch.invalid:7005").unwrap();
        let long = Duration::from_secs(60);
        let bounded = block_on(place.first_address_within(long, Place::look_up));
        for failure in [place.first_address(), bounded].map(Result::unwrap_err) {
            assert_eq!(failure.code, exit::UNAVAILABLE);
            assert!(failure.message.contains("nosuch.invalid"), "{failure}");
        }
    }

    /// A name server that does not answer is waited for in time.
    #[test]
    fn one_name_is_waited_for_in_time() {
        let (_answer, answers) = std::sync::mpsc::channel::<()>();
        // In the end, as resolvers do, so that a test which waits for it fails.
        let look_up = move |place: &Place| match answers.recv_timeout(Duration::from_secs(10)) {
            Ok(()) => place.look_up(),
            Err(_) => Ok(vec![([127, 0, 0, 1], 7).into()]),
        };
        let place = Place::to_dial("n5:7").unwrap();
        let found = place.first_address_within(Duration::from_millis(20), look_up);
        let failure = block_on(found).unwrap_err();
        assert_eq!(failure.code, exit::UNAVAILABLE);
        let said = "`n5:7` cannot be resolved within 20 ms";
        assert_eq!(failure.message, said);
    }

    /// IPv4 comes first, each address once.
    #[test]
    fn localhost_is_looked_up() {
        let found = Place::parse("localhost:7001").unwrap().look_up().unwrap();
        assert!(
            found
                .iter()
                .all(|at| at.ip().is_loopback() && at.port() == 7001)
        );
        assert!(found.is_sorted_by_key(SocketAddr::is_ipv6));
        let mut once = found.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), found.len());
    }

    /// Addresses are known at once; names are known to be peers.
    #[test]
    fn names_have_no_address_yet() {
        let id = |id| NodeId::new(id).unwrap();
        let place = |text| Place::parse(text).unwrap();
        let peers = BTreeMap::from([(id(1), place("127.0.0.1:1")), (id(2), place("n2:1"))]);
        let (addresses, names) = PeerNames::of(peers);
        assert_eq!(addresses[&id(1)], ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(addresses[&id(2)], []);
        assert_eq!(names.0.keys().collect::<Vec<_>>(), [&id(2)]);
    }
}
