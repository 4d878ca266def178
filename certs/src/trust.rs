//! Which certificates are believed, and the one function that decides it.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use crate::facts::{Facts, system_time};
use crate::identity::{ClusterName, Identity};
use crate::planted;
use crate::revocation::{RevocationList, newest_of};
use crate::verify_error::VerifyError;

/// Most certificates in a chain: leaf, issuing CA, and room for a cross-signed rotation. Bounds what
/// path building can be made to do.
pub const CHAIN_CERTIFICATES_MAX: usize = 4;

/// Most roots: one per CA generation, of which two live during a rotation.
pub const ROOTS_MAX: usize = 16;

/// The cryptography used everywhere: rustls' ring provider, made anew and passed explicitly.
///
/// rustls' process-wide default is neither read nor set: it panics when two crates of one program
/// enable two providers.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// For whom a certificate speaks, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whom its holder speaks for.
    pub identity: Identity,
    /// When the first certificate of the chain expires, the root included.
    pub not_after: SystemTime,
}

/// The roots of one cluster, and the rules a certificate must meet to speak for someone in it.
///
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: ClusterName,
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
    /// At most one of each root, and signed by it.
    lists: Vec<CertRevocationList<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Root {
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
}

impl Trust {
    /// Trusts `roots` to say who is who in `cluster`, and in no other, and who is good no more: by the newest
    /// of `lists` that each of them has signed. Of a root without one, nothing is known to be revoked.
    ///
    /// Errors: no root, more than [`ROOTS_MAX`], or one that is not a CA certificate; a list that is
    /// malformed, or that no root has signed; two of one root of which neither follows the other. An expired
    /// root is kept: it only makes [`Trust::verify`] fail for what it issued.
    pub fn new(
        cluster: ClusterName,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
        lists: impl IntoIterator<Item = CertificateRevocationListDer<'static>>,
    ) -> Result<Self, TrustError> {
        let mut kept = Vec::new();
        let mut anchors = Vec::new();
        for (position, certificate) in roots.into_iter().enumerate() {
            if position == ROOTS_MAX {
                return Err(TrustError::TooManyRoots);
            }
            let facts = Facts::read(&certificate)
                .map_err(|detail| TrustError::MalformedRoot { position, detail })?;
            // webpki takes any certificate as an anchor: a leaf in ca.pem would become a CA.
            if !(facts.is_ca && facts.key_usages.key_cert_sign) {
                return Err(TrustError::NotACa { position });
            }
            let anchor = anchor_from_trusted_cert(&certificate)
                .map_err(|_| TrustError::MalformedRoot {
                    position,
                    detail: "not usable as a trust anchor",
                })?
                .to_owned();
            anchors.push(anchor);
            kept.push(Root {
                not_after: facts.not_after,
                certificate,
            });
        }
        if kept.is_empty() {
            return Err(TrustError::NoRoots);
        }
        let lists = lists.into_iter().enumerate().map(|(position, list)| {
            RevocationList::read(list)
                .map_err(|detail| TrustError::MalformedList { position, detail })
        });
        let roots: Vec<_> = kept.iter().map(|root| root.certificate.clone()).collect();
        let lists = newest_of(lists.collect::<Result<Vec<_>, _>>()?, &roots)?;
        Ok(Self {
            inner: Arc::new(Inner {
                cluster,
                roots: kept,
                anchors,
                lists: usable(&lists)?,
                algorithms: provider().signature_verification_algorithms,
            }),
        })
    }

    /// The cluster whose identities are accepted.
    pub fn cluster(&self) -> &ClusterName {
        &self.inner.cluster
    }

    /// The root certificates.
    pub fn roots(&self) -> impl ExactSizeIterator<Item = &CertificateDer<'static>> {
        self.inner.roots.iter().map(|root| &root.certificate)
    }

    /// Says for whom `chain` (leaf first, then issuers, without the root) speaks at `now`.
    ///
    /// In this order: path to a root, validity of every certificate and of the root, and that none is on the
    /// root's list of revoked ones; then, of a leaf that our CA has signed: exactly one URI name, which is an identity of this cluster; key usages
    /// that fit a peer; and DNS names that say the same as the identity. Whether that identity is
    /// welcome is the caller's question.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Verified, VerifyError> {
        let (leaf, issuers) = chain.split_first().ok_or(VerifyError::Empty)?;
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(VerifyError::ChainTooLong { count: chain.len() });
        }
        let issuers_end = match self.verify_path(leaf, issuers, now) {
            Err(VerifyError::Expired { not_after, .. }) if planted::is("expired-accepted") => {
                not_after
            }
            path => path?,
        };
        let facts = read(leaf)?;
        let identity = identity_of(&facts)?;
        if identity.cluster != self.inner.cluster && !planted::is("other-cluster-accepted") {
            return Err(VerifyError::WrongCluster {
                expected: self.inner.cluster.clone(),
                presented: identity,
            });
        }
        check_purpose(&facts, &identity)?;
        check_server_name(&facts, &identity)?;
        Ok(Verified {
            identity,
            not_after: facts.not_after.min(issuers_end),
        })
    }

    /// Returns when the first of those that vouch for the leaf expires.
    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<SystemTime, VerifyError> {
        let translate =
            |error: webpki::Error| VerifyError::from_webpki(&error, &self.inner.cluster, now);
        let end_entity = EndEntityCert::try_from(leaf).map_err(translate)?;
        let lists: Vec<_> = self.inner.lists.iter().collect();
        // No lists at all are an error there.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                // A root without a list has revoked nothing.
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let revocation = revocation.filter(|_| !planted::is("revoked-accepted"));
        let path = end_entity
            .verify_for_usage(
                self.inner.algorithms.all,
                &self.inner.anchors,
                issuers,
                now,
                // "If present", because an issuing CA need not repeat it; `check_purpose` requires
                // it of the leaf.
                KeyUsage::client_auth(),
                revocation,
                None,
            )
            .map_err(translate)?;
        // An anchor has no dates (RFC 5280 section 6.1.1 (d)), so webpki does not look at them.
        let anchor = path.anchor();
        let not_after = self
            .inner
            .anchors
            .iter()
            .zip(&self.inner.roots)
            .filter(|(candidate, _)| *candidate == anchor)
            .map(|(_, root)| root.not_after)
            .max()
            .expect("the path ends at one of our anchors");
        let now = system_time(now);
        if now > not_after && !planted::is("expired-authority-accepted") {
            return Err(VerifyError::AuthorityExpired { not_after, now });
        }
        path.intermediate_certificates()
            .try_fold(not_after, |earliest, issuer| {
                Ok(earliest.min(read(&issuer.der())?.not_after))
            })
    }

    /// Checks the signature that proves possession of the key in `certificate` (RFC 8446 section
    /// 4.4.3). For rustls' verifier traits; call [`Trust::verify`] for everything else.
    pub fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if planted::is("signature-not-checked") {
            return Ok(HandshakeSignatureValid::assertion());
        }
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.inner.algorithms,
        )
    }

    /// Refuses: QUIC has no TLS 1.2 (RFC 9001 section 4.2), so rustls asking is a bug. Never succeeds.
    pub fn verify_tls12_signature(&self) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls12NotOfferedOrEnabled,
        ))
    }

    /// The signature schemes a peer may use, for rustls' verifier traits.
    pub fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.algorithms.supported_schemes()
    }
}

/// The lists as webpki reads them.
fn usable(lists: &[RevocationList]) -> Result<Vec<CertRevocationList<'static>>, TrustError> {
    let read = |(position, list): (usize, &RevocationList)| {
        let list = OwnedCertRevocationList::from_der(list.der());
        let detail = "not usable as a revocation list";
        list.map(CertRevocationList::from)
            .map_err(|_| TrustError::MalformedList { position, detail })
    };
    lists.iter().enumerate().map(read).collect()
}

/// Of a certificate that webpki has found to be signed.
fn read(certificate: &CertificateDer<'_>) -> Result<Facts, VerifyError> {
    Facts::read(certificate).map_err(|detail| VerifyError::Malformed {
        detail: detail.to_owned(),
    })
}

/// The identity that a certificate claims. Verified is it only by [`Trust::verify`].
pub(crate) fn identity_of(facts: &Facts) -> Result<Identity, VerifyError> {
    match facts.uris.as_slice() {
        [] => Err(VerifyError::NoIdentity),
        [uri] => Ok(Identity::from_uri(uri)?),
        several => Err(VerifyError::SeveralIdentities {
            count: several.len(),
        }),
    }
}

fn check_purpose(facts: &Facts, identity: &Identity) -> Result<(), VerifyError> {
    // SPIFFE X509-SVID section 4.1 and 4.3: a leaf signs handshakes and nothing else.
    if facts.is_ca || facts.key_usages.key_cert_sign || facts.key_usages.crl_sign {
        return Err(VerifyError::CaAsLeaf);
    }
    let missing = if !facts.key_usages.digital_signature {
        "digitalSignature"
    } else if !facts.client_auth {
        "clientAuth"
    } else if identity.node_id().is_some() && !facts.server_auth {
        "serverAuth"
    } else {
        return Ok(());
    };
    Err(VerifyError::WrongPurpose { missing })
}

fn check_server_name(facts: &Facts, identity: &Identity) -> Result<(), VerifyError> {
    let expected = identity.server_name();
    if facts.dns_names.iter().eq(expected.iter()) {
        return Ok(());
    }
    Err(VerifyError::WrongServerName {
        identity: identity.clone(),
        presented: facts.dns_names.clone(),
    })
}

/// Why a set of roots can not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Nothing to trust.
    #[error("no root certificate: put the CA's certificate (ca.crt) into ca.pem")]
    NoRoots,
    /// More than [`ROOTS_MAX`].
    #[error("more than {ROOTS_MAX} root certificates: keep the CA generations still in use")]
    TooManyRoots,
    /// Not a certificate that can be a root.
    #[error("root certificate number {} is malformed ({detail}): copy ca.crt again", .position + 1)]
    MalformedRoot {
        /// Its place in the list, from 0.
        position: usize,
        /// What was wrong.
        detail: &'static str,
    },
    /// A certificate that may not issue.
    #[error(
        "root certificate number {} is not a CA's: ca.pem holds the CA's certificate, not a node's",
        .position + 1
    )]
    NotACa {
        /// Its place in the list, from 0.
        position: usize,
    },
    /// More lists than there can be roots.
    #[error("more than {ROOTS_MAX} revocation lists: keep the newest of each CA that is trusted")]
    TooManyLists,
    /// Not a list of what is revoked.
    #[error("revocation list number {} is malformed ({detail}): copy ca.crl again", .position + 1)]
    MalformedList {
        /// Its place among the lists, from 0.
        position: usize,
        /// What was wrong.
        detail: &'static str,
    },
    /// A list that nobody who is trusted has signed.
    #[error(
        "revocation list number {} was signed by no CA that is trusted here: take ca.crl from the same \
         folder as ca.crt",
        .position + 1
    )]
    ForeignList {
        /// Its place among the lists, from 0.
        position: usize,
    },
    /// Two lists of one CA, of which neither follows the other.
    #[error(
        "revocation lists number {earlier} and {later} of one CA do not follow one another: its ca.crl was lost, or its \
         folder copied; see \"A lost list\" in docs/certificates.md"
    )]
    ForkedLists {
        /// The number of the one, not above that of the other.
        earlier: u64,
        /// The number of the other.
        later: u64,
    },
}
