//! Reading and writing key material: bounded, private from the first instant, never over something.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::ca::{CA_CERTIFICATE_FILE, CA_KEY_FILE};
use crate::issued::{CERTIFICATE_FILE, KEY_FILE, REQUEST_FILE, ROOTS_FILE};
use crate::trust::ROOTS_MAX;

/// Largest file of a key, of certificates, or of one list of what is revoked, in bytes. A chain of 4 certificates has
/// about 3,000; a list of this size has some 1,370 numbers.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Largest bundle of roots and their lists, in bytes: each of them may be as large as its own file. With less room, a CA
/// could revoke so many that nobody could take the list.
pub const BUNDLE_BYTES_MAX: u64 = 2 * ROOTS_MAX as u64 * FILE_BYTES_MAX;

const MODE_SECRET: u32 = 0o600;
const MODE_PUBLIC: u32 = 0o644;
const MODE_DIRECTORY: u32 = 0o700;
const MODE_GROUP_AND_OTHERS: u32 = 0o077;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Not there.
    #[error("{} does not exist{}", .path.display(), made_with(.path))]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// There already; nothing was changed.
    #[error("{} exists and is never overwritten: move it away or choose another directory", .path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// A private key that others than its owner may read.
    #[error("{} is readable by group or others (mode {mode:04o}): run `chmod 600 {}`", .path.display(), .path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, device or pipe.
    #[error("{} is not a regular file: give the path of one", .path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
    },
    /// Larger than [`FILE_BYTES_MAX`], or for a bundle [`BUNDLE_BYTES_MAX`].
    #[error("{} is larger than {bytes_max} bytes: it can not be a key or a certificate bundle", .path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// What it may have.
        bytes_max: u64,
    },
    /// The operating system refused.
    #[error("{} can not be {action}: {source}", .path.display())]
    Io {
        /// Which path.
        path: PathBuf,
        /// `read`, `written`, `created`, `removed` or `locked`.
        action: &'static str,
        /// Its reason.
        source: io::Error,
    },
}

/// How to make the file at `path`, where its name says what it is.
fn made_with(path: &Path) -> &'static str {
    match path.file_name().and_then(OsStr::to_str) {
        Some(CA_KEY_FILE | CA_CERTIFICATE_FILE) => ": create it with `quorate certs init`",
        Some(KEY_FILE) => ": create it with `quorate certs issue`",
        Some(CERTIFICATE_FILE | ROOTS_FILE) => {
            ": create it with `quorate certs issue`, or with `quorate certs sign` for a request"
        }
        Some(REQUEST_FILE) => ": create it with `quorate certs request`",
        Some(_) | None => "",
    }
}

/// What a file is: whether it must be for its owner only, and how large it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A private key.
    Secret,
    /// Certificates, a request, or one list.
    Public,
    /// Roots, and lists of what they have revoked.
    Bundle,
}

impl Kind {
    fn mode(self) -> u32 {
        match self {
            Self::Secret => MODE_SECRET,
            Self::Public | Self::Bundle => MODE_PUBLIC,
        }
    }

    fn bytes_max(self) -> u64 {
        match self {
            Self::Secret | Self::Public => FILE_BYTES_MAX,
            Self::Bundle => BUNDLE_BYTES_MAX,
        }
    }
}

/// Reads a whole file of at most as many bytes as its kind may have; a secret one must be readable by its
/// owner only, as ssh demands of its keys.
pub(crate) fn read(path: &Path, kind: Kind) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: path.into() },
        _ => FileError::Io {
            path: path.into(),
            action: "read",
            source,
        },
    };
    // Before opening, because opening a named pipe waits for a writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FileError::NotAFile { path: path.into() });
    }
    let file = File::open(path).map_err(failed)?;
    // Of the open file, not of the path, which may be another file by now.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if kind == Kind::Secret && mode & MODE_GROUP_AND_OTHERS != 0 {
        return Err(FileError::Exposed {
            path: path.into(),
            mode,
        });
    }
    // Full capacity of a key's file at once: a growing buffer would leave copies of it behind.
    let capacity = usize::try_from(FILE_BYTES_MAX).expect("64 KiB fit in usize") + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(kind.bytes_max() + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    check_size(path, &bytes, kind)?;
    Ok(bytes)
}

fn check_size(path: &Path, contents: &[u8], kind: Kind) -> Result<(), FileError> {
    let bytes_max = kind.bytes_max();
    match contents.len() as u64 > bytes_max {
        true => Err(FileError::TooLarge {
            path: path.into(),
            bytes_max,
        }),
        false => Ok(()),
    }
}

/// Writes `files` (name, contents, kind) into `directory`, all or none, durably.
///
/// A missing directory is created for its owner only. An existing file is never touched. Modes are
/// given at creation: a key that is world-readable until a later chmod has been published.
pub(crate) fn write_new(directory: &Path, files: &[(&str, &[u8], Kind)]) -> Result<(), FileError> {
    check_new(directory, files.iter().map(|(name, ..)| *name))?;
    create_directory(directory)?;
    let mut created = Vec::new();
    for (name, contents, kind) in files {
        let path = directory.join(name);
        if let Err(error) = write_one(&path, contents, *kind, &mut created) {
            for path in &created {
                // Ours alone, since O_EXCL made it: half a set would block the next attempt.
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
    }
    sync_directory(directory)
}

/// That files of these names can be new in `directory`, which may be missing.
pub(crate) fn check_new<'a>(
    directory: &Path,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), FileError> {
    for name in names {
        let path = directory.join(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Also a dangling link counts: something is there.
            Ok(_) => return Err(FileError::Exists { path }),
            Err(source) => {
                return Err(FileError::Io {
                    path,
                    action: "created",
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Puts `contents` in the place of the file `name` in `directory`, durably and as one step: whoever reads
/// it, also after a crash, finds the old or the new.
pub(crate) fn replace(
    directory: &Path,
    name: &str,
    contents: &[u8],
    kind: Kind,
) -> Result<(), FileError> {
    let written = directory.join(format!("{name}.new"));
    // What is left of a replacement that was cut short. Only this makes files of that name.
    let _ = fs::remove_file(&written);
    write_one(&written, contents, kind, &mut Vec::new())?;
    rename(directory, &written, name)
}

/// The end of a line whose writing was broken off: of none that anybody was told of.
pub(crate) const ABANDONED: char = '~';

/// Adds `line` to the end of the file `name` in `directory`, which is made if it is missing. On disk when this
/// returns.
pub(crate) fn append_line(directory: &Path, name: &str, line: &str) -> Result<(), FileError> {
    let path = directory.join(name);
    let is_new = !path.exists();
    let append = || {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = options.mode(MODE_SECRET).open(&path)?;
        // Half a line of an earlier attempt is marked as one, and does not become half of this one.
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(-1)).is_ok() {
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(format!("{ABANDONED}\n").as_bytes())?;
        }
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()
    };
    append().map_err(|source| FileError::Io {
        path: path.clone(),
        action: "written",
        source,
    })?;
    match is_new {
        true => sync_directory(directory),
        false => Ok(()),
    }
}

/// Keeps others who lock the same file or folder out until what is returned is dropped. Waits for them: nobody holds a
/// lock for longer than it takes to write some files.
pub(crate) fn lock(path: &Path) -> Result<File, FileError> {
    let locked = File::open(path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| FileError::Io {
        path: path.into(),
        action: "locked",
        source,
    })
}

/// Gives the file at `from` the name `name` in `directory`, in the place of what has it.
pub(crate) fn rename(directory: &Path, from: &Path, name: &str) -> Result<(), FileError> {
    let path = directory.join(name);
    fs::rename(from, &path).map_err(|source| FileError::Io {
        path,
        action: "written",
        source,
    })?;
    sync_directory(directory)
}

/// Removes the file `name` in `directory`, if there is one.
pub(crate) fn remove(directory: &Path, name: &str) -> Result<(), FileError> {
    let path = directory.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FileError::Io {
            path,
            action: "removed",
            source,
        }),
        Ok(()) => sync_directory(directory),
    }
}

fn write_one(
    path: &Path,
    contents: &[u8],
    kind: Kind,
    created: &mut Vec<PathBuf>,
) -> Result<(), FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => FileError::Exists { path: path.into() },
        _ => FileError::Io {
            path: path.into(),
            action: "written",
            source,
        },
    };
    // It could not be read again.
    check_size(path, contents, kind)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(kind.mode())
        .open(path)
        .map_err(failed)?;
    created.push(path.to_owned());
    file.write_all(contents).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Makes a directory for its owner only, unless there is one, durably.
pub(crate) fn create_directory(directory: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Io {
        path: directory.into(),
        action: "created",
        source,
    };
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(MODE_DIRECTORY)
        .create(directory)
        .map_err(failed)?;
    // The new name must survive a power failure too; its parent holds it.
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        Some(_) | None => sync_directory(Path::new(".")),
    }
}

fn sync_directory(directory: &Path) -> Result<(), FileError> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|source| FileError::Io {
            path: directory.into(),
            action: "written",
            source,
        })
}
