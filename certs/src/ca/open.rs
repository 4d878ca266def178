//! Opening a CA: everything that signing itself would not notice is checked here.

use std::path::Path;
use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::chance::Chance;
use super::{CA_CERTIFICATE_FILE, CA_KEY_FILE, Ca, CaError, template};
use crate::facts::Facts;
use crate::files::{self, Secrecy};

/// Opens the CA in `directory` as of `now`.
pub(super) fn open(directory: &Path, now: SystemTime) -> Result<Ca, CaError> {
    let key = files::read(&directory.join(CA_KEY_FILE), Secrecy::Secret)?;
    let certificate = files::read(&directory.join(CA_CERTIFICATE_FILE), Secrecy::Public)?;
    let key = key_from(&key)?;
    let unreadable = CaError::Unreadable {
        file: CA_CERTIFICATE_FILE,
        what: "certificate",
    };
    let Ok(certificate_der) = CertificateDer::from_pem_slice(&certificate) else {
        return Err(unreadable);
    };
    let Ok(certificate_pem) = String::from_utf8(certificate.to_vec()) else {
        return Err(unreadable);
    };
    let Ok(facts) = Facts::read(&certificate_der) else {
        return Err(unreadable);
    };
    check(&facts, &key, now)?;
    let name = facts.subject_cn.unwrap_or_default();
    let Some((cluster, generation)) = template::parse_authority_name(&name) else {
        return Err(CaError::BadName { name });
    };
    Ok(Ca {
        cluster,
        generation,
        key,
        certificate: certificate_der,
        certificate_pem,
        not_after: facts.not_after,
        chance: Chance::System,
    })
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
