//! A key and its certificate, fresh from a CA.

use std::path::Path;
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsError};
use crate::files::{self, FileError, Secrecy};
use crate::identity::Identity;

/// Name of the private key's file in a credentials directory.
pub const KEY_FILE: &str = "key.pem";
/// Name of the key's file while a renewal is under way: see [`Folder`](crate::Folder).
pub const NEXT_KEY_FILE: &str = "key.next.pem";
/// Name of the certificate chain's file (leaf first) in a credentials directory.
pub const CERTIFICATE_FILE: &str = "cert.pem";
/// Name of the trusted roots' file in a credentials directory.
pub const ROOTS_FILE: &str = "ca.pem";

/// What [`Ca::issue`](crate::Ca::issue) made: everything one process needs, as PEM.
#[derive(Clone)]
pub struct Issued {
    pub(crate) identity: Identity,
    pub(crate) now: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) shortened: bool,
    pub(crate) key: Zeroizing<String>,
    pub(crate) certificate: String,
    pub(crate) roots: String,
}

impl Issued {
    /// Whom the certificate speaks for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the life asked for was cut to end with the CA's.
    pub fn shortened(&self) -> bool {
        self.shortened
    }

    /// The private key, PKCS #8 in PEM. A secret.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// The certificate chain in PEM, leaf first.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The roots to trust, in PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots
    }

    /// Writes [`KEY_FILE`] (mode 0600 from its creation), [`CERTIFICATE_FILE`] and [`ROOTS_FILE`]
    /// into `directory`, creating it (mode 0700) if missing; all are on disk when this returns.
    ///
    /// Errors: [`FileError::Exists`] if any is there already, and then nothing was written.
    pub fn write(&self, directory: &Path) -> Result<(), FileError> {
        files::write_new(
            directory,
            &[
                (KEY_FILE, self.key.as_bytes(), Secrecy::Secret),
                (
                    CERTIFICATE_FILE,
                    self.certificate.as_bytes(),
                    Secrecy::Public,
                ),
                (ROOTS_FILE, self.roots.as_bytes(), Secrecy::Public),
            ],
        )
    }

    /// The same as [`Credentials`] in memory, judged at the time of issue
    /// ([`IssueOptions::now`](crate::IssueOptions::now)), so that a test can hold expired ones.
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        Credentials::from_pem(
            self.key.as_bytes(),
            self.certificate.as_bytes(),
            self.roots.as_bytes(),
            crate::facts::unix_time(self.now),
        )
    }
}

/// Without the key.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
