//! Why a certificate was refused, and which TLS alert says so to the peer.

use std::time::SystemTime;

use rustls::CertificateError;
use rustls::pki_types::UnixTime;

use crate::facts::{Rfc3339, system_time, unix_time};
use crate::identity::{ClusterName, Identity, IdentityError};
use crate::trust::CHAIN_CERTIFICATES_MAX;

/// Why [`Trust::verify`](crate::Trust::verify) refused a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No certificate at all.
    #[error(
        "the peer presented no certificate: give it one with `quorate certs issue`, every \
         connection needs one on both sides"
    )]
    Empty,
    /// More certificates than a chain of ours can have.
    #[error(
        "chain of {count} certificates is too long: present the leaf and its issuers, at most \
         {CHAIN_CERTIFICATES_MAX}"
    )]
    ChainTooLong {
        /// How many were presented.
        count: usize,
    },
    /// Not an X.509 certificate, or one with contents that this crate refuses to interpret.
    #[error("certificate is malformed ({detail}): issue it again with `quorate certs issue`")]
    Malformed {
        /// What was wrong, for a human.
        detail: String,
    },
    /// No root of ours has the issuer's name.
    #[error(
        "certificate is not from a CA of cluster {cluster}: issue it with this cluster's CA, or trust \
         that CA, if it is meant to be, with `quorate certs trust`"
    )]
    UnknownIssuer {
        /// Whose roots were consulted.
        cluster: ClusterName,
    },
    /// A root of ours has the issuer's name but not the key that signed.
    #[error(
        "certificate names a CA of cluster {cluster} but was not signed by its key: probably \
         `quorate certs init` ran twice under one name; issue every certificate from one of the two"
    )]
    BadSignature {
        /// Whose roots were consulted.
        cluster: ClusterName,
    },
    /// Past its end.
    #[error(
        "certificate expired at {} (now {}): issue a new one with `quorate certs issue`",
        Rfc3339(*.not_after), Rfc3339(*.now)
    )]
    Expired {
        /// When it expired.
        not_after: SystemTime,
        /// The time it was judged by.
        now: SystemTime,
    },
    /// Before its beginning.
    #[error(
        "certificate is valid only from {} (now {}): compare the clocks of both machines",
        Rfc3339(*.not_before), Rfc3339(*.now)
    )]
    NotYetValid {
        /// When it begins.
        not_before: SystemTime,
        /// The time it was judged by.
        now: SystemTime,
    },
    /// The certificate may be valid, but the CA's own is past its end.
    #[error(
        "the CA that issued the certificate expired at {} (now {}): make a new CA with `quorate \
         certs init` and issue from it",
        Rfc3339(*.not_after), Rfc3339(*.now)
    )]
    AuthorityExpired {
        /// When the CA's certificate expired.
        not_after: SystemTime,
        /// The time it was judged by.
        now: SystemTime,
    },
    /// On the list of its CA.
    #[error("certificate was revoked by its CA: issue a new one with `quorate certs issue`")]
    Revoked,
    /// The CA's list is past its end, and nobody knows what was revoked since.
    #[error(
        "the CA's revocation list ended at {} (now {}): get a newer one with `quorate certs trust`",
        Rfc3339(*.next_update), Rfc3339(*.now)
    )]
    ListExpired {
        /// When there was to be a newer one.
        next_update: SystemTime,
        /// The time it was judged by.
        now: SystemTime,
    },
    /// A CA's own certificate, where the certificate of a node, client, reader or admin was expected.
    #[error("a CA certificate was presented as an identity: use the one in cert.pem, not ca.pem")]
    CaAsLeaf,
    /// Key usages that do not fit the role.
    #[error(
        "certificate does not allow {missing}, which its role needs: issue it with `quorate certs \
         issue`"
    )]
    WrongPurpose {
        /// The usage that is missing or wrong, in X.509's words.
        missing: &'static str,
    },
    /// No URI name.
    #[error(
        "certificate carries no identity (no URI name): a web server's certificate can not be used, \
         issue one with `quorate certs issue`"
    )]
    NoIdentity,
    /// More than one URI name; which one counts would be a guess.
    #[error("certificate carries {count} URI names: it must have exactly one, its identity")]
    SeveralIdentities {
        /// How many.
        count: usize,
    },
    /// The URI name is not an identity of ours.
    #[error("certificate's identity is not valid: {source}")]
    BadIdentity {
        /// The rule it breaks.
        #[from]
        source: IdentityError,
    },
    /// A good certificate, of another cluster.
    #[error(
        "certificate {presented} belongs to another cluster than {expected}: check the address \
         dialed, and give every cluster its own CA"
    )]
    WrongCluster {
        /// Our cluster.
        expected: ClusterName,
        /// Whom the certificate is for.
        presented: Identity,
    },
    /// The DNS names do not say the same as the identity.
    #[error(
        "certificate {identity} carries the DNS names {presented:?}: a node's must be exactly its \
         own server name, others must have none; issue it with `quorate certs issue`"
    )]
    WrongServerName {
        /// Whom the certificate is for.
        identity: Identity,
        /// The DNS names it carries.
        presented: Vec<String>,
    },
}

/// Chooses the error whose TLS alert tells the peer's operator most (RFC 8446 section 6.2):
/// certificate_expired 45, certificate_revoked 44, unknown_ca 48 (also where the CA's list has ended),
/// unsupported_certificate 43, bad_certificate 42, certificate_required 116, and access_denied 49 for a
/// certificate that is good but is not welcome here.
impl From<VerifyError> for rustls::Error {
    fn from(error: VerifyError) -> Self {
        let certificate_error = match error {
            VerifyError::Empty => return Self::NoCertificatesPresented,
            VerifyError::Malformed { .. } | VerifyError::ChainTooLong { .. } => {
                CertificateError::BadEncoding
            }
            // webpki finds an issuer by name and then finds that its key did not sign. To the peer
            // that is an unknown CA; rustls' own BadSignature would be sent as decrypt_error.
            VerifyError::UnknownIssuer { .. } | VerifyError::BadSignature { .. } => {
                CertificateError::UnknownIssuer
            }
            VerifyError::Expired { not_after, now }
            | VerifyError::AuthorityExpired { not_after, now } => {
                CertificateError::ExpiredContext {
                    time: unix_time(now),
                    not_after: unix_time(not_after),
                }
            }
            VerifyError::NotYetValid { not_before, now } => CertificateError::NotValidYetContext {
                time: unix_time(now),
                not_before: unix_time(not_before),
            },
            VerifyError::Revoked => CertificateError::Revoked,
            VerifyError::ListExpired { next_update, now } => {
                CertificateError::ExpiredRevocationListContext {
                    time: unix_time(now),
                    next_update: unix_time(next_update),
                }
            }
            VerifyError::CaAsLeaf | VerifyError::WrongPurpose { .. } => {
                CertificateError::InvalidPurpose
            }
            VerifyError::NoIdentity
            | VerifyError::SeveralIdentities { .. }
            | VerifyError::BadIdentity { .. }
            | VerifyError::WrongCluster { .. }
            | VerifyError::WrongServerName { .. } => {
                CertificateError::ApplicationVerificationFailure
            }
        };
        Self::InvalidCertificate(certificate_error)
    }
}

impl VerifyError {
    /// Translates webpki's verdict, given by the roots of `cluster` at `now`.
    pub(crate) fn from_webpki(error: &webpki::Error, cluster: &ClusterName, now: UnixTime) -> Self {
        match error {
            webpki::Error::UnknownIssuer => Self::UnknownIssuer {
                cluster: cluster.clone(),
            },
            webpki::Error::InvalidSignatureForPublicKey
            | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                Self::BadSignature {
                    cluster: cluster.clone(),
                }
            }
            webpki::Error::CertExpired { not_after, .. } => Self::Expired {
                not_after: system_time(*not_after),
                now: system_time(now),
            },
            webpki::Error::CertNotValidYet { not_before, .. } => Self::NotYetValid {
                not_before: system_time(*not_before),
                now: system_time(now),
            },
            webpki::Error::CertRevoked => Self::Revoked,
            webpki::Error::CrlExpired { next_update, .. } => Self::ListExpired {
                next_update: system_time(*next_update),
                now: system_time(now),
            },
            webpki::Error::CaUsedAsEndEntity => Self::CaAsLeaf,
            webpki::Error::RequiredEkuNotFoundContext(_) => Self::WrongPurpose {
                missing: "clientAuth",
            },
            // The rest are ways to be wrong that no certificate of our CA is: their names suffice.
            other => Self::Malformed {
                detail: other.to_string(),
            },
        }
    }
}
