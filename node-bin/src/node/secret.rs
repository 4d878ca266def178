//! The file that lets peers notice a restart at once.
//!
//! A node that starts again answers packets for connections of its former life with a stateless reset
//! (RFC 9000, section 10.3), which needs the former life's key. With it, peers notice a restart within a
//! round trip; without, after an idle timeout.

use std::io;
use std::path::Path;

use quorate_persist::{CreateError, Files, create_file, read_file};

const FILE: &str = "transport.secret";

/// The secret in `directory`; made at the first start. Readable by its owner only.
pub(super) fn load_or_create(files: &dyn Files, directory: &Path) -> io::Result<[u8; 32]> {
    let path = directory.join(FILE);
    if files.exists(&path)? {
        return read(files, &path);
    }
    let mut secret = [0; 32];
    files.random(&mut secret)?;
    create_file(files, &path, &secret).map_err(|error| match error {
        CreateError::Io { source, .. } => source,
        error => io::Error::other(error),
    })?;
    Ok(secret)
}

fn read(files: &dyn Files, path: &Path) -> io::Result<[u8; 32]> {
    let content = read_file(files, path, 32)?;
    content.try_into().map_err(|_| {
        // Losing it costs nothing but a slower notice of one restart, so the advice is simple.
        io::Error::other(format!(
            "{} is damaged; delete it, it will be made anew",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use quorate_persist::OsFiles;

    use super::*;

    /// The secret is made once, stays the same, and is private; a damaged one is said so.
    #[test]
    fn a_secret_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_create(&OsFiles, directory.path()).unwrap();
        assert_eq!(load_or_create(&OsFiles, directory.path()).unwrap(), first);
        let path = directory.path().join(FILE);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let error = load_or_create(&OsFiles, directory.path()).unwrap_err();
        assert!(error.to_string().contains("delete it"), "{error}");
    }
}
