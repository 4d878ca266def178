//! Backups as files, good ones and all others.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use quorate_consensus::{Batch, Command as Entry, EntryId, LogIndex, NodeId, StateMachine, Term};
use quorate_persist::{Opened, Options, Store, StoreIdentity};
use tempfile::TempDir;

use super::*;
use crate::kv::{Command, KvOptions, KvStore, Logged, STATE_FILE};
use crate::node::LOG_FILE;

fn identity(node: u64) -> StoreIdentity {
    StoreIdentity {
        cluster: "c1".into(),
        node: NodeId::new(node).unwrap(),
    }
}

fn id(index: u64) -> EntryId {
    EntryId::new(Term::new(3), LogIndex::new(index))
}

fn open(directory: &Path, node: u64) -> KvStore {
    let path = directory.join(STATE_FILE);
    KvStore::open(&path, &identity(node), KvOptions::default()).unwrap()
}

/// A store in which sixty keys stand, and a session.
fn filled() -> (TempDir, KvStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(STATE_FILE);
    KvStore::create(&path, &identity(1)).unwrap();
    let mut store = open(directory.path(), 1);
    let put = |n: u64| Command::Put {
        key: format!("key {:02}", n % 60).into(),
        value: vec![n as u8; 40].into(),
    };
    let commands = (0..80).map(put).chain([Command::OpenSession]);
    for (index, command) in (2..).zip(commands) {
        let logged = Logged {
            elapsed_ms: 1,
            tag: None,
            command: Some(command),
            owner: 0,
        };
        let data = logged.encode();
        let (id, commands) = (
            id(index),
            vec![Entry {
                id: id(index),
                data,
            }],
        );
        store.apply(&Batch { commands, last: id }).unwrap();
    }
    store.close().unwrap();
    (directory, store)
}

/// The pieces of `store`, of a few pairs each.
fn pieces(store: &mut KvStore) -> Vec<Bytes> {
    let mut source = store.snapshot().unwrap().unwrap();
    let mut pieces = Vec::new();
    let mut after = Some(Bytes::new());
    while let Some(place) = after {
        let chunk = source.chunk(&place, 500).unwrap();
        pieces.push(chunk.data);
        after = chunk.next;
    }
    assert!(pieces.len() > 5);
    pieces
}

fn header(store: &KvStore) -> BackupHeader {
    BackupHeader::new("c1".into(), NodeId::new(1).unwrap(), store.applied())
}

fn written(store: &mut KvStore) -> Vec<u8> {
    let mut writer = BackupWriter::new(Vec::new(), &header(store)).unwrap();
    for piece in pieces(store) {
        writer.add(piece).unwrap();
    }
    writer.finish().unwrap().0
}

fn read(bytes: &[u8]) -> Result<(BackupHeader, BackupSummary), BackupError> {
    let mut reader = BackupReader::new(bytes)?;
    while reader.next_piece()?.is_some() {}
    assert!(reader.next_piece()?.is_none());
    Ok((reader.header().clone(), reader.so_far()))
}

/// What was written is read, and what it says of itself is so.
#[test]
fn a_backup_says_what_is_in_it() {
    let (_directory, mut store) = filled();
    let bytes = written(&mut store);
    let (header, summary) = read(&bytes).unwrap();
    assert_eq!((header.cluster.as_str(), header.last), ("c1", id(82)));
    assert_eq!((summary.keys, summary.bytes), (60, 60 * 46));
    assert_eq!(summary.digest, store.digest().unwrap());
}

/// A backup that was cut off anywhere is not one, whatever is cut off.
#[test]
fn a_part_of_a_backup_is_none() {
    let (_directory, mut store) = filled();
    let bytes = written(&mut store);
    for length in 0..bytes.len() {
        let error = read(&bytes[..length]).unwrap_err();
        match length {
            0..12 => assert!(
                matches!(error, BackupError::NotABackup),
                "{length}: {error}"
            ),
            _ => assert!(
                matches!(error, BackupError::Incomplete),
                "{length}: {error}"
            ),
        }
    }
    let longer = [&bytes[..], b"x"].concat();
    let error = read(&longer).unwrap_err();
    assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
}

/// Whichever byte has changed, and to whatever: it is noticed.
#[test]
fn no_byte_changes_unnoticed() {
    let (_directory, mut store) = filled();
    let bytes = written(&mut store);
    for at in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            assert!(read(&changed).is_err(), "byte {at} ^ {change:#x}");
        }
    }
}

/// A length that no frame has is not believed, nor is memory taken for it.
#[test]
fn no_memory_for_what_a_length_says() {
    let (_directory, mut store) = filled();
    let mut bytes = written(&mut store);
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = read(&bytes).unwrap_err();
    assert!(matches!(error, BackupError::Damaged { at: 12 }), "{error}");
    bytes[8..12].copy_from_slice(&(BACKUP_FORMAT + 1).to_le_bytes());
    let error = read(&bytes).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
}

/// Only the piece that comes next is taken, and a refused one does no harm.
#[test]
fn pieces_go_in_in_their_order() {
    let (_directory, mut store) = filled();
    let pieces = pieces(&mut store);
    let mut writer = BackupWriter::new(Vec::new(), &header(&store)).unwrap();
    for (at, piece) in pieces.iter().enumerate() {
        for (other, wrong) in pieces.iter().enumerate() {
            if other != at {
                let error = writer.add(wrong.clone()).unwrap_err();
                assert!(matches!(error, BackupError::Misfit), "{other} at {at}");
            }
        }
        writer.add(Bytes::from_static(b"\xff\xff")).unwrap_err();
        writer.add(piece.clone()).unwrap();
    }
    let (bytes, summary) = writer.finish().unwrap();
    assert_eq!(read(&bytes).unwrap().1, summary);
}

/// The restored node has the state and a log that goes on far above it, alone and in a cluster of its own.
#[test]
fn a_restored_node_goes_on_alone() {
    let (_directory, mut store) = filled();
    let bytes = written(&mut store);
    let folder = tempfile::tempdir().unwrap();
    let mut origins = Vec::new();
    for name in ["a", "b"] {
        let data = folder.path().join(name).join("data");
        let mut reader = BackupReader::new(&bytes[..]).unwrap();
        let restored = restore(&mut reader, &identity(7), &data).unwrap();
        let before = store.applied();
        assert_eq!(restored.last.index, before.index);
        assert!(
            restored.last.term.founding() > 1_700_000_000,
            "{restored:?}"
        );
        assert_eq!(restored.summary.keys, 60);

        let copy = open(&data, 7);
        assert_eq!(copy.applied(), restored.last);
        assert_eq!(copy.digest().unwrap(), store.digest().unwrap());
        let opened = Store::open(&data.join(LOG_FILE), &identity(7), Options::default());
        let Opened {
            recovered, origin, ..
        } = opened.unwrap();
        assert_eq!(
            (recovered.base(), recovered.last),
            (restored.last, restored.last.index)
        );
        assert_eq!(recovered.hard_state.commit, restored.last.index);
        assert!(recovered.membership().is_single_voter(identity(7).node));
        origins.push(origin);
    }
    // Two that were restored from the same backup are two clusters.
    assert_ne!(origins[0], origins[1]);
}

/// A folder that is mounted cannot be given its content by a new name, which is said before any work is done.
#[cfg(target_os = "linux")]
#[test]
fn a_mounted_folder_is_refused() {
    let (_directory, mut store) = filled();
    let bytes = written(&mut store);
    let mut reader = BackupReader::new(&bytes[..]).unwrap();
    let refused = restore(&mut reader, &identity(7), Path::new("/proc")).unwrap_err();
    assert!(
        matches!(refused, RestoreError::FileSystem { .. }),
        "{refused}"
    );
}

/// Nothing is overwritten, and what fails leaves nothing behind.
#[test]
fn a_failed_restore_leaves_nothing() {
    let (_directory, mut store) = filled();
    let bytes = written(&mut store);
    let folder = tempfile::tempdir().unwrap();
    let names = || fs::read_dir(folder.path()).unwrap().count();
    let data = folder.path().join("data");
    let try_with = |bytes: &[u8], data: &Path| {
        let mut reader = BackupReader::new(bytes).unwrap();
        restore(&mut reader, &identity(7), data).map(drop)
    };
    let cut = try_with(&bytes[..bytes.len() - 3], &data).unwrap_err();
    assert!(matches!(cut, RestoreError::Backup(BackupError::Incomplete)));
    assert_eq!(names(), 0);

    fs::create_dir(&data).unwrap();
    fs::write(data.join("mine"), "x").unwrap();
    let used = try_with(&bytes, &data).unwrap_err();
    assert!(matches!(used, RestoreError::NotEmpty { .. }), "{used}");
    assert_eq!(fs::read(data.join("mine")).unwrap(), b"x");
    fs::remove_file(data.join("mine")).unwrap();
    try_with(&bytes, &data).unwrap();
    assert_eq!(names(), 1);
}

/// Set, it makes the file of the present format anew.
const BLESS: &str = "BLESS";

/// A backup of every format that a version wrote, kept in the tree: a later version still reads it, or the change of
/// format was not meant.
#[test]
fn k4_every_format_of_backups_is_read() {
    let (_directory, mut store) = filled();
    for format in 1..=BACKUP_FORMAT {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let path = folder.join(format!("backup-format-{format}.quorate"));
        if format == BACKUP_FORMAT && std::env::var_os(BLESS).is_some() {
            fs::write(&path, written(&mut store)).unwrap();
        }
        let (header, summary) = read(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(header.last, id(82), "format {format}");
        assert_eq!(summary.digest, store.digest().unwrap(), "format {format}");
    }
}
