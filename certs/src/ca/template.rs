//! What our certificates say, field by field. rcgen's defaults (valid until 4096, named "rcgen self
//! signed cert", serial from the key) must all be replaced: `no_rcgen_default_survives` checks it.

use std::num::NonZeroU32;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyIdMethod, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::CaError;
use crate::identity::{ClusterName, Identity, Role, dns_suffix};

/// The two dates of a certificate.
#[derive(Clone, Copy)]
pub(super) struct Dates {
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

/// The CA's own certificate.
pub(super) fn authority(
    cluster: &ClusterName,
    generation: NonZeroU32,
    dates: Dates,
    serial: [u8; 16],
) -> CertificateParams {
    let mut params = common(dates, serial);
    params
        .distinguished_name
        .push(DnType::CommonName, authority_name(cluster, generation));
    // No CA below this one. A DNS constraint, because webpki can not check one on URIs; it keeps
    // even a stolen CA of one cluster from naming nodes of another that trusts both.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(dns_suffix(cluster))],
        excluded_subtrees: Vec::new(),
    });
    params
}

/// The certificate of a node, client, reader or admin.
pub(super) fn leaf(
    identity: &Identity,
    dates: Dates,
    serial: [u8; 16],
) -> Result<CertificateParams, CaError> {
    let mut params = common(dates, serial);
    let uri = identity.uri().try_into().map_err(CaError::signing)?;
    params.subject_alt_names.push(SanType::URI(uri));
    if let Some(name) = identity.server_name() {
        let name = name.try_into().map_err(CaError::signing)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match identity.role() {
        // Either end of a link between nodes may have dialed.
        Role::Node => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
        Role::Client | Role::Reader | Role::Admin => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn common(dates: Dates, serial: [u8; 16]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = dates.not_before;
    params.not_after = dates.not_after;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.subject_alt_names = Vec::new();
    // Empty in a leaf: its name is the URI, and a second one could contradict it.
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = Vec::new();
    params.name_constraints = None;
    params.crl_distribution_points = Vec::new();
    params.custom_extensions = Vec::new();
    params.use_authority_key_identifier_extension = false;
    params.key_identifier_method = KeyIdMethod::Sha256;
    params
}

/// The CA's common name. It carries the generation, so that no two CAs share a name.
pub(super) fn authority_name(cluster: &ClusterName, generation: NonZeroU32) -> String {
    format!("quorate ca {cluster} g{generation}")
}

/// The cluster and generation in a CA's common name, if [`authority_name`] wrote it.
pub(crate) fn parse_authority_name(name: &str) -> Option<(ClusterName, NonZeroU32)> {
    let (cluster, generation) = name.strip_prefix("quorate ca ")?.split_once(" g")?;
    let parsed = (
        ClusterName::new(cluster).ok()?,
        generation.parse::<NonZeroU32>().ok()?,
    );
    (authority_name(&parsed.0, parsed.1) == name).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CA's name gives cluster and generation back, in one spelling only.
    #[test]
    fn authority_names_round_trip() {
        let cluster = ClusterName::new("c-g2").unwrap();
        let generation = NonZeroU32::new(12).unwrap();
        let name = authority_name(&cluster, generation);
        assert_eq!(name, "quorate ca c-g2 g12");
        assert_eq!(parse_authority_name(&name), Some((cluster, generation)));
        for name in [
            "",
            "quorate ca ",
            "quorate ca c1",
            "quorate ca c1 g",
            "quorate ca c1 g0",
            "quorate ca c1 g01",
            "quorate ca c1 g+1",
            "quorate ca C1 g1",
            "quorate ca c1 g1 g2",
            "quorate ca c1 g4294967296",
            "rcgen self signed cert",
        ] {
            assert_eq!(parse_authority_name(name), None, "{name}");
        }
    }
}
