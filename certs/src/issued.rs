//! Certificates, fresh from a CA: with a key, or for one that is elsewhere.

use std::path::Path;
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsError};
use crate::files::{self, FileError, Kind};
use crate::identity::Identity;

/// Name of the private key's file in a credentials directory.
pub const KEY_FILE: &str = "key.pem";
/// Name of the key's file until its certificate is in place: while a renewal is under way (see
/// [`Folder`](crate::Folder)), and from a [`Request`](crate::Request) on.
pub const NEXT_KEY_FILE: &str = "key.next.pem";
/// Name of the certificate chain's file (leaf first) in a credentials directory.
pub const CERTIFICATE_FILE: &str = "cert.pem";
/// Name of the trusted roots' file in a credentials directory.
pub const ROOTS_FILE: &str = "ca.pem";

/// Name of the file with the request for a certificate: see [`Request`](crate::Request).
pub const REQUEST_FILE: &str = "request.pem";

/// What [`Ca::sign`](crate::Ca::sign) made: a certificate for a key that stays where it is, and whom its owner should
/// trust, as PEM. Nothing of it is a secret.
#[derive(Clone, Debug)]
pub struct Signed {
    pub(crate) identity: Identity,
    pub(crate) now: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) shortened: bool,
    pub(crate) certificate: String,
    pub(crate) roots: String,
}

impl Signed {
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

    /// The certificate chain in PEM, leaf first.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The roots to trust, in PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots
    }

    /// Writes [`CERTIFICATE_FILE`] and [`ROOTS_FILE`] into `directory`, to be brought to the key:
    /// see [`Folder::renew_from`](crate::Folder::renew_from). As [`Issued::write`].
    ///
    /// Errors: those of [`Issued::write`].
    pub fn write(&self, directory: &Path) -> Result<(), FileError> {
        files::write_new(directory, &self.files())
    }

    /// That [`write`](Self::write) finds none of its files in `directory`, for whoever asks before anything is signed, and
    /// noted by the CA.
    ///
    /// Errors: [`FileError::Exists`], or a directory that is none.
    pub fn check_new(directory: &Path) -> Result<(), FileError> {
        files::check_new(directory, [CERTIFICATE_FILE, ROOTS_FILE])
    }

    fn files(&self) -> [(&'static str, &[u8], Kind); 2] {
        let certificate = self.certificate.as_bytes();
        let roots = self.roots.as_bytes();
        [
            (CERTIFICATE_FILE, certificate, Kind::Public),
            (ROOTS_FILE, roots, Kind::Bundle),
        ]
    }
}

/// What [`Ca::issue`](crate::Ca::issue) made: everything one process needs, as PEM.
#[derive(Clone)]
pub struct Issued {
    pub(crate) signed: Signed,
    pub(crate) key: Zeroizing<String>,
}

impl Issued {
    /// Whom the certificate speaks for.
    pub fn identity(&self) -> &Identity {
        self.signed.identity()
    }

    /// When the certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.signed.not_after()
    }

    /// Whether the life asked for was cut to end with the CA's.
    pub fn shortened(&self) -> bool {
        self.signed.shortened()
    }

    /// All but the private key.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }

    /// The private key, PKCS #8 in PEM. A secret.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// The certificate chain in PEM, leaf first.
    pub fn certificate_pem(&self) -> &str {
        self.signed.certificate_pem()
    }

    /// The roots to trust, in PEM.
    pub fn roots_pem(&self) -> &str {
        self.signed.roots_pem()
    }

    /// Writes [`KEY_FILE`] (mode 0600 from its creation), [`CERTIFICATE_FILE`] and [`ROOTS_FILE`]
    /// into `directory`, creating it (mode 0700) if missing; all are on disk when this returns.
    ///
    /// Errors: [`FileError::Exists`] if any is there already, and then nothing was written.
    pub fn write(&self, directory: &Path) -> Result<(), FileError> {
        let [certificate, roots] = self.signed.files();
        let key = (KEY_FILE, self.key.as_bytes(), Kind::Secret);
        files::write_new(directory, &[key, certificate, roots])
    }

    /// That [`write`](Self::write) finds none of its files in `directory`, for whoever asks before anything is issued, and
    /// noted by the CA.
    ///
    /// Errors: [`FileError::Exists`], or a directory that is none.
    pub fn check_new(directory: &Path) -> Result<(), FileError> {
        files::check_new(directory, [KEY_FILE, CERTIFICATE_FILE, ROOTS_FILE])
    }

    /// The same as [`Credentials`] in memory, judged at the time of issue
    /// ([`IssueOptions::now`](crate::IssueOptions::now)), so that a test can hold expired ones.
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        Credentials::from_pem(
            self.key.as_bytes(),
            self.certificate_pem().as_bytes(),
            self.roots_pem().as_bytes(),
            crate::facts::unix_time(self.signed.now),
        )
    }
}

/// Without the key.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("identity", self.identity())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}
