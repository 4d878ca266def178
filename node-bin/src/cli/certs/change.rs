//! What changes in a folder of credentials: its certificate, and whom it trusts.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_certs::{CERTIFICATE_FILE, Ca, Credentials, Folder, Serial};

use super::{CertsError, lasting, parse_life, rfc3339};

#[derive(Subcommand, Debug)]
pub(crate) enum ChangeCommand {
    /// Put a new key and certificate of the same identity in the place of those in a folder
    Renew {
        /// Directory of the authority
        #[arg(long, value_name = "DIR", default_value = "ca")]
        ca: PathBuf,
        /// Folder made by `certs issue`
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How long it lasts, e.g. 90d or 12h [default: node 90d, client and reader 30d, admin 24h]
        #[arg(long, value_parser = parse_life)]
        life: Option<Duration>,
    },
    /// The same with what was issued or signed elsewhere, where the authority is
    Install {
        /// Folder made by `certs issue` for the same identity, or by `certs sign` for the request of --dir
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Folder that is in use, or in which `certs request` made a key
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Trust one more authority of the same cluster, or take the newest list of what one has revoked
    Trust(Roots),
    /// Trust an authority no longer: the one before
    Distrust(Roots),
}

#[derive(Args, Debug)]
pub(crate) struct Roots {
    /// Folder made by `certs issue`
    #[arg(long, value_name = "DIR")]
    pub(super) dir: PathBuf,
    /// Directory of the authority, or its ca.crt or ca.crl
    #[arg(long, value_name = "CA")]
    pub(super) ca: PathBuf,
}

pub(super) fn run(command: ChangeCommand, out: &mut dyn Write) -> Result<(), CertsError> {
    match command {
        ChangeCommand::Renew { ca, dir, life } => renew(&ca, &dir, life, out),
        ChangeCommand::Install { from, dir } => {
            if !from.join(CERTIFICATE_FILE).exists() {
                return Err(CertsError::NothingBrought { from });
            }
            let mut folder = Folder::open_or_requested(&dir)?;
            let before: Vec<Serial> = folder.revoked().collect();
            let renewed = folder.renew_from(&from)?;
            tell_renewed(&dir, &renewed, out)?;
            tell_not_revoked(&before, &folder, out)
        }
        ChangeCommand::Trust(Roots { dir, ca }) => {
            let mut folder = Folder::open(&dir)?;
            let before: Vec<Serial> = folder.revoked().collect();
            let is_news = folder.trust(&ca)?;
            tell_roots(
                &dir,
                is_news,
                [
                    "trusts that authority, and knows its newest list",
                    "trusted it before, and knows that list or a newer one",
                ],
                out,
            )?;
            tell_not_revoked(&before, &folder, out)
        }
        ChangeCommand::Distrust(Roots { dir, ca }) => {
            let is_news = Folder::open(&dir)?.distrust(&ca)?;
            let words = [
                "does not trust that authority any more",
                "did not trust it before",
            ];
            tell_roots(&dir, is_news, words, out)
        }
    }
}

fn renew(
    ca: &Path,
    directory: &Path,
    life: Option<Duration>,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let mut folder = Folder::open(directory)?;
    let ca = Ca::open(ca)?;
    folder.check_issuer(&ca)?;
    let issued = ca.issue(&folder.identity().subject, &lasting(life))?;
    let before: Vec<Serial> = folder.revoked().collect();
    let renewed = folder.renew(&issued)?;
    if issued.shortened() {
        writeln!(
            out,
            "It lasts for less than asked for: the CA itself expires then."
        )?;
    }
    tell_renewed(directory, &renewed, out)?;
    tell_not_revoked(&before, &folder, out)
}

fn tell_renewed(
    directory: &Path,
    renewed: &Credentials,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let (identity, until) = (renewed.identity(), rfc3339(renewed.not_after()));
    let at = directory.display();
    writeln!(out, "{at} is {identity} now, valid until {until}.")?;
    tell_reload(out)
}

fn tell_roots(
    directory: &Path,
    is_news: bool,
    [changed, unchanged]: [&str; 2],
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let at = directory.display();
    if !is_news {
        writeln!(out, "{at} {unchanged}: nothing was changed.")?;
        return Ok(());
    }
    writeln!(out, "{at} {changed}.")?;
    tell_reload(out)
}

/// What was revoked `before`, and is not by the lists that `folder` has now: it has expired, or its authority has
/// forgotten it.
fn tell_not_revoked(
    before: &[Serial],
    folder: &Folder,
    out: &mut dyn Write,
) -> Result<(), CertsError> {
    let now: HashSet<Serial> = folder.revoked().collect();
    let gone: Vec<&Serial> = before
        .iter()
        .filter(|serial| !now.contains(serial))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "Revoked before, and not on the newer list. If they have not expired, revoke them again by these numbers:"
    )?;
    for serial in gone {
        writeln!(out, "  {serial}")?;
    }
    Ok(())
}

fn tell_reload(out: &mut dyn Write) -> Result<(), CertsError> {
    writeln!(
        out,
        "A running node sees that within a minute, or at once when it gets SIGHUP."
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;
    use std::{fs, io, slice};

    use quorate_certs::{ClusterName, Subject};

    use super::super::{follow, init, issue};
    use super::*;
    use crate::cli::exit;

    /// From one authority to the next by the commands alone, and each mistake has its code.
    #[test]
    fn the_authority_is_followed_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (ca, next, n1, brought) = (path("ca"), path("ca2"), path("n1"), path("brought"));
        let sink = &mut io::sink();
        let node = Subject::node(1).unwrap();
        init(&ClusterName::new("orders").unwrap(), &ca, None, sink).unwrap();
        issue(&ca, &node, &n1, None, &[], sink).unwrap();
        follow(&ca, &next, None, sink).unwrap();
        let roots = |ca: &Path| Roots {
            dir: n1.clone(),
            ca: ca.to_owned(),
        };
        let mut said = Vec::new();
        for expected in ["trusts that authority", "nothing was changed"] {
            said.clear();
            run(ChangeCommand::Trust(roots(&next)), &mut said).unwrap();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(expected), "{said}");
        }
        let too_early = run(ChangeCommand::Distrust(roots(&ca)), sink).unwrap_err();
        assert_eq!(too_early.exit_code(), exit::DATA);
        assert!(too_early.to_string().contains("certs renew"), "{too_early}");
        said.clear();
        renew(&next, &n1, None, &mut said).unwrap();
        let text = String::from_utf8_lossy(&said);
        assert!(text.contains("is spiffe://orders/node/1 now"), "{text}");
        run(ChangeCommand::Distrust(roots(&ca.join("ca.crt"))), sink).unwrap();
        issue(&next, &node, &brought, None, &[], sink).unwrap();
        let install = |from: &Path| ChangeCommand::Install {
            from: from.to_owned(),
            dir: n1.clone(),
        };
        run(install(&brought), sink).unwrap();
        assert_eq!(Credentials::load(&n1).unwrap().trust().roots().len(), 1);
        let absent = run(install(&path("absent")), sink).unwrap_err();
        assert_eq!(absent.exit_code(), exit::NO_INPUT);
        assert!(absent.to_string().contains("certs sign"), "{absent}");
        let no_ca = run(ChangeCommand::Trust(roots(&n1.join("cert.pem"))), sink).unwrap_err();
        assert_eq!(no_ca.exit_code(), exit::DATA);
    }

    /// Who is not trusted yet, or not any more, renews nothing, and keeps no account of what it did not issue.
    #[test]
    fn an_authority_that_is_not_trusted_renews_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (ca, next, n1) = (path("ca"), path("ca2"), path("n1"));
        let sink = &mut io::sink();
        let node = Subject::node(1).unwrap();
        init(&ClusterName::new("orders").unwrap(), &ca, None, sink).unwrap();
        issue(&ca, &node, &n1, None, &[], sink).unwrap();
        follow(&ca, &next, None, sink).unwrap();
        let mut refused = |by: &Path, name: &str| {
            let issued = || Ca::open(by).unwrap().issued().unwrap().len();
            let (trusted, count) = (fs::read(n1.join("ca.pem")).unwrap(), issued());
            let renewed = renew(by, &n1, None, &mut io::sink()).unwrap_err();
            assert_eq!(issued(), count);
            let brought = path(name);
            issue(by, &node, &brought, None, &[], sink).unwrap();
            let install = ChangeCommand::Install {
                from: brought,
                dir: n1.clone(),
            };
            let installed = run(install, sink).unwrap_err();
            for error in [renewed, installed] {
                assert_eq!(error.exit_code(), exit::DATA);
                let words = error.to_string();
                assert!(words.contains(name), "{words}");
            }
            assert_eq!(fs::read(n1.join("ca.pem")).unwrap(), trusted);
        };
        refused(&next, "quorate ca orders g2");
        let sink = &mut io::sink();
        let mut folder = Folder::open(&n1).unwrap();
        folder.trust(&next).unwrap();
        renew(&next, &n1, None, sink).unwrap();
        Folder::open(&n1).unwrap().distrust(&ca).unwrap();
        refused(&ca, "quorate ca orders g1");
    }

    /// A list that was begun anew makes good again what the one before held, and whoever takes it hears of that. One that
    /// is older and says something else is refused.
    #[test]
    fn what_a_list_forgets_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (ca, n1) = (path("ca"), path("n1"));
        let sink = &mut io::sink();
        let node = Subject::node(1).unwrap();
        init(&ClusterName::new("orders").unwrap(), &ca, None, sink).unwrap();
        issue(&ca, &node, &n1, None, &[], sink).unwrap();
        let now = SystemTime::now();
        let revoke = |number: &str, now: SystemTime| {
            let news = Ca::open(&ca)
                .unwrap()
                .revoke(&[number.parse().unwrap()], now);
            assert_eq!(news.unwrap(), 1);
        };
        let list = ca.join("ca.crl");
        let trust = |out: &mut dyn Write| {
            let (dir, ca) = (n1.clone(), list.clone());
            run(ChangeCommand::Trust(Roots { dir, ca }), out)
        };
        let mut said = Vec::new();
        revoke("4a01", now);
        revoke("4a02", now);
        trust(&mut said).unwrap();
        fs::remove_file(&list).unwrap();
        revoke("4a03", now);
        let refused = trust(sink).unwrap_err();
        assert_eq!(refused.exit_code(), exit::DATA);
        revoke("4a02", now + Duration::from_secs(10));
        assert!(!String::from_utf8_lossy(&said).contains("4a"));
        trust(&mut said).unwrap();
        let text = String::from_utf8_lossy(&said);
        assert!(text.ends_with("by these numbers:\n  4a01\n"), "{text}");
        renew(&ca, &n1, None, &mut said).unwrap();
        let text = String::from_utf8_lossy(&said);
        assert_eq!(text.matches("4a01").count(), 1, "{text}");
    }

    /// Who cannot be trusted as well is told of before anything is issued or noted; who can be, is.
    #[test]
    fn only_a_ca_is_trusted_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let sink = &mut io::sink();
        let (ca, next, other, n1) = (path("ca"), path("next"), path("other"), path("n1"));
        let node = Subject::node(1).unwrap();
        init(&ClusterName::new("orders").unwrap(), &ca, None, sink).unwrap();
        follow(&ca, &next, None, sink).unwrap();
        init(&ClusterName::new("others").unwrap(), &other, None, sink).unwrap();
        for (wrong, code, named) in [
            (path("typo"), exit::NO_INPUT, "typo"),
            (ca.join("ca.key"), exit::DATA, "no certificate of a CA"),
            (other, exit::DATA, "another cluster"),
        ] {
            let authorities = [next.clone(), wrong];
            let error = issue(&ca, &node, &n1, None, &authorities, sink).unwrap_err();
            assert_eq!(error.exit_code(), code, "{error}");
            assert!(error.to_string().contains(named), "{error}");
            assert!(!n1.exists(), "{error}");
        }
        assert_eq!(Ca::open(&ca).unwrap().issued().unwrap().len(), 0);
        issue(&ca, &node, &n1, None, slice::from_ref(&next), sink).unwrap();
        assert_eq!(Credentials::load(&n1).unwrap().trust().roots().len(), 2);
    }
}
