//! A certificate authority: makes itself, keeps itself in two files, and issues identities.

mod chance;
mod ledger;
mod life;
mod open;
mod revoke;
mod template;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use self::chance::Chance;
pub use self::ledger::Record;
use self::life::LIFE_MIN;
pub(crate) use self::revoke::LIST_FILE;
pub(crate) use self::template::parse_authority_name;
use crate::facts::{Rfc3339, offset_date_time, system_time};
use crate::files::{self, FILE_BYTES_MAX, FileError, Kind};
use crate::identity::{ClusterName, Identity, Role, Subject};
use crate::issued::{Issued, KEY_FILE, Signed};
use crate::planted;
use crate::request::Request;
use crate::revocation::RevocationList;
use crate::serial::Serial;
use crate::trust::TrustError;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest life of any certificate: ten years, leap days included. Longer ones outlive the people who know where the
/// key is.
pub const LIFE_MAX: Duration = Duration::from_secs(3653 * 24 * 60 * 60);

/// How far `not_before` lies in the past, for peers whose clocks are behind ours.
const SKEW: Duration = Duration::from_secs(10 * 60);

pub(crate) const CA_KEY_FILE: &str = "ca.key";
pub(crate) const CA_CERTIFICATE_FILE: &str = "ca.crt";

/// How a CA is made.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// Which CA of this cluster it is, part of its name. Default 1. A later CA must have a later
    /// generation: with one name for two keys, webpki and revocation lists confuse them.
    pub generation: NonZeroU32,
    /// How long it may issue and be believed. Default ten years, at most [`LIFE_MAX`], at least a
    /// second; leaves never outlive it.
    pub life: Duration,
    /// Its kind of key. Default [`CaAlgorithm::EcdsaP256`].
    pub algorithm: CaAlgorithm,
    /// The time of its making. Default: now.
    pub now: SystemTime,
}

impl Default for CaOptions {
    fn default() -> Self {
        Self {
            generation: NonZeroU32::MIN,
            life: LIFE_MAX,
            algorithm: CaAlgorithm::EcdsaP256,
            now: SystemTime::now(),
        }
    }
}

/// A CA's kind of key. Leaves always have Ed25519 keys, whose signatures have one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CaAlgorithm {
    /// ECDSA on P-256 with SHA-256: what every HSM and key service can keep.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384,
    /// Ed25519: small and fast, refused by some HSMs.
    Ed25519,
}

/// How a certificate is issued.
#[derive(Clone, Debug)]
pub struct IssueOptions {
    /// How long it is valid from `now`, at most [`LIFE_MAX`], at least a second. Default (`None`):
    /// a node's 90 days, a client's and a reader's 30 days, an admin's 24 hours.
    pub life: Option<Duration>,
    /// The time of issue. Default: now. A test sets the past to get an expired certificate, or the
    /// future to get one that is not yet valid. The certificate begins ten minutes before.
    pub now: SystemTime,
}

impl Default for IssueOptions {
    fn default() -> Self {
        Self {
            life: None,
            now: SystemTime::now(),
        }
    }
}

impl IssueOptions {
    fn life_for(&self, role: Role) -> Duration {
        self.life.unwrap_or(match role {
            Role::Node => 90 * DAY,
            Role::Client | Role::Reader => 30 * DAY,
            Role::Admin => DAY,
        })
    }
}

/// The authority of one cluster: whoever holds it can become anyone in it.
pub struct Ca {
    cluster: ClusterName,
    generation: NonZeroU32,
    key: Zeroizing<KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    not_after: SystemTime,
    /// What it has revoked.
    list: Option<RevocationList>,
    /// Where it is kept.
    directory: Option<PathBuf>,
    chance: Chance,
}

impl Ca {
    /// Makes a CA in memory. For tests and for programs that start a whole cluster by themselves:
    /// this is what other systems have an "insecure" mode for.
    ///
    /// Errors: a life out of bounds, or no randomness from the system.
    pub fn generate(cluster: &ClusterName, options: &CaOptions) -> Result<Self, CaError> {
        let algorithm = match options.algorithm {
            CaAlgorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            CaAlgorithm::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
            CaAlgorithm::Ed25519 => &PKCS_ED25519,
        };
        let key = KeyPair::generate_for(algorithm).map_err(CaError::signing)?;
        Self::found(cluster, options, key, Chance::System)
    }

    /// As [`Ca::generate`], with everything random derived from `seed`: the same calls make the same
    /// keys and certificates. Its key is Ed25519, whatever `options` say, since ECDSA signatures are
    /// random.
    ///
    /// For simulations that must repeat. Who knows the seed has every key.
    pub fn from_seed(
        cluster: &ClusterName,
        options: &CaOptions,
        seed: [u8; 32],
    ) -> Result<Self, CaError> {
        let chance = Chance::seeded(seed);
        let key = chance.ed25519()?;
        Self::found(cluster, options, key, chance)
    }

    fn found(
        cluster: &ClusterName,
        options: &CaOptions,
        key: KeyPair,
        chance: Chance,
    ) -> Result<Self, CaError> {
        let key = Zeroizing::new(key);
        let (_, not_after) = validity(options.now, options.life)?;
        let params = template::authority(
            cluster,
            options.generation,
            dates(options.now, not_after)?,
            chance.serial()?,
        );
        let certificate = params.self_signed(&*key).map_err(CaError::signing)?;
        Ok(Self {
            cluster: cluster.clone(),
            generation: options.generation,
            key,
            certificate_pem: certificate.pem(),
            certificate: certificate.into(),
            not_after,
            list: None,
            directory: None,
            chance,
        })
    }

    /// Makes a CA and keeps it in `directory`: `ca.key` (mode 0600 from its creation) and `ca.crt`.
    /// The directory is created (mode 0700) if missing; both files are on disk when this returns.
    ///
    /// Errors: those of [`Ca::generate`], [`FileError::Exists`] if there is one already, and
    /// [`CaError::HoldersFolder`]; then nothing was written.
    pub fn create(
        directory: &Path,
        cluster: &ClusterName,
        options: &CaOptions,
    ) -> Result<Self, CaError> {
        if directory.join(KEY_FILE).exists() {
            return Err(CaError::HoldersFolder {
                path: directory.to_owned(),
            });
        }
        let mut ca = Self::generate(cluster, options)?;
        let key = Zeroizing::new(ca.key.serialize_pem());
        files::write_new(
            directory,
            &[
                (CA_KEY_FILE, key.as_bytes(), Kind::Secret),
                (
                    CA_CERTIFICATE_FILE,
                    ca.certificate_pem.as_bytes(),
                    Kind::Public,
                ),
            ],
        )?;
        ca.directory = Some(directory.to_owned());
        Ok(ca)
    }

    /// Makes the CA that comes after the one in `predecessor`: of the same cluster and the next generation,
    /// whatever `options` say of that. Only the certificate of the predecessor is read, so it may be
    /// expired, and its key lost.
    ///
    /// Nobody trusts it yet, and it trusts nobody: see [`Folder::trust`](crate::Folder::trust).
    ///
    /// Errors: those of [`Ca::create`]; a predecessor that is no CA's certificate, or the last of
    /// 4,294,967,295.
    pub fn create_after(
        predecessor: &Path,
        directory: &Path,
        options: &CaOptions,
    ) -> Result<Self, CaError> {
        let (cluster, generation) = open::name(predecessor)?;
        let generation = generation.checked_add(1).ok_or(CaError::LastGeneration)?;
        let options = CaOptions {
            generation,
            ..options.clone()
        };
        Self::create(directory, &cluster, &options)
    }

    /// Opens the CA that [`Ca::create`] left in `directory`.
    ///
    /// Checks everything that signing would not: that the key file is its owner's only, that the key
    /// is the certificate's, that the certificate may sign others, is valid now, and names its
    /// cluster and generation. Errors: what does not hold.
    pub fn open(directory: &Path) -> Result<Self, CaError> {
        open::open(directory, SystemTime::now())
    }

    /// The cluster it speaks for.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Which CA of the cluster it is.
    pub fn generation(&self) -> NonZeroU32 {
        self.generation
    }

    /// When it expires, and everything it issued with it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its certificate: the root that others trust.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a new key and a certificate for `subject` of this cluster.
    ///
    /// A life that ends after the CA's is cut ([`Issued::shortened`]). Where the CA is in a folder, the
    /// certificate is noted there first. Errors: a life out of bounds, a CA that is expired at the time of
    /// issue, no randomness, a folder that can not be written.
    pub fn issue(&self, subject: &Subject, options: &IssueOptions) -> Result<Issued, CaError> {
        let identity = Identity::new(self.cluster.clone(), subject.clone());
        let key = Zeroizing::new(self.chance.ed25519()?);
        Ok(Issued {
            signed: self.certify(identity, &*key, options)?,
            key: Zeroizing::new(key.serialize_pem()),
        })
    }

    /// Makes a certificate for `subject` of this cluster and the key of `request`. Nothing else is taken from the
    /// request; whom it names, if anybody, has to be `subject`.
    ///
    /// Else as [`issue`](Self::issue). Errors: those of [`issue`](Self::issue), and [`CaError::OtherIdentity`].
    pub fn sign(
        &self,
        request: &Request,
        subject: &Subject,
        options: &IssueOptions,
    ) -> Result<Signed, CaError> {
        let identity = Identity::new(self.cluster.clone(), subject.clone());
        if let Some(requested) = request.identity()
            && *requested != identity
            && !planted::is("request-of-somebody-else-signed")
        {
            return Err(CaError::OtherIdentity {
                requested: requested.clone(),
                identity,
            });
        }
        self.certify(identity, &request.public_key, options)
    }

    fn certify(
        &self,
        identity: Identity,
        key: &impl PublicKeyData,
        options: &IssueOptions,
    ) -> Result<Signed, CaError> {
        let (now, wanted) = validity(options.now, options.life_for(identity.role()))?;
        let not_after = wanted.min(self.not_after);
        if not_after <= now {
            return Err(CaError::Expired {
                not_after: self.not_after,
            });
        }
        let serial = self.chance.serial()?;
        let params = template::leaf(&identity, dates(now, not_after)?, serial)?;
        // Name and key identifier are taken from the certificate itself, so that they are what
        // peers compare with, whoever made it.
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate, &*self.key).map_err(CaError::signing)?;
        let certificate = params.signed_by(key, &issuer).map_err(CaError::signing)?;
        if let Some(directory) = &self.directory {
            let record = Record {
                serial: Serial::new(&serial),
                identity: identity.clone(),
                not_after,
            };
            ledger::add(directory, &record)?;
        }
        Ok(Signed {
            identity,
            now,
            not_after,
            shortened: not_after < wanted,
            certificate: certificate.pem(),
            roots: self.roots_pem(),
        })
    }

    /// Its certificate and its list in PEM: what comes with all that it issues.
    pub(crate) fn roots_pem(&self) -> String {
        self.certificate_pem.clone() + &self.revocation_list_pem()
    }
}

/// Without the key.
impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca")
            .field("cluster", &self.cluster)
            .field("generation", &self.generation)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// `now` and `now + life` in whole seconds, which is what a certificate can say.
fn validity(now: SystemTime, life: Duration) -> Result<(SystemTime, SystemTime), CaError> {
    if life < LIFE_MIN || life > LIFE_MAX {
        return Err(CaError::BadLife { life });
    }
    let now = system_time(crate::facts::unix_time(now));
    let end = now
        .checked_add(Duration::from_secs(life.as_secs()))
        .ok_or(CaError::BadTime)?;
    Ok((now, end))
}

/// The dates in a certificate that is issued `now`.
fn dates(now: SystemTime, not_after: SystemTime) -> Result<template::Dates, CaError> {
    Ok(template::Dates {
        not_before: now
            .checked_sub(SKEW)
            .and_then(offset_date_time)
            .ok_or(CaError::BadTime)?,
        not_after: offset_date_time(not_after).ok_or(CaError::BadTime)?,
    })
}

/// Why a CA could not be made, opened, or could not issue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A CA's key does not belong where a node, client or admin runs.
    #[error(
        "{} is the folder of somebody's certificate (it holds {KEY_FILE}): keep the CA in a folder of its own, on a machine \
         that runs no node",
        .path.display()
    )]
    HoldersFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the CA holds something else.
    #[error("{file} holds no readable {what}: restore it from your backup")]
    Unreadable {
        /// Which file.
        file: &'static str,
        /// What it should hold.
        what: &'static str,
    },
    /// The key is another certificate's.
    #[error("{CA_KEY_FILE} is not the key of {CA_CERTIFICATE_FILE}: restore both from one backup")]
    KeyMismatch,
    /// There is no list of revoked certificates where it should be, or it is another CA's.
    #[error(
        "ca.crl holds no revocation list of this CA: take the newest from the ca.pem of your nodes, since one begun anew, or \
         from a backup, revokes less; see \"A lost list\" in docs/certificates.md"
    )]
    ForeignList,
    /// Several lists of revoked certificates, and which is the newest can not be told.
    #[error(transparent)]
    Lists(#[from] TrustError),
    /// More would be revoked than one list may hold.
    #[error(
        "the list of what is revoked would be larger than {FILE_BYTES_MAX} bytes: wait for what it holds to expire, or let \
         the next CA follow, made with `quorate certs init --after`"
    )]
    ListTooLarge,
    /// The certificate may not sign others.
    #[error(
        "{CA_CERTIFICATE_FILE} is not a CA's certificate (it lacks {missing}): make a CA with \
         `quorate certs init`"
    )]
    NotACa {
        /// What it lacks, in X.509's words.
        missing: &'static str,
    },
    /// The certificate's name is not one that this crate gives.
    #[error(
        "{CA_CERTIFICATE_FILE} is called {name:?}, not `quorate ca <cluster> g<generation>`: make \
         a CA with `quorate certs init`"
    )]
    BadName {
        /// Its common name.
        name: String,
    },
    /// Past its end.
    #[error(
        "the CA expired at {}: make the next one with `quorate certs init --after`",
        Rfc3339(*.not_after)
    )]
    Expired {
        /// When it expired.
        not_after: SystemTime,
    },
    /// More was issued than is read.
    #[error("ca.issued is too large to be read: move it away, and revoke by number what it names")]
    LedgerTooLarge,
    /// A record of what was issued is not one any more.
    #[error(
        "line {number} of ca.issued is damaged: restore the file from your backup, or remove the line and revoke by \
         number what it stood for"
    )]
    LedgerLine {
        /// Which line, from 1.
        number: usize,
    },
    /// A request names somebody else.
    #[error(
        "the request is for {requested}, and not for {identity}: take the request of {identity}"
    )]
    OtherIdentity {
        /// Whom it names.
        requested: Identity,
        /// Whom it was to be signed for.
        identity: Identity,
    },
    /// There is no number for a CA after it.
    #[error("the CA has the last generation there is: give the cluster another name")]
    LastGeneration,
    /// Before its beginning.
    #[error("the CA is valid only from {}: check this machine's clock", Rfc3339(*.not_before))]
    NotYetValid {
        /// When it begins.
        not_before: SystemTime,
    },
    /// A life out of bounds.
    #[error("a life of {}", life::complaint(*.life))]
    BadLife {
        /// What was asked for.
        life: Duration,
    },
    /// A date that a certificate can not carry.
    #[error("the time of issue is out of bounds (1970 to 9999): check this machine's clock")]
    BadTime,
    /// No randomness from the operating system.
    #[error("the operating system gave no randomness: try again once it has started fully")]
    NoRandomness,
    /// The signature library refused.
    #[error("the certificate could not be made ({detail}): this is a bug, please report it")]
    Signing {
        /// Its words.
        detail: String,
    },
}

impl CaError {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn signing(error: rcgen::Error) -> Self {
        Self::Signing {
            detail: error.to_string(),
        }
    }
}
