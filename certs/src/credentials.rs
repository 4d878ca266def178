//! What one process holds: its key, its certificate, and whom it trusts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::facts::Facts;
use crate::files::{self, FileError, Kind};
use crate::identity::Identity;
use crate::issued::{CERTIFICATE_FILE, KEY_FILE, NEXT_KEY_FILE, ROOTS_FILE};
use crate::revocation::lists_in;
use crate::trust::{CHAIN_CERTIFICATES_MAX, ROOTS_MAX, Trust, TrustError, identity_of, provider};
use crate::verify_error::VerifyError;

/// A key, the chain that says whose it is, and the roots its holder trusts.
///
/// Invariants: the key belongs to the leaf; the leaf verified against the roots when these were made.
/// Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    not_before: SystemTime,
    not_after: SystemTime,
    key: Arc<CertifiedKey>,
    trust: Trust,
}

impl Credentials {
    /// Reads [`KEY_FILE`], [`CERTIFICATE_FILE`] and [`ROOTS_FILE`] from `directory`, and checks
    /// them as a peer would, now.
    ///
    /// A renewal that was cut short leaves a certificate whose key is still in [`NEXT_KEY_FILE`]: then that
    /// one is used.
    ///
    /// Errors: a file that is missing, too large or, for the key, readable by others; and all of
    /// [`Credentials::from_pem`].
    pub fn load(directory: &Path) -> Result<Self, CredentialsError> {
        let roots = files::read(&directory.join(ROOTS_FILE), Kind::Bundle)?;
        Self::load_trusting(directory, &roots)
    }

    /// As [`load`](Self::load), with other roots (PEM).
    pub(crate) fn load_trusting(directory: &Path, roots: &[u8]) -> Result<Self, CredentialsError> {
        let chain = files::read(&directory.join(CERTIFICATE_FILE), Kind::Public)?;
        let (key, _) = key_in(directory, &chain)?;
        Self::from_pem(&key, &chain, roots, UnixTime::now())
    }

    /// Takes a PKCS #8 key, a chain (leaf first), and roots with their revocation lists, all PEM, and checks
    /// them as a peer would at `now`: the key is the leaf's, and the leaf verifies by [`Trust::verify`] against the roots.
    ///
    /// Errors: what does not hold. A process that started with bad credentials would only find out
    /// from its peers' refusals.
    pub fn from_pem(
        key: &[u8],
        chain: &[u8],
        roots: &[u8],
        now: UnixTime,
    ) -> Result<Self, CredentialsError> {
        let chain = certificates(chain, CERTIFICATE_FILE, CHAIN_CERTIFICATES_MAX)?;
        let lists = lists_in(roots, ROOTS_FILE)?;
        let roots = certificates(roots, ROOTS_FILE, ROOTS_MAX)?;
        let leaf = chain.first().expect("`certificates` returns at least one");
        let facts = Facts::read(leaf).map_err(|detail| VerifyError::Malformed {
            detail: detail.to_owned(),
        })?;
        let cluster = identity_of(&facts)?.cluster;
        let lists = lists.iter().map(|list| list.der().clone());
        let trust = Trust::new(cluster, roots, lists)?;
        let verified = trust.verify(&chain, now)?;
        let key = certified_key(key, chain)?;
        Ok(Self {
            inner: Arc::new(Inner {
                identity: verified.identity,
                not_before: facts.not_before,
                not_after: verified.not_after,
                key: Arc::new(key),
                trust,
            }),
        })
    }

    /// Whom the holder speaks for.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// When the certificate begins to be valid.
    pub fn not_before(&self) -> SystemTime {
        self.inner.not_before
    }

    /// When the certificate, or one that vouches for it, expires and peers begin to refuse it.
    pub fn not_after(&self) -> SystemTime {
        self.inner.not_after
    }

    /// Key and chain, as rustls' certificate resolvers return them.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.inner.key.clone()
    }

    /// Whom the holder trusts.
    pub fn trust(&self) -> &Trust {
        &self.inner.trust
    }
}

/// Without the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.inner.identity)
            .field("not_after", &self.inner.not_after)
            .finish_non_exhaustive()
    }
}

/// All certificates in `pem`: at least one, at most `count_max`. `file` is what to call it.
pub(crate) fn certificates(
    pem: &[u8],
    file: &'static str,
    count_max: usize,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if certificates.len() == count_max {
            return Err(CredentialsError::TooManyCertificates { file, count_max });
        }
        certificates.push(certificate.map_err(|_| CredentialsError::NotPem { file })?);
    }
    if certificates.is_empty() {
        return Err(CredentialsError::NotPem { file });
    }
    Ok(certificates)
}

/// The key of the first certificate in `chain` (PEM), and which of the two files it is in.
pub(crate) fn key_in(
    directory: &Path,
    chain: &[u8],
) -> Result<(Zeroizing<Vec<u8>>, &'static str), CredentialsError> {
    let chain = certificates(chain, CERTIFICATE_FILE, CHAIN_CERTIFICATES_MAX)?;
    // The first certificate for a key that was made here finds none in that place, until its own gets there.
    let amiss = match files::read(&directory.join(KEY_FILE), Kind::Secret) {
        Ok(key) => match certified_key(&key, chain.clone()) {
            Err(CredentialsError::KeyMismatch) => CredentialsError::KeyMismatch,
            other => return other.map(|_| (key, KEY_FILE)),
        },
        Err(error @ FileError::Missing { .. }) => error.into(),
        Err(error) => return Err(error.into()),
    };
    match files::read(&directory.join(NEXT_KEY_FILE), Kind::Secret) {
        Ok(next) if certified_key(&next, chain).is_ok() => Ok((next, NEXT_KEY_FILE)),
        _ => Err(amiss),
    }
}

fn certified_key(
    pem: &[u8],
    chain: Vec<CertificateDer<'static>>,
) -> Result<CertifiedKey, CredentialsError> {
    let not_pem = |_| CredentialsError::NotPem { file: KEY_FILE };
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(not_pem)?;
    if PrivateKeyDer::pem_slice_iter(pem).count() > 1 {
        return Err(CredentialsError::SeveralKeys);
    }
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| CredentialsError::UnusableKey)?;
    let certified = CertifiedKey::new(chain, key);
    // Every key of the ring provider knows its public half, so "unknown" is a mismatch too.
    certified
        .keys_match()
        .map_err(|_| CredentialsError::KeyMismatch)?;
    Ok(certified)
}

/// Why credentials can not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// No PEM item of the right kind, or a broken one.
    #[error("{file} holds no readable PEM of its kind: write it again with `quorate certs issue`")]
    NotPem {
        /// Which of the three.
        file: &'static str,
    },
    /// More certificates than allowed.
    #[error("{file} holds more than {count_max} certificates: keep only those needed")]
    TooManyCertificates {
        /// Which file.
        file: &'static str,
        /// How many it may hold.
        count_max: usize,
    },
    /// More than one key, of which nobody knows which one is meant.
    #[error("{KEY_FILE} holds more than one key: keep the one that belongs to {CERTIFICATE_FILE}")]
    SeveralKeys,
    /// A key of a kind that the provider does not know, or a broken one.
    #[error("the key in {KEY_FILE} can not be used: it must be PKCS #8, Ed25519 or ECDSA")]
    UnusableKey,
    /// The key is another certificate's.
    #[error(
        "the key in {KEY_FILE} is not the one in {CERTIFICATE_FILE}: both must come from the same \
         `quorate certs issue`"
    )]
    KeyMismatch,
    /// The roots are not roots.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Peers would refuse the certificate, and why.
    #[error("own certificate would be refused: {0}")]
    Refused(#[from] VerifyError),
}
