//! Where nodes are: told late, told as names, and wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_lite::future::block_on;
use quorate::kv::{Client, ClientConfig};
use quorate::{MembershipChange, NodeId};
use quorate_certs::Subject;
use quorate_quic_transport::PeerState;
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::cluster::{Cluster, id};
use quorate_tests::process::{self, quorate};
use quorate_tests::wait::{PATIENCE, until};

/// What `node` dials to reach `peer`; nothing while they are connected.
fn dialled(cluster: &Cluster, node: NodeId, peer: NodeId) -> Option<Vec<SocketAddr>> {
    let mut links = cluster.node(node).peers().into_iter();
    let link = links.find(|link| link.identity.node_id() == Some(peer.into()))?;
    match link.state {
        PeerState::Connected { .. } => None,
        PeerState::Dialling { addrs } => Some(addrs),
        _ => Some(Vec::new()),
    }
}

/// Nodes that know whom they found the cluster with, and not where, find each other once they are told; an
/// address where somebody else is costs nothing but time.
#[test]
fn nodes_can_be_told_where_the_others_are() {
    let cluster = Cluster::start_as(3, |config| {
        config.peers.values_mut().for_each(Vec::clear);
    });
    assert_eq!(dialled(&cluster, id(1), id(2)), Some(vec![]));
    let at = cluster.addresses();
    cluster
        .node(id(1))
        .set_addresses(id(2), vec![at[&id(3)], at[&id(2)]]);
    cluster.node(id(3)).set_addresses(id(1), vec![at[&id(1)]]);
    cluster.node(id(3)).set_addresses(id(2), vec![at[&id(2)]]);
    block_on(async {
        cluster.leader().await;
        let client = cluster.client(PATIENCE);
        client.put("a", "1").await.unwrap();
        client.close().await;
        until("1 and 2 to be connected", || async {
            dialled(&cluster, id(1), id(2)).is_none().then_some(())
        })
        .await;
    });
    // Not of itself, and not for somebody who is no member: nobody is dialled.
    cluster.node(id(1)).set_addresses(id(1), vec![at[&id(1)]]);
    cluster.node(id(1)).set_addresses(id(9), vec![at[&id(2)]]);
    assert_eq!(cluster.node(id(1)).peers().len(), 2);
}

/// The address that the membership has for a node comes first, and is not the only one: where a member moved
/// back, or all did at once, there may be nobody left to change the membership.
#[test]
fn the_membership_is_not_the_only_one_to_know_an_address() {
    let mut cluster = Cluster::start(3);
    let (real, moved) = (cluster.addresses()[&id(3)], ([127, 0, 0, 1], 9).into());
    block_on(async {
        let leader = cluster.leader().await;
        let change = MembershipChange::Move {
            node: id(3),
            address: moved,
        };
        // The leader may not have committed anything yet.
        until("the change", || async {
            let changed = cluster.node(leader).change_membership(change.clone(), None);
            changed.await.ok()
        })
        .await;
        cluster.kill(id(3));
        until("both addresses to be tried", || async {
            (dialled(&cluster, id(1), id(3))? == [moved, real]).then_some(())
        })
        .await;
        // Said anew, the one of the membership stays.
        cluster.node(id(1)).set_addresses(id(3), vec![moved]);
        assert_eq!(dialled(&cluster, id(1), id(3)), Some(vec![moved]));
    });
}

/// A client finds nodes that it was told of without an address once it is told that as well, and says until
/// then what is missing.
#[test]
fn a_client_can_be_told_where_nodes_are() {
    let cluster = Cluster::start(1);
    let credentials = cluster.credentials(&Subject::client("late").unwrap());
    let io = IoThread::spawn("late").unwrap();
    let mut config = ClientConfig::new(Vec::new(), credentials);
    config.endpoints = BTreeMap::from([(id(1), Vec::new())]);
    config.request_timeout = Duration::from_millis(200);
    let client = Client::connect(config, io.runtime()).unwrap();
    block_on(async {
        let error = client.put("a", "1").await.unwrap_err();
        assert!(error.to_string().contains("no address is known"), "{error}");
        client
            .set_addresses(id(1), vec![cluster.addresses()[&id(1)]])
            .unwrap();
        until("a write", || async { client.put("a", "1").await.ok() }).await;
        client.close().await;
    });
}

/// One node is enough for a command, whoever leads.
#[test]
fn a_command_finds_the_leader_by_any_node() {
    let cluster = process::Cluster::started();
    cluster.takes_writes("key");
    let cert = format!("--cert={}", cluster.text("client"));
    for node in 1..=3 {
        let at = format!("--node={node}={}", cluster.address(node));
        quorate(["kv", "put", "key", &node.to_string(), &cert, &at].map(str::to_owned)).succeeded();
        let get = ["kv", "get", "key", &cert, &at].map(str::to_owned);
        assert_eq!(quorate(get).succeeded().out, format!("{node}\n"));
    }
}

/// The name of a peer may stand for nothing yet: the node starts, serves, and is found by that peer. A name that
/// stands for several addresses is good as soon as one of them is.
#[test]
fn peers_and_nodes_can_be_names() {
    let mut cluster = process::Cluster::new();
    let named = |cluster: &process::Cluster, peer| match peer {
        3 => "n3.not-there-yet.invalid:7003".to_owned(),
        peer => format!("localhost:{}", cluster.address(peer).port()),
    };
    for node in 1..=3 {
        let args = cluster.start_args_reaching(node, |peer| named(&cluster, peer));
        cluster.start_with(node, &args);
    }
    cluster.takes_writes("key");
    for node in 1..=2 {
        let told = "`n3.not-there-yet.invalid:7003` cannot be resolved";
        assert_eq!(
            cluster.log(node).matches(told).count(),
            1,
            "{}",
            cluster.log(node)
        );
    }
    let at = |node| format!("--node={node}={}", named(&cluster, node));
    let cert = format!("--cert={}", cluster.text("client"));
    let get = ["kv".to_owned(), "get".into(), "key".into(), cert];
    let found = quorate(get.clone().into_iter().chain([at(1), at(2), at(3)])).succeeded();
    assert_eq!(found.out, "value\n");
    assert!(found.err.contains("node 3: "), "{}", found.err);
    assert!(found.err.contains("going on without it"), "{}", found.err);
    quorate(get.into_iter().chain([at(3)])).failed(69, &["node 3", "cannot be resolved"]);
    // It may stand for something later, which is no mistake of who wrote it.
    let later = "nosuch.invalid:7005";
    let add = ["members", "add", "5", "--address", later];
    cluster
        .run_as("admin", &add)
        .failed(69, &[later, "cannot be resolved"]);
    let mut start = cluster.start_args(1);
    start.retain(|arg| !arg.starts_with("--listen="));
    start.push(format!("--listen={later}"));
    quorate(start).failed(69, &[later, "cannot be resolved"]);
}
