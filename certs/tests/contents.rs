//! What the certificates say: all of it chosen here, none of it left to the library that writes it.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use common::{HOUR, TestCa, chain, cluster};
use quorate_certs::{Ca, CaError, CaOptions, IssueOptions, Issued, LIFE_MAX, Subject, inspect};
use x509_parser::prelude::{FromDer, X509Certificate};

fn issue(ca: &TestCa, subject: &Subject) -> Issued {
    ca.ca.issue(subject, &IssueOptions::default()).unwrap()
}

/// rcgen's defaults (1975 to 4096, "rcgen self signed cert", serial from the key, no AKI) are gone.
#[test]
fn no_rcgen_default_survives() {
    let ca = TestCa::new("c1");
    let leaf = chain(&ca.node(7)).remove(0);
    for der in [&leaf, ca.ca.certificate()] {
        let text = String::from_utf8_lossy(der);
        assert!(!text.contains("rcgen"), "{text}");
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        let age = SystemTime::now()
            .duration_since(certificate.validity().not_before.to_datetime().into())
            .unwrap();
        assert!((10 * 60..10 * 60 + 300).contains(&age.as_secs()), "{age:?}");
        let end: SystemTime = certificate.validity().not_after.to_datetime().into();
        assert!(end <= SystemTime::now() + LIFE_MAX);
        let serial = certificate.raw_serial();
        assert_eq!(serial.len(), 16);
        assert!(
            (0x40..0x80).contains(&serial[0]),
            "positive, no leading zero"
        );
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical);
    }
    let (_, certificate) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(certificate.subject().iter().count(), 0);
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    // RFC 5280 section 4.1.2.6: critical, since the subject is empty.
    assert!(names.critical);
    assert_eq!(names.value.general_names.len(), 2);
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.to_string(), "Digital Signature");
}

/// A CA from a seed makes the same keys and certificates again, each different from the one before, and
/// others from another seed.
#[test]
fn a_seed_repeats() {
    let now = SystemTime::UNIX_EPOCH + 24 * 365 * HOUR * 50;
    let make = |seed: u8| {
        let options = CaOptions {
            now,
            ..CaOptions::default()
        };
        let ca = Ca::from_seed(&cluster("c1"), &options, [seed; 32]).unwrap();
        let options = IssueOptions { life: None, now };
        [1, 1, 2].map(|id| {
            let issued = ca.issue(&Subject::node(id).unwrap(), &options).unwrap();
            issued.credentials().unwrap();
            let certificate = issued.certificate_pem().to_owned();
            (issued.key_pem().to_owned(), certificate)
        })
    };
    let first = make(7);
    assert_eq!(first, make(7));
    assert_ne!(first[0], first[1], "one subject, two certificates");
    assert!(make(8).iter().all(|other| !first.contains(other)));
}

/// A node's certificate works in both directions and names its server; a client's, a
/// reader's and an admin's do neither.
#[test]
fn roles_differ_in_usages_and_names() {
    let ca = TestCa::new("c1");
    let info = |subject: &Subject| {
        let issued = issue(&ca, subject);
        inspect(issued.certificate_pem().as_bytes())
            .unwrap()
            .remove(0)
    };
    let node = info(&Subject::node(7).unwrap());
    assert_eq!(
        node.key_usages,
        ["digitalSignature", "serverAuth", "clientAuth"]
    );
    assert_eq!(node.uris, ["spiffe://c1/node/7"]);
    assert_eq!(node.dns_names, ["n7.c1.quorate.invalid"]);
    for subject in [Subject::client, Subject::reader, Subject::admin] {
        let subject = subject("a").unwrap();
        let other = info(&subject);
        assert_eq!(other.key_usages, ["digitalSignature", "clientAuth"]);
        assert_eq!(other.uris, [format!("spiffe://c1/{subject}")]);
        assert!(other.dns_names.is_empty());
    }
    let root = inspect(ca.ca.certificate_pem().as_bytes())
        .unwrap()
        .remove(0);
    assert!(root.is_ca);
    assert_eq!(root.key_usages, ["keyCertSign", "cRLSign"]);
    assert_eq!(root.subject, "CN=quorate ca c1 g1");
    assert!(root.subject_key_id.is_some());
    assert_eq!(node.authority_key_id, root.subject_key_id);
}

/// Every certificate has its own serial and its own key.
#[test]
fn serials_and_keys_are_fresh() {
    let ca = TestCa::new("c1");
    let issued: Vec<_> = (0..20).map(|_| ca.node(7)).collect();
    let serials: HashSet<_> = issued
        .iter()
        .map(|i| {
            inspect(i.certificate_pem().as_bytes()).unwrap()[0]
                .serial
                .clone()
        })
        .collect();
    assert_eq!(serials.len(), issued.len());
    let keys: HashSet<_> = issued.iter().map(Issued::key_pem).collect();
    assert_eq!(keys.len(), issued.len());
}

/// Default lives by role; a life is cut to end with the CA's, and says so.
#[test]
fn lives() {
    let ca = TestCa::new("c1");
    let now = SystemTime::now();
    let life = |subject: Subject, life: Option<Duration>| {
        let issued = ca.ca.issue(&subject, &IssueOptions { life, now }).unwrap();
        let hours = issued.not_after().duration_since(now).unwrap_or_default();
        ((hours.as_secs() + 1800) / 3600, issued.shortened())
    };
    assert_eq!(life(Subject::node(1).unwrap(), None), (90 * 24, false));
    assert_eq!(life(Subject::client("a").unwrap(), None), (30 * 24, false));
    assert_eq!(life(Subject::reader("a").unwrap(), None), (30 * 24, false));
    assert_eq!(life(Subject::admin("a").unwrap(), None), (24, false));
    assert_eq!(life(Subject::node(1).unwrap(), Some(HOUR)), (1, false));

    let short = TestCa::with(
        "c1",
        &CaOptions {
            life: 2 * HOUR,
            ..CaOptions::default()
        },
    );
    let issued = short.node(1);
    assert!(issued.shortened());
    assert_eq!(issued.not_after(), short.ca.not_after());
}

/// Lives and dates out of bounds are errors, for CA and leaf.
#[test]
fn lives_are_bounded() {
    let ca = TestCa::new("c1");
    let node = Subject::node(1).unwrap();
    for life in [
        Duration::ZERO,
        Duration::from_millis(999),
        LIFE_MAX + Duration::from_secs(1),
        Duration::MAX,
    ] {
        let options = IssueOptions {
            life: Some(life),
            ..IssueOptions::default()
        };
        let error = ca.ca.issue(&node, &options).unwrap_err();
        assert!(matches!(error, CaError::BadLife { .. }), "{error}");
        let options = CaOptions {
            life,
            ..CaOptions::default()
        };
        let error = Ca::generate(&cluster("c1"), &options).unwrap_err();
        assert!(matches!(error, CaError::BadLife { .. }), "{error}");
    }
    for (seconds, words) in [
        (0, "0s is too short: choose at least 1s"),
        (
            20 * 365 * 24 * 3600,
            "20y is too long: choose at most 3653d",
        ),
        (4000 * 24 * 3600, "4000d is too long"),
        (100_001 * 3600, "100001h is too long"),
        (400_000_020, "6666667m is too long"),
        (400_000_001, "400000001s is too long"),
    ] {
        let life = Duration::from_secs(seconds);
        let error = CaError::BadLife { life }.to_string();
        assert!(error.contains(words), "{error}");
    }
    let after_the_ca = IssueOptions {
        life: None,
        now: SystemTime::now() + LIFE_MAX + HOUR,
    };
    let error = ca.ca.issue(&node, &after_the_ca).unwrap_err();
    assert!(matches!(error, CaError::Expired { .. }), "{error}");
    for seconds in [0, 300_000_000_000, i64::MAX as u64] {
        let Some(now) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) else {
            continue;
        };
        let options = CaOptions {
            now,
            ..CaOptions::default()
        };
        let error = Ca::generate(&cluster("c1"), &options).unwrap_err();
        assert!(matches!(error, CaError::BadTime), "{error}");
    }
}

/// A certificate prints and serializes what it says, with dates in RFC 3339.
#[test]
fn inspection() {
    let ca = TestCa::new("c1");
    let issued = ca.node(7);
    let info = inspect(issued.certificate_pem().as_bytes())
        .unwrap()
        .remove(0);
    let text = info.to_string();
    assert!(text.contains("identity     spiffe://c1/node/7"), "{text}");
    assert!(text.contains("sha256:"), "{text}");
    let json = serde_json::to_value(&info).unwrap();
    assert_eq!(json["identity"], "spiffe://c1/node/7");
    assert!(json["not_after"].as_str().unwrap().ends_with('Z'));
    assert_eq!(json["serial"].as_str().unwrap().len(), 32);
    // A key is not a certificate, and is not printed.
    assert!(inspect(issued.key_pem().as_bytes()).is_err());
    assert!(inspect(b"").is_err());
}

/// No secret is in any Debug output.
#[test]
fn i15_debug_output_has_no_key() {
    let ca = TestCa::new("c1");
    let issued = ca.node(7);
    let body = issued.key_pem().lines().nth(1).unwrap().to_owned();
    let credentials = issued.credentials().unwrap();
    let text = format!("{:?} {:?} {:?}", ca.ca, issued, credentials);
    assert!(!text.contains("PRIVATE") && !text.contains(&body), "{text}");
}
