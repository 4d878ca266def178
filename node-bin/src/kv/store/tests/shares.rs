//! How many leases one identity may have.

use super::snapshots::{pieces, receive, source};
use super::*;
use crate::kv::logged::{Logged, Tag};

const GREEDY: u64 = 71;
const MODEST: u64 = 72;

/// The form of entries before leases belonged to somebody.
const FORMER: u8 = 3;

fn entry(owner: u64, command: Command) -> Bytes {
    let logged = Logged {
        elapsed_ms: 0,
        tag: None,
        command: Some(command),
        owner,
    };
    logged.encode()
}

fn grant(owner: u64) -> Bytes {
    entry(owner, Command::GrantLease { ttl_ms: 60_000 })
}

fn in_former_form(entry: &Bytes) -> Bytes {
    [&[FORMER], &entry[1..]].concat().into()
}

fn apply_entry(store: &mut KvStore, at: u64, entry: Bytes) -> Outcome {
    let outcomes = store.apply(&batch(at, &[entry])).unwrap();
    Outcome::decode(&outcomes[0]).unwrap()
}

const REFUSED: Outcome = Outcome::Refused(Invalid::TooManyLeasesOfOne);

/// Who has its share is refused, keeps what it has, and gets one more for one that it gives back; others get theirs. That
/// is so after a restart and with another member's state as well, and the states are the same.
#[test]
fn one_identity_gets_no_more_than_its_share() {
    let share = LEASES_OF_ONE_MAX as u64;
    let (_directory, path, mut store) = new_store();
    let all = vec![grant(GREEDY); LEASES_OF_ONE_MAX];
    let answers = store.apply(&batch(2, &all)).unwrap();
    let last = Outcome::LeaseGranted { lease: share + 1 };
    assert_eq!(Outcome::decode(answers.last().unwrap()).unwrap(), last);
    store.close().unwrap();
    let (_other, _, mut other) = new_store();
    let mut picture = source(&mut store);
    let (last, pieces) = (picture.last(), pieces(&mut *picture));
    assert!(receive(&mut other, last, &pieces).finish().unwrap());
    other.install(last).unwrap();
    drop((picture, store));
    let mut store = open(&path);
    for store in [&mut store, &mut other] {
        let mut at = share + 1;
        let mut next = |entry| {
            at += 1;
            (at, apply_entry(store, at, entry))
        };
        assert_eq!(next(grant(GREEDY)).1, REFUSED);
        let (lease, granted) = next(grant(MODEST));
        assert_eq!(granted, Outcome::LeaseGranted { lease });
        let (session, opened) = next(entry(GREEDY, Command::OpenSession));
        assert_eq!(opened, Outcome::SessionOpened { session });
        let named = Logged {
            tag: Some(Tag {
                session,
                slot: 0,
                sequence: 1,
            }),
            ..Logged::decode(&grant(GREEDY)).unwrap()
        };
        assert_eq!(next(named.encode()).1, REFUSED, "in a session as well");
        let kept = Outcome::LeaseKept { ttl_ms: 60_000 };
        for lease in [2, share + 1] {
            let keep = Command::KeepLease { lease };
            assert_eq!(next(entry(GREEDY, keep)).1, kept, "none is taken away");
        }
        let revoke = Command::RevokeLease { lease: 2 };
        let (revision, revoked) = next(entry(MODEST, revoke));
        assert_eq!(revoked, Outcome::LeaseRevoked { revision });
        let (lease, granted) = next(grant(GREEDY));
        assert_eq!(granted, Outcome::LeaseGranted { lease });
        assert_eq!(next(grant(GREEDY)).1, REFUSED);
    }
    assert_eq!(store.digest().unwrap(), other.digest().unwrap());
}

/// Leases whose time has come make room for others of the same identity, and leave nothing behind.
#[test]
fn a_lease_that_has_ended_does_not_count() {
    let (_directory, _path, mut store) = new_store();
    store.timed.shares.most = 2;
    for lease in [2, 3] {
        let granted = apply_entry(&mut store, lease, grant(GREEDY));
        assert_eq!(granted, Outcome::LeaseGranted { lease });
        assert!(
            store
                .active
                .find_own(&rows::grantee(lease))
                .flatten()
                .is_some()
        );
    }
    assert_eq!(apply_entry(&mut store, 4, grant(GREEDY)), REFUSED);
    let later = Logged {
        elapsed_ms: 60_000,
        ..Logged::decode(&grant(GREEDY)).unwrap()
    };
    let granted = apply_entry(&mut store, 5, later.encode());
    assert_eq!(granted, Outcome::LeaseGranted { lease: 5 });
    for lease in [2, 3] {
        assert!(
            store
                .active
                .find_own(&rows::grantee(lease))
                .flatten()
                .is_none()
        );
    }
}

/// What was granted before that was noted belongs to nobody, in files and in logs: it counts in no share, and whoever
/// applies such a log again has what those have who applied it then.
#[test]
fn leases_of_before_are_nobodys() {
    let (_directory, path, mut store) = new_store();
    let former = in_former_form(&grant(GREEDY));
    for lease in [2, 3, 4] {
        let granted = apply_entry(&mut store, lease, former.clone());
        assert_eq!(granted, Outcome::LeaseGranted { lease });
        assert!(store.active.find_own(&rows::grantee(lease)).is_none());
    }
    store.close().unwrap();
    drop(store);
    let mut store = open(&path);
    store.timed.shares.most = 1;
    assert!(store.timed.lease(4).is_some());
    let granted = apply_entry(&mut store, 5, grant(GREEDY));
    assert_eq!(granted, Outcome::LeaseGranted { lease: 5 });
    assert_eq!(apply_entry(&mut store, 6, grant(GREEDY)), REFUSED);
    // Who could not be noted is not refused either.
    let granted = apply_entry(&mut store, 7, former);
    assert_eq!(granted, Outcome::LeaseGranted { lease: 7 });
}
