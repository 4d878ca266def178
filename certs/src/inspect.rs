//! What a certificate says, for a human or a script. Verifies nothing.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use serde::{Serialize, Serializer};

use crate::credentials::certificates;
use crate::facts::{Facts, Rfc3339, hex};
use crate::files::{self, FileError, Kind};
use crate::identity::Identity;
use crate::trust::{ROOTS_MAX, identity_of};

/// One certificate's contents. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CertificateInfo {
    /// Distinguished name of its holder; empty for what Quorate issues to peers.
    pub subject: String,
    /// Distinguished name of its CA.
    pub issuer: String,
    /// Whom it claims to speak for, if it has exactly one valid identity.
    pub identity: Option<Identity>,
    /// All URI names.
    pub uris: Vec<String>,
    /// All DNS names.
    pub dns_names: Vec<String>,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// Beginning of validity; RFC 3339 when serialized.
    #[serde(serialize_with = "as_rfc3339")]
    pub not_before: SystemTime,
    /// End of validity; RFC 3339 when serialized.
    #[serde(serialize_with = "as_rfc3339")]
    pub not_after: SystemTime,
    /// Whether it is a CA's.
    pub is_ca: bool,
    /// Those of digitalSignature, keyCertSign, cRLSign, serverAuth, clientAuth that it has.
    pub key_usages: Vec<&'static str>,
    /// Its key's identifier, lower-case hex.
    pub subject_key_id: Option<String>,
    /// Its CA's key identifier, lower-case hex.
    pub authority_key_id: Option<String>,
    /// SHA-256 of the whole certificate, lower-case hex.
    pub fingerprint_sha256: String,
}

/// Reads all certificates in `pem`, at most [`ROOTS_MAX`], in their order.
///
/// Errors: no certificate, too many, or one that can not be read. Private keys in `pem` are skipped.
pub fn inspect(pem: &[u8]) -> Result<Vec<CertificateInfo>, InspectError> {
    certificates(pem, "the input", ROOTS_MAX)
        .map_err(|_| InspectError::NotPem)?
        .iter()
        .enumerate()
        .map(|(position, certificate)| {
            info(certificate).map_err(|detail| InspectError::Malformed { position, detail })
        })
        .collect()
}

/// Reads the file at `path`, at most [`BUNDLE_BYTES_MAX`](crate::BUNDLE_BYTES_MAX) bytes, and inspects it.
///
/// Errors: those of [`inspect`], and a file that is missing, too large or unreadable.
pub fn inspect_file(path: &Path) -> Result<Vec<CertificateInfo>, InspectError> {
    inspect(&files::read(path, Kind::Bundle)?)
}

fn info(certificate: &CertificateDer<'_>) -> Result<CertificateInfo, &'static str> {
    let facts = Facts::read(certificate)?;
    let key_usages = [
        (facts.key_usages.digital_signature, "digitalSignature"),
        (facts.key_usages.key_cert_sign, "keyCertSign"),
        (facts.key_usages.crl_sign, "cRLSign"),
        (facts.server_auth, "serverAuth"),
        (facts.client_auth, "clientAuth"),
    ];
    Ok(CertificateInfo {
        identity: identity_of(&facts).ok(),
        serial: hex(&facts.serial),
        not_before: facts.not_before,
        not_after: facts.not_after,
        is_ca: facts.is_ca,
        key_usages: key_usages
            .into_iter()
            .filter_map(|(present, name)| present.then_some(name))
            .collect(),
        subject_key_id: facts.subject_key_id.as_deref().map(hex),
        authority_key_id: facts.authority_key_id.as_deref().map(hex),
        fingerprint_sha256: hex(digest(&SHA256, certificate).as_ref()),
        subject: facts.subject,
        issuer: facts.issuer,
        uris: facts.uris,
        dns_names: facts.dns_names,
    })
}

fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Rfc3339(*time))
}

/// One aligned line per fact; names from the certificate are quoted, so that they can not draw on
/// the terminal.
impl fmt::Display for CertificateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Some(identity) => writeln!(f, "identity     {identity}")?,
            None if self.is_ca => writeln!(f, "identity     none (a CA)")?,
            None => writeln!(f, "identity     none; URI names {:?}", self.uris)?,
        }
        if !self.subject.is_empty() {
            writeln!(f, "subject      {:?}", self.subject)?;
        }
        writeln!(f, "issuer       {:?}", self.issuer)?;
        writeln!(f, "serial       {}", self.serial)?;
        writeln!(f, "not before   {}", Rfc3339(self.not_before))?;
        writeln!(f, "not after    {}", Rfc3339(self.not_after))?;
        if !self.dns_names.is_empty() {
            writeln!(f, "DNS names    {:?}", self.dns_names)?;
        }
        writeln!(f, "usages       {}", self.key_usages.join(", "))?;
        write!(f, "fingerprint  sha256:{}", self.fingerprint_sha256)
    }
}

/// Why a file can not be inspected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// No certificate in PEM, or more than [`ROOTS_MAX`].
    #[error(
        "no PEM certificate, a broken one, or more than {ROOTS_MAX}: give a file such as cert.pem"
    )]
    NotPem,
    /// A certificate that can not be read.
    #[error("certificate number {} is malformed ({detail}): issue it again", .position + 1)]
    Malformed {
        /// Its place in the file, from 0.
        position: usize,
        /// What was wrong.
        detail: &'static str,
    },
}
