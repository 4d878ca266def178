//! A client whose nodes change.

use quorate_consensus::MEMBERS_MAX;

use super::*;

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

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        async_io::Timer::after(Duration::from_millis(1)).await;
    }
}

/// Whom the leader does not count any more is forgotten; whoever is above all that it knows of may be about to join.
#[test]
fn members_are_learned_of_the_leader() {
    let stage = Stage::new();
    let nodes = [1, 2, 3, 4].map(|id| ScriptedNode::start(id, &stage));
    nodes.iter().for_each(|part| part.believe(7, 3));
    let client = stage.client(&nodes, PATIENCE);
    let members = patiently(client.learn_members()).unwrap();
    assert_eq!(members.members().collect::<Vec<_>>(), [node(3)]);
    assert_eq!(client.nodes().collect::<Vec<_>>(), [node(3), node(4)]);
    patiently(client.put("k", "v")).unwrap();
}
