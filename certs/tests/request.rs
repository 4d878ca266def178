//! Keys that stay where they were made, and certificates for them from elsewhere.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{TestCa, cluster, now};
use quorate_certs::{
    CERTIFICATE_FILE, CaError, Credentials, CredentialsError, Folder, FolderError, Identity,
    IssueOptions, KEY_FILE, NEXT_KEY_FILE, REQUEST_FILE, ROOTS_FILE, Request, RequestError, Signed,
    Subject, Trust, inspect,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

fn node(id: u64) -> Identity {
    Identity::new(cluster("c1"), Subject::node(id).unwrap())
}

fn sign(ca: &TestCa, request: &Request, id: u64) -> Signed {
    let subject = Subject::node(id).unwrap();
    ca.ca
        .sign(request, &subject, &IssueOptions::default())
        .unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// From nothing to a certificate and on to its renewal; the key is in no file that leaves the folder.
#[test]
fn a_key_never_leaves_its_folder() {
    let ca = TestCa::new("c1");
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("n1");
    for round in 0..2 {
        let made = Request::make(&path, &node(1)).unwrap();
        assert_eq!(made.identity(), Some(&node(1)));
        assert_eq!(mode(&path.join(NEXT_KEY_FILE)), 0o600);
        let key = fs::read_to_string(path.join(NEXT_KEY_FILE)).unwrap();
        if round > 0 {
            // What is in use stays so until then.
            assert_eq!(Credentials::load(&path).unwrap().identity(), &node(1));
        }

        let brought = temporary.path().join(format!("brought{round}"));
        fs::create_dir(&brought).unwrap();
        fs::copy(path.join(REQUEST_FILE), brought.join(REQUEST_FILE)).unwrap();
        let request = Request::read(&brought.join(REQUEST_FILE)).unwrap();
        sign(&ca, &request, 1).write(&brought).unwrap();
        assert_eq!(
            names(&brought),
            [ROOTS_FILE, CERTIFICATE_FILE, REQUEST_FILE]
        );

        let mut folder = Folder::open_or_requested(&path).unwrap();
        let installed = folder.renew_from(&brought).unwrap();
        assert_eq!(installed.identity(), &node(1));
        assert_eq!(fs::read_to_string(path.join(KEY_FILE)).unwrap(), key);
        assert_eq!(names(&path), [ROOTS_FILE, CERTIFICATE_FILE, KEY_FILE]);
        Credentials::load(&path).unwrap();
    }
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join(KEY_FILE)), 0o600);
}

/// Asked twice, it is the same key: what was signed for the first request is good for the second.
#[test]
fn a_request_is_not_in_vain() {
    let ca = TestCa::new("c1");
    let temporary = tempfile::tempdir().unwrap();
    let (path, brought) = (temporary.path().join("n1"), temporary.path().join("b"));
    let first = Request::make(&path, &node(1)).unwrap();
    Request::make(&path, &node(1)).unwrap();
    sign(&ca, &first, 1).write(&brought).unwrap();
    let mut folder = Folder::open_or_requested(&path).unwrap();
    folder.renew_from(&brought).unwrap();
    // The next one is for another key.
    Request::make(&path, &node(1)).unwrap();
    let next = fs::read(path.join(NEXT_KEY_FILE)).unwrap();
    assert_ne!(next, fs::read(path.join(KEY_FILE)).unwrap());
}

/// Wherever the first installation stops, it can be repeated, and from the certificate on the folder is good.
#[test]
fn the_first_certificate_is_whole_after_every_step() {
    let ca = TestCa::new("c1");
    for stops_at in [ROOTS_FILE, NEXT_KEY_FILE, CERTIFICATE_FILE] {
        let temporary = tempfile::tempdir().unwrap();
        let (path, brought) = (temporary.path().join("n1"), temporary.path().join("b"));
        let request = Request::make(&path, &node(1)).unwrap();
        sign(&ca, &request, 1).write(&brought).unwrap();
        let install = || {
            let mut folder = Folder::open_or_requested(&path)?;
            folder.renew_from(&brought)
        };
        let obstacle = path.join(format!("{stops_at}.new"));
        fs::create_dir(&obstacle).unwrap();
        install().unwrap_err();
        assert!(Credentials::load(&path).is_err(), "stopped at {stops_at}");
        fs::remove_dir(&obstacle).unwrap();
        install().unwrap();
        Credentials::load(&path).unwrap();

        // A crash before the key got its name.
        fs::rename(path.join(KEY_FILE), path.join(NEXT_KEY_FILE)).unwrap();
        Credentials::load(&path).unwrap();
        install().unwrap();
        assert_eq!(names(&path), [ROOTS_FILE, CERTIFICATE_FILE, KEY_FILE]);
    }
}

/// Of a request, the key is taken and nothing else, whatever it asks for.
#[test]
fn a_request_decides_nothing() {
    let ca = TestCa::new("c1");
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "root");
    let dns = "evil.example".try_into().unwrap();
    params.subject_alt_names = vec![SanType::DnsName(dns)];
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let request = Request::from_pem(pem.as_bytes()).unwrap();
    assert_eq!(request.identity(), None);
    let signed = sign(&ca, &request, 1);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(signed.certificate_pem().as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let roots = vec![ca.ca.certificate().clone()];
    let trust = Trust::new(cluster("c1"), roots, []).unwrap();
    assert_eq!(trust.verify(&chain, now()).unwrap().identity, node(1));
    let found = inspect(signed.certificate_pem().as_bytes()).unwrap();
    assert!(!found[0].is_ca, "{}", found[0]);
    let said = found[0].to_string();
    assert!(!said.contains("evil") && !said.contains("root"), "{said}");
}

/// A request is for who it names, and signed by the key that it is for, which is for Ed25519.
#[test]
fn wrong_requests_are_refused() {
    let ca = TestCa::new("c1");
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("n1");
    let request = Request::make(&path, &node(1)).unwrap();
    let options = IssueOptions::default();
    for subject in [
        Subject::node(2).unwrap(),
        Subject::admin("ops").unwrap(),
        Subject::client("1").unwrap(),
        Subject::reader("1").unwrap(),
    ] {
        let error = ca.ca.sign(&request, &subject, &options).unwrap_err();
        assert!(matches!(error, CaError::OtherIdentity { .. }), "{error}");
    }
    let other = TestCa::new("c2");
    let subject = Subject::node(1).unwrap();
    let error = other.ca.sign(&request, &subject, &options).unwrap_err();
    assert!(matches!(error, CaError::OtherIdentity { .. }), "{error}");

    let refused = |pem: &[u8]| Request::from_pem(pem).unwrap_err();
    for garbage in [
        &b""[..],
        b"\xff",
        b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
        ca.node(1).certificate_pem().as_bytes(),
        ca.node(1).key_pem().as_bytes(),
    ] {
        let error = refused(garbage);
        assert!(matches!(error, RequestError::Unreadable), "{error}");
    }
    let written = |params: &CertificateParams, key: &KeyPair| {
        params.serialize_request(key).unwrap().pem().unwrap()
    };
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let error = refused(written(&CertificateParams::default(), &p256).as_bytes());
    assert!(matches!(error, RequestError::NotEd25519), "{error}");
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    for uris in [
        &["https://example.org"][..],
        &["spiffe://c1/node/0"],
        &["spiffe://c1/node/1", "spiffe://c1/admin/ops"],
    ] {
        let mut params = CertificateParams::default();
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        let error = refused(written(&params, &key).as_bytes());
        assert!(matches!(error, RequestError::NoIdentity), "{error}");
    }

    // No changed byte makes another request of it.
    let good = fs::read(path.join(REQUEST_FILE)).unwrap();
    let der = pem::parse(&good).unwrap();
    for at in 0..der.contents().len() {
        let mut changed = der.contents().to_vec();
        changed[at] ^= 1;
        let changed = pem::encode(&pem::Pem::new(der.tag(), changed));
        match Request::from_pem(changed.as_bytes()) {
            Err(_) => {}
            Ok(read) => assert_eq!(read, request, "byte {at}"),
        }
    }
}

/// Another tool's key has its name before it has a certificate, and no public half beside it (RFC 8410 section 7). Its
/// request says whose folder it is.
#[test]
fn a_request_of_another_tool_is_as_good() {
    let ca = TestCa::new("c1");
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("n1");
    fs::create_dir(&path).unwrap();
    let refused = || Folder::open_or_requested(&path).unwrap_err();
    let error = refused();
    assert!(
        matches!(error, FolderError::NothingRequested { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("certs request"), "{error}");

    let head = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    let key = pem::Pem::new("PRIVATE KEY", [&head[..], &[7; 32]].concat());
    let key = pem::encode(&key);
    let write_key = |mode| {
        fs::write(path.join(KEY_FILE), &key).unwrap();
        fs::set_permissions(path.join(KEY_FILE), fs::Permissions::from_mode(mode)).unwrap();
    };
    let requested = |uris: &[&str]| {
        let mut params = CertificateParams::default();
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        let request = params.serialize_request(&KeyPair::from_pem(&key).unwrap());
        fs::write(path.join(REQUEST_FILE), request.unwrap().pem().unwrap()).unwrap();
        Request::read(&path.join(REQUEST_FILE)).unwrap()
    };
    write_key(0o600);
    requested(&[]);
    let error = refused();
    let nobody = FolderError::Request(RequestError::NoIdentity);
    assert_eq!(error.to_string(), nobody.to_string());

    let request = requested(&["spiffe://c1/node/1"]);
    let install = |brought: &str| {
        let brought = temporary.path().join(brought);
        sign(&ca, &request, 1).write(&brought).unwrap();
        Folder::open_or_requested(&path)?.renew_from(&brought)
    };
    write_key(0o644);
    let error = install("exposed").unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    write_key(0o600);
    // The first, and the next one of the same key.
    for round in ["first", "second"] {
        assert_eq!(install(round).unwrap().identity(), &node(1));
        assert_eq!(fs::read_to_string(path.join(KEY_FILE)).unwrap(), key);
        assert_eq!(names(&path), [ROOTS_FILE, CERTIFICATE_FILE, KEY_FILE]);
        Credentials::load(&path).unwrap();
    }
}

/// A certificate finds its own key only, and nobody else's folder.
#[test]
fn a_certificate_without_its_key_is_refused() {
    let ca = TestCa::new("c1");
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    let (one, two, brought) = (path("n1"), path("n2"), path("b"));
    let request = Request::make(&one, &node(1)).unwrap();
    let again = Request::make(&two, &node(1)).unwrap();
    sign(&ca, &request, 1).write(&brought).unwrap();
    let error = |path: &Path| {
        let mut folder = Folder::open_or_requested(path).unwrap();
        let error = folder.renew_from(&brought).unwrap_err();
        assert!(!path.join(CERTIFICATE_FILE).exists());
        error
    };
    let refused = error(&two);
    let mismatch = FolderError::Credentials(CredentialsError::KeyMismatch);
    assert_eq!(refused.to_string(), mismatch.to_string());
    drop(again);
    // Somebody else's.
    let three = path("n3");
    Request::make(&three, &node(3)).unwrap();
    fs::remove_file(three.join(NEXT_KEY_FILE)).unwrap();
    fs::copy(one.join(NEXT_KEY_FILE), three.join(NEXT_KEY_FILE)).unwrap();
    let refused = error(&three);
    assert!(
        matches!(refused, FolderError::OtherIdentity { .. }),
        "{refused}"
    );
    // A folder that never asked.
    let issued = path("n4");
    ca.node(1).write(&issued).unwrap();
    let refused = Folder::open_or_requested(&issued)
        .and_then(|mut folder| folder.renew_from(&brought))
        .unwrap_err();
    assert!(matches!(refused, FolderError::NoKey { .. }), "{refused}");
    // A key that others may have read.
    let exposed = fs::Permissions::from_mode(0o644);
    fs::set_permissions(one.join(NEXT_KEY_FILE), exposed).unwrap();
    let refused = error(&one);
    assert!(refused.to_string().contains("chmod 600"), "{refused}");
}
