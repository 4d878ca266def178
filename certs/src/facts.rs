//! What a certificate says, read once into plain values.
//!
//! x509-parser is used here only, and by [`Trust`](crate::Trust) only after webpki has found a path
//! to a root: bytes from an unauthenticated peer reach one parser, not two.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339 as Format;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The parts of a certificate that this crate decides by. Nothing here is verified.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) subject: String,
    pub(crate) subject_cn: Option<String>,
    pub(crate) issuer: String,
    pub(crate) serial: Vec<u8>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) is_ca: bool,
    pub(crate) key_usages: KeyUsages,
    pub(crate) server_auth: bool,
    pub(crate) client_auth: bool,
    pub(crate) uris: Vec<String>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) spki: Vec<u8>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) authority_key_id: Option<Vec<u8>>,
}

/// The key usages that matter here (RFC 5280 section 4.2.1.3); all false if the extension is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyUsages {
    pub(crate) digital_signature: bool,
    pub(crate) key_cert_sign: bool,
    pub(crate) crl_sign: bool,
}

impl Facts {
    /// Reads one DER certificate with nothing after it. The error names what could not be read.
    pub(crate) fn read(der: &[u8]) -> Result<Self, &'static str> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| "not an X.509 certificate")?;
        if !rest.is_empty() {
            return Err("bytes after the certificate");
        }
        let (uris, dns_names) = names(&certificate)?;
        let extended = certificate
            .extended_key_usage()
            .map_err(|_| "extended key usage unreadable")?;
        let key_usages = certificate
            .key_usage()
            .map_err(|_| "key usage unreadable")?
            .map(|usage| KeyUsages {
                digital_signature: usage.value.digital_signature(),
                key_cert_sign: usage.value.key_cert_sign(),
                crl_sign: usage.value.crl_sign(),
            });
        let is_ca = certificate
            .basic_constraints()
            .map_err(|_| "basic constraints unreadable")?
            .is_some_and(|constraints| constraints.value.ca);
        let (subject_key_id, authority_key_id) = key_ids(&certificate);
        let subject_cn = certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned);
        Ok(Self {
            subject: certificate.subject().to_string(),
            subject_cn,
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial().to_vec(),
            not_before: certificate.validity().not_before.to_datetime().into(),
            not_after: certificate.validity().not_after.to_datetime().into(),
            is_ca,
            key_usages: key_usages.unwrap_or_default(),
            server_auth: extended.as_ref().is_some_and(|e| e.value.server_auth),
            client_auth: extended.as_ref().is_some_and(|e| e.value.client_auth),
            uris,
            dns_names,
            spki: certificate.public_key().raw.to_vec(),
            subject_key_id,
            authority_key_id,
        })
    }
}

fn names(certificate: &X509Certificate<'_>) -> Result<(Vec<String>, Vec<String>), &'static str> {
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|_| "subject alternative name unreadable")?;
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    for name in alternative.iter().flat_map(|a| &a.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => dns_names.push((*dns).to_owned()),
            // A name that one parser skips and another reads is how identities get confused.
            GeneralName::Invalid(..) => return Err("unreadable name"),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    Ok((uris, dns_names))
}

fn key_ids(certificate: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    use x509_parser::extensions::ParsedExtension;
    let (mut own, mut authority) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => own = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    (own, authority)
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `time` as a `SystemTime`; a time that this platform can not express becomes the epoch, which
/// fails every validity check.
pub(crate) fn system_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(time.as_secs()))
        .unwrap_or(UNIX_EPOCH)
}

/// `time` as rustls wants it; times before 1970 become 1970.
pub(crate) fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// `time` as rcgen wants it, in whole seconds, if it lies in the years 1970 to 9999 that RFC 5280
/// section 4.1.2.5 can encode.
pub(crate) fn offset_date_time(time: SystemTime) -> Option<OffsetDateTime> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

/// Prints a time as RFC 3339 in UTC.
pub(crate) struct Rfc3339(pub(crate) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match offset_date_time(self.0).and_then(|time| time.format(&Format).ok()) {
            Some(text) => f.write_str(&text),
            None => f.write_str("a time out of range"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    /// No changed or cut certificate makes the reader panic, even without a signature check before.
    #[test]
    fn j24_damaged_certificates_do_not_panic() {
        let ca = Ca::generate(&ClusterName::new("c1").unwrap(), &CaOptions::default()).unwrap();
        let issued = ca
            .issue(&Subject::node(1).unwrap(), &IssueOptions::default())
            .unwrap();
        let leaf = CertificateDer::from_pem_slice(issued.certificate_pem().as_bytes()).unwrap();
        for good in [&leaf, ca.certificate()] {
            assert!(Facts::read(good).is_ok());
            for position in 0..good.len() {
                assert!(Facts::read(&good[..position]).is_err());
                for value in 0..=u8::MAX {
                    let mut bad = good.to_vec();
                    bad[position] = value;
                    let _ = Facts::read(&bad);
                }
            }
        }
    }
}
