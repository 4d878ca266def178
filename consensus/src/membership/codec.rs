//! The bytes of a membership, in entries of the log and in rows of its file; `docs/disk.md` says the same.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

use super::{MEMBERS_MAX, Membership, Parts};
use crate::types::{LogIndex, NodeId};

/// How many bytes a membership has at most.
pub const MEMBERSHIP_BYTES_MAX: usize = 6 + 16 + MEMBERS_MAX * (4 * 8 + ADDRESS_BYTES_MAX + 16);

/// Id, family, address, port.
const ADDRESS_BYTES_MAX: usize = 8 + 1 + 16 + 2;

const FAMILY_4: u8 = 4;
const FAMILY_6: u8 = 6;

impl Membership {
    /// Its only encoding.
    ///
    /// # Panics
    ///
    /// Never: all counts fit a byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Parts {
            voters,
            outgoing,
            learners,
            staged,
            addresses,
            promotions,
            highest,
            index,
        } = &self.0;
        let sets = [voters, outgoing, learners, staged];
        let counts = sets.map(BTreeSet::len);
        let counts = counts
            .into_iter()
            .chain([addresses.len(), promotions.len()]);
        let count = |count| u8::try_from(count).expect("MEMBERS_MAX fits a byte");
        let mut bytes: Vec<u8> = counts.map(count).collect();
        let mut number = |number: u64| bytes.extend_from_slice(&number.to_le_bytes());
        number(highest.value());
        number(index.value());
        for id in sets.into_iter().flatten() {
            number(id.value());
        }
        for (id, place) in promotions {
            number(id.value());
            number(place.map_or(0, NodeId::value));
        }
        for (id, address) in addresses {
            bytes.extend_from_slice(&id.value().to_le_bytes());
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(FAMILY_4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(FAMILY_6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_le_bytes());
        }
        bytes
    }

    /// `None` unless `bytes` is exactly what [`encode`](Self::encode) writes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let counts: [u8; 6] = reader.take()?;
        let [voters, outgoing, learners, staged, addresses, promotions] = counts;
        let highest = reader.id()?;
        let index = LogIndex::new(reader.number()?);
        let parts = Parts {
            voters: reader.ids(voters)?,
            outgoing: reader.ids(outgoing)?,
            learners: reader.ids(learners)?,
            staged: reader.ids(staged)?,
            promotions: reader.map(promotions, |reader| reader.number().map(NodeId::new))?,
            addresses: reader.map(addresses, Reader::address)?,
            highest,
            index,
        };
        reader.0.is_empty().then_some(())?;
        let membership = Self::try_from(parts).ok()?;
        // Only one order of ids, and an address in one form.
        (membership.encode() == bytes).then_some(membership)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Option<NodeId> {
        self.number().and_then(NodeId::new)
    }

    fn ids(&mut self, count: u8) -> Option<BTreeSet<NodeId>> {
        (0..count).map(|_| self.id()).collect()
    }

    fn map<T>(
        &mut self,
        count: u8,
        value: fn(&mut Self) -> Option<T>,
    ) -> Option<BTreeMap<NodeId, T>> {
        (0..count)
            .map(|_| Some((self.id()?, value(self)?)))
            .collect()
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let [family] = self.take()?;
        let ip = match family {
            FAMILY_4 => IpAddr::from(self.take::<4>()?),
            FAMILY_6 => IpAddr::from(self.take::<16>()?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_le_bytes(self.take()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn full() -> Membership {
        Parts {
            voters: [id(1), id(4), id(9)].into(),
            outgoing: [id(1), id(2)].into(),
            learners: [id(7)].into(),
            staged: [id(2)].into(),
            addresses: [
                (id(7), ([127, 0, 0, 1], 7000).into()),
                (id(9), "[::1]:9".parse().unwrap()),
            ]
            .into(),
            promotions: [(id(7), Some(id(1)))].into(),
            highest: id(12),
            index: LogIndex::new(77),
        }
        .try_into()
        .unwrap()
    }

    /// A membership comes back from its bytes; anything that the encoder does not write is refused.
    #[test]
    fn a_membership_has_one_encoding() {
        let simple = Membership::new([id(1), id(5)], [id(3)]).unwrap();
        for membership in [simple, full()] {
            let bytes = membership.encode();
            assert!(bytes.len() <= MEMBERSHIP_BYTES_MAX);
            assert_eq!(Membership::decode(&bytes), Some(membership));
            for length in 0..bytes.len() {
                assert_eq!(Membership::decode(&bytes[..length]), None, "cut {length}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Membership::decode(&longer), None);
            let mut swapped = bytes.clone();
            swapped[22..38].rotate_left(8);
            assert_eq!(
                Membership::decode(&swapped),
                None,
                "the order of the voters"
            );
        }
    }

    /// Whatever the bytes are, nothing panics, and what is accepted is written the same way.
    #[test]
    fn any_byte_may_be_another() {
        let bytes = full().encode();
        for at in 0..bytes.len() {
            for value in [0, 1, 31, 32, 127, 255] {
                let mut other = bytes.clone();
                other[at] = value;
                if let Some(membership) = Membership::decode(&other) {
                    assert_eq!(membership.encode(), other);
                }
            }
        }
    }
}
