//! Certificates for keys that stay where they are: asked for there, signed where the authority is.

use std::io::Write;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_certs::{
    CERTIFICATE_FILE, Ca, ClusterName, Folder, Identity, Name, REQUEST_FILE, Request, RequestError,
    Signed, Subject,
};

use super::{CertsError, Who, lasting, node_number, one, parse_life, tell_made};

/// How [`Sign`](RequestCommand::Sign) is used.
const SIGN_USAGE: &str = "\
quorate certs sign [OPTIONS] --request <FILE> --out <DIR>
           <--node <ID>|--client <NAME>|--reader <NAME>|--admin <NAME>>";

#[derive(Subcommand, Debug)]
pub(crate) enum RequestCommand {
    /// Make a key that stays here, and a request for its certificate, to be signed where the authority is
    Request {
        /// Where the key is to be: a new folder, or one that is in use and is to be renewed
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        whose: Whose,
    },
    /// Sign a request: the key stays where it was made; `certs install` takes the certificate there
    #[command(override_usage = SIGN_USAGE)]
    Sign {
        /// Directory of the authority
        #[arg(long, value_name = "DIR", default_value = "ca")]
        ca: PathBuf,
        /// The request.pem that was brought here
        #[arg(long, value_name = "FILE")]
        request: PathBuf,
        #[command(flatten)]
        who: Who,
        /// Directory for cert.pem and ca.pem, created if missing
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it lasts, e.g. 90d or 12h [default: node 90d, client and reader 30d, admin 24h]
        #[arg(long, value_parser = parse_life)]
        life: Option<Duration>,
    },
}

/// Who asks; known where there is a certificate or a request already.
#[derive(Args, Debug)]
pub(crate) struct Whose {
    /// Name of the cluster, in a new folder
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Id of the node, in a new folder
    #[arg(long, value_name = "ID", value_parser = node_number, conflicts_with_all = ["client", "reader", "admin"])]
    node: Option<NonZeroU64>,
    /// Name of the client, in a new folder
    #[arg(long, value_name = "NAME", conflicts_with_all = ["reader", "admin"])]
    client: Option<Name>,
    /// Name of the reader, in a new folder
    #[arg(long, value_name = "NAME", conflicts_with = "admin")]
    reader: Option<Name>,
    /// Name of the admin, in a new folder
    #[arg(long, value_name = "NAME")]
    admin: Option<Name>,
}

impl Whose {
    /// What the flags say, if they say anything.
    fn identity(self) -> Result<Option<Identity>, CertsError> {
        let subject = one(self.node, self.client, self.reader, self.admin);
        match (self.cluster, subject) {
            (Some(cluster), Some(subject)) => Ok(Some(Identity::new(cluster, subject))),
            (None, None) => Ok(None),
            _ => Err(CertsError::WhoseIsNotWhole),
        }
    }
}

pub(super) fn run(command: RequestCommand, out: &mut dyn Write) -> Result<(), CertsError> {
    match command {
        RequestCommand::Request { dir, whose } => request(&dir, whose.identity()?, out),
        RequestCommand::Sign {
            ca,
            request,
            who,
            out: directory,
            life,
        } => sign(&ca, &request, &who.subject()?, &directory, life, out),
    }
}

fn request(
    directory: &Path,
    said: Option<Identity>,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let has = |file: &str| directory.join(file).exists();
    let known = match has(CERTIFICATE_FILE) || has(REQUEST_FILE) {
        true => Some(Folder::open_or_requested(directory)?.identity().clone()),
        false => None,
    };
    let identity = match (said, known) {
        (Some(expected), Some(found)) if expected != found => {
            return Err(CertsError::OtherIdentity {
                directory: directory.to_owned(),
                expected,
                found,
            });
        }
        (Some(identity), _) | (None, Some(identity)) => identity,
        (None, None) => return Err(CertsError::WhoseIsNotWhole),
    };
    Request::make(directory, &identity)?;
    let at = directory.display();
    writeln!(
        out,
        "Made {at}/{REQUEST_FILE} for {identity}. The key is in {at} and stays there."
    )?;
    writeln!(
        out,
        "Next, where the authority is: quorate certs sign --request {REQUEST_FILE} --{} --out signed",
        identity.subject.to_string().replace('/', " ")
    )?;
    writeln!(
        out,
        "Then here: quorate certs install --from signed --dir {at}"
    )?;
    Ok(())
}

pub(super) fn sign(
    ca: &Path,
    request: &Path,
    subject: &Subject,
    directory: &Path,
    life: Option<Duration>,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let file = request;
    let request = Request::read(file).map_err(|source| match source {
        RequestError::File(error) => error.into(),
        source => CertsError::RequestFile {
            file: file.to_owned(),
            source,
        },
    })?;
    let ca = Ca::open(ca)?;
    Signed::check_new(directory)?;
    let signed = ca.sign(&request, subject, &lasting(life))?;
    signed.write(directory)?;
    tell_made("Signed", &signed, directory, out)?;
    let at = directory.display();
    writeln!(
        out,
        "Nothing of it is a secret. Next, where its key is: quorate certs install --from {at} --dir DIR"
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, io};

    use quorate_certs::Credentials;

    use super::super::change::{self, ChangeCommand};
    use super::super::init;
    use super::*;
    use crate::cli::exit;

    fn nobody() -> Whose {
        Whose {
            cluster: None,
            node: None,
            client: None,
            reader: None,
            admin: None,
        }
    }

    /// From a request to a certificate, and to the next one, by the commands alone; each mistake has its code.
    #[test]
    fn a_request_is_signed_and_installed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let sink = &mut io::sink();
        let cluster = ClusterName::new("orders").unwrap();
        init(&cluster, &path("ca"), None, sink).unwrap();
        let (n1, node) = (path("n1"), Subject::node(1).unwrap());
        let whole = |id| Whose {
            cluster: Some(cluster.clone()),
            node: NonZeroU64::new(id),
            ..nobody()
        };
        let ask = |whose: Whose| request(&n1, whose.identity()?, &mut io::sink());
        let usage = ask(nobody()).unwrap_err();
        assert_eq!(usage.exit_code(), exit::USAGE);
        assert!(usage.to_string().contains("--cluster"), "{usage}");
        let half = Whose {
            cluster: None,
            ..whole(1)
        };
        assert_eq!(ask(half).unwrap_err().exit_code(), exit::USAGE);
        ask(whole(1)).unwrap();
        ask(nobody()).unwrap();
        for round in ["first", "second"] {
            let signed = path(round);
            let file = n1.join(REQUEST_FILE);
            let mut said = Vec::new();
            sign(&path("ca"), &file, &node, &signed, None, &mut said).unwrap();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains("Signed spiffe://orders/node/1"), "{said}");
            let install = ChangeCommand::Install {
                from: signed,
                dir: n1.clone(),
            };
            change::run(install, sink).unwrap();
            assert!(Credentials::load(&n1).is_ok() && !file.exists());
            ask(nobody()).unwrap();
        }
        let nothing = ChangeCommand::Install {
            from: path("first"),
            dir: path("nothing"),
        };
        let nothing = change::run(nothing, sink).unwrap_err();
        assert_eq!(nothing.exit_code(), exit::NO_INPUT);
        assert!(nothing.to_string().contains("certs request"), "{nothing}");
        let other = ask(whole(2)).unwrap_err();
        assert_eq!(other.exit_code(), exit::DATA);
        assert!(other.to_string().contains("node/1"), "{other}");

        let file = n1.join(REQUEST_FILE);
        let mut refused = |file: &Path, subject: &Subject| {
            let signed = sign(&path("ca"), file, subject, &path("third"), None, sink);
            assert!(!path("third").exists());
            signed.unwrap_err()
        };
        let somebody = refused(&file, &Subject::node(2).unwrap());
        assert_eq!(somebody.exit_code(), exit::DATA);
        assert!(somebody.to_string().contains("not for"), "{somebody}");
        let absent = refused(&path("absent"), &node);
        assert_eq!(absent.exit_code(), exit::NO_INPUT);
        let absent = absent.to_string();
        assert_eq!(absent.matches("absent").count(), 1, "{absent}");
        fs::write(&file, "nonsense").unwrap();
        let nonsense = refused(&file, &node);
        assert_eq!(nonsense.exit_code(), exit::DATA);
        assert!(nonsense.to_string().contains("certs request"), "{nonsense}");
    }
}
