//! Folders that change: renewals that a crash can not tear, and CAs that come and go.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use common::{HOUR, TestCa, chain, cluster, now};
use quorate_certs::{
    CERTIFICATE_FILE, Ca, CaError, CaOptions, Credentials, CredentialsError, Folder, FolderError,
    IssueOptions, Issued, KEY_FILE, NEXT_KEY_FILE, ROOTS_FILE, Request, Subject, Trust,
    VerifyError, inspect,
};

/// The folder of node 1 of c1, in a temporary one.
fn written(ca: &TestCa) -> (tempfile::TempDir, PathBuf, Issued) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("n1");
    let issued = ca.node(1);
    issued.write(&path).unwrap();
    (temporary, path, issued)
}

/// The CA that comes after `ca`, beside it.
fn after(ca: &TestCa, name: &str) -> (Ca, PathBuf) {
    let directory = ca.directory.with_file_name(name);
    let next = Ca::create_after(&ca.directory, &directory, &CaOptions::default()).unwrap();
    (next, directory.join("ca.crt"))
}

fn issue(ca: &Ca, node: u64) -> Issued {
    let options = IssueOptions::default();
    ca.issue(&Subject::node(node).unwrap(), &options).unwrap()
}

/// Whose key and certificate are in a folder, as its owner would find them.
fn holds(path: &Path, issued: &Issued) -> bool {
    let credentials = Credentials::load(path).unwrap();
    credentials.certified_key().cert == chain(issued)
}

/// Wherever a renewal stops, what is in the folder is whole, and the next one is not hindered.
#[test]
fn a_renewal_is_whole_after_every_step() {
    let ca = TestCa::new("c1");
    let steps = [ROOTS_FILE, NEXT_KEY_FILE, CERTIFICATE_FILE];
    for stops_at in steps {
        let (_temporary, path, old) = written(&ca);
        // What can not be replaced stops the renewal, as a crash would.
        let obstacle = path.join(format!("{stops_at}.new"));
        fs::create_dir(&obstacle).unwrap();
        let (second, third) = (ca.node(1), ca.node(1));
        let error = Folder::open(&path).unwrap().renew(&second).unwrap_err();
        assert!(matches!(error, FolderError::File(_)), "{error}");
        assert!(holds(&path, &old), "stopped at {stops_at}");
        fs::remove_dir(&obstacle).unwrap();
        // Half of a file is in nobody's way.
        fs::write(&obstacle, "half").unwrap();
        Folder::open(&path).unwrap().renew(&third).unwrap();
        assert!(holds(&path, &third));
        let mut names: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, [ROOTS_FILE, CERTIFICATE_FILE, KEY_FILE]);
    }
}

/// The last step: the certificate is new, and its key has not got its name yet. The next renewal does not
/// overwrite that key before it is needed no more.
#[test]
fn a_key_that_has_not_got_its_name_is_used() {
    let ca = TestCa::new("c1");
    let (_temporary, path, old) = written(&ca);
    let second = ca.node(1);
    fs::write(path.join(NEXT_KEY_FILE), second.key_pem()).unwrap();
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(path.join(NEXT_KEY_FILE), mode(0o600)).unwrap();
    assert!(
        holds(&path, &old),
        "a key before its certificate is no harm"
    );
    fs::write(path.join(CERTIFICATE_FILE), second.certificate_pem()).unwrap();
    assert!(holds(&path, &second));
    // The next renewal stops before its certificate is there.
    let obstacle = path.join(format!("{CERTIFICATE_FILE}.new"));
    fs::create_dir(&obstacle).unwrap();
    let third = ca.node(1);
    Folder::open(&path).unwrap().renew(&third).unwrap_err();
    assert!(holds(&path, &second));
    fs::remove_dir(&obstacle).unwrap();
    Folder::open(&path).unwrap().renew(&third).unwrap();
    assert!(holds(&path, &third));
    // Others may not have read it.
    fs::write(path.join(KEY_FILE), old.key_pem()).unwrap();
    fs::write(path.join(NEXT_KEY_FILE), third.key_pem()).unwrap();
    fs::set_permissions(path.join(NEXT_KEY_FILE), mode(0o644)).unwrap();
    let error = Credentials::load(&path).unwrap_err();
    assert!(matches!(error, CredentialsError::KeyMismatch), "{error}");
}

/// A renewed key is its owner's only, whatever was there before.
#[test]
fn a_renewed_key_is_private() {
    let ca = TestCa::new("c1");
    let (_temporary, path, _) = written(&ca);
    fs::set_permissions(path.join(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
    Folder::open(&path).unwrap().renew(&ca.node(1)).unwrap();
    let mode = |name| {
        let found = fs::metadata(path.join(name)).unwrap();
        found.permissions().mode() & 0o7777
    };
    assert_eq!(mode(KEY_FILE), 0o600);
    assert_eq!(mode(CERTIFICATE_FILE), 0o644);
    assert_eq!(mode(ROOTS_FILE), 0o644);
}

/// An expired certificate, and a key that was lost, are what renewals are for.
#[test]
fn what_is_of_no_use_any_more_is_renewed() {
    let ca = TestCa::new("c1");
    let (_temporary, path, _) = written(&ca);
    let long_ago = IssueOptions {
        life: Some(HOUR),
        now: SystemTime::now() - 2 * HOUR,
    };
    let expired = ca.ca.issue(&Subject::node(1).unwrap(), &long_ago).unwrap();
    fs::write(path.join(KEY_FILE), expired.key_pem()).unwrap();
    fs::write(path.join(CERTIFICATE_FILE), expired.certificate_pem()).unwrap();
    let error = Credentials::load(&path).unwrap_err();
    assert!(
        matches!(
            &error,
            CredentialsError::Refused(VerifyError::Expired { .. })
        ),
        "{error}"
    );
    let renewed = ca.node(1);
    Folder::open(&path).unwrap().renew(&renewed).unwrap();
    assert!(holds(&path, &renewed));
    fs::remove_file(path.join(KEY_FILE)).unwrap();
    let again = ca.node(1);
    Folder::open(&path).unwrap().renew(&again).unwrap();
    assert!(holds(&path, &again));
}

/// A folder stays who it is, and takes nothing that peers would refuse.
#[test]
fn j21_a_folder_keeps_its_identity() {
    let ca = TestCa::new("c1");
    let (_temporary, path, old) = written(&ca);
    let mut folder = Folder::open(&path).unwrap();
    assert_eq!(folder.identity(), old.identity());
    let error = folder.renew(&ca.node(2)).unwrap_err();
    assert!(
        matches!(error, FolderError::OtherIdentity { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("node/1"), "{error}");
    let life = Some(HOUR);
    let now = SystemTime::now() - 2 * HOUR;
    let node = Subject::node(1).unwrap();
    let expired = ca.ca.issue(&node, &IssueOptions { life, now }).unwrap();
    let error = folder.renew(&expired).unwrap_err();
    assert!(matches!(error, FolderError::Credentials(_)), "{error}");
    let other = TestCa::new("c2");
    let error = folder.renew(&other.node(1)).unwrap_err();
    assert!(matches!(error, FolderError::OtherCluster { .. }), "{error}");
    let error = folder.check_issuer(&other.ca).unwrap_err();
    assert!(matches!(error, FolderError::OtherCluster { .. }), "{error}");
    assert!(holds(&path, &old));
    // What came in a folder of its own is taken as well.
    let brought = path.with_file_name("brought");
    let renewed = ca.node(1);
    renewed.write(&brought).unwrap();
    folder.renew_from(&brought).unwrap();
    assert!(holds(&path, &renewed));
}

/// A new CA comes, everybody gets new certificates, the old CA goes: at no time is anybody refused who has
/// done the step before, and afterwards what the old CA issued is good for nothing.
#[test]
fn a_ca_is_followed_by_the_next() {
    let ca = TestCa::new("c1");
    let (_t1, n1, _) = written(&ca);
    let (_t2, n2, _) = written(&ca);
    let (next, next_file) = after(&ca, "next");
    let old_file = ca.directory.join("ca.crt");
    assert_eq!(next.generation().get(), 2);
    assert_eq!(next.cluster(), ca.ca.cluster());

    let all_good = |step: &str| {
        let [one, two] = [&n1, &n2].map(|path| Credentials::load(path).unwrap());
        for (judge, judged) in [(&one, &two), (&two, &one)] {
            let judged = judged.certified_key();
            let found = judge.trust().verify(&judged.cert, now());
            assert!(found.is_ok(), "{step}: {found:?}");
        }
    };
    for path in [&n1, &n2] {
        assert!(Folder::open(path).unwrap().trust(&next_file).unwrap());
        assert!(!Folder::open(path).unwrap().trust(&next_file).unwrap());
        all_good("trust");
    }
    let key = n1.join("key.pem");
    let error = Folder::open(&n1).unwrap().trust(&key).unwrap_err();
    assert!(
        matches!(&error, FolderError::NoAuthority { path } if *path == key),
        "{error:?}"
    );
    let error = Folder::open(&n1).unwrap().distrust(&key).unwrap_err();
    assert!(
        matches!(&error, FolderError::NoAuthority { path } if *path == key),
        "{error:?}"
    );
    let error = Folder::open(&n1).unwrap().distrust(&old_file).unwrap_err();
    assert!(matches!(error, FolderError::StillNeeded { .. }), "{error}");
    for path in [&n1, &n2] {
        Folder::open(path).unwrap().renew(&issue(&next, 1)).unwrap();
        all_good("renew");
    }
    for path in [&n1, &n2] {
        assert!(Folder::open(path).unwrap().distrust(&old_file).unwrap());
        assert!(!Folder::open(path).unwrap().distrust(&old_file).unwrap());
        all_good("distrust");
    }
    let credentials = Credentials::load(&n1).unwrap();
    let error = credentials.trust().verify(&chain(&ca.node(2)), now());
    assert!(
        matches!(error, Err(VerifyError::UnknownIssuer { .. })),
        "{error:?}"
    );
    // Not even the last one can be taken away.
    let error = Folder::open(&n1).unwrap().distrust(&next_file).unwrap_err();
    assert!(matches!(error, FolderError::StillNeeded { .. }), "{error}");
}

/// A CA that the folder does not trust puts nothing into it, whatever it brings: one whose turn has not come, whose
/// certificates peers would refuse, and one that is distrusted, whose key others may have.
#[test]
fn a_ca_that_is_not_trusted_renews_nothing() {
    let ca = TestCa::new("c1");
    let (_temporary, path, old) = written(&ca);
    let brought = path.with_file_name("brought");
    let refused = |by: &Ca| {
        let mut folder = Folder::open(&path).unwrap();
        let offered = issue(by, 1);
        let _ = fs::remove_dir_all(&brought);
        offered.write(&brought).unwrap();
        let name = format!("quorate ca c1 g{}", by.generation());
        for error in [
            folder.check_issuer(by).unwrap_err(),
            folder.renew(&offered).unwrap_err(),
            folder.renew_from(&brought).unwrap_err(),
        ] {
            assert!(matches!(error, FolderError::NotTrusted { .. }), "{error}");
            let words = error.to_string();
            assert!(
                words.contains(&name) && words.contains("certs trust"),
                "{words}"
            );
        }
    };
    let (next, next_file) = after(&ca, "next");
    refused(&next);
    assert!(holds(&path, &old));

    let mut folder = Folder::open(&path).unwrap();
    folder.trust(&next_file).unwrap();
    folder.check_issuer(&next).unwrap();
    let renewed = issue(&next, 1);
    let credentials = folder.renew(&renewed).unwrap();
    for peer in [ca.node(2), issue(&next, 2)] {
        assert!(credentials.trust().verify(&chain(&peer), now()).is_ok());
    }
    folder.distrust(&ca.directory).unwrap();
    refused(&ca.ca);
    // Nor does it come along with a certificate that is good.
    let _ = fs::remove_dir_all(&brought);
    issue(&next, 1).write(&brought).unwrap();
    Folder::open(&brought)
        .unwrap()
        .trust(&ca.directory)
        .unwrap();
    let error = folder.renew_from(&brought).unwrap_err();
    assert!(matches!(error, FolderError::NotTrusted { .. }), "{error}");
    assert!(holds(&path, &renewed));
    let roots = Credentials::load(&path).unwrap();
    assert!(roots.trust().roots().eq([next.certificate()]));
}

/// Where all that is trusted has expired, whoever comes is welcome: nobody is left to ask.
#[test]
fn after_the_end_of_its_ca_a_folder_takes_the_next() {
    let ca = TestCa::expired("c1");
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("n1");
    let long_ago = IssueOptions {
        life: Some(HOUR),
        now: SystemTime::now() - 2 * HOUR,
    };
    let expired = ca.ca.issue(&Subject::node(1).unwrap(), &long_ago).unwrap();
    expired.write(&path).unwrap();
    let (next, _) = after(&ca, "next");
    let mut folder = Folder::open(&path).unwrap();
    folder.check_issuer(&next).unwrap();
    let renewed = issue(&next, 1);
    folder.renew(&renewed).unwrap();
    assert!(holds(&path, &renewed));
    // From now on somebody is.
    let (third, _) = after(&ca, "third");
    let error = folder.renew(&issue(&third, 1)).unwrap_err();
    assert!(matches!(error, FolderError::NotTrusted { .. }), "{error}");
}

/// A folder that is of no use as it is can still be told of the next CA, which is to renew it.
#[test]
fn what_is_of_no_use_any_more_trusts_the_next_ca() {
    let ca = TestCa::new("c1");
    let (next, next_file) = after(&ca, "next");
    let long_ago = IssueOptions {
        life: Some(HOUR),
        now: SystemTime::now() - 2 * HOUR,
    };
    let expired = ca.ca.issue(&Subject::node(1).unwrap(), &long_ago).unwrap();
    for is_lost in [false, true] {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("n1");
        match is_lost {
            true => {
                ca.node(1).write(&path).unwrap();
                fs::remove_file(path.join(KEY_FILE)).unwrap();
            }
            false => expired.write(&path).unwrap(),
        }
        let mut folder = Folder::open(&path).unwrap();
        folder.trust(&path.join(CERTIFICATE_FILE)).unwrap_err();
        assert!(folder.trust(&next_file).unwrap());
        let renewed = issue(&next, 1);
        Folder::open(&path).unwrap().renew(&renewed).unwrap();
        assert!(holds(&path, &renewed));
    }
}

/// The CA of another cluster is no CA of this one, and a node's certificate is none at all.
#[test]
fn j8_who_is_no_ca_of_the_cluster_is_not_trusted() {
    let ca = TestCa::new("c1");
    let (_temporary, path, _) = written(&ca);
    let other = TestCa::new("c2");
    let mut folder = Folder::open(&path).unwrap();
    let error = folder.trust(&other.directory.join("ca.crt")).unwrap_err();
    assert!(matches!(error, FolderError::OtherCluster { .. }), "{error}");
    folder.trust(&path.join(CERTIFICATE_FILE)).unwrap_err();
    folder.trust(&path.join(KEY_FILE)).unwrap_err();
    folder.trust(&path.join("absent")).unwrap_err();
    assert_eq!(Credentials::load(&path).unwrap().trust().roots().len(), 1);
}

/// The next CA can be made when the one before is expired and its key lost: its name is all that counts.
#[test]
fn the_next_ca_needs_only_the_name_of_the_one_before() {
    let ca = TestCa::expired("c1");
    fs::remove_file(ca.directory.join("ca.key")).unwrap();
    let (next, _) = after(&ca, "next");
    assert_eq!(next.generation().get(), 2);
    let options = CaOptions::default();
    let beside = ca.directory.with_file_name("n");
    let none = Ca::create_after(&beside, &ca.directory.with_file_name("x"), &options);
    assert!(matches!(none, Err(CaError::File(_))));
    let (_temporary, path, _) = written(&TestCa::new("c1"));
    fs::rename(path.join(CERTIFICATE_FILE), path.join("ca.crt")).unwrap();
    let no_ca = Ca::create_after(&path, &ca.directory.with_file_name("x"), &options);
    assert!(matches!(no_ca, Err(CaError::BadName { .. })));
}

/// A certificate is good until the first of those that vouch for it ends.
#[test]
fn a_chain_ends_with_its_first_certificate_that_does() {
    let half = HOUR / 2;
    let short = TestCa::with(
        "c1",
        &CaOptions {
            life: half,
            ..CaOptions::default()
        },
    );
    for (ca, life) in [(short, half), (TestCa::new("c1"), HOUR)] {
        let trust = Trust::new(cluster("c1"), [ca.ca.certificate().clone()], []).unwrap();
        // Which is good for an hour by itself.
        let verified = trust.verify(&ca.forge(|_| {}), now()).unwrap();
        let left = verified
            .not_after
            .duration_since(SystemTime::now())
            .unwrap();
        let tolerance = Duration::from_secs(60);
        assert!(
            left <= life && left > life - tolerance,
            "{left:?} of {life:?}"
        );
    }
}

/// Two who change a folder at a time: neither undoes what the other has done, be it a revocation, a CA that is trusted
/// or one that is not any more.
#[test]
fn two_who_change_a_folder_undo_nothing() {
    let ca = TestCa::new("c1");
    let (_temporary, path, _) = written(&ca);
    let (second, second_file) = after(&ca, "ca2");
    let (_third, third_file) = after(&ca, "ca3");
    let open = || Folder::open(&path).unwrap();
    let trusted = || fs::read_to_string(path.join(ROOTS_FILE)).unwrap();
    let count = |what: &str| trusted().matches(&format!("BEGIN {what}")).count();

    let (mut one, mut two) = (open(), open());
    let found = inspect(ca.node(2).certificate_pem().as_bytes()).unwrap();
    let revoked = [found[0].serial.parse().unwrap()];
    let revoking = Ca::open(&ca.directory)
        .unwrap()
        .revoke(&revoked, SystemTime::now());
    assert_eq!(revoking.unwrap(), 1);
    assert!(one.trust(&ca.directory.join("ca.crl")).unwrap());
    assert!(two.trust(&second_file).unwrap());
    assert_eq!((count("CERTIFICATE"), count("X509 CRL")), (2, 1));
    assert!(!one.trust(&second_file).unwrap(), "it knows of that");

    let (mut one, mut two) = (open(), open());
    one.renew(&issue(&second, 1)).unwrap();
    assert!(one.distrust(&ca.directory.join("ca.crt")).unwrap());
    assert!(two.trust(&third_file).unwrap());
    assert_eq!((count("CERTIFICATE"), count("X509 CRL")), (2, 0));
    let error = two.renew(&ca.node(1)).unwrap_err();
    assert!(matches!(error, FolderError::NotTrusted { .. }), "{error}");
}

/// Whoever changes a folder waits for who does; whoever reads it does not.
#[test]
fn changes_take_turns() {
    let ca = TestCa::new("c1");
    let (_temporary, path, _) = written(&ca);
    let (_, second) = after(&ca, "ca2");
    let busy = File::open(&path).unwrap();
    busy.lock().unwrap();
    let (done, changes) = channel();
    let identity = Folder::open(&path).unwrap().identity().clone();
    let (asking, asked) = (path.clone(), done.clone());
    thread::spawn(move || asked.send(Request::make(&asking, &identity).is_ok()));
    let trusting = path.clone();
    thread::spawn(move || done.send(Folder::open(&trusting).unwrap().trust(&second).unwrap()));
    Credentials::load(&path).unwrap();
    let early = changes.recv_timeout(Duration::from_millis(200));
    assert_eq!(early, Err(RecvTimeoutError::Timeout));
    assert!(!path.join(NEXT_KEY_FILE).exists());
    drop(busy);
    assert_eq!([(); 2].map(|()| changes.recv().unwrap()), [true; 2]);
}
