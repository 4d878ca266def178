//! A file of every format that a version had, kept in the tree: a later version still reads it, or the
//! change of format was not meant.

use std::path::{Path, PathBuf};

use super::super::file::FORMAT;
use super::*;

/// Set, it makes the file of the present format anew.
const BLESS: &str = "BLESS";

fn fixture(format: u32) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(format!("saved-format-{format}.state"))
}

/// A folder that has the file of `format`.
fn folder(format: u32) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::copy(fixture(format), directory.path().join(STATE_FILE)).unwrap();
    directory
}

#[test]
fn k4_every_format_of_saved_states_is_read() {
    let written = fs::read(filled().path().join(STATE_FILE)).unwrap();
    if std::env::var_os(BLESS).is_some() {
        fs::write(fixture(FORMAT), &written).unwrap();
    }
    for format in 1..=FORMAT {
        let directory = folder(format);
        let mut saved = open(&directory);
        assert_eq!(saved.applied(), at(3), "format {format}");
        assert_eq!(said(&mut saved), "a b", "format {format}");
        say(&mut saved, 4, "c");
        saved.close().unwrap();
        assert_eq!(said(&mut open(&directory)), "a b c", "format {format}");
    }
    // Nothing in it is left to chance.
    assert_eq!(written, fs::read(fixture(FORMAT)).unwrap());
}

/// A newer format is refused by its number, whatever else is in the file, and the file is left alone.
#[test]
fn k4_a_newer_format_of_a_saved_state_is_refused() {
    let directory = folder(FORMAT);
    let path = directory.path().join(STATE_FILE);
    let mut newer = forged(&fs::read(&path).unwrap(), 8, &(FORMAT + 1).to_le_bytes());
    newer.extend_from_slice(b"of which this version knows nothing");
    fs::write(&path, &newer).unwrap();
    let said = refused(&directory).to_string();
    let (found, supported) = (FORMAT + 1, FORMAT);
    let expected = format!(
        "the state in {} has format {found}, this version reads up to {supported}; start the newer version again",
        path.display()
    );
    assert_eq!(said, expected);
    assert_eq!(fs::read(&path).unwrap(), newer);
}
