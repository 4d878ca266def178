//! Certificates that are good no more before their time, and what an authority has issued.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use quorate_certs::{Ca, Name, Record, Serial, Subject};

use super::{CertsError, node_number, one, rfc3339};

/// How [`Revoke`](RevokeCommand::Revoke) is used.
const REVOKE_USAGE: &str = "\
quorate certs revoke [OPTIONS]
           <--node <ID>|--client <NAME>|--reader <NAME>|--admin <NAME>|--serial <HEX>>";

#[derive(Subcommand, Debug)]
pub(crate) enum RevokeCommand {
    /// Revoke certificates before they expire
    #[command(override_usage = REVOKE_USAGE)]
    Revoke {
        /// Directory of the authority
        #[arg(long, value_name = "DIR", default_value = "ca")]
        ca: PathBuf,
        #[command(flatten)]
        whose: Whose,
    },
    /// Show what an authority has issued
    List {
        /// Directory of the authority
        #[arg(long, value_name = "DIR", default_value = "ca")]
        ca: PathBuf,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
}

/// Which ones: all that somebody has, or one.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// All of a node
    #[arg(long, value_name = "ID", value_parser = node_number)]
    node: Option<NonZeroU64>,
    /// All of a client
    #[arg(long, value_name = "NAME")]
    client: Option<Name>,
    /// All of a reader
    #[arg(long, value_name = "NAME")]
    reader: Option<Name>,
    /// All of an admin
    #[arg(long, value_name = "NAME")]
    admin: Option<Name>,
    /// The one with this number, as `certs list` and `certs inspect` show it
    #[arg(long, value_name = "HEX")]
    serial: Option<Serial>,
}

pub(super) fn run(command: RevokeCommand, out: &mut dyn Write) -> Result<(), CertsError> {
    match command {
        RevokeCommand::Revoke { ca, whose } => revoke(&ca, whose, out),
        RevokeCommand::List { ca, json } => list(&ca, json, out),
    }
}

fn revoke(directory: &Path, whose: Whose, out: &mut dyn Write) -> Result<(), CertsError> {
    let now = SystemTime::now();
    let mut ca = Ca::open(directory)?;
    let number = whose.serial.clone();
    let subject = one(whose.node, whose.client, whose.reader, whose.admin);
    let serials = match subject {
        None => whose.serial.into_iter().collect(),
        Some(subject) => match good_of(&ca, &subject, now)? {
            none if none.is_empty() => {
                return Err(CertsError::NothingToRevoke {
                    directory: directory.to_owned(),
                    subject,
                });
            }
            serials => serials,
        },
    };
    let news = ca.revoke(&serials, now)?;
    let at = directory.display();
    if news == 0 {
        writeln!(out, "That was revoked before: nothing was changed.")?;
        return Ok(());
    }
    for serial in &serials {
        writeln!(out, "Revoked {serial}.")?;
    }
    if let Some(number) = number {
        tell_unknown(&ca, &number, directory, out)?;
    }
    writeln!(
        out,
        "Nobody knows yet. Next, for every folder of a node, client, reader or admin:"
    )?;
    writeln!(out, "  quorate certs trust --dir DIR --ca {at}/ca.crl")?;
    Ok(())
}

/// That the authority has no account of a certificate with this number, which was given by hand.
fn tell_unknown(
    ca: &Ca,
    number: &Serial,
    directory: &Path,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let at = directory.display();
    match ca.issued() {
        Ok(records) if records.iter().any(|record| record.serial == *number) => {}
        Ok(_) => writeln!(
            out,
            "Warning: {at}/ca.issued has no certificate of that number. Unless it is older than that file, compare the \
             number with `quorate certs inspect`."
        )?,
        Err(error) => writeln!(
            out,
            "Warning: whether there is a certificate of that number is not known: {error}."
        )?,
    }
    Ok(())
}

/// The numbers of what `subject` has that is good still.
fn good_of(ca: &Ca, subject: &Subject, now: SystemTime) -> Result<Vec<Serial>, CertsError> {
    let revoked: Vec<Serial> = ca.revoked().collect();
    let is_good = |record: &Record| {
        record.identity.subject == *subject
            && record.not_after > now
            && !revoked.contains(&record.serial)
    };
    let records = ca.issued()?.into_iter().filter(is_good);
    Ok(records.map(|record| record.serial).collect())
}

/// One certificate as it is listed.
#[derive(serde::Serialize)]
struct Listed {
    serial: String,
    identity: String,
    not_after: String,
    state: &'static str,
}

fn list(directory: &Path, json: bool, out: &mut dyn Write) -> Result<(), CertsError> {
    let now = SystemTime::now();
    let ca = Ca::open(directory)?;
    let revoked: Vec<Serial> = ca.revoked().collect();
    let listed = |record: Record| Listed {
        state: match () {
            () if record.not_after <= now => "expired",
            () if revoked.contains(&record.serial) => "revoked",
            () => "good",
        },
        serial: record.serial.to_string(),
        identity: record.identity.to_string(),
        not_after: rfc3339(record.not_after),
    };
    let listed: Vec<Listed> = ca.issued()?.into_iter().map(listed).collect();
    if json {
        serde_json::to_writer_pretty(&mut *out, &listed).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    if listed.is_empty() {
        writeln!(
            out,
            "Nothing is on record: either this CA has issued nothing yet, or ca.issued is lost. Without it certificates can be \
             revoked by their numbers, which `quorate certs inspect` shows."
        )?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<32}  {:<20}  {:<7}  IDENTITY",
        "NUMBER", "VALID UNTIL", "STATE"
    )?;
    for Listed {
        serial,
        identity,
        not_after,
        state,
    } in listed
    {
        writeln!(out, "{serial:<32}  {not_after:<20}  {state:<7}  {identity}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_certs::{ClusterName, Credentials};

    use super::super::change::{ChangeCommand, Roots, run as change};
    use super::super::{init, issue};
    use super::*;
    use crate::cli::exit;

    /// A client is revoked by its name, and listed so; a node's folder takes the list.
    #[test]
    fn somebody_is_revoked_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (ca, n1) = (path("ca"), path("n1"));
        let sink = &mut io::sink();
        init(&ClusterName::new("orders").unwrap(), &ca, None, sink).unwrap();
        issue(&ca, &Subject::node(1).unwrap(), &n1, None, &[], sink).unwrap();
        let eve = Subject::client("eve").unwrap();
        for folder in ["eve", "eve again"] {
            issue(&ca, &eve, &path(folder), None, &[], sink).unwrap();
        }
        let whose = |client: &str| Whose {
            node: None,
            client: Some(Name::new(client).unwrap()),
            reader: None,
            admin: None,
            serial: None,
        };
        let mut said = Vec::new();
        revoke(&ca, whose("eve"), &mut said).unwrap();
        let text = String::from_utf8_lossy(&said);
        assert_eq!(text.matches("Revoked ").count(), 2, "{text}");
        for nobody in ["eve", "adam"] {
            let nothing = revoke(&ca, whose(nobody), sink).unwrap_err();
            assert_eq!(nothing.exit_code(), exit::DATA);
            let words = nothing.to_string();
            assert!(words.contains(&format!("client/{nobody}")), "{words}");
        }
        said.clear();
        list(&ca, false, &mut said).unwrap();
        let text = String::from_utf8_lossy(&said);
        assert_eq!(
            text.matches("revoked  spiffe://orders/client/eve").count(),
            2,
            "{text}"
        );
        assert!(text.contains("good     spiffe://orders/node/1"), "{text}");
        said.clear();
        list(&ca, true, &mut said).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(json[1]["state"], "revoked");

        let trust = Roots {
            dir: n1.clone(),
            ca,
        };
        change(ChangeCommand::Trust(trust), sink).unwrap();
        let judge = Credentials::load(&n1).unwrap();
        let eve = Credentials::load(&path("eve")).unwrap();
        let now = rustls_now();
        let found = judge.trust().verify(&eve.certified_key().cert, now);
        assert!(found.is_err(), "{found:?}");
    }

    /// A number of which there is no account is revoked too, since the account may be younger; but it may be a slip of
    /// the pen.
    #[test]
    fn an_unknown_number_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca");
        let sink = &mut io::sink();
        init(&ClusterName::new("orders").unwrap(), &ca, None, sink).unwrap();
        let n1 = directory.path().join("n1");
        let listed = || {
            let mut said = Vec::new();
            list(&ca, false, &mut said).unwrap();
            String::from_utf8(said).unwrap()
        };
        let nothing = listed();
        assert!(nothing.starts_with("Nothing is on record"), "{nothing}");
        issue(&ca, &Subject::node(1).unwrap(), &n1, None, &[], sink).unwrap();
        let something = listed();
        assert!(something.starts_with("NUMBER"), "{something}");
        let of_number = |serial: Serial| {
            let whose = Whose {
                node: None,
                client: None,
                reader: None,
                admin: None,
                serial: Some(serial),
            };
            let mut said = Vec::new();
            revoke(&ca, whose, &mut said).unwrap();
            String::from_utf8(said).unwrap()
        };
        let known = Ca::open(&ca).unwrap().issued().unwrap().remove(0).serial;
        let text = of_number(known);
        assert!(!text.contains("Warning"), "{text}");
        let text = of_number("4a01".parse().unwrap());
        assert!(text.contains("Revoked 4a01.\nWarning: "), "{text}");
        assert!(text.contains("ca.issued"), "{text}");
        std::fs::write(ca.join("ca.issued"), "damaged\n").unwrap();
        let text = of_number("4a02".parse().unwrap());
        assert!(text.contains("Revoked 4a02.\nWarning: "), "{text}");
        assert_eq!(Ca::open(&ca).unwrap().revoked().count(), 3);
    }

    fn rustls_now() -> quorate_quic_transport::rustls::pki_types::UnixTime {
        quorate_quic_transport::rustls::pki_types::UnixTime::now()
    }
}
