//! Certificates that are good no more before their time.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{HOUR, TestCa, chain, cluster, now};
use quorate_certs::{
    BUNDLE_BYTES_MAX, Ca, CaError, CaOptions, Credentials, CredentialsError, FILE_BYTES_MAX,
    FileError, Folder, FolderError, IssueOptions, Issued, ROOTS_MAX, Serial, Subject, Trust,
    TrustError, VerifyError, inspect, inspect_file,
};
use rcgen::{
    CertificateRevocationList, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair,
    SerialNumber,
};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;

fn serial(issued: &Issued) -> Serial {
    let found = inspect(issued.certificate_pem().as_bytes()).unwrap();
    found[0].serial.parse().unwrap()
}

fn lists(ca: &Ca) -> Vec<CertificateRevocationListDer<'static>> {
    let pem = ca.revocation_list_pem();
    CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap()
}

/// The CA as whoever opens its folder finds it.
fn opened(ca: &TestCa) -> Ca {
    Ca::open(&ca.directory).unwrap()
}

fn revoke(ca: &TestCa, issued: &Issued) {
    revoke_at(&ca.directory, issued, SystemTime::now());
}

fn revoke_at(directory: &Path, issued: &Issued, now: SystemTime) {
    let mut ca = Ca::open(directory).unwrap();
    assert_eq!(ca.revoke(&[serial(issued)], now).unwrap(), 1);
}

/// A list without an entry, signed with the CA's key by another tool.
fn sign_empty(
    ca: &TestCa,
    number: u64,
    this_update: SystemTime,
    next_update: SystemTime,
) -> CertificateRevocationList {
    let key = fs::read_to_string(ca.directory.join("ca.key")).unwrap();
    let key = KeyPair::from_pem(&key).unwrap();
    let issuer = Issuer::from_ca_cert_der(ca.ca.certificate(), key).unwrap();
    let params = CertificateRevocationListParams {
        this_update: this_update.into(),
        next_update: next_update.into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer).unwrap()
}

fn trusting(ca: &TestCa) -> Trust {
    let opened = opened(ca);
    let root = ca.ca.certificate().clone();
    Trust::new(cluster("c1"), [root], lists(&opened)).unwrap()
}

fn alert(error: VerifyError) -> u8 {
    match rustls::Error::from(error) {
        rustls::Error::InvalidCertificate(error) => rustls::AlertDescription::from(error).into(),
        other => panic!("no alert for {other:?}"),
    }
}

/// What was revoked is refused, and nothing else is; also what was revoked before the last one.
#[test]
fn j15_a_revoked_certificate_is_refused() {
    let ca = TestCa::new("c1");
    let [first, second, good] = [1, 1, 2].map(|id| ca.node(id));
    assert!(trusting(&ca).verify(&chain(&first), now()).is_ok());
    for revoked in [&first, &second] {
        revoke(&ca, revoked);
        let error = trusting(&ca).verify(&chain(revoked), now()).unwrap_err();
        assert_eq!(error, VerifyError::Revoked);
        assert_eq!(alert(error), 44);
    }
    for revoked in [&first, &second] {
        assert!(trusting(&ca).verify(&chain(revoked), now()).is_err());
    }
    assert!(trusting(&ca).verify(&chain(&good), now()).is_ok());
    // The same identity gets another one.
    assert!(trusting(&ca).verify(&chain(&ca.node(1)), now()).is_ok());
    let again = opened(&ca).revoke(&[serial(&first)], SystemTime::now());
    assert_eq!(again.unwrap(), 0);
}

/// Whoever revokes adds to what is in the folder by then, not to what was there when it was opened.
#[test]
fn two_who_revoke_at_a_time_lose_nothing() {
    let ca = TestCa::new("c1");
    let issued: Vec<Issued> = (1..=4).map(|id| ca.node(id)).collect();
    let numbers: Vec<Serial> = issued.iter().map(serial).collect();
    // Both have read the list before the other one writes.
    let mut both = [opened(&ca), opened(&ca)];
    for (number, who) in numbers.iter().zip([0, 1, 0, 1]) {
        let news = both[who].revoke(std::slice::from_ref(number), SystemTime::now());
        assert_eq!(news.unwrap(), 1);
    }
    let mut revoked: Vec<Serial> = opened(&ca).revoked().collect();
    revoked.sort();
    let mut all = numbers.clone();
    all.sort();
    assert_eq!(revoked, all);
    assert_eq!(
        both[0].revoke(&numbers, SystemTime::now()).unwrap(),
        0,
        "it has seen the last"
    );
}

/// A list may be that of a CA whose own certificates are of any kind of key.
#[test]
fn every_kind_of_key_signs_lists() {
    for algorithm in [
        quorate_certs::CaAlgorithm::EcdsaP256,
        quorate_certs::CaAlgorithm::EcdsaP384,
        quorate_certs::CaAlgorithm::Ed25519,
    ] {
        let options = CaOptions {
            algorithm,
            ..CaOptions::default()
        };
        let ca = TestCa::with("c1", &options);
        let issued = ca.node(1);
        revoke(&ca, &issued);
        let error = trusting(&ca).verify(&chain(&issued), now());
        assert_eq!(error, Err(VerifyError::Revoked));
    }
}

/// Who has which numbers is known, but for a certificate that was not handed out because the machine failed.
#[test]
fn what_was_issued_is_known() {
    let ca = TestCa::new("c1");
    assert_eq!(opened(&ca).issued().unwrap(), []);
    let issued = [ca.node(1), ca.node(2)];
    let ledger = ca.directory.join("ca.issued");
    let half = "4a00 2030-01-01T00:00:00Z spiffe://c1/node/3";
    let mut text = fs::read_to_string(&ledger).unwrap();
    text.push_str(half);
    fs::write(&ledger, &text).unwrap();
    let check = |expected: &[&Issued]| {
        let records = opened(&ca).issued().unwrap();
        assert_eq!(records.len(), expected.len());
        for (record, issued) in records.iter().zip(expected) {
            assert_eq!(record.serial, serial(issued));
            assert_eq!(record.identity, *issued.identity());
            assert_eq!(record.not_after, issued.not_after());
        }
    };
    check(&[&issued[0], &issued[1]]);
    // Also when there is more behind it.
    let next = ca.node(4);
    check(&[&issued[0], &issued[1], &next]);
}

/// Whoever revokes what a node has must not miss a certificate because its line is damaged; by its number, it can be
/// revoked all the same.
#[test]
fn a_damaged_record_is_an_error() {
    let ca = TestCa::new("c1");
    let issued = [ca.node(1), ca.node(2)];
    let ledger = ca.directory.join("ca.issued");
    let whole = fs::read(&ledger).unwrap();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in [second, second + 34, second + 60, whole.len() - 2] {
        let mut damaged = whole.clone();
        damaged[at] = 0xff;
        fs::write(&ledger, &damaged).unwrap();
        let error = opened(&ca).issued().unwrap_err();
        assert!(
            matches!(error, CaError::LedgerLine { number: 2 }),
            "byte {at}: {error}"
        );
    }
    revoke(&ca, &issued[1]);
    let error = trusting(&ca).verify(&chain(&issued[1]), now());
    assert_eq!(error, Err(VerifyError::Revoked));
}

/// What has expired leaves the list with the next revocation, or lists would grow for ever.
#[test]
fn lists_forget_what_has_expired() {
    let ca = TestCa::new("c1");
    let options = |hours: u32| IssueOptions {
        life: Some(HOUR),
        now: SystemTime::now() - hours * HOUR,
    };
    let issue = |hours| {
        ca.ca
            .issue(&Subject::node(1).unwrap(), &options(hours))
            .unwrap()
    };
    let (long_ago, lately) = (issue(48), issue(3));
    for issued in [&long_ago, &lately] {
        revoke(&ca, issued);
    }
    let good = ca.node(1);
    revoke(&ca, &good);
    let revoked: Vec<Serial> = opened(&ca).revoked().collect();
    assert_eq!(revoked, [serial(&lately), serial(&good)]);
}

/// `count` numbers of the length that a CA gives.
fn serials(count: u64) -> Vec<Serial> {
    let serial = |n| format!("4a{n:030x}").parse().unwrap();
    (0..count).map(serial).collect()
}

/// The most that one list takes.
fn most(ca: &TestCa) -> u64 {
    let (mut taken, mut refused) = (1000, 2000);
    while taken + 1 < refused {
        let count = u64::midpoint(taken, refused);
        let _ = fs::remove_file(ca.directory.join("ca.crl"));
        match opened(ca).revoke(&serials(count), SystemTime::now()) {
            Ok(_) => taken = count,
            Err(error) => {
                assert!(matches!(error, CaError::ListTooLarge), "{error}");
                refused = count;
            }
        }
    }
    taken
}

/// A list that could not be read again is not written: who has one goes on with what was there. With what is accepted,
/// everything else still works, also where two CAs have as much.
#[test]
fn lists_are_bounded() {
    let ca = TestCa::new("c1");
    let revoke_first = |directory: &Path, count| {
        Ca::open(directory)
            .unwrap()
            .revoke(&serials(count), SystemTime::now())
    };
    let error = revoke_first(&ca.directory, 2000).unwrap_err();
    assert!(matches!(error, CaError::ListTooLarge), "{error}");
    assert_eq!(opened(&ca).revoked().count(), 0);
    let mut in_memory = Ca::generate(&cluster("c1"), &CaOptions::default()).unwrap();
    let error = in_memory.revoke(&serials(2000), SystemTime::now());
    assert!(matches!(error, Err(CaError::ListTooLarge)), "{error:?}");

    // A signature may be two bytes shorter or longer, and an entry has 35.
    let full = most(&ca);
    assert!((1_374..=1_376).contains(&full), "{full}");
    let _ = fs::remove_file(ca.directory.join("ca.crl"));
    let full = full - 1;
    let directory = tempfile::tempdir().unwrap();
    let [path, brought, new] = ["n1", "brought", "n2"].map(|name| directory.path().join(name));
    ca.node(1).write(&path).unwrap();
    let mut folder = Folder::open(&path).unwrap();
    let next = ca.directory.with_file_name("next");
    Ca::create_after(&ca.directory, &next, &CaOptions::default()).unwrap();
    for authority in [&ca.directory, &next] {
        assert_eq!(
            revoke_first(authority, full).unwrap() as u64,
            full,
            "{authority:?}"
        );
        assert!(folder.trust(authority).unwrap());
        let issue = |node| {
            let opened = Ca::open(authority).unwrap();
            opened
                .issue(&Subject::node(node).unwrap(), &IssueOptions::default())
                .unwrap()
        };
        folder.renew(&issue(1)).unwrap();
        let brought = brought.with_extension(authority.file_name().unwrap());
        issue(1).write(&brought).unwrap();
        folder.renew_from(&brought).unwrap();
        let new = new.with_extension(authority.file_name().unwrap());
        issue(2).write(&new).unwrap();
        Credentials::load(&new).unwrap();
        inspect_file(&path.join("ca.pem")).unwrap();
        assert!(!Folder::open(&new).unwrap().trust(authority).unwrap());
    }
    let credentials = Credentials::load(&path).unwrap();
    assert_eq!(credentials.trust().roots().len(), 2);
    assert_eq!(folder.revoked().count() as u64, 2 * full);
    // Who has that bundle gives it on as a whole.
    let mut other = Folder::open(&new.with_extension("ca")).unwrap();
    assert!(other.trust(&path.join("ca.pem")).unwrap());
}

/// A bundle has room for as many roots and lists as there may be, whatever their size; a file that has more is not read.
#[test]
fn bundles_are_bounded() {
    let ca = TestCa::new("c1");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n1");
    ca.node(1).write(&path).unwrap();
    let bundle = path.join("ca.pem");
    let most = usize::try_from(BUNDLE_BYTES_MAX).unwrap();
    assert_eq!(most as u64, ROOTS_MAX as u64 * 2 * FILE_BYTES_MAX);
    let mut text = fs::read_to_string(&bundle).unwrap();
    text.push_str(&"\n".repeat(most - text.len()));
    fs::write(&bundle, &text).unwrap();
    Credentials::load(&path).unwrap();
    text.push('\n');
    fs::write(&bundle, &text).unwrap();
    let error = Credentials::load(&path).unwrap_err();
    let CredentialsError::File(FileError::TooLarge { bytes_max, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(bytes_max, BUNDLE_BYTES_MAX);
}

/// A folder takes the list of a CA that it trusts, keeps the newest, and lets go of it with the CA.
#[test]
fn j15_a_folder_takes_lists() {
    let ca = TestCa::new("c1");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n1");
    let (own, [first, second]) = (ca.node(1), [2, 3].map(|id| ca.node(id)));
    own.write(&path).unwrap();
    let mut folder = Folder::open(&path).unwrap();
    assert!(!folder.trust(&ca.directory).unwrap());
    revoke(&ca, &first);
    let older = directory.path().join("older.crl");
    fs::copy(ca.directory.join("ca.crl"), &older).unwrap();
    assert!(folder.trust(&ca.directory).unwrap());
    revoke(&ca, &second);
    assert!(folder.trust(&ca.directory.join("ca.crl")).unwrap());

    let refuses = |issued: &Issued| {
        let credentials = Credentials::load(&path).unwrap();
        credentials.trust().verify(&chain(issued), now()) == Err(VerifyError::Revoked)
    };
    assert!(refuses(&first) && refuses(&second) && !refuses(&own));
    // Neither an older list nor a renewal makes anything good again.
    assert!(!folder.trust(&older).unwrap());
    folder.renew(&ca.node(1)).unwrap();
    assert!(refuses(&first) && refuses(&second));
    assert!(!Folder::open(&path).unwrap().trust(&ca.directory).unwrap());
    // Whoever is new has the list from the beginning.
    let credentials = opened(&ca).issue(&Subject::node(4).unwrap(), &IssueOptions::default());
    let credentials = credentials.unwrap().credentials().unwrap();
    assert!(credentials.trust().verify(&chain(&first), now()).is_err());

    let next = ca.directory.with_file_name("next");
    let next_ca = Ca::create_after(&ca.directory, &next, &CaOptions::default()).unwrap();
    assert!(folder.trust(&next).unwrap());
    let issued = next_ca.issue(&Subject::node(1).unwrap(), &IssueOptions::default());
    folder.renew(&issued.unwrap()).unwrap();
    assert!(refuses(&first));
    assert!(folder.distrust(&ca.directory).unwrap());
    let pem = fs::read_to_string(path.join("ca.pem")).unwrap();
    assert!(!pem.contains("CRL"), "{pem}");
}

/// What is revoked after a CA's list was lost, or put back from a backup, is news; where the clock is too coarse to tell,
/// or was set back, it is an error, and never passed over.
#[test]
fn j15_a_list_that_was_lost_hides_nothing() {
    let now = SystemTime::now();
    for is_restored in [false, true] {
        for (later, earlier) in [(10, 0), (0, 0), (0, 10)].map(|(later, earlier)| {
            let seconds = Duration::from_secs;
            (seconds(later), seconds(earlier))
        }) {
            let ca = TestCa::new("c1");
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("n1");
            ca.node(1).write(&path).unwrap();
            let mut folder = Folder::open(&path).unwrap();
            let list = ca.directory.join("ca.crl");
            let backup = directory.path().join("backup.crl");
            for _ in 0..3 {
                revoke_at(&ca.directory, &ca.node(2), now);
                if !backup.exists() {
                    fs::copy(&list, &backup).unwrap();
                }
            }
            assert!(folder.trust(&list).unwrap());
            match is_restored {
                true => _ = fs::copy(&backup, &list).unwrap(),
                false => fs::remove_file(&list).unwrap(),
            }
            let mallory = ca.node(3);
            revoke_at(&ca.directory, &mallory, now + later - earlier);
            let trusted = folder.trust(&list);
            if later.is_zero() {
                let error = trusted.unwrap_err();
                assert!(matches!(error, FolderError::OlderList { .. }), "{error}");
                continue;
            }
            assert!(trusted.unwrap());
            let credentials = Credentials::load(&path).unwrap();
            let judged = credentials.trust().verify(&chain(&mallory), self::now());
            assert_eq!(judged, Err(VerifyError::Revoked));
        }
    }
}

/// Of two copies of a CA's folder, neither knows what the other one revokes: a node that takes both lists hears of it,
/// unless the second is newer and taken.
#[test]
fn j15_two_copies_of_an_authority_are_noticed() {
    let now = SystemTime::now();
    let second = Duration::from_secs(1);
    for at in [now - second, now, now + second] {
        let ca = TestCa::new("c1");
        let directory = tempfile::tempdir().unwrap();
        let [path, copy] = ["n1", "copy"].map(|name| directory.path().join(name));
        ca.node(1).write(&path).unwrap();
        let mut folder = Folder::open(&path).unwrap();
        fs::create_dir(&copy).unwrap();
        for name in ["ca.key", "ca.crt", "ca.issued"] {
            fs::copy(ca.directory.join(name), copy.join(name)).unwrap();
        }
        let both = [ca.node(2), ca.node(3)];
        revoke_at(&ca.directory, &both[0], now);
        revoke_at(&copy, &both[1], at);
        assert!(folder.trust(&ca.directory).unwrap());
        let offered = Ca::open(&copy).unwrap();
        let trusted = folder.trust(&copy);
        if at > now {
            assert!(trusted.unwrap());
            let revoked: Vec<Serial> = folder.revoked().collect();
            assert_eq!(revoked, [serial(&both[1])]);
            continue;
        }
        let error = trusted.unwrap_err();
        if at < now {
            assert!(
                matches!(error, FolderError::OlderList { count: 1, .. }),
                "{error}"
            );
            continue;
        }
        let is_fork = |error: &FolderError| {
            let FolderError::Credentials(CredentialsError::Trust(error)) = error else {
                return false;
            };
            matches!(error, TrustError::ForkedLists { earlier, later } if earlier == later)
        };
        assert!(is_fork(&error), "{error}");
        let issued = offered.issue(&Subject::node(1).unwrap(), &IssueOptions::default());
        let error = folder.renew(&issued.unwrap()).unwrap_err();
        assert!(is_fork(&error), "{error}");
    }
}

/// Number and date of a CA's lists both rise, also where its clock was set back: lists of which that is not so are not
/// of one line, and whoever is given both takes neither for the newest.
#[test]
fn lists_that_do_not_follow_one_another_are_an_error() {
    let ca = TestCa::new("c1");
    let now = SystemTime::now();
    revoke_at(&ca.directory, &ca.node(2), now);
    let known = lists(&opened(&ca)).remove(0);
    let sign = |number, this_update| {
        let list = sign_empty(&ca, number, this_update, now + 2 * HOUR);
        CertificateRevocationListDer::from(list.der().to_vec())
    };
    let trusting = |lists: [&CertificateRevocationListDer<'static>; 2]| {
        let root = ca.ca.certificate().clone();
        Trust::new(cluster("c1"), [root], lists.map(Clone::clone)).map(|_| ())
    };
    let (later, earlier) = (sign(4, now + HOUR), sign(4, now - HOUR));
    for both in [[&known, &later], [&later, &known]] {
        let error = trusting(both).unwrap_err();
        assert!(
            matches!(error, TrustError::ForkedLists { earlier: 4, .. }),
            "{error}"
        );
    }
    trusting([&known, &earlier]).unwrap();
    trusting([&known, &known]).unwrap();
    revoke_at(&ca.directory, &ca.node(2), now - HOUR);
    trusting([&known, &lists(&opened(&ca)).remove(0)]).unwrap();
}

/// A CA whose list was lost goes on with the one that its nodes have: the newest of those in its file, whoever else has
/// signed others there.
#[test]
fn a_lost_list_is_taken_from_the_nodes() {
    let ca = TestCa::new("c1");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n1");
    ca.node(1).write(&path).unwrap();
    let mut folder = Folder::open(&path).unwrap();
    let next = ca.directory.with_file_name("next");
    Ca::create_after(&ca.directory, &next, &CaOptions::default()).unwrap();
    let now = SystemTime::now();
    let [first, second, of_next] = [2, 3, 4].map(|id| ca.node(id));
    revoke_at(&next, &of_next, now);
    folder.trust(&next).unwrap();
    revoke_at(&ca.directory, &first, now);
    let list = ca.directory.join("ca.crl");
    let older = fs::read_to_string(&list).unwrap();
    revoke_at(&ca.directory, &second, now);
    folder.trust(&list).unwrap();
    let of_nodes = older.clone() + &fs::read_to_string(path.join("ca.pem")).unwrap();
    fs::write(&list, of_nodes).unwrap();
    let revoked: Vec<Serial> = opened(&ca).revoked().collect();
    assert_eq!(revoked, [serial(&first), serial(&second)]);
    // What no list is, or nobody's here, says what to do.
    let foreign = fs::read_to_string(next.join("ca.crl")).unwrap();
    for nothing in ["", "lost", &foreign] {
        fs::write(&list, nothing).unwrap();
        let error = Ca::open(&ca.directory).unwrap_err();
        assert!(matches!(error, CaError::ForeignList), "{error}");
    }
}

/// A folder does not cut off its own branch: whoever is revoked is told, and not changed.
#[test]
fn j15_whoever_is_revoked_hears_of_it() {
    let ca = TestCa::new("c1");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n1");
    let own = ca.node(1);
    own.write(&path).unwrap();
    revoke(&ca, &own);
    let mut folder = Folder::open(&path).unwrap();
    let error = folder.trust(&ca.directory).unwrap_err();
    let FolderError::Credentials(CredentialsError::Refused(VerifyError::Revoked)) = error else {
        panic!("{error}");
    };
    Credentials::load(&path).unwrap();
    let issued = opened(&ca).issue(&Subject::node(1).unwrap(), &IssueOptions::default());
    folder.renew(&issued.unwrap()).unwrap();
    assert!(!folder.trust(&ca.directory).unwrap());
}

/// A list of another CA, also of one that has the same name, is no list at all.
#[test]
fn j17_a_list_of_another_issuer_is_not_taken() {
    let ca = TestCa::new("c1");
    let issued = ca.node(1);
    for other in [TestCa::new("c2"), TestCa::new("c1")] {
        revoke(&other, &other.node(1));
        let foreign = lists(&opened(&other));
        let root = ca.ca.certificate().clone();
        let error = Trust::new(cluster("c1"), [root], foreign).unwrap_err();
        assert_eq!(error, TrustError::ForeignList { position: 0 });
        let directory = tempfile::tempdir().unwrap();
        issued.write(directory.path()).unwrap();
        let mut folder = Folder::open(directory.path()).unwrap();
        folder.trust(&other.directory.join("ca.crl")).unwrap_err();
        fs::copy(other.directory.join("ca.crl"), ca.directory.join("ca.crl")).unwrap();
        assert!(matches!(Ca::open(&ca.directory), Err(CaError::ForeignList)));
    }
}

/// A list that has ended, which ours never do, says nothing about what was revoked since: nobody is believed.
#[test]
fn j16_a_stale_list_opens_nothing() {
    let ca = TestCa::new("c1");
    let issued = ca.node(1);
    let sign = |next_update: SystemTime| {
        let list = sign_empty(&ca, 1, SystemTime::now() - 2 * HOUR, next_update);
        let root = ca.ca.certificate().clone();
        let trust = Trust::new(cluster("c1"), [root], [list.der().clone()]).unwrap();
        trust.verify(&chain(&issued), now())
    };
    assert!(sign(SystemTime::now() + HOUR).is_ok());
    let error = sign(SystemTime::now() - HOUR).unwrap_err();
    assert!(matches!(error, VerifyError::ListExpired { .. }), "{error}");
    assert!(error.to_string().contains("certs trust"), "{error}");
}

/// No changed or cut list makes anything panic, or passes for the CA's.
#[test]
fn j24_damaged_lists_are_not_taken() {
    let ca = TestCa::new("c1");
    let issued = ca.node(1);
    revoke(&ca, &issued);
    let [good] = <[_; 1]>::try_from(lists(&opened(&ca))).unwrap();
    let taken = |der: &[u8]| {
        let list = CertificateRevocationListDer::from(der.to_vec());
        Trust::new(cluster("c1"), [ca.ca.certificate().clone()], [list]).is_ok()
    };
    assert!(taken(&good));
    for position in 0..good.len() {
        assert!(!taken(&good[..position]), "cut at {position}");
        let mut bad = good.to_vec();
        bad[position] ^= 1 << (position % 8);
        assert!(!taken(&bad), "changed at {position}");
    }
    let longer = [&good[..], b"x"].concat();
    assert!(!taken(&longer));
    let pem = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let directory = tempfile::tempdir().unwrap();
    issued.write(directory.path()).unwrap();
    let roots = directory.path().join("ca.pem");
    let both = fs::read_to_string(&roots).unwrap() + pem;
    fs::write(&roots, both).unwrap();
    Credentials::load(directory.path()).unwrap_err();
}
