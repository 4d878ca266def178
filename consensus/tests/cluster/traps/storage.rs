//! What `raft` asks of its storage, and of whoever starts it (the page, section 3.4).

use quorate_consensus::{Body, Entry};
use raft::eraftpb::Entry as PbEntry;
use raft::storage::MemStorage;
use raft::{GetEntriesContext, RawNode, Storage};

use super::bare::{
    bare, bare_leader, config, elected, follows, members, node, panics, panics_in, pb_append,
    pb_entries, pb_snapshot, write,
};
use super::broken::{Broken, How, Nothing};
use super::entry_id;
use super::starting::{recovered, start};
use crate::rig::{Rig, Setup};

/// A follower whose storage is whole so far, and has three entries.
fn sound() -> RawNode<Broken> {
    three_entries(&config())
}

pub(super) fn three_entries(config: &raft::Config) -> RawNode<Broken> {
    let storage = MemStorage::new_with_conf_state(members(&[1, 2, 3], &[]));
    let mut node = follows(node(config, Broken::sound(storage)));
    append(&mut node, &pb_entries(1, &[1, 2, 3]), (0, 0));
    node
}

/// `node` takes `entries` in, and knows that they are durable.
fn append(node: &mut RawNode<Broken>, entries: &[PbEntry], previous: (u64, u64)) {
    let mut message = pb_append(previous, &[]);
    message.set_entries(entries.to_vec().into());
    node.step(message).unwrap();
    let ready = node.ready();
    write(&node.store().storage, &ready);
    let _ = node.advance_append(ready);
}

/// n2 says that the first `index` entries are committed.
fn commit<T: Storage>(node: &mut RawNode<T>, index: u64) {
    let mut message = pb_append((1, 3), &[]);
    message.commit = index;
    node.step(message).unwrap();
}

/// A tail that was replaced and is still there: raft panics as it wins an election (`raft.rs` line 1214).
#[test]
fn a_tail_that_is_not_cut_off() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(1);
    for lost in ["a", "b", "c"] {
        rig.propose(1, lost);
    }
    rig.elect(2);
    rig.commit(2, "d");
    rig.heal();
    rig.run_until(100, "all agree", Rig::agrees);
    rig.elect(1);
    rig.commit(1, "e");
    assert_eq!(rig.applied(1), ["d", "e"]);

    for how in [How::NotAtAll, How::Tail(3)] {
        let replaced = move || {
            let mut node = sound();
            append(&mut node, &pb_entries(2, &[2]), (1, 1));
            node.mut_store().how = how;
            elected(node)
        };
        if how == How::NotAtAll {
            assert_eq!(
                replaced().raft.raft_log.last_index(),
                3,
                "and the first of its term"
            );
        } else {
            assert_eq!(panics_in(|| drop(replaced())), "raft.rs:1214");
        }
    }
}

/// The term of the entry before the first one: raft panics where it does not know the term of its last
/// entry (`raft_log.rs` line 101), or of the last one committed (line 653). In what a message says comes
/// before its entries, it takes it for another one (`raft_log.rs` line 238), and never gets them.
#[test]
fn the_term_before_an_empty_log() {
    let base = entry_id(4, 5);
    let mut node = start(&recovered(&[1, 2], base, 5, 5), base, vec![]).unwrap();
    node.campaign();
    let ready = std::iter::from_fn(|| node.poll_ready());
    let sent: Vec<_> = ready.flat_map(|ready| ready.messages).collect();
    let [(_, asks)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert!(matches!(asks.body, Body::RequestVote { last, .. } if last == base));

    let empty = |how| {
        let storage = MemStorage::new();
        let snapshot = pb_snapshot(1, 5, members(&[1, 2, 3], &[]));
        storage.wl().apply_snapshot(snapshot).unwrap();
        let mut node = follows(self::node(&config(), Broken::sound(storage)));
        node.mut_store().how = how;
        node
    };
    let at = panics(empty(How::Terms), |node| {
        let _ = node.campaign();
    });
    assert_eq!(at, "raft_log.rs:653");
    let at = panics(empty(How::Terms), |node| {
        let _ = node.raft.raft_log.last_term();
    });
    assert_eq!(at, "raft_log.rs:101");
    for (how, matches) in [(How::NotAtAll, true), (How::Terms, false)] {
        assert_eq!(empty(how).raft.raft_log.match_term(5, 1), matches);
    }
}

/// A log that is compacted beyond what was applied: raft panics at its next election (`raft.rs` line 1543),
/// and else goes on after the gap as if there was none (`raft_log.rs` line 424).
#[test]
fn a_log_compacted_beyond_the_state() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.stall_machine(1, true);
    rig.propose(1, "b");
    let (commit, applied) = (rig.status(1).commit, rig.applied_index(1));
    assert!(applied < commit);
    rig.core(1).handle_durable(applied);
    let core = rig.core(1);
    let _ = panics_in(|| core.handle_durable(commit));

    let committed = || {
        let mut node = bare();
        node.step(pb_append((0, 0), &[1, 2, 3])).unwrap();
        let ready = node.ready();
        write(node.store(), &ready);
        let _ = node.advance_append(ready);
        commit_and_compact(&mut node);
        node
    };
    let at = panics(committed(), |node| {
        let _ = node.campaign();
    });
    assert_eq!(at, "raft.rs:1543");
    let handed = committed().ready().take_committed_entries();
    let indexes: Vec<u64> = handed.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, [3], "1 and 2 are left out");
}

fn commit_and_compact(node: &mut RawNode<MemStorage>) {
    commit(node, 3);
    node.store().wl().compact(3).unwrap();
}

/// Any error of the storage is fatal where raft needs entries at once: for those to be applied
/// (`raft_log.rs` line 434), at an election (`raft.rs` line 1543), and `Unavailable` everywhere
/// (`raft_log.rs` line 599). With no entries and no error it asks for ever. So no disk stands behind it
/// here: what it needs at once is in memory, and the rest is asked for.
#[test]
fn errors_of_the_storage() {
    let mut rig = behind();
    rig.heal();
    rig.run_until(100, "all agree", Rig::agrees);
    assert!(rig.fetched > 0, "older entries come from the store");

    let broken = |how| {
        let mut node = sound();
        commit(&mut node, 3);
        node.mut_store().how = How::Entries(how);
        node
    };
    let at = panics(broken(Nothing::Unavailable), |node| drop(node.ready()));
    assert_eq!(at, "raft_log.rs:599");
    let at = panics(broken(Nothing::Later), |node| drop(node.ready()));
    assert_eq!(at, "raft_log.rs:434");
    let at = panics(broken(Nothing::Later), |node| drop(node.campaign()));
    assert_eq!(at, "raft.rs:1543");

    let mut node = broken(Nothing::Empty);
    for _ in 0..100 {
        assert!(node.has_ready());
        let mut ready = node.ready();
        assert!(ready.take_committed_entries().is_empty());
        let _ = node.advance_append(ready);
    }
}

/// Entries that arrive without having been asked for: raft panics (`raw_node.rs` line 443). A `Fetch` is
/// made only of what it did ask for, and one whose leader is none any more is harmless.
#[test]
fn entries_that_nobody_waits_for() {
    let mut rig = behind();
    rig.stall_disk(1, true);
    rig.heal();
    rig.ticks(5);
    rig.isolate(1);
    rig.run_until(100, "n1 steps down", |rig| !rig.leads(1));
    assert_eq!(rig.fetched, 0);
    rig.stall_disk(1, false);
    assert!(rig.fetched > 0, "it arrives now");
    rig.heal();
    rig.run_until(400, "all agree", Rig::agrees);

    let at = panics(bare_leader(), |node| {
        node.on_entries_fetched(GetEntriesContext::empty(false));
    });
    assert_eq!(at, "raw_node.rs:443");
}

/// n3 lacks more than its leader n1 has in memory.
fn behind() -> Rig {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    rig.isolate(3);
    for n in 0..30 {
        rig.commit(1, &format!("{n:0300}"));
    }
    rig
}

/// All that is committed and not applied is read at once at an election, whatever its size and the bound
/// (`raft.rs` line 1539). Here a node takes no more in than its window holds until its state machine has
/// caught up.
#[test]
fn what_is_not_applied_is_read_at_once() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    let bytes_max = rig.core(2).config().log_view_bytes_max;
    rig.stall_machine(2, true);
    for n in 0..100 {
        rig.commit(1, &format!("{n:0500}"));
    }
    let (applied, last) = (rig.applied_index(2), rig.status(2).last.index);
    let log = rig.durable(2).entries().iter();
    let waiting = log.filter(|entry| entry.id.index > applied && entry.id.index <= last);
    let bytes: u64 = waiting.map(Entry::bytes).sum();
    assert!(bytes > 0 && bytes < 2 * bytes_max, "{bytes} of {bytes_max}");
    rig.stall_machine(2, false);
    rig.run_until(400, "all agree", Rig::agrees);

    let bounded = raft::Config {
        max_committed_size_per_ready: 1,
        max_size_per_msg: 1,
        ..config()
    };
    let mut node = three_entries(&bounded);
    commit(&mut node, 3);
    node.campaign().unwrap();
    assert_eq!(node.store().asked.take(), [(1, 4, None)]);
}
