//! Commands that are sent more than once, and what ends by itself.

use super::*;
use crate::kv::logged::{Logged, Tag};
use crate::kv::store::apply::{ENDED_ROWS_MAX, KEPT_ANSWER_BYTES_MAX};
use crate::kv::transaction::{Step, StepOutcome, TRANSACTION_STEPS_MAX, Transaction};

/// Applies `command` at `index`, as `tag` and after `elapsed_ms`.
fn apply_as(
    store: &mut KvStore,
    index: u64,
    (elapsed_ms, tag): (u32, Option<Tag>),
    command: Option<Command>,
) -> Outcome {
    apply_of(store, index, OWNER, (elapsed_ms, tag), command)
}

/// Who opens sessions here unless told otherwise.
const OWNER: u64 = 71;

/// The same, sent by `owner`.
fn apply_of(
    store: &mut KvStore,
    index: u64,
    owner: u64,
    (elapsed_ms, tag): (u32, Option<Tag>),
    command: Option<Command>,
) -> Outcome {
    let logged = Logged {
        elapsed_ms,
        tag,
        command,
        owner,
    };
    let outcomes = store.apply(&batch(index, &[logged.encode()])).unwrap();
    Outcome::decode(&outcomes[0]).unwrap()
}

fn tag(session: u64, sequence: u64) -> Tag {
    Tag {
        session,
        slot: 0,
        sequence,
    }
}

/// Binds `keys` to `lease`, with entries from `at` on, and leaves that at the next one.
fn bind(store: &mut KvStore, at: &mut u64, lease: u64, keys: &[Bytes]) {
    for some in keys.chunks(TRANSACTION_STEPS_MAX) {
        let put = |key: &Bytes| Step::Put {
            key: key.clone(),
            value: Bytes::new(),
            lease: Some(lease),
        };
        let transaction = Transaction {
            then: some.iter().map(put).collect(),
            ..Transaction::default()
        };
        apply(store, *at, &Command::Transact(transaction));
        *at += 1;
    }
}

/// `count` keys that begin with `name`.
fn keys(name: &str, count: usize) -> Vec<Bytes> {
    let key = |number| Bytes::from(format!("{name}/{number:05}"));
    (0..count).map(key).collect()
}

fn there(store: &mut KvStore, keys: &[Bytes]) -> usize {
    let there = keys.iter().filter(|key| get(store, key).is_some());
    there.count()
}

fn swap(expected: Option<&'static str>, value: &'static str) -> Option<Command> {
    Some(Command::CompareAndSet {
        key: Bytes::from_static(b"k"),
        expected: expected.map(Bytes::from),
        value: Some(Bytes::from(value)),
    })
}

/// The same command again has the same answer and no effect, also after a crash and a snapshot; one that comes
/// too late has neither.
#[test]
fn h1_a_command_is_applied_once() {
    let (_directory, path, mut store) = new_store();
    let opened = apply(&mut store, 2, &Command::OpenSession);
    assert_eq!(opened, Outcome::SessionOpened { session: 2 });
    let first = Outcome::Swapped { revision: 3 };
    let mut at = 3;
    let mut again = |store: &mut KvStore, sequence, command| {
        let outcome = apply_as(store, at, (0, Some(tag(2, sequence))), command);
        at += 1;
        outcome
    };
    assert_eq!(again(&mut store, 1, swap(None, "v")), first);
    assert_eq!(again(&mut store, 1, swap(None, "v")), first);
    // The control: without a name it is applied again.
    assert!(matches!(
        apply(&mut store, 5, &swap(None, "v").unwrap()),
        Outcome::NotSwapped { .. }
    ));
    at = 6;
    let mut again = |store: &mut KvStore, sequence, command| {
        let outcome = apply_as(store, at, (0, Some(tag(2, sequence))), command);
        at += 1;
        outcome
    };
    store.close().unwrap();
    drop(store);
    let mut store = open(&path);
    assert_eq!(again(&mut store, 1, swap(None, "v")), first);
    store.close().unwrap();
    let mut source = snapshots::source(&mut store);
    let (last, pieces) = (source.last(), snapshots::pieces(&mut *source));
    let (_other, _, mut store) = new_store();
    snapshots::receive(&mut store, last, &pieces)
        .finish()
        .unwrap();
    store.install(last).unwrap();
    assert_eq!(again(&mut store, 1, swap(None, "v")), first);
    assert_eq!(
        again(&mut store, 2, swap(Some("v"), "w")),
        Outcome::Swapped { revision: 8 }
    );
    assert_eq!(again(&mut store, 1, swap(None, "v")), Outcome::Superseded);
    assert_eq!(get(&mut store, b"k").unwrap().revision, 8);
}

/// An answer is kept up to its bound. Of a longer one is kept that there was one: what is sent again then is not done
/// again, unless it only reads.
#[test]
fn h1_a_long_answer_is_not_kept() {
    let (_directory, path, mut store) = new_store();
    apply(&mut store, 2, &Command::OpenSession);
    // Besides the value: its length, that there is one, the variant and version of the outcome, the revision.
    let longest = KEPT_ANSWER_BYTES_MAX - 6;
    let read = |key: &'static str| Step::Get { key: key.into() };
    let transact = |then| {
        Some(Command::Transact(Transaction {
            then,
            ..Transaction::default()
        }))
    };
    let reads = || transact(vec![read("k")]);
    let writes = || {
        let (key, value) = ("w".into(), "v".into());
        let lease = None;
        transact(vec![read("k"), Step::Put { key, value, lease }])
    };
    let mut at = 2;
    let mut ask = |store: &mut KvStore, sequence, command| {
        at += 1;
        let outcome = apply_as(store, at, (0, Some(tag(2, sequence))), command);
        (at, outcome, kept_bytes(store))
    };
    for (length, kept) in [(longest, true), (longest + 1, false)] {
        let value = vec![b'v'; length];
        let first = length as u64;
        ask(&mut store, 3 * first, Some(put(b"k", &value)));
        let (revision, outcome, bytes) = ask(&mut store, 3 * first + 1, swap(Some("else"), "w"));
        let current = Some(Bytes::from(value));
        assert_eq!(outcome, Outcome::NotSwapped { current, revision });
        assert_eq!(bytes > KEPT_ANSWER_BYTES_MAX, kept, "{bytes} bytes");
        let (_, again, _) = ask(&mut store, 3 * first + 1, swap(Some("else"), "w"));
        match kept {
            true => assert_eq!(again, outcome),
            false => assert_eq!(again, Outcome::AnswerNotKept { revision }),
        }
    }
    let (revision, written, bytes) = ask(&mut store, u64::MAX - 1, writes());
    assert!(matches!(written, Outcome::Transacted { .. }) && bytes < 64);
    store.close().unwrap();
    drop(store);
    let mut store = open(&path);
    let (_, again, _) = ask(&mut store, u64::MAX - 1, writes());
    assert_eq!(again, Outcome::AnswerNotKept { revision });
    assert_eq!(get(&mut store, b"w").unwrap().revision, revision);

    let (_, first, bytes) = ask(&mut store, u64::MAX, reads());
    assert!(bytes < 64, "{bytes} bytes");
    let (revision, again, _) = ask(&mut store, u64::MAX, reads());
    let at_first = |outcome| match outcome {
        Outcome::Transacted {
            steps, revision, ..
        } => (steps, revision),
        other => panic!("{other:?}"),
    };
    let (first, again) = (at_first(first), at_first(again));
    assert!(matches!(&first.0[..], [StepOutcome::Value(Some(_))]));
    assert_eq!((first.0, revision), again);
}

/// How much is kept in slot 0 of session 2.
fn kept_bytes(store: &KvStore) -> usize {
    let row = rows::slot(&tag(2, 1));
    let kept = store.below().find_own(&store.active, &row).unwrap();
    kept.unwrap().data.len()
}

/// Long answers that are in files of before are given.
#[test]
fn h1_a_long_answer_of_before_is_given() {
    let (_directory, _path, mut store) = new_store();
    apply(&mut store, 2, &Command::OpenSession);
    let current = Some(Bytes::from(vec![b'v'; VALUE_BYTES_MAX]));
    let revision = 2;
    let before = Outcome::NotSwapped { current, revision };
    let data = [&1_u64.to_le_bytes(), &before.encode()[..]].concat().into();
    let row = rows::slot(&tag(2, 1));
    store.active.set_own(&row, Some(Value { data, revision }));
    let again = apply_as(&mut store, 3, (0, Some(tag(2, 1))), swap(None, "w"));
    assert_eq!(again, before);
}

/// A key that is removed, or written without its lease or under another one, leaves nothing behind with the former.
#[test]
fn a_key_is_bound_to_one_lease_and_leaves_no_row() {
    let (_directory, _path, mut store) = new_store();
    for at in [2, 3] {
        apply(&mut store, at, &Command::GrantLease { ttl_ms: 60_000 });
    }
    let mut at = 3;
    let mut put_under = |store: &mut KvStore, key: &Bytes, lease| {
        at += 1;
        let (key, value) = (key.clone(), Bytes::from_static(b"v"));
        let then = vec![Step::Put { key, value, lease }];
        let transaction = Transaction {
            then,
            ..Transaction::default()
        };
        apply(store, at, &Command::Transact(transaction));
    };
    let rows = |store: &mut KvStore| {
        store.close().unwrap();
        let mut source = snapshots::source(store);
        let pieces = snapshots::pieces(&mut *source);
        // Of both kinds, for every key.
        let bytes: Vec<u8> = pieces.iter().flat_map(|it| it.1.data.to_vec()).collect();
        let count = |row: &[u8]| bytes.windows(row.len()).filter(|it| *it == row).count();
        [
            rows::bound_keys(2),
            rows::bound_keys(3),
            rows::lease_of(b""),
        ]
        .map(|row| count(&row))
    };
    let keys: Vec<Bytes> = (0..4).map(|n| Bytes::from(format!("k{n}"))).collect();
    for key in &keys {
        put_under(&mut store, key, Some(2));
    }
    assert_eq!(rows(&mut store), [4, 0, 4]);
    put_under(&mut store, &keys[0], Some(3));
    put_under(&mut store, &keys[1], None);
    assert_eq!(rows(&mut store), [2, 1, 2 + 1]);
    apply(
        &mut store,
        10,
        &Command::Delete {
            key: keys[2].clone(),
        },
    );
    assert_eq!(rows(&mut store), [1, 1, 1 + 1]);
    apply(&mut store, 11, &Command::RevokeLease { lease: 2 });
    assert_eq!(rows(&mut store), [0, 1, 1]);
    let there = keys.iter().map(|key| get(&mut store, key).is_some());
    assert_eq!(there.collect::<Vec<_>>(), [true, true, false, false]);
    apply(&mut store, 12, &Command::RevokeLease { lease: 3 });
    assert_eq!(rows(&mut store), [0, 0, 0]);
}

/// To keep a lease is done again where it is sent again: the answer of the first time would say that it lives although
/// it has ended, or longer than it does.
#[test]
fn h1_a_lease_is_kept_by_what_is_sent_again() {
    let (_directory, _path, mut store) = new_store();
    apply(&mut store, 2, &Command::OpenSession);
    apply(&mut store, 3, &Command::GrantLease { ttl_ms: 1_000 });
    let kept = Outcome::LeaseKept { ttl_ms: 1_000 };
    let mut keep = |at, elapsed_ms| {
        let named = (elapsed_ms, Some(tag(2, 1)));
        apply_as(&mut store, at, named, Some(Command::KeepLease { lease: 3 }))
    };
    assert_eq!(keep(4, 0), kept);
    assert_eq!(keep(5, 800), kept);
    assert_eq!(keep(6, 800), kept, "it lives from the second time on");
    let ended = Outcome::Refused(Invalid::LeaseUnknown { lease: 3 });
    assert_eq!(keep(7, 1_000), ended);
    assert_eq!(keep(8, 0), ended);
}

/// A session ends when it is not used for its time, and not before; what is sent again then is not applied.
#[test]
fn h2_an_expired_session_says_so() {
    let (_directory, _path, mut store) = new_store();
    apply(&mut store, 2, &Command::OpenSession);
    let ttl = SESSION_TTL.as_millis() as u32;
    let name = Some(tag(2, 1));
    let written = apply_as(&mut store, 3, (ttl - 1, name), Some(put(b"k", b"v")));
    assert_eq!(written, Outcome::Written { revision: 3 });
    // It was renewed by that.
    let again = apply_as(&mut store, 4, (ttl - 1, name), Some(put(b"k", b"v")));
    assert_eq!(again, Outcome::Written { revision: 3 });
    let expired = apply_as(&mut store, 5, (ttl, name), Some(put(b"k", b"v")));
    assert_eq!(expired, Outcome::SessionExpired);
    let unknown = apply_as(&mut store, 6, (0, Some(tag(7, 1))), Some(put(b"k", b"v")));
    assert_eq!(unknown, Outcome::SessionExpired);
    assert_eq!(get(&mut store, b"k").unwrap().revision, 3);
    assert_eq!(store.timed.due_in(), None, "nothing of it is left");
}

/// One session more than there can be ends the one that was not used for the longest time.
#[test]
fn sessions_are_bounded() {
    let (_directory, _path, mut store) = new_store();
    let open = Command::OpenSession.encode();
    let most = SESSIONS_MAX as u64;
    store
        .apply(&batch(2, &vec![open.clone(); SESSIONS_MAX]))
        .unwrap();
    let elapsed = SESSION_TTL.as_millis() as u32 / 2;
    let mut at = most + 2;
    let mut use_session = |store: &mut KvStore, elapsed, session, sequence| {
        let name = Some(tag(session, sequence));
        at += 1;
        apply_as(store, at - 1, (elapsed, name), Some(put(b"k", b"v")))
    };
    let used = use_session(&mut store, elapsed, 2, 1);
    assert!(matches!(used, Outcome::Written { .. }));
    let oldest = use_session(&mut store, 0, 3, 1);
    assert!(matches!(oldest, Outcome::Written { .. }));
    store.apply(&batch(most + 4, &[open])).unwrap();
    at = most + 5;
    let mut use_session = |store: &mut KvStore, session, sequence| {
        let name = Some(tag(session, sequence));
        at += 1;
        apply_as(store, at - 1, (0, name), Some(put(b"k", b"v")))
    };
    assert_eq!(use_session(&mut store, 4, 1), Outcome::SessionExpired);
    for there in [2, 3, 5, most + 4] {
        let used = use_session(&mut store, there, 2);
        assert!(matches!(used, Outcome::Written { .. }), "{there}");
    }
}

/// Who opens sessions without end ends its own, and nobody else's; also after a restart, and at all members alike.
#[test]
fn a_client_that_opens_sessions_ends_its_own() {
    let (_directory, path, mut store) = new_store();
    let (_other, _, mut steady) = new_store();
    let open_as = |owner| {
        let command = Some(Command::OpenSession);
        let (elapsed_ms, tag) = (0, None);
        let logged = Logged {
            elapsed_ms,
            tag,
            command,
            owner,
        };
        logged.encode()
    };
    let (modest, greedy) = (OWNER, OWNER + 1);
    let mut entries = vec![open_as(modest); 2];
    entries.resize(SESSIONS_MAX + 50, open_as(greedy));
    for store in [&mut store, &mut steady] {
        store.apply(&batch(2, &entries)).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let mut store = open(&path);
    let first = 2 + entries.len() as u64;
    // 50 have ended, and now 52 more: of the one who has most, whoever opens them.
    let mut more = vec![open_as(greedy); 50];
    more.extend([open_as(modest), open_as(OWNER + 2)]);
    for store in [&mut store, &mut steady] {
        store.apply(&batch(first, &more)).unwrap();
        let last = first + more.len() as u64;
        let name = |session| (0, Some(tag(session, 1)));
        let mut at = last - 1;
        let mut used = |owner, session| {
            at += 1;
            let outcome = apply_of(store, at, owner, name(session), Some(put(b"k", b"v")));
            matches!(outcome, Outcome::Written { .. })
        };
        assert!(used(modest, 2) && used(modest, 3));
        assert!(used(modest, last - 2) && used(OWNER + 2, last - 1));
        assert!(!used(greedy, 4) && !used(greedy, 105) && used(greedy, 106));
    }
    assert_eq!(store.digest().unwrap(), steady.digest().unwrap());
}

/// A write of a key that no lease has does not look for one, and one that a lease has is found after a restart.
#[test]
fn only_a_bound_key_is_looked_for() {
    let (_directory, path, mut store) = new_store();
    apply(&mut store, 2, &Command::GrantLease { ttl_ms: 60_000 });
    let (bound, free) = (keys("bound", 1), keys("free", 1));
    bind(&mut store, &mut 3, 2, &bound);
    // Nobody counted it: whoever looked would find it, and remove it.
    let row = rows::lease_of(&free[0]);
    let data = Bytes::copy_from_slice(&9_u64.to_le_bytes());
    let revision = 3;
    store.active.set_own(&row, Some(Value { data, revision }));
    apply(&mut store, 4, &put(&free[0], b"v"));
    assert!(store.active.find_own(&row).flatten().is_some());

    store.close().unwrap();
    drop(store);
    let mut store = open(&path);
    apply(&mut store, 5, &put(&bound[0], b"v"));
    apply(&mut store, 6, &Command::RevokeLease { lease: 2 });
    assert_eq!(there(&mut store, &bound), 1);
}

/// Whoever uses the oldest session of as many as there can be, and opens another one with that, ends the one it uses:
/// nothing is kept in that, and it does not live on without what was kept in it before.
#[test]
fn a_session_can_end_by_its_own_command() {
    for slots in [ENDED_ROWS_MAX as u16 + 6, 0] {
        let (_directory, _path, mut store) = new_store();
        let open = Command::OpenSession;
        apply(&mut store, 2, &open);
        let use_slot = |store: &mut KvStore, at, (slot, sequence), command| {
            let name = Tag {
                slot,
                ..tag(2, sequence)
            };
            apply_as(store, at, (0, Some(name)), Some(command))
        };
        for slot in 0..slots {
            let at = 3 + u64::from(slot);
            let written = use_slot(&mut store, at, (slot, 1), put(b"k", b"v"));
            assert_eq!(written, Outcome::Written { revision: at });
        }
        let most = vec![open.encode(); SESSIONS_MAX - 1];
        store.apply(&batch(2_000, &most)).unwrap();
        let session = 2_000 + SESSIONS_MAX as u64;
        let opened = use_slot(&mut store, session, (7, 2), open);
        assert_eq!(opened, Outcome::SessionOpened { session });
        let again = use_slot(&mut store, session + 1, (0, 1), put(b"k", b"v"));
        assert_eq!(again, Outcome::SessionExpired, "{slots} slots");
        apply_as(&mut store, session + 2, (1, None), None);
        for slot in 0..slots.max(8) {
            let row = rows::slot(&Tag { slot, ..tag(2, 1) });
            let kept = store.active.find_own(&row).flatten();
            assert_eq!(kept, None, "slot {slot} of {slots}");
        }
    }
}

/// A lease that is revoked takes its keys along at once, also behind another one that has left many.
#[test]
fn a_revoked_lease_waits_for_no_other() {
    let (_directory, _path, mut store) = new_store();
    for at in [2, 3] {
        apply(&mut store, at, &Command::GrantLease { ttl_ms: 60_000 });
    }
    let (many, one) = (keys("many", 3_000), keys("one", 1));
    let mut at = 4;
    bind(&mut store, &mut at, 2, &many);
    bind(&mut store, &mut at, 3, &one);
    apply(&mut store, at, &Command::RevokeLease { lease: 2 });
    assert_eq!(there(&mut store, &many), 3_000 - ENDED_ROWS_MAX);
    let revoked = apply(&mut store, at + 1, &Command::RevokeLease { lease: 3 });
    assert_eq!(revoked, Outcome::LeaseRevoked { revision: at + 1 });
    assert_eq!(there(&mut store, &one), 0);
    for (pass, left) in [(2, 3_000 - 2 * ENDED_ROWS_MAX), (3, 0)] {
        apply_as(&mut store, at + pass, (1, None), None);
        assert_eq!(there(&mut store, &many), left);
    }
    assert_eq!(store.timed.due_in(), None);
}

/// Of many leases that end together, some wait for the next entry, with all their keys.
#[test]
fn a_lease_ends_whole_or_not_yet() {
    let (_directory, _path, mut store) = new_store();
    let leases: Vec<u64> = (2..402).collect();
    for &at in &leases {
        apply(&mut store, at, &Command::GrantLease { ttl_ms: 5_000 });
    }
    let bound: Vec<_> = leases.iter().map(|it| keys(&it.to_string(), 3)).collect();
    let mut at = 402;
    for (lease, keys) in leases.iter().zip(&bound) {
        bind(&mut store, &mut at, *lease, keys);
    }
    let whole = ENDED_ROWS_MAX / 3;
    for (elapsed_ms, gone) in [(5_000, whole), (1, leases.len())] {
        apply_as(&mut store, at, (elapsed_ms, None), None);
        at += 1;
        for (number, keys) in bound.iter().enumerate() {
            let left = if number < gone { 0 } else { 3 };
            assert_eq!(there(&mut store, keys), left, "lease {number} of {gone}");
        }
    }
    assert_eq!(store.timed.due_in(), None);
}

/// A lease that ends takes along the keys that are still as they were bound to it, however many, in steps; and
/// keys that were written since stay.
#[test]
fn a_lease_takes_its_keys_along() {
    let (_directory, path, mut store) = new_store();
    let granted = apply(&mut store, 2, &Command::GrantLease { ttl_ms: 5_000 });
    assert_eq!(granted, Outcome::LeaseGranted { lease: 2 });
    let key = |number: usize| Bytes::from(format!("\0\0{number:05}"));
    let keys = ENDED_ROWS_MAX + 100;
    let mut at = 3;
    for number in 0..keys {
        let step = Step::Put {
            key: key(number),
            value: Bytes::new(),
            lease: Some(2),
        };
        let transaction = Transaction {
            then: vec![step],
            ..Transaction::default()
        };
        apply(&mut store, at, &Command::Transact(transaction));
        at += 1;
    }
    apply(&mut store, at, &put(&key(7), b"kept"));
    store.close().unwrap();
    drop(store);
    let mut store = open(&path);
    assert_eq!(store.timed.due_in(), Some(5_000));
    let mut pass = |store: &mut KvStore, elapsed| {
        at += 1;
        apply_as(store, at, (elapsed, None), None);
    };
    let count = |store: &mut KvStore| {
        let (pairs, more) = range(store, b"\0", None, RANGE_LIMIT_MAX);
        let Some(last) = pairs.last().filter(|_| more) else {
            return pairs.len();
        };
        let next = [&last.key[..], b"\0"].concat();
        pairs.len() + range(store, &next, None, RANGE_LIMIT_MAX).0.len()
    };
    pass(&mut store, 4_999);
    assert_eq!(count(&mut store), keys);
    pass(&mut store, 1);
    assert_eq!(count(&mut store), keys - ENDED_ROWS_MAX);
    assert_eq!(store.timed.due_in(), Some(0), "there is more to do");
    pass(&mut store, 1);
    assert_eq!(count(&mut store), 1);
    assert!(get(&mut store, &key(7)).is_some());
    assert_eq!(store.timed.due_in(), None);
}

/// A lease that is renewed lives on; one that has ended cannot be.
#[test]
fn a_lease_lives_while_it_is_kept() {
    let (_directory, _path, mut store) = new_store();
    apply(&mut store, 2, &Command::GrantLease { ttl_ms: 5_000 });
    let keep = Some(Command::KeepLease { lease: 2 });
    for index in 3..9 {
        let kept = apply_as(&mut store, index, (4_000, None), keep.clone());
        assert_eq!(kept, Outcome::LeaseKept { ttl_ms: 5_000 });
    }
    let gone = apply_as(&mut store, 9, (5_000, None), keep);
    let unknown = Outcome::Refused(Invalid::LeaseUnknown { lease: 2 });
    assert_eq!(gone, unknown);
    assert_eq!(
        ask(&mut store, &Query::Lease { lease: 2 }),
        Answer::Lease {
            lease: None,
            revision: 9
        }
    );
}

/// A page of leases ends before one whose keys are too many to count with the others; alone, it is listed with as
/// many as are counted.
#[test]
fn leases_are_counted_up_to_a_bound() {
    let (_directory, _path, mut store) = new_store();
    for (at, keys) in [(2, 1), (20, LEASE_KEYS_COUNTED_MAX as usize), (200, 0)] {
        apply(&mut store, at, &Command::GrantLease { ttl_ms: 5_000 });
        let step = |number: usize| Step::Put {
            key: format!("{at} {number}").into(),
            value: Bytes::new(),
            lease: Some(at),
        };
        let steps: Vec<Step> = (0..keys).map(step).collect();
        for (number, then) in steps.chunks(TRANSACTION_STEPS_MAX).enumerate() {
            let then = then.to_vec();
            let transaction = Transaction {
                then,
                ..Transaction::default()
            };
            let at = at + 1 + number as u64;
            apply(&mut store, at, &Command::Transact(transaction));
        }
    }
    let counted = |(leases, more): (Vec<ListedLease>, bool)| {
        let numbers = leases.iter().map(|it| (it.number, it.keys, it.more_keys));
        (numbers.collect::<Vec<_>>(), more)
    };
    let most = LEASE_KEYS_COUNTED_MAX;
    assert_eq!(
        counted(leases(&mut store, 0, 9)),
        (vec![(2, 1, false)], true)
    );
    let rest = vec![(20, most, false), (200, 0, false)];
    assert_eq!(counted(leases(&mut store, 3, 9)), (rest, false));
    let another = Step::Put {
        key: "another".into(),
        value: Bytes::new(),
        lease: Some(20),
    };
    let transaction = Transaction {
        then: vec![another],
        ..Transaction::default()
    };
    apply(&mut store, 300, &Command::Transact(transaction));
    let many = vec![(20, most, true), (200, 0, false)];
    assert_eq!(counted(leases(&mut store, 20, 9)), (many, false));
    assert_eq!(counted(leases(&mut store, 201, 9)), (vec![], false));
}

/// What a transaction reads has a bound; beyond it, nothing of it is carried out.
#[test]
fn a_transaction_does_all_or_nothing() {
    let (_directory, _path, mut store) = new_store();
    apply(&mut store, 2, &put(b"large", &vec![1; VALUE_BYTES_MAX]));
    let read = || Step::Get {
        key: Bytes::from_static(b"large"),
    };
    let write = Step::Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::new(),
        lease: None,
    };
    let transaction = Transaction {
        then: vec![write, read(), read()],
        ..Transaction::default()
    };
    let outcome = apply(&mut store, 3, &Command::Transact(transaction));
    assert_eq!(outcome, Outcome::Refused(Invalid::AnswerTooLong));
    assert_eq!(get(&mut store, b"k"), None);
}

/// A session is used by whoever opened it, also after the state was opened again: somebody else's command is not
/// applied in it, leaves no number behind, and does not keep it alive.
#[test]
fn a_session_is_its_owners() {
    let (_directory, path, mut store) = new_store();
    let put = |value: &'static str| Some(put(b"key", value.as_bytes()));
    let opened = apply_as(&mut store, 2, (1, None), Some(Command::OpenSession));
    let Outcome::SessionOpened { session } = opened else {
        panic!("{opened:?}");
    };
    for (index, owner) in [(3, OWNER + 1), (4, 0), (5, u64::MAX)] {
        let stolen = apply_of(
            &mut store,
            index,
            owner,
            (1, Some(tag(session, 1))),
            put("stolen"),
        );
        assert_eq!(stolen, Outcome::SessionExpired, "{owner}");
    }
    assert_eq!(get(&mut store, b"key"), None);
    let own = apply_as(&mut store, 6, (1, Some(tag(session, 1))), put("own"));
    assert!(matches!(own, Outcome::Written { .. }), "{own:?}");

    store.close().unwrap();
    drop(store);
    let mut store = open(&path);
    let late = apply_of(
        &mut store,
        7,
        OWNER + 1,
        (1, Some(tag(session, 9))),
        put("late"),
    );
    assert_eq!(late, Outcome::SessionExpired);
    let own = apply_as(&mut store, 8, (1, Some(tag(session, 2))), put("again"));
    assert!(matches!(own, Outcome::Written { .. }), "{own:?}");
    // Nothing of it stays behind.
    apply_as(&mut store, 9, (u32::MAX, None), None);
    for row in [rows::session(session), rows::owner(session)] {
        let kept = store.below().find_own(&store.active, &row).unwrap();
        assert_eq!(kept, None);
    }
}
