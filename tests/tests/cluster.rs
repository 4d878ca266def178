//! Three encrypted nodes, end to end, on every runtime.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate::NodeId;
use quorate_tests::cluster::{Cluster, id};
use quorate_tests::wait::until;

/// The same story for every runtime: elect, write, lose the leader, go on, read everything back, and
/// bring the lost one home.
async fn three_nodes_survive_the_loss_of_their_leader() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client(Duration::from_secs(20));
    let first = cluster.leader().await;
    for key in 0..100 {
        client
            .put(format!("before/{key}"), format!("{key}"))
            .await
            .expect("a write");
    }

    cluster.kill(first);
    let killed = Instant::now();
    until("a write after the leader is gone", || async {
        client.put("probe", "x").await.ok()
    })
    .await;
    let away = killed.elapsed();
    assert!(
        away < Duration::from_secs(10),
        "writes were away for {away:?}"
    );
    let second = cluster.leader().await;
    assert_ne!(first, second);
    for key in 0..100 {
        client
            .put(format!("after/{key}"), format!("{key}"))
            .await
            .expect("a write");
        let value = client
            .get(format!("before/{key}"))
            .await
            .expect("a read")
            .expect("a value");
        assert_eq!(value.data, format!("{key}"));
    }

    cluster.start_node(first);
    let status = cluster.converged().await;
    assert!(status.applied.value() > 200, "{status}");
    client.close().await;
}

#[test]
fn k12_on_async_std() {
    async_std::task::block_on(three_nodes_survive_the_loss_of_their_leader());
}

#[test]
fn k12_on_smol() {
    smol::block_on(three_nodes_survive_the_loss_of_their_leader());
}

#[test]
fn k12_on_tokio() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    runtime.block_on(three_nodes_survive_the_loss_of_their_leader());
}

#[test]
fn on_a_bare_executor() {
    futures_lite::future::block_on(three_nodes_survive_the_loss_of_their_leader());
}

/// A member that was away for longer than the log reaches back gets the state in a snapshot, and the rest from
/// the log, while others write; the snapshot survives its own crash.
#[test]
fn g9_a_member_that_was_away_for_long_gets_a_snapshot() {
    futures_lite::future::block_on(async {
        let mut cluster = Cluster::start_as(3, |config| {
            config.raft.log_tail_bytes = 64 << 10;
            config.raft.message_bytes_max = 16 << 10;
            config.raft.checkpoint_bytes = 32 << 10;
        });
        let client = cluster.client(Duration::from_secs(20));
        let leader = cluster.leader().await;
        let away = (1..=3).map(id).find(|node| *node != leader).unwrap();
        cluster.converged().await;
        let state = cluster.data_dir(away).join(quorate::kv::STATE_FILE);
        let inode = |path: &Path| path.metadata().unwrap().ino();
        let before = inode(&state);
        cluster.kill(away);
        until("the leader does not wait for it", || async {
            let peers = cluster.node(leader).status().await.unwrap().peers;
            let peer = peers.iter().find(|peer| peer.node == away)?;
            (!peer.active).then_some(())
        })
        .await;
        let value = vec![7; 4 << 10];
        for key in 0..500 {
            client
                .put(format!("{}", key % 100), value.clone())
                .await
                .expect("a write");
        }
        cluster.start_node(away);
        let writes = async {
            for key in 0..200 {
                client
                    .put(format!("{key}"), "later")
                    .await
                    .expect("a write");
            }
        };
        writes.await;
        cluster.converged().await;
        assert_ne!(inode(&state), before, "another file is in its place");
        cluster.kill(away);
        cluster.start_node(away);
        let last = cluster.converged().await.applied;
        let node = cluster.take(away);
        node.shutdown(Duration::from_secs(2)).await.unwrap();
        let log = quorate_persist::check_log(
            quorate_persist::OsFiles,
            &cluster.data_dir(away).join(quorate::LOG_FILE),
        );
        let recovered = log.unwrap().recovered;
        assert!(recovered.base().index.value() > 200, "{}", recovered.base());
        assert!(recovered.bytes < 512 << 10, "{} bytes", recovered.bytes);
        assert!(recovered.last >= last);
        client.close().await;
    });
}

/// A cluster of one elects itself, serves, and finds everything again after a crash.
#[test]
fn a_single_node_serves_and_recovers() {
    futures_lite::future::block_on(async {
        let mut cluster = Cluster::start(1);
        let client = cluster.client(Duration::from_secs(20));
        client.put("a", "1").await.unwrap();
        client.put("a", "2").await.unwrap();
        cluster.kill(id(1));
        cluster.start_node(id(1));
        let value = client.get("a").await.unwrap().unwrap();
        assert_eq!(value.data, "2");
        client.close().await;
    });
}

/// Without a majority nothing is written and nothing is read; with it back, both go on.
#[test]
fn h4_a_minority_commits_nothing_and_serves_no_read() {
    futures_lite::future::block_on(async {
        let mut cluster = Cluster::start(3);
        let patient = cluster.client(Duration::from_secs(20));
        patient.put("a", "1").await.unwrap();
        let leader = cluster.leader().await;
        let others: Vec<NodeId> = (1..=3).map(id).filter(|node| *node != leader).collect();
        for node in &others {
            cluster.kill(*node);
        }
        let hasty = cluster.client(Duration::from_millis(1500));
        let before = cluster.node(leader).status().await.unwrap();
        assert!(
            hasty.put("a", "2").await.is_err(),
            "a minority acknowledged a write"
        );
        assert!(hasty.get("a").await.is_err(), "a minority served a read");
        let after = cluster.node(leader).status().await.unwrap();
        assert_eq!(before.commit, after.commit, "a minority committed");
        cluster.start_node(others[0]);
        let value = patient.get("a").await.unwrap().unwrap();
        assert!(
            ["1", "2"].contains(&std::str::from_utf8(&value.data).unwrap()),
            "{value:?}"
        );
        patient.put("a", "3").await.unwrap();
        assert_eq!(patient.get("a").await.unwrap().unwrap().data, "3");
        hasty.close().await;
        patient.close().await;
    });
}

/// An orderly shutdown hands leadership over, so that writes go on almost at once.
#[test]
fn k8_an_orderly_shutdown_hands_leadership_over() {
    futures_lite::future::block_on(async {
        let mut cluster = Cluster::start(3);
        let client = cluster.client(Duration::from_secs(20));
        client.put("a", "1").await.unwrap();
        let first = cluster.leader().await;
        let term = cluster.node(first).status().await.unwrap().term;
        let node = cluster.take(first);
        node.shutdown(Duration::from_secs(2)).await.unwrap();
        let second = cluster.leader().await;
        let status = cluster.node(second).status().await.unwrap();
        assert_eq!(
            status.term,
            term.next(),
            "one election, on request, and none by timeout"
        );
        client.put("a", "2").await.unwrap();
        client.close().await;
    });
}

/// A node that was founded with other members than the rest is refused by them, although its own list has
/// them all.
#[test]
fn e9_a_node_founded_with_other_members_is_refused() {
    futures_lite::future::block_on(async {
        let cluster = Cluster::start_as(3, |config| {
            if config.data_dir.ends_with("n3") {
                config.peers.insert(id(4), vec![([127, 0, 0, 1], 9).into()]);
            }
        });
        let client = cluster.client(Duration::from_secs(20));
        client.put("a", "1").await.unwrap();
        until("the odd one to be told", || async {
            let peers = cluster.node(id(3)).peers();
            let errors = peers.iter().filter_map(|peer| peer.last_error.as_ref());
            let told = errors.filter(|error| error.to_string().contains("with different members"));
            (told.count() >= 2).then_some(())
        })
        .await;
        let status = cluster.node(id(3)).status().await.unwrap();
        assert_eq!(
            (status.leader, status.commit),
            (None, quorate::ORIGIN.index)
        );
        client.close().await;
    });
}

/// A node that lost its data folder is kept out by the others, and they go on without it.
#[test]
fn e1_a_node_without_its_log_is_kept_out() {
    futures_lite::future::block_on(async {
        let mut cluster = Cluster::start(3);
        let client = cluster.client(Duration::from_secs(20));
        client.put("a", "1").await.unwrap();
        let leader = cluster.leader().await;
        let lost = (1..=3).map(id).find(|node| *node != leader).unwrap();
        cluster.converged().await;
        cluster.kill(lost);
        std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
        cluster.start_node(lost);
        let status = until("the lost node to be told", || async {
            let peers = cluster.node(lost).peers();
            let told = peers.iter().all(|peer| {
                let error = peer.last_error.as_ref().map(ToString::to_string);
                error.is_some_and(|error| error.contains("without its log"))
            });
            told.then_some(cluster.node(lost).status().await.unwrap())
        })
        .await;
        assert_eq!(status.leader, None, "it takes no part");
        client.put("a", "2").await.unwrap();
        // Nor does it once the others were started anew: they remember.
        for other in (1..=3).map(id).filter(|node| *node != lost) {
            cluster.kill(other);
            cluster.start_node(other);
        }
        until("a write after the others are back", || async {
            client.put("a", "2").await.ok()
        })
        .await;
        let status = cluster.node(lost).status().await.unwrap();
        assert_eq!(status.leader, None, "it still takes no part");
        assert_eq!(client.get("a").await.unwrap().unwrap().data, "2");
        client.close().await;
    });
}

/// A copy of a data folder, made while its node was down, is started after the node has run: the others know
/// that start by another process.
#[test]
fn e4_e6_a_copy_of_the_last_start_is_kept_out() {
    futures_lite::future::block_on(async {
        let mut cluster = Cluster::start(3);
        let client = cluster.client(Duration::from_secs(20));
        client.put("a", "1").await.unwrap();
        let leader = cluster.leader().await;
        let copied = (1..=3).map(id).find(|node| *node != leader).unwrap();
        cluster.converged().await;
        cluster.kill(copied);
        let folder = cluster.data_dir(copied);
        let copy = tempfile::tempdir().unwrap();
        let files = |from: &Path, to: &Path| {
            for file in std::fs::read_dir(from).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        };
        files(&folder, copy.path());
        cluster.start_node(copied);
        client.put("a", "2").await.unwrap();
        cluster.converged().await;
        cluster.kill(copied);
        files(copy.path(), &folder);
        cluster.start_node(copied);
        until("the copy to be told", || async {
            let peers = cluster.node(copied).peers();
            let errors = peers.iter().filter_map(|peer| peer.last_error.as_ref());
            let told = errors.filter(|error| error.to_string().contains("another process"));
            (told.count() == 2).then_some(())
        })
        .await;
        assert_eq!(cluster.node(copied).status().await.unwrap().leader, None);
        client.put("a", "3").await.unwrap();
        client.close().await;
    });
}

/// Whoever watches a node learns of leaders and members as they change, and of its end.
#[test]
fn events_tell_what_happens() {
    futures_lite::future::block_on(async {
        let mut cluster = Cluster::start(3);
        let leader = cluster.leader().await;
        let watched = (1..=3).map(id).find(|node| *node != leader).unwrap();
        let mut events = cluster.node(watched).events();
        let moved = quorate::MembershipChange::Move {
            node: watched,
            address: cluster.addresses()[&watched],
        };
        // Refused until the leader has committed in its own term, which others know of before it has.
        let members = until("the members to change", || async {
            let changed = cluster.node(leader).change_membership(moved.clone(), None);
            match changed.await {
                Err(quorate::MembershipError::ChangeInProgress) => None,
                changed => Some(changed.unwrap()),
            }
        });
        let members = members.await;
        let told = events.next().await.expect("the node runs");
        assert_eq!(told, quorate::Event::Members(members));
        cluster
            .take(leader)
            .shutdown(Duration::from_secs(1))
            .await
            .unwrap();
        let next = loop {
            match events.next().await.expect("the node runs") {
                quorate::Event::Leader(change)
                    if change.leader.is_some_and(|new| new != leader) =>
                {
                    break change.leader;
                }
                _ => {}
            }
        };
        assert_eq!(next, Some(cluster.leader().await));
        cluster.kill(watched);
        while events.next().await.is_some() {}
    });
}

/// Every node answers reads, of everything that was acknowledged before; and, where asked to, of what it has.
#[test]
fn h8_every_node_answers() {
    futures_lite::future::block_on(async {
        let cluster = Cluster::start(3);
        let client = cluster.client(Duration::from_secs(20));
        for round in 0..20 {
            let revision = client.put("a", round.to_string()).await.unwrap();
            for node in (1..=3).map(id) {
                let found = client.reading_at(node).get("a").await.unwrap().unwrap();
                assert_eq!(
                    (found.revision, found.data),
                    (revision, round.to_string().into())
                );
            }
        }
        let query = quorate::kv::Query::Get { key: "a".into() };
        for node in (1..=3).map(id) {
            let stale = client.query_stale(node, query.clone()).await.unwrap();
            let silent = stale.leader_silent_for.expect("it knows a leader");
            assert!(silent < Duration::from_secs(1));
            let quorate::kv::Answer::Value { revision, .. } = stale.answer else {
                panic!("{:?}", stale.answer);
            };
            assert!(revision > 1);
        }
        client.close().await;
    });
}

/// Concurrent writers and compare-and-set: every success is unique, and nothing is lost.
#[test]
fn compare_and_set_lets_one_of_many_win() {
    futures_lite::future::block_on(async {
        let cluster = Cluster::start(3);
        let client = cluster.client(Duration::from_secs(20));
        client.put("counter", "0").await.unwrap();
        let mut won = BTreeSet::new();
        for round in 0..20_u64 {
            let attempts = (0..4).map(|_| {
                let client = client.clone();
                async_std::task::spawn(async move {
                    client
                        .compare_and_set(
                            "counter",
                            Some(round.to_string().into()),
                            Some((round + 1).to_string().into()),
                        )
                        .await
                })
            });
            let attempts: Vec<_> = attempts.collect();
            let mut winners = 0;
            for attempt in attempts {
                if let quorate::kv::Swap::Swapped { revision } = attempt.await.unwrap() {
                    winners += 1;
                    assert!(won.insert(revision), "one revision, one winner");
                }
            }
            assert_eq!(winners, 1);
        }
        assert_eq!(client.get("counter").await.unwrap().unwrap().data, "20");
        client.close().await;
    });
}
