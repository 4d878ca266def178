//! Whose file it is: the one row that every file of a node has in the same place.

use std::path::Path;

use quorate_consensus::NodeId;

use crate::error::{Corruption, OpenError};
use crate::planted;

/// The longest name of a cluster, in bytes. It is part of every log line and certificate, where
/// longer names only hurt.
pub const CLUSTER_BYTES_MAX: usize = 255;

/// Whose data a file holds. Checked against the file at every open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreIdentity {
    /// The cluster's name, 1 to [`CLUSTER_BYTES_MAX`] bytes.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
}

impl StoreIdentity {
    /// Checks that the file at `path`, which says this, is whose it should be.
    pub(crate) fn check(&self, path: &Path, expected: &Self) -> Result<(), OpenError> {
        // The cluster first: node ids mean nothing across clusters.
        if self.cluster != expected.cluster {
            return Err(OpenError::WrongCluster {
                path: path.to_owned(),
                found: self.cluster.clone(),
                expected: expected.cluster.clone(),
            });
        }
        if self.node != expected.node && !planted::is("owner-not-checked") {
            return Err(OpenError::WrongNode {
                path: path.to_owned(),
                found: self.node,
                expected: expected.node,
            });
        }
        Ok(())
    }
}

/// What a file is for, and in which format it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileKind {
    /// Tells kinds of files apart; ASCII, padded with zeros.
    pub magic: [u8; 8],
    /// The format that this version writes.
    pub format: u32,
    /// The oldest format that it reads.
    pub oldest: u32,
}

/// The identity row, decoded. The layout is in `docs/disk.md`; magic, format and the position of
/// the checksum never change, so that every version recognises what a newer one wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IdentityRow {
    /// With the format that the file has.
    pub(crate) kind: FileKind,
    pub(crate) identity: StoreIdentity,
    pub(crate) store_id: u128,
}

pub(crate) const IDENTITY: &str = "identity";

const FIXED_BYTES: usize = 8 + 4 + 8 + 16 + 2;
const CHECKSUM_BYTES: usize = 4;

impl IdentityRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let cluster = self.identity.cluster.as_bytes();
        let length = u16::try_from(cluster.len()).expect("the name's length was checked on create");
        let mut row = Vec::with_capacity(FIXED_BYTES + cluster.len() + CHECKSUM_BYTES);
        row.extend_from_slice(&self.kind.magic);
        row.extend_from_slice(&self.kind.format.to_le_bytes());
        row.extend_from_slice(&self.identity.node.value().to_le_bytes());
        row.extend_from_slice(&self.store_id.to_le_bytes());
        row.extend_from_slice(&length.to_le_bytes());
        row.extend_from_slice(cluster);
        let checksum = crc32c::crc32c(&row);
        row.extend_from_slice(&checksum.to_le_bytes());
        row
    }

    /// Decodes `row` of the file at `path`, which should be of the kind `expected`.
    pub(crate) fn decode(path: &Path, row: &[u8], expected: FileKind) -> Result<Self, OpenError> {
        let corrupt = |what| OpenError::Corrupt {
            path: path.to_owned(),
            what,
        };
        let content = || corrupt(Corruption::RowContent { row: IDENTITY });
        let (body, checksum) = row
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or_else(content)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(corrupt(Corruption::RowChecksum { row: IDENTITY }));
        }
        let (magic, rest) = body.split_first_chunk::<8>().ok_or_else(content)?;
        if *magic != expected.magic {
            return Err(corrupt(Corruption::WrongKind {
                found: magic_text(*magic),
                expected: magic_text(expected.magic),
            }));
        }
        let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(content)?;
        let format = u32::from_le_bytes(*format);
        if format > expected.format {
            return Err(OpenError::NewerFormat {
                path: path.to_owned(),
                found: format,
                supported: expected.format,
            });
        }
        if format < expected.oldest {
            return Err(content());
        }
        let (node, rest) = rest.split_first_chunk::<8>().ok_or_else(content)?;
        let (store_id, rest) = rest.split_first_chunk::<16>().ok_or_else(content)?;
        let (length, cluster) = rest.split_first_chunk::<2>().ok_or_else(content)?;
        let cluster = std::str::from_utf8(cluster).map_err(|_| content())?;
        if usize::from(u16::from_le_bytes(*length)) != cluster.len() {
            return Err(content());
        }
        Ok(Self {
            kind: FileKind { format, ..expected },
            identity: StoreIdentity {
                cluster: cluster.to_owned(),
                node: NodeId::new(u64::from_le_bytes(*node)).ok_or_else(content)?,
            },
            store_id: u128::from_le_bytes(*store_id),
        })
    }
}

fn magic_text(magic: [u8; 8]) -> String {
    String::from_utf8_lossy(&magic)
        .trim_end_matches('\0')
        .escape_default()
        .to_string()
}
