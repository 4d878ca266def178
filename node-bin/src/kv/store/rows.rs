//! Where things stand in the table: the users' keys, and what the store keeps for itself.
//!
//! One ordered space holds both, so that memory, file, snapshots and digests need not tell them apart. What
//! the store keeps begins with two zero bytes. A user's key that begins with a zero byte has a one put behind
//! it, which keeps the order and makes room; every other key stands as it is.

use std::borrow::Cow;

use bytes::Bytes;

use crate::kv::command::KEY_BYTES_MAX;
use crate::kv::logged::Tag;
use crate::kv::query::RANGE_BYTES_MAX;

/// The longest key of a row: that of a key bound to a lease.
pub(super) const ROW_KEY_BYTES_MAX: usize = OWN.len() + 1 + 8 + KEY_BYTES_MAX;

/// The longest value of a row: an answer as files of before kept it, with room for its form.
pub(super) const ROW_VALUE_BYTES_MAX: usize = RANGE_BYTES_MAX + (8 << 10);

/// In front of what the store keeps for itself.
const OWN: [u8; 2] = [0, 0];
/// Behind the zero byte with which a user's key begins.
const USERS: u8 = 1;

/// Whose it is, its kind, session, slot.
const SLOT_ROW_BYTES: usize = OWN.len() + 1 + 8 + 2;

const CLOCK: u8 = b'c';
const SESSION: u8 = b's';
const OWNER: u8 = b'o';
const SLOT: u8 = b't';
const LEASE: u8 = b'l';
const GRANTEE: u8 = b'g';
const BOUND: u8 = b'b';
const LEASE_OF: u8 = b'k';

/// The row of a user's key.
pub(super) fn of_user(key: &Bytes) -> Bytes {
    match bound(key) {
        Cow::Borrowed(_) => key.clone(),
        Cow::Owned(row) => row.into(),
    }
}

/// Where a range of users' keys begins, or ends, that is bounded by `key`.
pub(super) fn bound(key: &[u8]) -> Cow<'_, [u8]> {
    match key {
        [] => Cow::Borrowed(&[0, USERS]),
        [0, rest @ ..] => Cow::Owned([&[0, USERS], rest].concat()),
        _ => Cow::Borrowed(key),
    }
}

/// The user's key of a row.
pub(super) fn user_key(row: &[u8]) -> Bytes {
    match row {
        [0, _, rest @ ..] => [&[0], rest].concat().into(),
        _ => Bytes::copy_from_slice(row),
    }
}

/// Whether the store keeps the row for itself.
pub(super) fn is_own(row: &[u8]) -> bool {
    row.starts_with(&OWN)
}

fn own(kind: u8, parts: &[&[u8]]) -> Bytes {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut row = Vec::with_capacity(OWN.len() + 1 + bytes);
    row.extend_from_slice(&OWN);
    row.push(kind);
    for part in parts {
        row.extend_from_slice(part);
    }
    row.into()
}

/// How much time has passed.
pub(super) fn clock() -> Bytes {
    own(CLOCK, &[])
}

pub(super) fn session(session: u64) -> Bytes {
    own(SESSION, &[&session.to_be_bytes()])
}

/// Who opened a session.
pub(super) fn owner(session: u64) -> Bytes {
    own(OWNER, &[&session.to_be_bytes()])
}

/// The last command in a slot, and its answer.
pub(super) fn slot(tag: &Tag) -> [u8; SLOT_ROW_BYTES] {
    let mut row = [0; SLOT_ROW_BYTES];
    let (prefix, slot) = row.split_at_mut(SLOT_ROW_BYTES - 2);
    let (kind, session) = prefix.split_at_mut(OWN.len() + 1);
    kind[OWN.len()] = SLOT;
    session.copy_from_slice(&tag.session.to_be_bytes());
    slot.copy_from_slice(&tag.slot.to_be_bytes());
    row
}

/// In front of all slots of a session.
pub(super) fn slots(session: u64) -> Bytes {
    own(SLOT, &[&session.to_be_bytes()])
}

pub(super) fn lease(lease: u64) -> Bytes {
    own(LEASE, &[&lease.to_be_bytes()])
}

/// Who got a lease.
pub(super) fn grantee(lease: u64) -> Bytes {
    own(GRANTEE, &[&lease.to_be_bytes()])
}

/// That a key was bound to a lease.
pub(super) fn bound_key(lease: u64, key: &[u8]) -> Bytes {
    own(BOUND, &[&lease.to_be_bytes(), key])
}

/// Which lease a key is bound to.
pub(super) fn lease_of(key: &[u8]) -> Bytes {
    own(LEASE_OF, &[key])
}

/// In front of all keys that were bound to a lease.
pub(super) fn bound_keys(lease: u64) -> Bytes {
    bound_key(lease, &[])
}

/// In front of all sessions, of all owners of some, of all leases, and of all who got some.
pub(super) fn sessions_and_leases() -> [Bytes; 4] {
    [SESSION, OWNER, LEASE, GRANTEE].map(|kind| own(kind, &[]))
}

/// The first row that no longer begins with `prefix`, which is one of ours.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users' keys keep their order, come back, and never meet what is the store's own.
    #[test]
    fn keys_keep_their_order() {
        let keys: Vec<Bytes> = [
            &[0][..],
            &[0, 0],
            &[0, 0, b'c'],
            &[0, 0, 255],
            &[0, 1],
            &[0, 1, 0],
            &[0, 255],
            &[1],
            b"a",
            &[255, 255],
        ]
        .map(Bytes::copy_from_slice)
        .to_vec();
        let rows: Vec<Bytes> = keys.iter().map(of_user).collect();
        assert!(rows.is_sorted());
        for (key, row) in keys.iter().zip(&rows) {
            assert_eq!(user_key(row), key);
            assert!(!row.starts_with(&OWN) && row[..] >= *bound(&[]));
        }
        for own in [
            clock(),
            session(u64::MAX),
            lease(1),
            grantee(1),
            bound_key(u64::MAX, &[255; 9]),
        ] {
            assert!(
                own < bound(&[])[..],
                "no range of a user's begins before it"
            );
        }
    }

    /// A slot's row lies among those of its session.
    #[test]
    fn slots_belong_to_sessions() {
        let tag = |session, slot| Tag {
            session,
            slot,
            sequence: 1,
        };
        for (session, number) in [(0, 0), (7, 255), (u64::MAX, u16::MAX)] {
            let row = slot(&tag(session, number));
            let expected = own(SLOT, &[&session.to_be_bytes(), &number.to_be_bytes()]);
            assert_eq!(row[..], expected);
            assert!(row.starts_with(&slots(session)));
        }
    }

    /// The end of a prefix, also of one that ends in the greatest byte.
    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(after(&[0, 0, 7]), [0, 0, 8]);
        assert_eq!(after(&[0, 3, 255, 255]), [0, 4]);
        assert!(bound_keys(255)[..] < after(&bound_keys(255))[..]);
        assert!(bound_key(255, &[255; 20])[..] < after(&bound_keys(255))[..]);
    }
}
