//! Whose certificate is good: every way to be refused, each next to the one that is accepted.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, SystemTime};

use common::{HOUR, TestCa, chain, cluster, dns_name, now, uri_name};
use quorate_certs::{
    CHAIN_CERTIFICATES_MAX, CaAlgorithm, CaOptions, IdentityError, IssueOptions, ROOTS_MAX,
    Subject, Trust, TrustError, VerifyError,
};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{AlertDescription, CertificateError};

fn trust(ca: &TestCa) -> Trust {
    Trust::new(ca.ca.cluster().clone(), [ca.ca.certificate().clone()], []).unwrap()
}

fn alert(error: VerifyError) -> u8 {
    match rustls::Error::from(error) {
        rustls::Error::InvalidCertificate(error) => AlertDescription::from(error).into(),
        other => panic!("no alert for {other:?}"),
    }
}

/// Revoked has an alert of its own (certificate_revoked). Where nobody can tell because the list has ended, the CA is as
/// good as unknown (unknown_ca).
#[test]
fn revocation_has_alerts() {
    assert_eq!(alert(VerifyError::Revoked), 44);
    let (next_update, now) = (SystemTime::UNIX_EPOCH, SystemTime::now());
    assert_eq!(alert(VerifyError::ListExpired { next_update, now }), 48);
    let none = rustls::Error::from(VerifyError::Empty);
    assert_eq!(none, rustls::Error::NoCertificatesPresented);
}

/// What a CA issues verifies, for every role and every kind of CA key, as the subject asked for.
#[test]
fn issued_certificates_are_accepted() {
    for algorithm in [
        CaAlgorithm::EcdsaP256,
        CaAlgorithm::EcdsaP384,
        CaAlgorithm::Ed25519,
    ] {
        let ca = TestCa::with(
            "c1",
            &CaOptions {
                algorithm,
                ..CaOptions::default()
            },
        );
        for subject in [
            Subject::node(7).unwrap(),
            Subject::client("alice").unwrap(),
            Subject::reader("grafana").unwrap(),
            Subject::admin("eva").unwrap(),
        ] {
            let issued = ca.ca.issue(&subject, &IssueOptions::default()).unwrap();
            let identity = trust(&ca).verify(&chain(&issued), now()).unwrap().identity;
            assert_eq!(identity.subject, subject);
            assert_eq!(identity, *issued.credentials().unwrap().identity());
        }
    }
}

/// The forged certificate that the other tests change is good when unchanged: they fail for the
/// reason they name.
#[test]
fn the_unchanged_forgery_is_accepted() {
    let ca = TestCa::new("c1");
    assert!(trust(&ca).verify(&ca.forge(|_| {}), now()).is_ok());
}

/// No certificate, and more than a chain can have.
#[test]
fn i14_chain_length_is_bounded() {
    let ca = TestCa::new("c1");
    assert_eq!(trust(&ca).verify(&[], now()), Err(VerifyError::Empty));
    let long = vec![chain(&ca.node(1)).remove(0); CHAIN_CERTIFICATES_MAX + 1];
    assert_eq!(
        trust(&ca).verify(&long, now()),
        Err(VerifyError::ChainTooLong { count: long.len() })
    );
    // Superfluous certificates up to the bound do no harm.
    assert!(trust(&ca).verify(&long[1..], now()).is_ok());
}

/// A CA of another cluster is unknown here, although its node has the same id (alert unknown_ca).
#[test]
fn j8_another_clusters_ca_is_unknown() {
    let (ours, theirs) = (TestCa::new("c1"), TestCa::new("c2"));
    let error = trust(&ours)
        .verify(&chain(&theirs.node(1)), now())
        .unwrap_err();
    assert!(
        matches!(error, VerifyError::UnknownIssuer { .. }),
        "{error}"
    );
    assert_eq!(alert(error), 48);
}

/// Two CAs made under one name are told apart by key, and the message says what happened.
#[test]
fn j3_same_ca_name_with_another_key_is_refused() {
    let (ours, theirs) = (TestCa::new("c1"), TestCa::new("c1"));
    let error = trust(&ours)
        .verify(&chain(&theirs.node(1)), now())
        .unwrap_err();
    assert!(matches!(error, VerifyError::BadSignature { .. }), "{error}");
    assert!(error.to_string().contains("ran twice"));
    assert_eq!(alert(error), 48);
}

/// Trusting both CAs of a rotation accepts what either issued, even under one name.
#[test]
fn several_roots_are_trusted_together() {
    let (old, new) = (TestCa::new("c1"), TestCa::new("c1"));
    let roots = [old.ca.certificate().clone(), new.ca.certificate().clone()];
    let both = Trust::new(cluster("c1"), roots, []).unwrap();
    assert!(both.verify(&chain(&old.node(1)), now()).is_ok());
    assert!(both.verify(&chain(&new.node(2)), now()).is_ok());
}

/// A trusted CA does not make another cluster's identity ours (alert access_denied).
#[test]
fn j8_another_clusters_identity_is_refused() {
    let (ours, theirs) = (TestCa::new("c1"), TestCa::new("c2"));
    let roots = [
        ours.ca.certificate().clone(),
        theirs.ca.certificate().clone(),
    ];
    let trust = Trust::new(cluster("c1"), roots, []).unwrap();
    let error = trust.verify(&chain(&theirs.node(1)), now()).unwrap_err();
    assert!(matches!(error, VerifyError::WrongCluster { .. }), "{error}");
    assert!(error.to_string().contains("spiffe://c2/node/1"));
    assert_eq!(alert(error), 49);
}

/// A CA can not name nodes of another cluster, because its certificate constrains DNS names.
#[test]
fn j20_a_ca_is_confined_to_its_clusters_names() {
    let ca = TestCa::new("c2");
    let trust = Trust::new(cluster("c1"), [ca.ca.certificate().clone()], []).unwrap();
    let error = trust.verify(&ca.forge(|_| {}), now()).unwrap_err();
    assert!(matches!(error, VerifyError::Malformed { .. }), "{error}");
}

/// Expired and not yet valid are told apart, with the dates (alert certificate_expired for both).
#[test]
fn j4_j5_validity_is_checked() {
    let ca = TestCa::new("c1");
    let start = SystemTime::now() - 100 * HOUR;
    let options = IssueOptions {
        life: Some(HOUR),
        now: start,
    };
    let issued = ca.ca.issue(&Subject::node(1).unwrap(), &options).unwrap();
    let at = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        trust(&ca).verify(&chain(&issued), UnixTime::since_unix_epoch(since))
    };
    // The forgiven clock difference is ten minutes backwards and none forwards.
    assert!(at(start - Duration::from_secs(9 * 60)).is_ok());
    assert!(at(start + HOUR - Duration::from_secs(2)).is_ok());
    let early = at(start - Duration::from_secs(11 * 60)).unwrap_err();
    assert!(matches!(early, VerifyError::NotYetValid { .. }), "{early}");
    assert_eq!(alert(early), 45);
    let late = at(start + HOUR + Duration::from_secs(2)).unwrap_err();
    let VerifyError::Expired { not_after, .. } = late else {
        panic!("{late}")
    };
    assert_eq!(not_after, issued.not_after());
    assert!(late.to_string().contains("quorate certs issue"));
    assert_eq!(alert(late), 45);
}

/// A leaf that outlives its CA stops being good when the CA does, although webpki ignores a root's
/// dates.
#[test]
fn an_expired_ca_is_refused() {
    let ca = TestCa::expired("c1");
    let error = trust(&ca).verify(&ca.forge(|_| {}), now()).unwrap_err();
    assert!(
        matches!(error, VerifyError::AuthorityExpired { .. }),
        "{error}"
    );
    assert_eq!(alert(error), 45);
}

/// A CA's own certificate is nobody's identity, nor is a leaf that says it may sign others.
#[test]
fn j13_a_ca_is_not_a_peer() {
    let ca = TestCa::new("c1");
    let own = [ca.ca.certificate().clone()];
    assert_eq!(trust(&ca).verify(&own, now()), Err(VerifyError::CaAsLeaf));
    let signing = ca.forge(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert_eq!(
        trust(&ca).verify(&signing, now()),
        Err(VerifyError::CaAsLeaf)
    );
    let leaf_ca = ca.forge(|params| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert_eq!(
        trust(&ca).verify(&leaf_ca, now()),
        Err(VerifyError::CaAsLeaf)
    );
}

/// A node can not issue: a certificate signed by a node's certificate is refused.
#[test]
fn j14_a_leaf_can_not_issue() {
    let ca = TestCa::new("c1");
    let node = ca.node(1);
    let key = rcgen::KeyPair::from_pem(node.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&chain(&node)[0], key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![uri_name("spiffe://c1/admin/mallory")];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let forged = params
        .signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let presented = [forged.into(), chain(&node).remove(0)];
    assert!(trust(&ca).verify(&presented, now()).is_err());
}

/// Exactly one URI name, and it is an identity (alert access_denied).
#[test]
fn exactly_one_identity() {
    let ca = TestCa::new("c1");
    let verify = |names: Vec<rcgen::SanType>| {
        let chain = ca.forge(|params| params.subject_alt_names = names);
        trust(&ca).verify(&chain, now()).unwrap_err()
    };
    let own_dns = || dns_name("n1.c1.quorate.invalid");
    assert_eq!(verify(vec![]), VerifyError::NoIdentity);
    assert_eq!(verify(vec![own_dns()]), VerifyError::NoIdentity);
    let two = verify(vec![
        uri_name("spiffe://c1/node/1"),
        uri_name("spiffe://c1/admin/root"),
        own_dns(),
    ]);
    assert_eq!(two, VerifyError::SeveralIdentities { count: 2 });
    assert_eq!(alert(two), 49);
    let twice = verify(vec![
        uri_name("spiffe://c1/node/1"),
        uri_name("spiffe://c1/node/1"),
        own_dns(),
    ]);
    assert_eq!(twice, VerifyError::SeveralIdentities { count: 2 });
    let odd = verify(vec![uri_name("spiffe://c1/node/01"), own_dns()]);
    assert!(
        matches!(
            odd,
            VerifyError::BadIdentity {
                source: IdentityError::BadNodeId { .. }
            }
        ),
        "{odd}"
    );
    assert_eq!(alert(odd), 49);
    // What a version that does not know a role says to it, as one that did not know readers.
    let stranger = verify(vec![uri_name("spiffe://c1/auditor/a")]);
    assert!(
        matches!(
            stranger,
            VerifyError::BadIdentity {
                source: IdentityError::UnknownRole { .. }
            }
        ),
        "{stranger}"
    );
    assert_eq!(alert(stranger), 49);
}

/// A second name that one parser skips and another reads is refused, not skipped.
#[test]
fn unreadable_names_are_refused() {
    let ca = TestCa::new("c1");
    let uri = b"spiffe://c1/client/a";
    let forge = |last: u8| {
        let mut names = vec![0x30, u8::try_from(uri.len()).unwrap() + 2 + 3];
        names.extend([0x86, u8::try_from(uri.len()).unwrap()]);
        names.extend(uri);
        names.extend([0x86, 1, last]);
        ca.forge(|params| {
            params.subject_alt_names = Vec::new();
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        })
    };
    let error = trust(&ca).verify(&forge(0xff), now()).unwrap_err();
    assert!(matches!(error, VerifyError::Malformed { .. }), "{error}");
    // Negative control: readable, the second name counts.
    assert_eq!(
        trust(&ca).verify(&forge(b'x'), now()),
        Err(VerifyError::SeveralIdentities { count: 2 })
    );
}

/// A node must be good for both directions, a client for one; signing handshakes is a must.
#[test]
fn j12_usages_must_fit_the_role() {
    let ca = TestCa::new("c1");
    let verify = |edit: &dyn Fn(&mut rcgen::CertificateParams)| {
        trust(&ca).verify(&ca.forge(edit), now()).unwrap_err()
    };
    let missing = |missing| VerifyError::WrongPurpose { missing };
    let error = verify(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(error, missing("clientAuth"));
    assert_eq!(alert(error), 43);
    assert_eq!(
        verify(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        missing("serverAuth")
    );
    assert_eq!(
        verify(&|p| p.extended_key_usages = vec![]),
        missing("clientAuth")
    );
    assert_eq!(
        verify(&|p| p.key_usages = vec![]),
        missing("digitalSignature")
    );
}

/// A node's DNS name is its own and nobody else's; a client has none (alert access_denied).
#[test]
fn j20_dns_names_must_agree_with_the_identity() {
    let ca = TestCa::new("c1");
    let verify = |names: Vec<rcgen::SanType>| {
        let chain = ca.forge(|params| params.subject_alt_names = names);
        trust(&ca).verify(&chain, now())
    };
    let node = || uri_name("spiffe://c1/node/1");
    let client = || uri_name("spiffe://c1/client/a");
    let own = || dns_name("n1.c1.quorate.invalid");
    let other = || dns_name("n2.c1.quorate.invalid");
    let wildcard = || dns_name("*.c1.quorate.invalid");
    for names in [
        vec![node(), other()],
        vec![node(), own(), other()],
        vec![node(), wildcard()],
        vec![node()],
        vec![client(), own()],
    ] {
        let error = verify(names).unwrap_err();
        assert!(
            matches!(error, VerifyError::WrongServerName { .. }),
            "{error}"
        );
        assert_eq!(alert(error), 49);
    }
    assert!(verify(vec![client()]).is_ok());
}

/// Roots must be CAs: a leaf in the bundle would become a root, as webpki does not look.
#[test]
fn roots_must_be_cas() {
    let ca = TestCa::new("c1");
    let root = || ca.ca.certificate().clone();
    let new = |roots: Vec<CertificateDer<'static>>| Trust::new(cluster("c1"), roots, []).err();
    assert_eq!(new(vec![]), Some(TrustError::NoRoots));
    assert_eq!(
        new(vec![root(), chain(&ca.node(1)).remove(0)]),
        Some(TrustError::NotACa { position: 1 })
    );
    assert_eq!(
        new(vec![root(); ROOTS_MAX + 1]),
        Some(TrustError::TooManyRoots)
    );
    assert!(matches!(
        new(vec![CertificateDer::from(vec![0x30, 0])]),
        Some(TrustError::MalformedRoot { position: 0, .. })
    ));
    assert_eq!(new(vec![root(); ROOTS_MAX]), None);
}

/// Not one changed byte of a certificate is accepted, and none makes the verifier panic.
#[test]
fn j24_damaged_certificates_are_refused() {
    let ca = TestCa::new("c1");
    let trust = trust(&ca);
    let good = chain(&ca.node(1)).remove(0).to_vec();
    for position in 0..good.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[position] ^= change;
            let result = trust.verify(&[bad.into()], now());
            assert!(
                result.is_err(),
                "byte {position} ^ {change:#x} was accepted"
            );
        }
    }
    for length in 0..good.len() {
        assert!(trust.verify(&[good[..length].into()], now()).is_err());
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(trust.verify(&[longer.into()], now()).is_err());
    assert!(trust.verify(&[good.into()], now()).is_ok());
}

/// Times far outside of what a certificate can say are refused, not overflowed.
#[test]
fn c1_absurd_clocks_are_harmless() {
    let ca = TestCa::new("c1");
    let node = chain(&ca.node(1));
    for seconds in [0, 1, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let error = trust(&ca).verify(&node, at).unwrap_err();
        let _ = (error.to_string(), alert(error));
    }
}

/// Certificates of the wrong kind get the alert for it; no certificate gets rustls' own error.
#[test]
fn remaining_alerts() {
    assert_eq!(alert(VerifyError::CaAsLeaf), 43);
    assert_eq!(alert(VerifyError::ChainTooLong { count: 9 }), 42);
    assert_eq!(
        rustls::Error::from(VerifyError::Empty),
        rustls::Error::NoCertificatesPresented
    );
    assert_eq!(
        rustls::Error::from(VerifyError::NoIdentity),
        rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
    );
}
