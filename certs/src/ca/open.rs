//! Opening a CA: everything that signing itself would not notice is checked here.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::chance::Chance;
use super::{CA_CERTIFICATE_FILE, CA_KEY_FILE, Ca, CaError, revoke, template};
use crate::facts::Facts;
use crate::files::{self, Kind};
use crate::identity::ClusterName;

/// Opens the CA in `directory` as of `now`.
pub(super) fn open(directory: &Path, now: SystemTime) -> Result<Ca, CaError> {
    let key = files::read(&directory.join(CA_KEY_FILE), Kind::Secret)?;
    let key = key_from(&key)?;
    let (certificate, certificate_pem, facts) = certificate_in(directory)?;
    check(&facts, &key, now)?;
    let (cluster, generation) = name_in(&facts)?;
    let list = revoke::read(directory, &certificate)?;
    Ok(Ca {
        cluster,
        generation,
        key,
        certificate,
        certificate_pem,
        not_after: facts.not_after,
        list,
        directory: Some(directory.to_owned()),
        chance: Chance::System,
    })
}

/// Which CA the one in `directory` is, by its certificate alone: its key may be lost, or too old.
pub(super) fn name(directory: &Path) -> Result<(ClusterName, NonZeroU32), CaError> {
    let (_, _, facts) = certificate_in(directory)?;
    name_in(&facts)
}

fn certificate_in(directory: &Path) -> Result<(CertificateDer<'static>, String, Facts), CaError> {
    let pem = files::read(&directory.join(CA_CERTIFICATE_FILE), Kind::Public)?;
    let read = || {
        let certificate = CertificateDer::from_pem_slice(&pem).ok()?;
        let facts = Facts::read(&certificate).ok()?;
        Some((certificate, String::from_utf8(pem.to_vec()).ok()?, facts))
    };
    read().ok_or(CaError::Unreadable {
        file: CA_CERTIFICATE_FILE,
        what: "certificate",
    })
}

fn name_in(facts: &Facts) -> Result<(ClusterName, NonZeroU32), CaError> {
    let name = facts.subject_cn.as_deref().unwrap_or_default();
    template::parse_authority_name(name).ok_or_else(|| CaError::BadName { name: name.into() })
}

fn key_from(pem: &[u8]) -> Result<Zeroizing<KeyPair>, CaError> {
    std::str::from_utf8(pem)
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
        .map(Zeroizing::new)
        .ok_or(CaError::Unreadable {
            file: CA_KEY_FILE,
            what: "private key",
        })
}

fn check(facts: &Facts, key: &KeyPair, now: SystemTime) -> Result<(), CaError> {
    // rcgen would sign with any key under any certificate's name; every leaf would be refused.
    if key.subject_public_key_info() != facts.spki {
        return Err(CaError::KeyMismatch);
    }
    if !facts.is_ca {
        return Err(CaError::NotACa { missing: "CA:TRUE" });
    }
    if !facts.key_usages.key_cert_sign {
        return Err(CaError::NotACa {
            missing: "keyCertSign",
        });
    }
    if now < facts.not_before {
        return Err(CaError::NotYetValid {
            not_before: facts.not_before,
        });
    }
    if now > facts.not_after {
        return Err(CaError::Expired {
            not_after: facts.not_after,
        });
    }
    Ok(())
}
