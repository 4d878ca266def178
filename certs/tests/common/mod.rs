//! Certificates that our own CA would never issue, signed with its real key.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Issued, Subject};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// A CA on disk, whose key a test can use behind its back.
pub struct TestCa {
    pub ca: Ca,
    pub directory: PathBuf,
    _temporary: tempfile::TempDir,
}

impl TestCa {
    pub fn new(name: &str) -> Self {
        Self::with(name, &CaOptions::default())
    }

    pub fn with(name: &str, options: &CaOptions) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("ca");
        Self {
            ca: Ca::create(&directory, &cluster(name), options).unwrap(),
            directory,
            _temporary: temporary,
        }
    }

    /// One that ended an hour ago.
    pub fn expired(name: &str) -> Self {
        let options = CaOptions {
            life: HOUR,
            now: SystemTime::now() - 2 * HOUR,
            ..CaOptions::default()
        };
        Self::with(name, &options)
    }

    pub fn node(&self, id: u64) -> Issued {
        self.ca
            .issue(&Subject::node(id).unwrap(), &IssueOptions::default())
            .unwrap()
    }

    /// The certificate of node 1 of cluster c1, changed by `edit`, signed by this CA.
    pub fn forge(&self, edit: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![
            uri_name("spiffe://c1/node/1"),
            dns_name("n1.c1.quorate.invalid"),
        ];
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        params.serial_number = Some(SerialNumber::from_slice(&[1; 16]));
        edit(&mut params);
        let key = std::fs::read_to_string(self.directory.join("ca.key")).unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(self.ca.certificate(), key).unwrap();
        let leaf_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        vec![params.signed_by(&leaf_key, &issuer).unwrap().into()]
    }
}

pub fn uri_name(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

pub fn dns_name(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(issued.certificate_pem().as_bytes())
        .collect::<Result<_, _>>()
        .unwrap()
}

pub fn now() -> UnixTime {
    UnixTime::now()
}
