//! Loads the credentials of a running node again when they change.

use std::fs;
use std::future::pending;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use async_channel::Receiver;
use async_io::Timer;
use futures_lite::future::or;
use quorate::{NodeHandle, OtherIdentity};
use quorate_certs::{CERTIFICATE_FILE, Credentials, KEY_FILE, NEXT_KEY_FILE, ROOTS_FILE};
use tracing::{error, info, warn};

/// How often the folder is looked at. Four calls of the system; certificates live for hours at least.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often it is said that a certificate is in the last third of its life, or past its end: often enough for a log that is
/// looked at once a day, too seldom to fill one.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

const FILES: [&str; 4] = [KEY_FILE, NEXT_KEY_FILE, CERTIFICATE_FILE, ROOTS_FILE];

/// The folder of credentials that a node was started with.
pub(crate) struct WatchedFolder {
    path: PathBuf,
    /// Somebody has asked for a look.
    reloads: Receiver<()>,
    /// The files that were loaded last. Where loading failed since, they are not those that are there, and it is tried
    /// again: what was in the way need not have been the content.
    seen: Stamps,
    /// What was said of that.
    failed: Option<(&'static str, String)>,
    warned: Option<(Age, Instant)>,
}

/// How far a certificate is in its life, where that concerns anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Age {
    /// Two thirds of its life are over.
    ToBeRenewed,
    /// All of it is.
    Over,
}

/// What changes with a file: of each, which one it is, how long, and since when.
type Stamps = [Option<(u64, u64, i64, i64)>; FILES.len()];

impl WatchedFolder {
    /// The credentials of the folder at `path` have just been loaded.
    pub(crate) fn new(path: PathBuf, reloads: Receiver<()>) -> Self {
        let mut folder = Self {
            path,
            reloads,
            seen: Stamps::default(),
            failed: None,
            warned: None,
        };
        folder.seen = folder.stamps();
        folder
    }

    /// Brings what changes in the folder to `node`, for as long as it is polled. What cannot be used is
    /// said and left: the node keeps what it has.
    pub(crate) async fn keep_current(mut self, node: &NodeHandle) {
        loop {
            self.warn_in_time(&node.credentials());
            let asked = or(
                async {
                    match self.reloads.recv().await {
                        Ok(()) => true,
                        Err(_) => pending().await,
                    }
                },
                async {
                    Timer::after(LOOK_EVERY).await;
                    false
                },
            )
            .await;
            self.look(asked, |credentials| node.replace_credentials(credentials));
        }
    }

    /// Loads what is in the folder, if it has changed or somebody `asked`, and lets `take` have it.
    fn look(&mut self, asked: bool, take: impl FnOnce(Credentials) -> Result<(), OtherIdentity>) {
        // Before the files are read: what changes meanwhile is seen the next time.
        let stamps = self.stamps();
        if !asked && stamps == self.seen {
            return;
        }
        let loaded = Credentials::load(&self.path)
            .map_err(|error| ("the certificate cannot be loaded again", error.to_string()));
        let taken = loaded.and_then(|credentials| {
            let until = super::certs::rfc3339(credentials.not_after());
            let taken = take(credentials);
            taken.map_err(|error| ("the certificate is not taken", error.to_string()))?;
            Ok(until)
        });
        let folder = self.path.display();
        match taken {
            Ok(until) => {
                info!(%folder, valid_until = until, "certificate loaded again");
                (self.seen, self.failed, self.warned) = (stamps, None, None);
            }
            // Every minute the same would be noise; whoever asks wants to hear it.
            Err(why) if !asked && self.failed.as_ref() == Some(&why) => {}
            Err((what, error)) => {
                error!(%folder, error, "{what}; the node keeps the one it has, and tries again every minute");
                self.failed = Some((what, error));
            }
        }
    }

    fn warn_in_time(&mut self, credentials: &Credentials) {
        let Some(age) = age(credentials, SystemTime::now()) else {
            return;
        };
        let lately = |&(said, at): &(Age, Instant)| said == age && at.elapsed() < WARN_EVERY;
        if self.warned.as_ref().is_some_and(lately) {
            return;
        }
        self.warned = Some((age, Instant::now()));
        let (folder, until) = (
            self.path.display(),
            super::certs::rfc3339(credentials.not_after()),
        );
        match age {
            Age::ToBeRenewed => warn!(
                %folder, valid_until = until,
                "the certificate is in the last third of its life: renew it with `quorate certs renew`, or issue one and `quorate certs install` it"
            ),
            Age::Over => error!(
                %folder, valid_until = until,
                "the certificate has expired, and nobody connects with this node any more: renew it with `quorate certs renew`, or issue one and `quorate certs install` it; it is loaded without a restart"
            ),
        }
    }

    fn stamps(&self) -> Stamps {
        FILES.map(|name| {
            let found = fs::metadata(self.path.join(name)).ok()?;
            Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
        })
    }
}

/// What there is to say of `credentials`; nothing in the first two thirds of their life.
fn age(credentials: &Credentials, now: SystemTime) -> Option<Age> {
    let (begins, ends) = (credentials.not_before(), credentials.not_after());
    let life = ends.duration_since(begins).unwrap_or_default();
    match ends.duration_since(now) {
        Ok(left) if left >= life / 3 => None,
        Ok(_) => Some(Age::ToBeRenewed),
        Err(_) => Some(Age::Over),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use quorate_certs::{Ca, CaOptions, ClusterName, Folder, IssueOptions, Issued, Subject};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn ca() -> Ca {
        Ca::generate(&ClusterName::new("c1").unwrap(), &CaOptions::default()).unwrap()
    }

    fn issued(ca: &Ca) -> Issued {
        let issued = ca.issue(&Subject::node(1).unwrap(), &IssueOptions::default());
        issued.unwrap()
    }

    /// What could not be loaded is tried again though no file changes, is complained of once, and is loaded once.
    #[test]
    fn a_failed_reload_is_tried_again() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("n1");
        let ca = ca();
        issued(&ca).write(&path).unwrap();
        let (_sender, reloads) = async_channel::bounded(1);
        let mut folder = WatchedFolder::new(path.clone(), reloads);
        let look = |folder: &mut WatchedFolder| {
            let mut taken = false;
            folder.look(false, |_| {
                taken = true;
                Ok(())
            });
            taken
        };
        assert!(!look(&mut folder), "nothing has changed");
        Folder::open(&path).unwrap().renew(&issued(&ca)).unwrap();
        let allow = |mode| {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(path.join(KEY_FILE), permissions).unwrap();
        };
        allow(0o644);
        assert!(!look(&mut folder));
        let (_, error) = folder.failed.as_ref().unwrap();
        assert!(error.contains("key.pem"), "{error}");
        assert!(!look(&mut folder));
        allow(0o600);
        assert!(look(&mut folder));
        assert_eq!(folder.failed, None);
        assert!(!look(&mut folder));
    }

    /// Not in the first two thirds of its life, then until its end, and in other words after it.
    #[test]
    fn a_certificate_is_to_be_renewed_in_its_last_third() {
        let credentials = issued(&ca()).credentials().unwrap();
        let in_days = |days: u32| age(&credentials, SystemTime::now() + days * DAY);
        assert_eq!([0, 59].map(in_days), [None; 2]);
        assert_eq!([61, 89].map(in_days), [Some(Age::ToBeRenewed); 2]);
        assert_eq!([91, 900].map(in_days), [Some(Age::Over); 2]);
    }
}
