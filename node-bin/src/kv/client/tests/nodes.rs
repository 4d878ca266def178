//! A client whose nodes change.

use quorate_consensus::MEMBERS_MAX;

use super::*;
use crate::kv::directory::{AsOf, Directory};

/// A client lives on while every node that it was given is replaced: it is told where the new ones are, and has nothing
/// to do with the old ones any more.
#[test]
fn nodes_are_added_and_forgotten() {
    let (stage, nodes) = Stage::three();
    let fourth = ScriptedNode::start(4, &stage);
    for part in nodes.iter().chain([&fourth]) {
        part.believe(7, 4);
    }
    let client = stage.client(&nodes, PATIENCE);
    let put = async {
        let put = client.put("k", "v");
        let told = async {
            until(|| client.shared.known_of(node(1)).contains("node 4")).await;
            let addresses = vec![fourth.transport.local_addr()];
            client.set_addresses(fourth.id, addresses).unwrap();
        };
        zip(put, told).await.0
    };
    patiently(put).unwrap();
    assert_eq!(fourth.part().writes, 1);
    for old in &nodes {
        client.forget(old.id);
        patiently(old.transport.shutdown(Duration::ZERO));
    }
    assert_eq!(client.nodes().collect::<Vec<_>>(), [fourth.id]);
    patiently(client.put("k", "w")).unwrap();
    let error = patiently(client.status(node(1))).unwrap_err();
    assert!(
        matches!(error, ClientError::UnknownNode { .. }),
        "{error:?}"
    );

    // Also while it is asked.
    let fifth = ScriptedNode::start(5, &stage);
    fourth.part().silent = true;
    let moved = async {
        until(|| !fourth.part().held.is_empty()).await;
        fifth.believe(9, 5);
        let addresses = vec![fifth.transport.local_addr()];
        client.set_addresses(fifth.id, addresses).unwrap();
        client.forget(fourth.id);
    };
    patiently(zip(client.put("k", "x"), moved)).0.unwrap();
    assert_eq!(fifth.part().writes, 1);

    let others = (6..100).map(|id| client.set_addresses(node(id), Vec::new()));
    assert_eq!(others.filter(Result::is_ok).count(), MEMBERS_MAX - 1);
}

pub(super) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        async_io::Timer::after(Duration::from_millis(1)).await;
    }
}

/// One node is enough to find the leader, and every other member: also one that is asked itself.
#[test]
fn one_node_names_the_others() {
    let (stage, nodes) = Stage::three();
    let all: Vec<_> = nodes.iter().map(ScriptedNode::address).collect();
    for part in &nodes {
        part.believe(7, 3);
        let others = all.iter().filter(|(id, _)| *id != part.id);
        part.part().members = others.copied().collect();
    }
    let client = stage.client(&nodes[..1], PATIENCE);
    assert_eq!(client.nodes().collect::<Vec<_>>(), [node(1)]);
    patiently(client.metrics(node(2))).unwrap();
    patiently(client.put("k", "v")).unwrap();
    assert_eq!(nodes[2].part().writes, 1);
    let ids = [1, 2, 3].map(node);
    assert_eq!(client.nodes().collect::<Vec<_>>(), ids);

    // Then it is not needed any more.
    patiently(nodes[0].transport.shutdown(Duration::ZERO));
    nodes[2].believe(8, 2);
    nodes[1].announce(8, 2);
    patiently(client.put("k", "w")).unwrap();
    assert_eq!(nodes[1].part().writes, 1);
}

/// Nodes tell of members that come and go.
#[test]
fn nodes_tell_of_the_members() {
    let (stage, nodes) = Stage::three();
    let fourth = ScriptedNode::start(4, &stage);
    fourth.believe(7, 4);
    let client = stage.client(&nodes, PATIENCE);
    patiently(client.put("k", "v")).unwrap();
    let tell = |index, members: &[(NodeId, Option<SocketAddr>)]| {
        let as_of = AsOf {
            founding: 0,
            index: LogIndex::new(index),
        };
        let members = members.iter().copied().collect();
        nodes[0].tell(&Notice::Members(Directory { as_of, members }));
    };
    let (four, address) = fourth.address();
    tell(9, &[(node(1), None), (four, Some(address))]);
    patiently(until(|| client.nodes().any(|node| node == four)));
    nodes[0].announce(7, 4);
    patiently(client.put("k", "w")).unwrap();
    assert_eq!(fourth.part().writes, 1);
    tell(10, &[(node(1), None)]);
    patiently(until(|| client.nodes().all(|node| node != four)));
    let given = [1, 2, 3].map(node);
    assert_eq!(client.nodes().collect::<Vec<_>>(), given, "as it was told");
}
