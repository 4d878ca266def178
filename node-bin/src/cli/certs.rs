//! `quorate certs`: make a CA, issue identities, look at certificates, check them as a peer would.

mod change;
mod request;
mod revoke;

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use quorate_certs::{
    CERTIFICATE_FILE, Ca, CaError, CaOptions, CertificateInfo, ClusterName, Credentials,
    CredentialsError, FileError, Folder, FolderError, Identity, InspectError, IssueOptions, Issued,
    Name, ROOTS_FILE, RequestError, Signed, Subject, VerifyError, inspect_file,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::change::ChangeCommand;
use self::request::RequestCommand;
use self::revoke::RevokeCommand;
use super::credentials::file_code;
use super::{Failure, exit};

/// For the help of `quorate certs`: the verdicts, for monitoring.
pub(crate) const HELP: &str = "\
Exit codes: 0 good | 3 expired | 65 not valid | 66 file missing or unreadable
  others as in `quorate --help`";

/// The certificate in a folder made by `quorate certs init`.
const AUTHORITY_FILE: &str = "ca.crt";

/// How [`Issue`](CertsCommand::Issue) is used, on two lines: what clap would write is too wide for a screen. So are those of
/// other commands that take [`Who`].
const ISSUE_USAGE: &str = "\
quorate certs issue [OPTIONS] --out <DIR>
           <--node <ID>|--client <NAME>|--reader <NAME>|--admin <NAME>>";

#[derive(Subcommand, Debug)]
#[command(after_help = HELP)]
pub(crate) enum CertsCommand {
    /// Make the certificate authority of a new cluster, or the next one of a cluster
    Init {
        #[command(flatten)]
        of: Of,
        /// Directory for ca.key and ca.crt, created if missing
        #[arg(long, value_name = "DIR", default_value = "ca")]
        out: PathBuf,
        /// How long the authority lasts, e.g. 10y or 365d [default: 10y]
        #[arg(long, value_parser = parse_life)]
        life: Option<Duration>,
    },
    /// Issue a key and certificate for one node, client, reader or admin
    #[command(override_usage = ISSUE_USAGE)]
    Issue {
        /// Directory of the authority
        #[arg(long, value_name = "DIR", default_value = "ca")]
        ca: PathBuf,
        #[command(flatten)]
        who: Who,
        /// Directory for key.pem, cert.pem and ca.pem, created if missing
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it lasts, e.g. 90d or 12h [default: node 90d, client and reader 30d, admin 24h]
        #[arg(long, value_parser = parse_life)]
        life: Option<Duration>,
        /// Another authority to trust, while one follows the other; may be repeated
        #[arg(long, value_name = "CA")]
        also_trust: Vec<PathBuf>,
    },
    #[command(flatten)]
    Request(RequestCommand),
    #[command(flatten)]
    Change(ChangeCommand),
    #[command(flatten)]
    Revoke(RevokeCommand),
    /// Show what certificates say, without verifying them
    Inspect {
        /// PEM files, or folders made by `certs issue` or `certs init`
        #[arg(required = true, value_name = "PATH")]
        files: Vec<PathBuf>,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Check a credentials directory exactly as a peer would
    Verify {
        /// Directory with key.pem, cert.pem and ca.pem
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The identity it must have, e.g. spiffe://orders/node/1
        #[arg(long = "as", value_name = "URI")]
        expected: Option<Identity>,
    },
}

/// Whose authority it is: exactly one.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Of {
    /// Name of a new cluster: a-z, 0-9 and '-'
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Directory of the authority that this one is to follow
    #[arg(long, value_name = "DIR")]
    after: Option<PathBuf>,
}

/// Whom to issue for: exactly one.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Who {
    /// Id of the node, from 1
    #[arg(long, value_name = "ID", value_parser = node_number)]
    node: Option<NonZeroU64>,
    /// Name of the client
    #[arg(long, value_name = "NAME")]
    client: Option<Name>,
    /// Name of the reader, who may change nothing
    #[arg(long, value_name = "NAME")]
    reader: Option<Name>,
    /// Name of the admin, who may change the cluster itself
    #[arg(long, value_name = "NAME")]
    admin: Option<Name>,
}

impl Who {
    fn subject(self) -> Result<Subject, CertsError> {
        one(self.node, self.client, self.reader, self.admin).ok_or(CertsError::WhoIsNotOne)
    }
}

/// Whoever is named, if that is exactly one.
fn one(
    node: Option<NonZeroU64>,
    client: Option<Name>,
    reader: Option<Name>,
    admin: Option<Name>,
) -> Option<Subject> {
    let said = [
        node.map(Subject::Node),
        client.map(Subject::Client),
        reader.map(Subject::Reader),
        admin.map(Subject::Admin),
    ];
    let mut named = said.into_iter().flatten();
    named.next().filter(|_| named.next().is_none())
}

/// The number of a node, as a certificate has it.
fn node_number(text: &str) -> Result<NonZeroU64, String> {
    let number: u64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a node's number"))?;
    NonZeroU64::new(number).ok_or_else(|| "node numbers begin at 1".to_owned())
}

/// Runs one command; what it says goes to `out`.
pub(crate) fn run(command: CertsCommand, out: &mut dyn Write) -> Result<(), CertsError> {
    match command {
        CertsCommand::Init {
            of,
            out: directory,
            life,
        } => match (of.cluster, of.after) {
            (Some(cluster), None) => init(&cluster, &directory, life, out),
            (None, Some(predecessor)) => follow(&predecessor, &directory, life, out),
            _ => Err(CertsError::OfIsNotOne),
        },
        CertsCommand::Issue {
            ca,
            who,
            out: directory,
            life,
            also_trust,
        } => issue(&ca, &who.subject()?, &directory, life, &also_trust, out),
        CertsCommand::Request(request) => request::run(request, out),
        CertsCommand::Change(change) => change::run(change, out),
        CertsCommand::Revoke(revoke) => revoke::run(revoke, out),
        CertsCommand::Inspect { files, json } => inspect(&files, json, out),
        CertsCommand::Verify { dir, expected } => verify(&dir, expected, out),
    }
}

fn init(
    cluster: &ClusterName,
    directory: &Path,
    life: Option<Duration>,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let ca = Ca::create(directory, cluster, &options(life))?;
    let at = directory.display();
    let until = rfc3339(ca.not_after());
    writeln!(
        out,
        "Made the CA of cluster {cluster} in {at}, valid until {until}."
    )?;
    writeln!(
        out,
        "Whoever has {at}/ca.key can become any node: keep it off the nodes."
    )?;
    writeln!(out, "Next: quorate certs issue --ca {at} --node 1 --out n1")?;
    Ok(())
}

fn follow(
    predecessor: &Path,
    directory: &Path,
    life: Option<Duration>,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let ca = Ca::create_after(predecessor, directory, &options(life))?;
    let (cluster, number) = (ca.cluster(), ca.generation());
    let (at, until) = (directory.display(), rfc3339(ca.not_after()));
    writeln!(
        out,
        "Made CA number {number} of cluster {cluster} in {at}, valid until {until}. Nobody trusts it yet."
    )?;
    writeln!(
        out,
        "Next, for every folder of a node, client, reader or admin: quorate certs trust --dir DIR --ca {at}/ca.crt"
    )?;
    writeln!(
        out,
        "Only when all do: quorate certs renew --dir DIR --ca {at}"
    )?;
    Ok(())
}

fn options(life: Option<Duration>) -> CaOptions {
    let defaults = CaOptions::default();
    CaOptions {
        life: life.unwrap_or(defaults.life),
        ..defaults
    }
}

fn issue(
    ca: &Path,
    subject: &Subject,
    directory: &Path,
    life: Option<Duration>,
    also_trust: &[PathBuf],
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let ca = Ca::open(ca)?;
    // What is issued is noted first, and what is noted counts as issued.
    Issued::check_new(directory)?;
    Folder::check_trust(directory, &ca, subject, also_trust)?;
    let issued = ca.issue(subject, &lasting(life))?;
    issued.write(directory)?;
    let mut folder = Folder::open(directory)?;
    for authority in also_trust {
        folder.trust(authority)?;
    }
    let at = directory.display();
    tell_made("Issued", issued.signed(), directory, out)?;
    writeln!(
        out,
        "{at}/key.pem is a secret: move it over a secure channel only."
    )?;
    writeln!(
        out,
        "Next, where it is used: quorate certs verify --dir {at}"
    )?;
    Ok(())
}

/// For as long as it is said, or as usual.
fn lasting(life: Option<Duration>) -> IssueOptions {
    IssueOptions {
        life,
        ..IssueOptions::default()
    }
}

fn tell_made(
    what: &str,
    made: &Signed,
    directory: &Path,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let (identity, at) = (made.identity(), directory.display());
    let until = rfc3339(made.not_after());
    writeln!(out, "{what} {identity} into {at}, valid until {until}.")?;
    if made.shortened() {
        writeln!(
            out,
            "That is less than asked for: the CA itself expires then."
        )?;
    }
    Ok(())
}

/// One certificate and where it was.
#[derive(serde::Serialize)]
struct Inspected<'a> {
    file: String,
    #[serde(flatten)]
    certificate: &'a CertificateInfo,
}

/// What is meant by a path: the file, or the certificates in the folder that other flags take.
fn certificate_files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let authority = path.join(AUTHORITY_FILE);
    if authority.exists() {
        return vec![authority];
    }
    vec![path.join(CERTIFICATE_FILE), path.join(ROOTS_FILE)]
}

fn inspect(paths: &[PathBuf], json: bool, out: &mut dyn Write) -> Result<(), CertsError> {
    let mut found = Vec::new();
    for file in paths.iter().flat_map(|path| certificate_files(path)) {
        let certificates = inspect_file(&file).map_err(|source| match source {
            InspectError::File(error) => error.into(),
            source => CertsError::Inspect {
                file: file.clone(),
                source,
            },
        })?;
        let of_file = certificates.into_iter().map(|info| (file.clone(), info));
        found.extend(of_file);
    }
    if json {
        let list: Vec<_> = found
            .iter()
            .map(|(file, certificate)| Inspected {
                file: file.display().to_string(),
                certificate,
            })
            .collect();
        serde_json::to_writer_pretty(&mut *out, &list).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    for (position, (file, info)) in found.iter().enumerate() {
        let gap = if position == 0 { "" } else { "\n" };
        writeln!(out, "{gap}file         {}\n{info}", file.display())?;
    }
    Ok(())
}

fn verify(
    directory: &Path,
    expected: Option<Identity>,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let credentials = Credentials::load(directory).map_err(|source| match source {
        CredentialsError::File(error) => error.into(),
        source => CertsError::Credentials {
            directory: directory.to_owned(),
            source,
        },
    })?;
    let identity = credentials.identity();
    if let Some(expected) = expected.filter(|expected| expected != identity) {
        return Err(CertsError::OtherIdentity {
            directory: directory.to_owned(),
            expected,
            found: identity.clone(),
        });
    }
    let (at, until) = (directory.display(), rfc3339(credentials.not_after()));
    writeln!(out, "{at} is good: {identity}, valid until {until}.")?;
    Ok(())
}

/// Why a command of `quorate certs` failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertsError {
    #[error("name exactly one of --node, --client, --reader and --admin")]
    WhoIsNotOne,
    #[error(
        "no valid certificate of {subject} is recorded in {}: what there was may be revoked or expired already (`quorate \
         certs list`); one that is not recorded is revoked with --serial, by the number that `quorate certs inspect` shows",
        .directory.display()
    )]
    NothingToRevoke {
        directory: PathBuf,
        subject: Subject,
    },
    #[error("name either --cluster or --after")]
    OfIsNotOne,
    #[error("say whose it is: --cluster, and one of --node, --client, --reader and --admin")]
    WhoseIsNotWhole,
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("{}: {source}", .file.display())]
    RequestFile { file: PathBuf, source: RequestError },
    #[error("{}: {source}", .file.display())]
    Inspect { file: PathBuf, source: InspectError },
    #[error("{} has no {CERTIFICATE_FILE} in it: bring a folder that `quorate certs sign` or `issue` made", .from.display())]
    NothingBrought { from: PathBuf },
    #[error("{}: {source}", .directory.display())]
    Credentials {
        directory: PathBuf,
        source: CredentialsError,
    },
    #[error("{} is {found}, not {expected}: use the directory issued for it", .directory.display())]
    OtherIdentity {
        directory: PathBuf,
        expected: Identity,
        found: Identity,
    },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl CertsError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::WhoIsNotOne
            | Self::WhoseIsNotWhole
            | Self::OfIsNotOne
            | Self::Ca(CaError::BadLife { .. }) => exit::USAGE,
            Self::NothingBrought { .. } => exit::NO_INPUT,
            Self::Ca(CaError::HoldersFolder { .. }) => exit::CANNOT_CREATE,
            Self::File(error)
            | Self::Request(RequestError::File(error))
            | Self::Folder(FolderError::Request(RequestError::File(error)))
            | Self::Folder(
                FolderError::File(error) | FolderError::Credentials(CredentialsError::File(error)),
            )
            | Self::Ca(CaError::File(error)) => file_code(error),
            Self::Folder(FolderError::NothingRequested { .. }) => exit::NO_INPUT,
            Self::Ca(CaError::Expired { .. })
            | Self::Folder(FolderError::Credentials(CredentialsError::Refused(
                VerifyError::Expired { .. } | VerifyError::AuthorityExpired { .. },
            )))
            | Self::Credentials {
                source:
                    CredentialsError::Refused(
                        VerifyError::Expired { .. } | VerifyError::AuthorityExpired { .. },
                    ),
                ..
            } => exit::EXPIRED,
            Self::Ca(_)
            | Self::Folder(_)
            | Self::Request(_)
            | Self::RequestFile { .. }
            | Self::Inspect { .. }
            | Self::Credentials { .. }
            | Self::NothingToRevoke { .. }
            | Self::OtherIdentity { .. } => exit::DATA,
            Self::Output(_) => exit::IO,
        }
    }
}

impl From<CertsError> for Failure {
    fn from(error: CertsError) -> Self {
        match error {
            CertsError::Output(error) => Self::output(error),
            other => Self::new(other.exit_code(), other.to_string()),
        }
    }
}

/// `90d`, `12h`, `10y`: a whole number and one unit. A day has 24 hours, a year 365 days.
pub(super) fn parse_life(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write e.g. 90d, 12h, 30m, 45s or 10y");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        'y' => 365 * 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let count = &text[..text.len() - unit.len_utf8()];
    // `parse` alone would also take a sign.
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let count: u64 = count.parse().map_err(|_| wrong())?;
    count
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .expect("a certificate's dates have years of four digits")
}

#[cfg(test)]
mod tests {
    use std::slice;

    use quorate_certs::{REQUEST_FILE, Request};

    use super::*;

    /// Whoever is named is exactly one.
    #[test]
    fn one_is_named() {
        let id = NonZeroU64::new(7);
        let name = || Some(Name::new("eve").unwrap());
        let named = [
            one(id, None, None, None),
            one(None, name(), None, None),
            one(None, None, name(), None),
            one(None, None, None, name()),
        ]
        .map(|subject| subject.unwrap().to_string());
        assert_eq!(named, ["node/7", "client/eve", "reader/eve", "admin/eve"]);
        assert_eq!(one(None, None, None, None), None);
        assert_eq!(one(id, None, None, name()), None);
        assert_eq!(one(None, name(), name(), None), None);
    }

    /// Durations are a number and a unit, and nothing else.
    #[test]
    fn lives_are_parsed_strictly() {
        assert_eq!(parse_life("90d"), Ok(Duration::from_secs(7_776_000)));
        assert_eq!(parse_life("12h"), Ok(Duration::from_secs(43_200)));
        for wrong in [
            "", "d", "90", "+9d", "-9d", "9 d", "9dd", "1.5h", "9w", "9ð",
        ] {
            assert!(parse_life(wrong).is_err(), "{wrong}");
        }
        assert!(parse_life(&format!("{}y", u64::MAX)).is_err());
    }

    /// Nodes have numbers from 1 on.
    #[test]
    fn numbers_of_nodes() {
        assert_eq!(node_number("7"), Ok(NonZeroU64::new(7).unwrap()));
        assert_eq!(node_number("0").unwrap_err(), "node numbers begin at 1");
        for text in ["", "x", "-1"] {
            let error = node_number(text).unwrap_err();
            assert_eq!(error, format!("`{text}` is not a node's number"));
        }
    }

    /// The way of a newcomer: init, issue, verify, inspect; then each mistake has its code.
    #[test]
    fn the_commands_work_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let cluster = ClusterName::new("orders").unwrap();
        let node = Subject::node(1).unwrap();
        let (ca, n1) = (path("ca"), path("n1"));
        let mut out = Vec::new();
        init(&cluster, &ca, None, &mut out).unwrap();
        issue(&ca, &node, &n1, None, &[], &mut out).unwrap();
        verify(&n1, None, &mut out).unwrap();
        inspect(&[n1.join("cert.pem")], false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("is good: spiffe://orders/node/1"), "{text}");
        let mut json = Vec::new();
        inspect(&[n1.join("cert.pem"), ca.join("ca.crt")], true, &mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json[0]["identity"], "spiffe://orders/node/1");
        assert_eq!(json[1]["is_ca"], true);

        let code = |result: Result<(), CertsError>| result.unwrap_err().exit_code();
        let sink = &mut io::sink();
        let again = issue(&ca, &node, &n1, None, &[], sink);
        assert_eq!(code(again), exit::CANNOT_CREATE);
        let from_nowhere = issue(&path("absent"), &node, &path("n2"), None, &[], sink);
        assert_eq!(code(from_nowhere), exit::NO_INPUT);
        let into_a_file = issue(&ca, &node, &n1.join("cert.pem"), None, &[], sink);
        assert_eq!(code(into_a_file), exit::CANNOT_CREATE);
        assert_eq!(code(verify(&path("absent"), None, sink)), exit::NO_INPUT);
        let other = Identity::from_uri("spiffe://orders/node/2").unwrap();
        assert_eq!(code(verify(&n1, Some(other), sink)), exit::DATA);
        let no_certificate = inspect(&[ca.join("ca.key")], false, sink);
        assert_eq!(code(no_certificate), exit::DATA);
        let long = Some(Duration::from_secs(u64::MAX));
        assert_eq!(code(init(&cluster, &path("x"), long, sink)), exit::USAGE);
        let expired = CertsError::Ca(CaError::Expired {
            not_after: SystemTime::UNIX_EPOCH,
        });
        assert_eq!(expired.exit_code(), exit::EXPIRED);
    }

    /// What is refused has not been issued: there is no account of it.
    #[test]
    fn of_what_is_refused_there_is_no_account() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (ca, n1, asked) = (path("ca"), path("n1"), path("asked"));
        let sink = &mut io::sink();
        let cluster = ClusterName::new("orders").unwrap();
        let node = Subject::node(1).unwrap();
        init(&cluster, &ca, None, sink).unwrap();
        issue(&ca, &node, &n1, None, &[], sink).unwrap();
        Request::make(&asked, &Identity::new(cluster, node.clone())).unwrap();
        let request = asked.join(REQUEST_FILE);
        for taken in [n1.clone(), n1.join("cert.pem")] {
            let again = issue(&ca, &node, &taken, None, &[], sink).unwrap_err();
            assert_eq!(again.exit_code(), exit::CANNOT_CREATE, "{again}");
            let again = request::sign(&ca, &request, &node, &taken, None, sink).unwrap_err();
            assert_eq!(again.exit_code(), exit::CANNOT_CREATE, "{again}");
        }
        assert_eq!(Ca::open(&ca).unwrap().issued().unwrap().len(), 1);
        // Where only a key is in the way, there is room for what has none.
        let keys = path("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::write(keys.join("key.pem"), "precious").unwrap();
        issue(&ca, &node, &keys, None, &[], sink).unwrap_err();
        request::sign(&ca, &request, &node, &keys, None, sink).unwrap();
        assert_eq!(Ca::open(&ca).unwrap().issued().unwrap().len(), 2);
    }

    /// A folder stands for the certificates in it, as it does for every other flag; one without any names
    /// the file that is missing.
    #[test]
    fn folders_are_inspected() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (ca, n1) = (path("ca"), path("n1"));
        let sink = &mut io::sink();
        init(&ClusterName::new("orders").unwrap(), &ca, None, sink).unwrap();
        issue(&ca, &Subject::node(1).unwrap(), &n1, None, &[], sink).unwrap();
        let mut json = Vec::new();
        inspect(&[n1, ca], true, &mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        for (position, (file, is_ca)) in [
            ("n1/cert.pem", false),
            ("n1/ca.pem", true),
            ("ca/ca.crt", true),
        ]
        .into_iter()
        .enumerate()
        {
            let found = &json[position];
            assert!(found["file"].as_str().unwrap().ends_with(file), "{found}");
            assert_eq!(found["is_ca"], is_ca, "{found}");
        }
        let none = inspect(&[directory.path().into()], false, sink).unwrap_err();
        assert_eq!(none.exit_code(), exit::NO_INPUT);
        assert!(none.to_string().contains("cert.pem"), "{none}");
        let absent = inspect(&[path("absent")], false, sink).unwrap_err();
        assert_eq!(absent.to_string().matches("absent").count(), 1, "{absent}");
    }

    /// A file that is not there is named once, whoever wants it.
    #[test]
    fn a_missing_file_is_named_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let sink = &mut io::sink();
        let node = Subject::node(1).unwrap();
        let absent = path("absent");
        for error in [
            inspect(slice::from_ref(&absent), false, sink).unwrap_err(),
            verify(&absent, None, sink).unwrap_err(),
            request::sign(&absent, &absent, &node, &path("out"), None, sink).unwrap_err(),
        ] {
            assert_eq!(error.exit_code(), exit::NO_INPUT);
            let words = error.to_string();
            assert_eq!(words.matches("absent").count(), 1, "{words}");
        }
    }
}
