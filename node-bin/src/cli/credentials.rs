//! Loading a key and certificate, with the failure every command reports alike.

use std::path::Path;

use quorate_certs::{Credentials, CredentialsError, FileError};

use super::{Failure, exit};

/// Reads `key.pem`, `cert.pem` and `ca.pem` from `folder` and checks them as a peer would.
pub(crate) fn load(folder: &Path) -> Result<Credentials, Failure> {
    Credentials::load(folder).map_err(|error| {
        let message = match &error {
            // It names its file.
            CredentialsError::File(error) => error.to_string(),
            error => format!(
                "cannot use the certificate in {}: {error}",
                folder.display()
            ),
        };
        Failure::new(code(&error), message)
    })
}

fn code(error: &CredentialsError) -> u8 {
    match error {
        CredentialsError::File(error) => file_code(error),
        _ => exit::DATA,
    }
}

/// What trouble with a file of a key or certificate means to a script, whichever command has it.
pub(crate) fn file_code(error: &FileError) -> u8 {
    match error {
        FileError::Exposed { .. } => exit::NOT_ALLOWED,
        FileError::Missing { .. } | FileError::Io { action: "read", .. } => exit::NO_INPUT,
        FileError::Exists { .. } | FileError::Io { .. } => exit::CANNOT_CREATE,
        // It is there and can be read, but is nothing of this kind.
        _ => exit::DATA,
    }
}

#[cfg(test)]
mod tests {
    use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};

    use super::*;

    fn issued() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::generate(&ClusterName::new("c1").unwrap(), &CaOptions::default()).unwrap();
        let issued = ca
            .issue(&Subject::node(1).unwrap(), &IssueOptions::default())
            .unwrap();
        let path = folder.path().join("n1");
        issued.write(&path).unwrap();
        (folder, path)
    }

    /// Good credentials load; a missing folder, an exposed key and a damaged file each have their code.
    #[test]
    fn each_cause_has_its_code() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, path) = issued();
        assert!(load(&path).is_ok());

        let missing = load(&path.join("nowhere")).unwrap_err();
        assert_eq!(missing.code, exit::NO_INPUT);
        assert_eq!(missing.message.matches("nowhere").count(), 1, "{missing}");

        let key = path.join("key.pem");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let exposed = load(&path).unwrap_err();
        assert_eq!(exposed.code, exit::NOT_ALLOWED);
        assert!(exposed.message.contains("chmod 600"), "{exposed}");

        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(path.join("cert.pem"), "not PEM").unwrap();
        assert_eq!(load(&path).unwrap_err().code, exit::DATA);
    }
}
