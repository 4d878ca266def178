//! A request for a certificate (PKCS #10, RFC 2986): the key stays where it was made.

use std::path::Path;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair, PKCS_ED25519,
    PublicKey, SanType,
};
use zeroize::Zeroizing;

use crate::files::{self, FileError, Kind};
use crate::folder::finish_renewal;
use crate::identity::Identity;
use crate::issued::{NEXT_KEY_FILE, REQUEST_FILE};

/// A public key whose owner has proved to have the private one, and whom the owner wants to be.
///
/// A CA takes nothing else from it: see [`Ca::sign`](crate::Ca::sign).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    identity: Option<Identity>,
    pub(crate) public_key: PublicKey,
}

impl Request {
    /// Makes a key for `identity` in `directory`, in [`NEXT_KEY_FILE`] (mode 0600 from its creation), and the request
    /// for its certificate in [`REQUEST_FILE`]. A missing directory is created for its owner only. Credentials that
    /// are in use there stay as they are.
    ///
    /// Asked again before [`Folder`](crate::Folder) has installed what came of it, it is the same key: what a CA is signing
    /// at the moment is not in vain.
    ///
    /// # Errors
    ///
    /// A file that can not be read or written; a key that is there and can not be used.
    pub fn make(directory: &Path, identity: &Identity) -> Result<Self, RequestError> {
        files::create_directory(directory)?;
        // A renewal that ends meanwhile would take the key for its own, or lose it.
        let _alone = files::lock(directory)?;
        // The other key may be that of the certificate.
        finish_renewal(directory)?;
        let key = match files::read(&directory.join(NEXT_KEY_FILE), Kind::Secret) {
            Ok(pem) => key_from(&pem)?,
            Err(FileError::Missing { .. }) => {
                let key = KeyPair::generate_for(&PKCS_ED25519);
                let key = Zeroizing::new(key.map_err(RequestError::making)?);
                let pem = Zeroizing::new(key.serialize_pem());
                files::replace(directory, NEXT_KEY_FILE, pem.as_bytes(), Kind::Secret)?;
                key
            }
            Err(error) => return Err(error.into()),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.uri().try_into().map_err(RequestError::making)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let request = params.serialize_request(&*key);
        let pem = request.and_then(|request| request.pem());
        let pem = pem.map_err(RequestError::making)?;
        files::replace(directory, REQUEST_FILE, pem.as_bytes(), Kind::Public)?;
        Self::from_pem(pem.as_bytes())
    }

    /// Reads the request in the file `path`.
    ///
    /// # Errors
    ///
    /// A file that can not be read, and those of [`from_pem`](Self::from_pem).
    pub fn read(path: &Path) -> Result<Self, RequestError> {
        Self::from_pem(&files::read(path, Kind::Public)?)
    }

    /// Takes a request in PEM, which may come from another tool: signed by the key that it is for, which must be for
    /// Ed25519, as all keys of nodes, clients, readers and admins are.
    ///
    /// # Errors
    ///
    /// What does not hold.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(pem).map_err(|_| RequestError::Unreadable)?;
        let request =
            CertificateSigningRequestParams::from_pem(text).map_err(|error| match error {
                rcgen::Error::InvalidCertificationRequestSignature => RequestError::NotItsKey,
                rcgen::Error::UnsupportedSignatureAlgorithm => RequestError::NotEd25519,
                _ => RequestError::Unreadable,
            })?;
        if *request.public_key.algorithm() != PKCS_ED25519 {
            return Err(RequestError::NotEd25519);
        }
        let mut uris = request.params.subject_alt_names.iter().filter_map(|name| {
            let SanType::URI(uri) = name else { return None };
            Some(Identity::from_uri(uri.as_str()))
        });
        let identity = match (uris.next(), uris.next()) {
            (None, _) => None,
            (Some(Ok(identity)), None) => Some(identity),
            _ => return Err(RequestError::NoIdentity),
        };
        Ok(Self {
            identity,
            public_key: request.public_key,
        })
    }

    /// Whom its owner wants to be, if that is said.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

fn key_from(pem: &[u8]) -> Result<Zeroizing<KeyPair>, RequestError> {
    let text = std::str::from_utf8(pem).map_err(|_| RequestError::UnusableKey)?;
    let key = KeyPair::from_pem(text).map_err(|_| RequestError::UnusableKey)?;
    match *key.algorithm() == PKCS_ED25519 {
        true => Ok(Zeroizing::new(key)),
        false => Err(RequestError::UnusableKey),
    }
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is something else.
    #[error("it holds no readable request: make one with `quorate certs request`")]
    Unreadable,
    /// Whoever made it does not have the key, or it was changed.
    #[error(
        "the request is not signed by the key that it is for: make it again with `quorate certs request`"
    )]
    NotItsKey,
    /// Another kind of key.
    #[error("the request is for a key that is not Ed25519: make one with `quorate certs request`")]
    NotEd25519,
    /// What it says of its owner is not an identity, or more than one.
    #[error(
        "the request names nobody who can be in a cluster: make it again with `quorate certs request`"
    )]
    NoIdentity,
    /// The key that waits for its certificate can not be used.
    #[error(
        "{NEXT_KEY_FILE} is not an Ed25519 key in PEM: move it away, and make the request again"
    )]
    UnusableKey,
    /// The library refused.
    #[error("the request could not be made ({detail}): this is a bug, please report it")]
    Making {
        /// Its words.
        detail: String,
    },
}

impl RequestError {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn making(error: rcgen::Error) -> Self {
        Self::Making {
            detail: error.to_string(),
        }
    }
}
