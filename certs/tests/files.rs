//! Keys on disk: private from the first instant, never overwritten, checked before use.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use common::{HOUR, TestCa, cluster};
use quorate_certs::{
    Ca, CaError, CaOptions, Credentials, CredentialsError, FILE_BYTES_MAX, FileError, IssueOptions,
    Issued, Subject, VerifyError,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A credentials directory of node 1 of c1, to be damaged.
fn written() -> (tempfile::TempDir, TestCa, Issued) {
    let directory = tempfile::tempdir().unwrap();
    let ca = TestCa::new("c1");
    let issued = ca.node(1);
    issued.write(directory.path()).unwrap();
    (directory, ca, issued)
}

/// The key of a CA is not put where a node runs: whoever got that machine would have the cluster.
#[test]
fn a_ca_is_not_kept_where_somebody_runs() {
    let (directory, _, _) = written();
    let refused = Ca::create(directory.path(), &cluster("c1"), &CaOptions::default());
    assert!(
        matches!(&refused, Err(CaError::HoldersFolder { path }) if path == directory.path()),
        "{refused:?}"
    );
    assert!(!directory.path().join("ca.key").exists());
    assert!(!directory.path().join("ca.crt").exists());
}

const CHILD_DIRECTORY: &str = "QUORATE_CERTS_TEST_DIRECTORY";

/// With the most careless umask there is, keys and directories are still their owner's only. A umask
/// is a process's, so this test runs itself again under a shell that sets it.
#[test]
fn modes_do_not_depend_on_the_umask() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        let directory = Path::new(&directory);
        fs::write(directory.join("control"), "").unwrap();
        let ca = Ca::create(
            &directory.join("deep/ca"),
            &cluster("c1"),
            &CaOptions::default(),
        )
        .unwrap();
        ca.issue(&Subject::node(1).unwrap(), &IssueOptions::default())
            .unwrap()
            .write(&directory.join("n1"))
            .unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new("sh")
        .args([
            "-c",
            "umask 000 && exec \"$0\" --exact modes_do_not_depend_on_the_umask",
        ])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIRECTORY, directory.path())
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    let mode = |path: &str| mode(&directory.path().join(path));
    assert_eq!(mode("control"), 0o666, "the umask was not set");
    assert_eq!(mode("deep"), 0o700);
    assert_eq!(mode("deep/ca"), 0o700);
    assert_eq!(mode("deep/ca/ca.key"), 0o600);
    assert_eq!(mode("deep/ca/ca.crt"), 0o644);
    assert_eq!(mode("n1"), 0o700);
    assert_eq!(mode("n1/key.pem"), 0o600);
    assert_eq!(mode("n1/cert.pem"), 0o644);
    assert_eq!(mode("n1/ca.pem"), 0o644);
}

/// A CA and credentials survive the way through files.
#[test]
fn files_round_trip() {
    let (directory, ca, issued) = written();
    let credentials = Credentials::load(directory.path()).unwrap();
    assert_eq!(credentials.identity(), issued.identity());
    assert_eq!(credentials.not_after(), issued.not_after());
    let opened = Ca::open(&ca.directory).unwrap();
    assert_eq!(opened.cluster(), ca.ca.cluster());
    assert_eq!(opened.generation(), ca.ca.generation());
    assert_eq!(opened.not_after(), ca.ca.not_after());
    let later = opened
        .issue(&Subject::node(2).unwrap(), &IssueOptions::default())
        .unwrap();
    let chain = common::chain(&later);
    let verified = credentials.trust().verify(&chain, common::now()).unwrap();
    assert_eq!(verified.identity, *later.identity());
}

/// Nothing is ever overwritten, and a refusal leaves nothing behind.
#[test]
fn existing_files_are_kept() {
    let (directory, ca, issued) = written();
    for name in ["key.pem", "cert.pem", "ca.pem"] {
        let fresh = tempfile::tempdir().unwrap();
        fs::write(fresh.path().join(name), "precious").unwrap();
        let error = issued.write(fresh.path()).unwrap_err();
        assert!(matches!(&error, FileError::Exists { path } if path.ends_with(name)));
        assert!(error.to_string().contains(name));
        assert_eq!(fs::read_dir(fresh.path()).unwrap().count(), 1);
        assert_eq!(fs::read(fresh.path().join(name)).unwrap(), b"precious");
    }
    let before = fs::read(ca.directory.join("ca.key")).unwrap();
    let error = Ca::create(&ca.directory, &cluster("c1"), &CaOptions::default()).unwrap_err();
    assert!(matches!(error, CaError::File(FileError::Exists { .. })));
    assert_eq!(fs::read(ca.directory.join("ca.key")).unwrap(), before);
    // A link that points nowhere is something, too: a key must not appear at its other end.
    let fresh = tempfile::tempdir().unwrap();
    let elsewhere = directory.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, fresh.path().join("key.pem")).unwrap();
    assert!(issued.write(fresh.path()).is_err());
    assert!(!elsewhere.exists());
}

/// A key that others may read is not used, and the message has the command that mends it.
#[test]
fn j23_exposed_keys_are_refused() {
    let (directory, ca, _) = written();
    let key = directory.path().join("key.pem");
    for exposed in [0o640, 0o604, 0o644, 0o660, 0o610, 0o601] {
        chmod(&key, exposed);
        let error = Credentials::load(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("chmod 600 {}", key.display())),
            "{error}"
        );
    }
    chmod(&key, 0o400);
    assert!(Credentials::load(directory.path()).is_ok());
    chmod(&ca.directory.join("ca.key"), 0o640);
    let error = Ca::open(&ca.directory).unwrap_err();
    assert!(
        matches!(error, CaError::File(FileError::Exposed { .. })),
        "{error}"
    );
}

/// Missing files are named, with the command that makes one of that name, if there is one.
#[test]
fn missing_files_are_named() {
    let words = |name: &str| {
        let path = Path::new("there").join(name);
        FileError::Missing { path }.to_string()
    };
    let none = words("other");
    assert!(none.ends_with("there/other does not exist"), "{none}");
    for (name, maker) in [
        ("ca.key", "certs init"),
        ("ca.crt", "certs init"),
        ("key.pem", "certs issue"),
        ("cert.pem", "certs sign"),
        ("ca.pem", "certs issue"),
        ("request.pem", "certs request"),
    ] {
        let words = words(name);
        assert!(words.contains(maker), "{words}");
        assert_eq!(words.contains("init"), maker.contains("init"), "{words}");
    }
    for name in ["key.pem", "cert.pem", "ca.pem"] {
        let (directory, ..) = written();
        fs::remove_file(directory.path().join(name)).unwrap();
        let error = Credentials::load(directory.path()).unwrap_err();
        let CredentialsError::File(FileError::Missing { path }) = error else {
            panic!("{error}")
        };
        assert!(path.ends_with(name));
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        Ca::open(empty.path()).unwrap_err(),
        CaError::File(FileError::Missing { .. })
    ));
}

/// A key and a certificate from two issues do not go together, nor a CA's key with another's name.
#[test]
fn j23_mismatched_keys_are_refused() {
    let (directory, ca, _) = written();
    fs::write(directory.path().join("key.pem"), ca.node(1).key_pem()).unwrap();
    let error = Credentials::load(directory.path()).unwrap_err();
    assert!(matches!(error, CredentialsError::KeyMismatch), "{error}");
    let other = TestCa::new("c1");
    fs::copy(other.directory.join("ca.key"), ca.directory.join("ca.key")).unwrap();
    let error = Ca::open(&ca.directory).unwrap_err();
    assert!(matches!(error, CaError::KeyMismatch), "{error}");
}

/// Of two keys in one file nobody knows which one is meant: refused, also when the first one fits.
#[test]
fn j23_a_file_with_two_keys_is_refused() {
    let (directory, ca, issued) = written();
    let (own, other) = (issued.key_pem().to_owned(), ca.node(1).key_pem().to_owned());
    for keys in [[&*own, &*other], [&*other, &*own], [&*own, &*own]] {
        fs::write(directory.path().join("key.pem"), keys.concat()).unwrap();
        let error = Credentials::load(directory.path()).unwrap_err();
        assert!(matches!(error, CredentialsError::SeveralKeys), "{error}");
    }
    fs::write(directory.path().join("key.pem"), &own).unwrap();
    assert!(Credentials::load(directory.path()).is_ok(), "the control");
}

/// Credentials whose roots did not issue them would be refused by every peer: refused at once.
#[test]
fn foreign_roots_are_refused() {
    let (directory, ..) = written();
    for foreign in [TestCa::new("c2"), TestCa::new("c1")] {
        let roots = directory.path().join("ca.pem");
        fs::write(roots, foreign.ca.certificate_pem()).unwrap();
        let error = Credentials::load(directory.path()).unwrap_err();
        assert!(
            matches!(
                error,
                CredentialsError::Refused(
                    VerifyError::UnknownIssuer { .. } | VerifyError::BadSignature { .. }
                )
            ),
            "{error}"
        );
    }
}

/// Expired credentials say since when and what to do; in memory they can be held, for tests.
#[test]
fn expired_credentials_are_refused() {
    let ca = TestCa::new("c1");
    let options = IssueOptions {
        life: Some(HOUR),
        now: SystemTime::now() - 3 * HOUR,
    };
    let issued = ca.ca.issue(&Subject::node(1).unwrap(), &options).unwrap();
    assert!(issued.credentials().is_ok());
    let directory = tempfile::tempdir().unwrap();
    issued.write(directory.path()).unwrap();
    let error = Credentials::load(directory.path()).unwrap_err();
    assert!(
        matches!(
            error,
            CredentialsError::Refused(VerifyError::Expired { .. })
        ),
        "{error}"
    );
    assert!(error.to_string().contains("quorate certs issue"));
}

/// A CA that is expired, is no CA, or has a foreign name is not opened.
#[test]
fn unfit_cas_are_not_opened() {
    let past = CaOptions {
        life: HOUR,
        now: SystemTime::now() - 3 * HOUR,
        ..CaOptions::default()
    };
    let expired = TestCa::with("c1", &past);
    let error = Ca::open(&expired.directory).unwrap_err();
    assert!(matches!(error, CaError::Expired { .. }), "{error}");

    let future = CaOptions {
        now: SystemTime::now() + HOUR,
        ..CaOptions::default()
    };
    let error = Ca::open(&TestCa::with("c1", &future).directory).unwrap_err();
    assert!(matches!(error, CaError::NotYetValid { .. }), "{error}");

    let ca = TestCa::new("c1");
    let leaf = ca.node(1);
    fs::write(ca.directory.join("ca.key"), leaf.key_pem()).unwrap();
    fs::write(ca.directory.join("ca.crt"), leaf.certificate_pem()).unwrap();
    let error = Ca::open(&ca.directory).unwrap_err();
    assert!(matches!(error, CaError::NotACa { .. }), "{error}");

    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(ca.directory.join("ca.key"), key.serialize_pem()).unwrap();
    fs::write(ca.directory.join("ca.crt"), certificate.pem()).unwrap();
    let error = Ca::open(&ca.directory).unwrap_err();
    assert!(matches!(error, CaError::BadName { .. }), "{error}");
}

/// Garbage, the wrong kind of PEM, too much, and things that are not files: errors, never a panic.
#[test]
fn garbage_is_refused() {
    let (_, ca, issued) = written();
    let huge = vec![b'A'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
    let many = issued.certificate_pem().repeat(5);
    let broken = issued.certificate_pem().replace('A', "?");
    let empty_item = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    let garbage: [&[u8]; 9] = [
        b"",
        b"\0\xff\xfe",
        b"-----BEGIN CERTIFICATE-----",
        empty_item.as_bytes(),
        broken.as_bytes(),
        &huge,
        // Valid PEM, but nothing that belongs into any of the files below.
        b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n",
        b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
        many.as_bytes(),
    ];
    for bytes in garbage {
        for name in ["key.pem", "cert.pem", "ca.pem"] {
            let (directory, ..) = written();
            fs::write(directory.path().join(name), bytes).unwrap();
            let error = Credentials::load(directory.path()).unwrap_err();
            assert!(!error.to_string().is_empty());
        }
        for name in ["ca.key", "ca.crt"] {
            let path = ca.directory.join(name);
            let good = fs::read(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            // `ca.crt` may hold more than one certificate's text; then the first counts, and it is
            // a leaf here.
            assert!(Ca::open(&ca.directory).is_err());
            fs::write(&path, good).unwrap();
        }
    }
    let (directory, ..) = written();
    let certificate = directory.path().join("cert.pem");
    fs::write(&certificate, &huge).unwrap();
    assert!(matches!(
        Credentials::load(directory.path()).unwrap_err(),
        CredentialsError::File(FileError::TooLarge { .. })
    ));
    fs::remove_file(&certificate).unwrap();
    fs::create_dir(&certificate).unwrap();
    assert!(matches!(
        Credentials::load(directory.path()).unwrap_err(),
        CredentialsError::File(FileError::NotAFile { .. })
    ));
    assert!(Ca::open(&ca.directory).is_ok());
}
