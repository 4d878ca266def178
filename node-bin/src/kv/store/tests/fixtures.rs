//! A file of every format that a version had, kept in the tree: a later version still reads it, or the
//! change of format was not meant.

use super::*;

/// Set, it makes the file of the present format anew.
const BLESS: &str = "BLESS";

fn fixture(format: u32) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(format!("kv-format-{format}.redb"))
}

fn make() {
    let (_directory, path, mut store) = new_store();
    for index in 2..50 {
        let key = format!("key {:02}", index % 30);
        apply(&mut store, index, &put(key.as_bytes(), &[7; 50]));
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
    }
}
