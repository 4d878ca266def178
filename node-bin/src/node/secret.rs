//! The file that lets peers notice a restart at once.
//!
//! A node that starts again answers packets for connections of its former life with a stateless reset
//! (RFC 9000, section 10.3), which needs the former life's key. With it, peers notice a restart within a
//! round trip; without, after an idle timeout.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const FILE: &str = "transport.secret";

/// The secret in `directory`; made at the first start. Readable by its owner only.
pub(super) fn load_or_create(directory: &Path) -> io::Result<[u8; 32]> {
    let path = directory.join(FILE);
    match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(directory, &path),
        outcome => outcome,
    }
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    File::open(path)?.read_exact(&mut secret).map_err(|error| {
        // Losing it costs nothing but a slower notice of one restart, so the advice is simple.
        let what = format!(
            "{} is damaged; delete it, it will be made anew",
            path.display()
        );
        if error.kind() == io::ErrorKind::UnexpectedEof {
            io::Error::other(what)
        } else {
            error
        }
    })?;
    Ok(secret)
}

fn create(directory: &Path, path: &Path) -> io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let temporary = directory.join(format!("{FILE}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// The secret is made once, stays the same, and is private; a damaged one is said so.
    #[test]
    fn a_secret_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_create(directory.path()).unwrap();
        assert_eq!(load_or_create(directory.path()).unwrap(), first);
        let path = directory.path().join(FILE);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let error = load_or_create(directory.path()).unwrap_err();
        assert!(error.to_string().contains("delete it"), "{error}");
    }
}
