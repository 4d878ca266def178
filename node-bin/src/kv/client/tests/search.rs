//! How a client finds the leader, and what it says where it does not.

use super::nodes::until;
use super::*;

/// A client that knows nothing finds the leader by asking, and sends the write to nobody else.
#[test]
fn finds_the_leader() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    assert_eq!(patiently(client.put("k", "v")).unwrap(), 1);
    assert_eq!(client.leader(), Some(node(1)));
    let writes = nodes.each_ref().map(|node| node.part().writes);
    assert_eq!(writes, [1, 0, 0]);
}

/// Without a leader, the error says of every node why it did not help, and names a leader whose address
/// is missing.
#[test]
fn no_leader_says_what_each_node_said() {
    let (stage, nodes) = Stage::three();
    nodes[0].believe(3, 0);
    nodes[1].believe(4, 9);
    patiently(nodes[2].transport.shutdown(Duration::ZERO));
    let client = stage.hurried(&nodes, &nodes[..2], Duration::from_secs(1));
    let error = patiently(client.put("k", "v")).unwrap_err();
    let ClientError::NoLeader {
        tried, unlisted, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(unlisted, Some(node(9)));
    let why: Vec<&str> = tried.iter().map(|tried| tried.why.as_str()).collect();
    assert!(why[0].contains("knows of no leader"), "{why:?}");
    assert!(why[1].contains("node 9"), "{why:?}");
    assert!(!why[2].contains("leader"), "{why:?}");
}

/// When no node will ever accept us, every operation fails at once with the reasons, not at its deadline,
/// and no time is mentioned that would suggest waiting.
#[test]
fn a_hopeless_search_ends_early() {
    let (stage, nodes) = Stage::three();
    let other = Stage::new(); // the same names from another CA
    let issued = other
        .ca
        .issue(&Subject::client("test").unwrap(), &IssueOptions::default());
    let endpoints = nodes
        .iter()
        .map(|node| (node.id, node.transport.local_addr()));
    let mut config = ClientConfig::new(endpoints.collect(), issued.unwrap().credentials().unwrap());
    config.request_timeout = 2 * PATIENCE;
    let client = Client::connect(config, stage.io.runtime()).unwrap();
    let error = patiently(client.put("k", "v")).unwrap_err();
    let ClientError::NoUsableNode { tried } = &error else {
        panic!("{error:?}");
    };
    assert!(error.to_string().starts_with("no node can be used;"));
    for node in client.nodes() {
        let error = patiently(client.status(node)).unwrap_err();
        assert!(
            matches!(&error, ClientError::Unreachable { why, for_good: true, .. } if why.contains("certificate")),
            "{error:?}"
        );
    }
    assert!(
        tried.iter().all(|tried| tried.why.contains("certificate")),
        "{error}"
    );
}

/// However long nobody leads, each node makes one status of itself for a client that waits. After that the client asks
/// for the little that matters, and learns as much of it.
#[test]
fn a_long_search_asks_for_little() {
    let (stage, nodes) = Stage::three();
    for node in &nodes {
        node.believe(1, 0);
    }
    let client = stage.client(&nodes, PATIENCE);
    let searched = async {
        until(|| nodes.iter().all(|node| node.part().asked.1 >= 5)).await;
        nodes[0].believe(5, 0);
        let said = "follower in term 5, knows of no leader";
        until(|| client.shared.known_of(node(1)) == said).await;
        for node in &nodes {
            node.believe(6, 2);
        }
    };
    patiently(zip(client.put("k", "v"), searched)).0.unwrap();
    assert_eq!(nodes[1].part().writes, 1);
    for node in &nodes {
        assert_eq!(node.part().asked.0, 1, "{:?}", node.id);
    }
}
