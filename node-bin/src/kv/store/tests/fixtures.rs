//! A file of every format that a version had, kept in the tree: a later version still reads it, or the
//! change of format was not meant.

use super::*;

/// Set, it makes the file of the present format anew.
const BLESS: &str = "BLESS";

/// Where there is something that the first format did not have.
const SESSION: u64 = 10;
const LEASE: u64 = 11;

fn fixture(format: u32) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(format!("kv-format-{format}.redb"))
}

fn make() {
    let (_directory, path, mut store) = new_store();
    for index in 2..50 {
        let key = format!("key {:02}", index % 30);
        let command = match index {
            SESSION => Command::OpenSession,
            LEASE => Command::GrantLease { ttl_ms: 5_000 },
            _ => put(key.as_bytes(), &[7; 50]),
        };
        apply(&mut store, index, &command);
    }
    let key = Bytes::from_static(b"key 07");
    apply(&mut store, 50, &Command::Delete { key });
    store.close().unwrap();
    drop(store);
    fs::copy(path, fixture(KV_FILE.format)).unwrap();
}

#[test]
fn k4_every_format_there_was_is_read() {
    if std::env::var_os(BLESS).is_some() {
        make();
    }
    for format in 1..=KV_FILE.format {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kv.redb");
        fs::copy(fixture(format), &path).unwrap();
        let mut store = open(&path);
        assert_eq!(store.applied(), id(50), "format {format}");
        let (pairs, more) = range(&mut store, b"", None, 100);
        assert_eq!((pairs.len(), more), (29, false));
        assert_eq!(get(&mut store, b"key 07"), None);
        let last = get(&mut store, b"key 19").unwrap();
        assert_eq!((&last.data[..], last.revision), (&[7; 50][..], 49));
        assert_eq!(store.timed.has_session(SESSION, 7), format >= 2);
        assert_eq!(store.timed.lease(LEASE).is_some(), format >= 2);
    }
}

/// Keys that begin with a zero byte stood where they were in format 1, and are found where they are now.
#[test]
fn k4_keys_make_room_for_what_the_store_keeps() {
    let (_directory, path, mut store) = new_store();
    apply(&mut store, 2, &put(b"a", b"a"));
    store.close().unwrap();
    let keys = [
        &b"\0"[..],
        b"\0\0",
        b"\0\0c",
        b"\0\x01",
        b"\0\x01\x01",
        b"\0z",
    ];
    let transaction = begin_durable(&store.database).unwrap();
    {
        let mut table = transaction.open_table(KV_TABLE).unwrap();
        for key in keys {
            let value = Value {
                data: Bytes::copy_from_slice(key),
                revision: 2,
            };
            record::insert(&mut table, &store.seal, key, &value).unwrap();
        }
    }
    let former = FileKind {
        format: 1,
        ..KV_FILE
    };
    let store_id = store_id(&path, store, transaction, former);
    let mut store = open(&path);
    let (pairs, _) = range(&mut store, b"", None, 100);
    let found: Vec<&Bytes> = pairs.iter().map(|pair| &pair.key).collect();
    assert_eq!(found, [&keys[..], &[b"a"]].concat());
    for key in keys {
        assert_eq!(get(&mut store, key).unwrap().data, key);
    }
    drop(store);
    let again = open_database(&OsFiles, &path, KV_FILE, &identity(), 1 << 20).unwrap();
    assert_eq!((again.format, again.store_id), (KV_FILE.format, store_id));
}

/// Ends `transaction` in such a way that the file is of `kind`, and closes it.
fn store_id(
    path: &Path,
    store: KvStore,
    transaction: redb::WriteTransaction,
    kind: FileKind,
) -> u128 {
    transaction.commit().unwrap();
    drop(store);
    let opened = open_database(&OsFiles, path, KV_FILE, &identity(), 1 << 20).unwrap();
    let transaction = begin_durable(&opened.database).unwrap();
    quorate_persist::write_format(&transaction, kind, &identity(), opened.store_id).unwrap();
    transaction.commit().unwrap();
    opened.store_id
}
