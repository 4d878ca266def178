//! What a node knows of its peers' stores, kept across its own starts.

use std::collections::BTreeMap;
use std::path::Path;

use quorate_consensus::{MEMBERS_MAX, NodeId};

use crate::error::{Corruption, CreateError, OpenError};
use crate::file;
use crate::files::Files;
use crate::identity::{CLUSTER_BYTES_MAX, StoreIdentity};

const MAGIC: [u8; 8] = *b"QRMPEERS";
/// In 1 there were members only, and no founding.
const FORMAT: u32 = 2;
const PEER_BYTES: usize = 8 + 16 + 8;
const FILE_BYTES_MAX: usize =
    8 + 4 + 8 + 2 + CLUSTER_BYTES_MAX + 8 + 2 + SEEN_STORES_MAX * PEER_BYTES + 4;

/// How many peers a node remembers: all members, and as many nodes more that may become some, twice, so that there is
/// room for whoever becomes a member.
pub const SEEN_STORES_MAX: usize = 3 * MEMBERS_MAX;

/// A store, and how often it had been opened when it was last heard of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenStore {
    /// Random, drawn when the store was made.
    pub store_id: u128,
    /// The highest boot counter it was seen with.
    pub boot: u64,
}

/// The store of each peer that was ever heard of, of [`SEEN_STORES_MAX`] at most.
pub type SeenStores = BTreeMap<NodeId, SeenStore>;

/// What a node knows of its peers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeenPeers {
    /// [`Opened::origin`](crate::Opened::origin) of the members that it joined; zero where that is not known, or the
    /// node is a founder itself.
    pub origin: u64,
    /// Their stores.
    pub stores: SeenStores,
}

/// What the node `identity` has kept at `path` of its peers; nothing where there is no file.
///
/// # Errors
///
/// [`OpenError`] when the file is damaged, newer, or another node's.
pub fn load_peers(
    files: &dyn Files,
    path: &Path,
    identity: &StoreIdentity,
) -> Result<SeenPeers, OpenError> {
    let failed = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    if !files.exists(path).map_err(failed)? {
        return Ok(SeenPeers::default());
    }
    let content = file::read_file(files, path, FILE_BYTES_MAX as u64 + 1).map_err(failed)?;
    let (owner, peers) = decode(path, &content)?;
    owner.check(path, identity)?;
    Ok(peers)
}

/// Replaces what the node `identity` has kept at `path` by `peers`: all of it or nothing, durable when
/// this returns.
///
/// # Errors
///
/// [`CreateError`]; either what was there is still there, or the new is, and may be gone after a crash.
///
/// # Panics
///
/// When there are more than [`SEEN_STORES_MAX`].
pub fn save_peers(
    files: &dyn Files,
    path: &Path,
    identity: &StoreIdentity,
    peers: &SeenPeers,
) -> Result<(), CreateError> {
    let failed = |source| CreateError::Io {
        path: path.to_owned(),
        source,
    };
    let temporary = file::fresh_name(files, path).map_err(failed)?;
    let content = encode(identity, peers);
    file::make_under(files, &temporary, path, |file| {
        file::write_whole(&*file, path, &content)
    })?;
    file::replace_file(files, &temporary, path).map_err(failed)
}

fn encode(identity: &StoreIdentity, peers: &SeenPeers) -> Vec<u8> {
    let stores = &peers.stores;
    assert!(stores.len() <= SEEN_STORES_MAX, "{} peers", stores.len());
    let count = |count: usize| u16::try_from(count).expect("names and peers are few");
    let mut content = MAGIC.to_vec();
    content.extend_from_slice(&FORMAT.to_le_bytes());
    content.extend_from_slice(&identity.node.value().to_le_bytes());
    content.extend_from_slice(&count(identity.cluster.len()).to_le_bytes());
    content.extend_from_slice(identity.cluster.as_bytes());
    content.extend_from_slice(&peers.origin.to_le_bytes());
    content.extend_from_slice(&count(stores.len()).to_le_bytes());
    for (node, seen) in stores {
        content.extend_from_slice(&node.value().to_le_bytes());
        content.extend_from_slice(&seen.store_id.to_le_bytes());
        content.extend_from_slice(&seen.boot.to_le_bytes());
    }
    content.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
    content
}

fn decode(path: &Path, content: &[u8]) -> Result<(StoreIdentity, SeenPeers), OpenError> {
    let damaged = || OpenError::Corrupt {
        path: path.to_owned(),
        what: Corruption::PeersFile,
    };
    let (body, checksum) = content.split_last_chunk::<4>().ok_or_else(damaged)?;
    let mut rest = body;
    if take::<8>(&mut rest).as_ref() != Some(&MAGIC) {
        return Err(damaged());
    }
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(damaged());
    }
    let format = take(&mut rest)
        .map(u32::from_le_bytes)
        .ok_or_else(damaged)?;
    if format > FORMAT {
        return Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found: format,
            supported: FORMAT,
        });
    }
    decode_rest(format, rest).ok_or_else(damaged)
}

fn decode_rest(format: u32, mut rest: &[u8]) -> Option<(StoreIdentity, SeenPeers)> {
    let node = NodeId::new(u64::from_le_bytes(take(&mut rest)?))?;
    let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
    let (cluster, after) = rest.split_at_checked(length)?;
    let cluster = std::str::from_utf8(cluster).ok()?.to_owned();
    rest = after;
    let origin = match format {
        1 => 0,
        _ => u64::from_le_bytes(take(&mut rest)?),
    };
    let count = usize::from(u16::from_le_bytes(take(&mut rest)?));
    if count > SEEN_STORES_MAX || rest.len() != count * PEER_BYTES {
        return None;
    }
    let mut stores = SeenStores::new();
    for _ in 0..count {
        let node = NodeId::new(u64::from_le_bytes(take(&mut rest)?))?;
        let seen = SeenStore {
            store_id: u128::from_le_bytes(take(&mut rest)?),
            boot: u64::from_le_bytes(take(&mut rest)?),
        };
        let rises = stores.last_key_value().is_none_or(|(last, _)| *last < node);
        if !rises {
            return None;
        }
        stores.insert(node, seen);
    }
    let peers = SeenPeers { origin, stores };
    Some((StoreIdentity { cluster, node }, peers))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::OsFiles;

    fn identity(cluster: &str, node: u64) -> StoreIdentity {
        StoreIdentity {
            cluster: cluster.into(),
            node: NodeId::new(node).unwrap(),
        }
    }

    fn peers(origin: u64, peers: &[(u64, u128, u64)]) -> SeenPeers {
        let seen = peers.iter().map(|&(node, store_id, boot)| {
            (NodeId::new(node).unwrap(), SeenStore { store_id, boot })
        });
        let stores = seen.collect();
        SeenPeers { origin, stores }
    }

    /// What was saved last is what is there, for its owner, and nothing else is left in the folder.
    #[test]
    fn the_last_save_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (path, owner) = (directory.path().join("peers"), identity("c", 1));
        assert_eq!(
            load_peers(&OsFiles, &path, &owner).unwrap(),
            SeenPeers::default()
        );
        for saved in [
            peers(0, &[(2, 7, 1)]),
            peers(5, &[(2, 7, 3), (3, u128::MAX, 1)]),
        ] {
            save_peers(&OsFiles, &path, &owner, &saved).unwrap();
            assert_eq!(load_peers(&OsFiles, &path, &owner).unwrap(), saved);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let other = load_peers(&OsFiles, &path, &identity("c", 2)).unwrap_err();
        assert!(matches!(other, OpenError::WrongNode { .. }), "{other}");
        let other = load_peers(&OsFiles, &path, &identity("d", 1)).unwrap_err();
        assert!(matches!(other, OpenError::WrongCluster { .. }), "{other}");
    }

    /// Format 1 said nothing of the founding.
    #[test]
    fn the_former_format_is_read() {
        let (path, owner) = (Path::new("peers"), identity("c", 1));
        let mut former = encode(&owner, &peers(0, &[(2, 7, 3)]));
        former[8] = 1;
        let origin_at = 8 + 4 + 8 + 2 + 1;
        former.drain(origin_at..origin_at + 8);
        former.truncate(former.len() - 4);
        former.extend_from_slice(&crc32c::crc32c(&former).to_le_bytes());
        let (_, read) = decode(path, &former).unwrap();
        assert_eq!(read, peers(0, &[(2, 7, 3)]));
    }

    /// Damage anywhere, a cut, and a newer format are said so.
    #[test]
    fn a_damaged_file_is_refused() {
        let path = Path::new("peers");
        let good = encode(&identity("c", 1), &peers(5, &[(2, 7, 3), (3, 9, 1)]));
        assert!(decode(path, &good).is_ok());
        for bit in 0..good.len() * 8 {
            let mut damaged = good.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(path, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(decode(path, &good[..length]).is_err(), "cut {length}");
        }
        let mut newer = good[..good.len() - 4].to_vec();
        newer[8] = 9;
        newer.extend_from_slice(&crc32c::crc32c(&newer).to_le_bytes());
        let newer = decode(path, &newer).map(drop).unwrap_err();
        assert!(
            matches!(newer, OpenError::NewerFormat { found: 9, .. }),
            "{newer}"
        );
    }
}
