//! A folder of credentials whose content changes: a renewed certificate, other roots.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, UnixTime};
use zeroize::Zeroizing;

use crate::ca::{CA_CERTIFICATE_FILE, Ca, LIST_FILE, parse_authority_name};
use crate::credentials::{Credentials, CredentialsError, certificates, key_in};
use crate::facts::{Facts, system_time};
use crate::files::{self, FileError, Kind};
use crate::identity::{Identity, Subject};
use crate::issued::{CERTIFICATE_FILE, Issued, KEY_FILE, NEXT_KEY_FILE, REQUEST_FILE, ROOTS_FILE};
use crate::request::{Request, RequestError};
use crate::revocation::{RevocationList, lists_in, newest_of, pem_text};
use crate::serial::Serial;
use crate::trust::{CHAIN_CERTIFICATES_MAX, ROOTS_MAX, Trust, TrustError, identity_of};
use crate::verify_error::VerifyError;

type Trusted = (Vec<CertificateDer<'static>>, Vec<RevocationList>);

/// What errors call the file of a CA.
const NAME_OF_INPUT: &str = "the authority's file";

/// The folder that [`Issued::write`] made, to be changed while its owner runs.
///
/// Every change is checked as a peer would check it before a byte is written, and is made in steps
/// after each of which [`Credentials::load`] finds whole credentials: the old or the new. Those who change a folder at a
/// time take turns, and each goes on from what the others have left there. Whoever only reads waits for
/// nobody.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    identity: Identity,
    roots: Vec<CertificateDer<'static>>,
    /// At most one of each root.
    lists: Vec<RevocationList>,
}

impl Folder {
    /// Reads whose folder it is and whom it trusts. Its certificate may be expired, and its key is not
    /// looked at.
    ///
    /// Errors: a file that is missing or too large, or that holds something else.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let chain = files::read(&path.join(CERTIFICATE_FILE), Kind::Public)?;
        let chain = certificates(&chain, CERTIFICATE_FILE, CHAIN_CERTIFICATES_MAX)?;
        let identity = Facts::read(&chain[0])
            .map_err(|detail| VerifyError::Malformed {
                detail: detail.to_owned(),
            })
            .and_then(|facts| identity_of(&facts))
            .map_err(CredentialsError::from)?;
        let (roots, lists) = trusted_in(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            roots,
            lists,
        })
    }

    /// As [`open`](Self::open); and where nothing was installed yet, the folder in which a certificate was
    /// [requested](crate::Request::make), whose owner trusts nobody so far.
    ///
    /// Errors: those of [`open`](Self::open), and those of reading the request; [`FolderError::NothingRequested`].
    pub fn open_or_requested(path: &Path) -> Result<Self, FolderError> {
        let request = path.join(REQUEST_FILE);
        if path.join(CERTIFICATE_FILE).exists() {
            return Self::open(path);
        }
        if !request.exists() {
            return Err(FolderError::NothingRequested { path: path.into() });
        }
        let request = Request::read(&request)?;
        let identity = request.identity().ok_or(RequestError::NoIdentity)?;
        Ok(Self {
            path: path.to_owned(),
            identity: identity.clone(),
            roots: Vec::new(),
            lists: Vec::new(),
        })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The numbers on the lists that it has.
    pub fn revoked(&self) -> impl Iterator<Item = Serial> + '_ {
        let revoked = self.lists.iter().flat_map(RevocationList::revoked);
        revoked.map(|entry| entry.serial.clone())
    }

    /// Keeps others out who change the folder, until what is returned is dropped, and reads again whom it trusts: what
    /// they have written since it was opened would be undone otherwise, a revocation among it. The folder itself is
    /// locked, since its files are replaced.
    fn alone(&mut self) -> Result<File, FolderError> {
        let lock = files::lock(&self.path)?;
        // Before its first certificate it trusts nobody.
        if self.path.join(CERTIFICATE_FILE).exists() {
            (self.roots, self.lists) = trusted_in(&self.path)?;
        }
        Ok(lock)
    }

    /// That what `ca` issues can be put into the folder, for whoever asks before anything is issued.
    ///
    /// Errors: those of [`renew`](Self::renew) that come of the CA.
    pub fn check_issuer(&self, ca: &Ca) -> Result<(), FolderError> {
        self.with_offered(ca.roots_pem().as_bytes()).map(drop)
    }

    /// Puts what a CA has just issued in the place of key and certificate. Whom the folder trusts stays.
    ///
    /// It has to trust that CA, and whomever else the credentials bring along, before: a CA that it does not trust may be
    /// one that its peers do not know yet, or one that was [distrusted](Self::distrust), because its key was stolen. Only a
    /// folder that trusts no CA that is still valid takes what is brought.
    ///
    /// Returns what is in the folder now. Errors: [`FolderError::NotTrusted`]; credentials of somebody else, or such
    /// as peers would refuse; a file that can not be written.
    pub fn renew(&mut self, issued: &Issued) -> Result<Credentials, FolderError> {
        let _alone = self.alone()?;
        self.install(
            issued.key_pem().as_bytes(),
            issued.certificate_pem().as_bytes(),
            issued.roots_pem().as_bytes(),
        )
    }

    /// As [`renew`](Self::renew), with the content of another folder, which was brought here from where
    /// the CA is. What was [signed](crate::Signed::write) there for a [`Request`] has no key in it: that is here, in
    /// [`NEXT_KEY_FILE`], or in [`KEY_FILE`] where another tool has made it.
    ///
    /// Errors: those of [`renew`](Self::renew), and those of reading the other folder.
    pub fn renew_from(&mut self, other: &Path) -> Result<Credentials, FolderError> {
        let _alone = self.alone()?;
        let chain = files::read(&other.join(CERTIFICATE_FILE), Kind::Public)?;
        let key = match files::read(&other.join(KEY_FILE), Kind::Secret) {
            Err(FileError::Missing { .. }) => {
                self.own_key(&chain)?.ok_or_else(|| FolderError::NoKey {
                    brought: other.to_owned(),
                    path: self.path.clone(),
                })?
            }
            read => read?,
        };
        let roots = files::read(&other.join(ROOTS_FILE), Kind::Bundle)?;
        self.install(&key, &chain, &roots)
    }

    /// The key in the folder that may be that of the first certificate in `chain`, if there is one.
    fn own_key(&self, chain: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, FolderError> {
        let next = match files::read(&self.path.join(NEXT_KEY_FILE), Kind::Secret) {
            Err(FileError::Missing { .. }) => None,
            read => Some(read?),
        };
        match (key_in(&self.path, chain), next) {
            (Ok((key, _)), _) => Ok(Some(key)),
            (Err(_), Some(next)) => Ok(Some(next)),
            (Err(CredentialsError::KeyMismatch), None)
            | (Err(CredentialsError::File(FileError::Missing { .. })), None) => Ok(None),
            (Err(error), None) => Err(error.into()),
        }
    }

    /// Only [`alone`](Self::alone).
    fn install(
        &mut self,
        key: &[u8],
        chain: &[u8],
        roots: &[u8],
    ) -> Result<Credentials, FolderError> {
        let (roots, lists) = self.with_offered(roots)?;
        let bundle = bundle(&roots, &lists);
        let credentials = Credentials::from_pem(key, chain, bundle.as_bytes(), UnixTime::now())?;
        if *credentials.identity() != self.identity {
            return Err(FolderError::OtherIdentity {
                path: self.path.clone(),
                holder: self.identity.clone(),
                offered: credentials.identity().clone(),
            });
        }
        finish_renewal(&self.path)?;
        // The old certificate is good with more roots. Then the key has to be there before its
        // certificate is: a certificate without a key is of no use, and a key without one does no harm.
        files::replace(&self.path, ROOTS_FILE, bundle.as_bytes(), Kind::Bundle)?;
        files::replace(&self.path, NEXT_KEY_FILE, key, Kind::Secret)?;
        files::replace(&self.path, CERTIFICATE_FILE, chain, Kind::Public)?;
        files::rename(&self.path, &self.path.join(NEXT_KEY_FILE), KEY_FILE)?;
        files::remove(&self.path, REQUEST_FILE)?;
        (self.roots, self.lists) = (roots, lists);
        Ok(credentials)
    }

    /// Trusts a CA as well, and takes its list of what it has revoked, unless a newer one is there: from the CA's
    /// folder, or from a file of PEM with either or both. Returns whether that changes anything.
    ///
    /// Errors: a file that holds neither, or the certificate of a CA of another cluster, or a list that nobody
    /// who is trusted has signed; more than [`ROOTS_MAX`] in all; a list by which the folder's own certificate
    /// is revoked; one that revokes what the newer one does not, or of which nobody can tell which is newer; a file
    /// that can not be written.
    pub fn trust(&mut self, authority: &Path) -> Result<bool, FolderError> {
        let _alone = self.alone()?;
        let (roots, lists) = self.trusting(authority)?;
        let is_news = roots != self.roots || lists != self.lists;
        if is_news {
            self.set_roots(roots, lists)?;
        }
        Ok(is_news)
    }

    /// That the folder `path` can [trust](Self::trust) `authorities` as well, once it has what `ca` is to issue for `subject`:
    /// for whoever asks before anything is issued, and noted by the CA.
    ///
    /// Errors: those of [`trust`](Self::trust) that come of the authorities.
    pub fn check_trust(
        path: &Path,
        ca: &Ca,
        subject: &Subject,
        authorities: &[PathBuf],
    ) -> Result<(), FolderError> {
        let mut folder = Self {
            path: path.to_owned(),
            identity: Identity::new(ca.cluster().clone(), subject.clone()),
            roots: Vec::new(),
            lists: Vec::new(),
        };
        (folder.roots, folder.lists) = folder.with_offered(ca.roots_pem().as_bytes())?;
        for authority in authorities {
            (folder.roots, folder.lists) = folder.trusting(authority)?;
        }
        Ok(())
    }

    /// What the folder trusts with a CA as well, or its list.
    fn trusting(&self, authority: &Path) -> Result<Trusted, FolderError> {
        let pem = authority_pem(authority)?;
        let offered = lists_in(&pem, NAME_OF_INPUT)?;
        let added = match authorities(authority, &pem) {
            Err(FolderError::NoAuthority { .. }) if !offered.is_empty() => Vec::new(),
            other => other?,
        };
        for certificate in &added {
            self.name_in_cluster(certificate)?;
        }
        let (roots, lists) = self.with(added, offered.clone())?;
        check_taken(&offered, &roots, &lists)?;
        if roots != self.roots || lists != self.lists {
            self.check_trusting(&roots, &lists)?;
        }
        Ok((roots, lists))
    }

    /// Trusts a CA no longer: that in a folder, or those in a file of PEM. Returns whether it did before.
    ///
    /// Errors: [`FolderError::StillNeeded`] where the folder's own certificate would not be good any more; a
    /// file that can not be read or written.
    pub fn distrust(&mut self, authority: &Path) -> Result<bool, FolderError> {
        let _alone = self.alone()?;
        let pem = authority_pem(authority)?;
        let removed = authorities(authority, &pem)?;
        let mut roots = self.roots.clone();
        roots.retain(|root| !removed.contains(root));
        if roots.len() == self.roots.len() {
            return Ok(false);
        }
        let mut lists = self.lists.clone();
        lists.retain(|list| roots.iter().any(|root| list.is_of(root)));
        let left = bundle(&roots, &lists);
        Credentials::load_trusting(&self.path, left.as_bytes()).map_err(|error| match error {
            CredentialsError::Trust(TrustError::NoRoots)
            | CredentialsError::NotPem { .. }
            | CredentialsError::Refused(_) => FolderError::StillNeeded {
                path: self.path.clone(),
            },
            other => other.into(),
        })?;
        self.set_roots(roots, lists)?;
        Ok(true)
    }

    /// What the folder would trust with the roots and lists in `pem`, which come with a certificate.
    fn with_offered(&self, pem: &[u8]) -> Result<Trusted, FolderError> {
        let lists = lists_in(pem, ROOTS_FILE)?;
        let roots = certificates(pem, ROOTS_FILE, ROOTS_MAX)?;
        let now = system_time(UnixTime::now());
        let is_valid =
            |root: &CertificateDer<'_>| Facts::read(root).is_ok_and(|facts| now <= facts.not_after);
        let trusts_somebody = self.roots.iter().any(is_valid);
        for root in &roots {
            let authority = self.name_in_cluster(root)?;
            if trusts_somebody && !self.roots.contains(root) {
                return Err(FolderError::NotTrusted {
                    path: self.path.clone(),
                    authority,
                });
            }
        }
        self.with(roots, lists)
    }

    /// The name of the CA with `certificate`, which is not one of another cluster.
    fn name_in_cluster(&self, certificate: &CertificateDer<'_>) -> Result<String, FolderError> {
        let facts = Facts::read(certificate).map_err(|detail| TrustError::MalformedRoot {
            position: 0,
            detail,
        });
        let name = facts.map_err(CredentialsError::from)?.subject_cn;
        let name = name.unwrap_or_default();
        match parse_authority_name(&name) {
            Some((cluster, _)) if cluster != self.identity.cluster => {
                Err(FolderError::OtherCluster {
                    authority: name,
                    holder: self.identity.clone(),
                })
            }
            _ => Ok(name),
        }
    }

    /// That the folder's own certificate, if it is good, stays so with these roots and lists.
    fn check_trusting(
        &self,
        roots: &[CertificateDer<'static>],
        lists: &[RevocationList],
    ) -> Result<(), FolderError> {
        let bundle = bundle(roots, lists);
        match Credentials::load_trusting(&self.path, bundle.as_bytes()) {
            // One that is expired, revoked, or without its key is renewed by a CA that is trusted before.
            Err(
                CredentialsError::Refused(_)
                | CredentialsError::KeyMismatch
                | CredentialsError::File(FileError::Missing { .. }),
            ) if Credentials::load(&self.path).is_err() => {
                let cluster = self.identity.cluster.clone();
                let lists = lists.iter().map(|list| list.der().clone());
                Trust::new(cluster, roots.iter().cloned(), lists)
                    .map_err(CredentialsError::from)?;
                Ok(())
            }
            loaded => Ok(loaded.map(drop)?),
        }
    }

    /// The roots, and those of `more` that are not among them; the newest lists of all of them.
    fn with(
        &self,
        more: Vec<CertificateDer<'static>>,
        lists: Vec<RevocationList>,
    ) -> Result<Trusted, FolderError> {
        let mut roots = self.roots.clone();
        for root in more {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        let lists = self.lists.iter().cloned().chain(lists);
        let lists = newest_of(lists, &roots).map_err(CredentialsError::from)?;
        Ok((roots, lists))
    }

    fn set_roots(
        &mut self,
        roots: Vec<CertificateDer<'static>>,
        lists: Vec<RevocationList>,
    ) -> Result<(), FolderError> {
        let bundle = bundle(&roots, &lists);
        files::replace(&self.path, ROOTS_FILE, bundle.as_bytes(), Kind::Bundle)?;
        (self.roots, self.lists) = (roots, lists);
        Ok(())
    }
}

/// Whom the folder `path` trusts.
fn trusted_in(path: &Path) -> Result<Trusted, FolderError> {
    let trusted = files::read(&path.join(ROOTS_FILE), Kind::Bundle)?;
    let roots = certificates(&trusted, ROOTS_FILE, ROOTS_MAX)?;
    let lists = lists_in(&trusted, ROOTS_FILE)?;
    let lists = newest_of(lists, &roots).map_err(CredentialsError::from)?;
    Ok((roots, lists))
}

/// Gives the key of the certificate in the folder `path` its proper name, if a renewal was cut short before that.
pub(crate) fn finish_renewal(path: &Path) -> Result<(), FileError> {
    let chain = match files::read(&path.join(CERTIFICATE_FILE), Kind::Public) {
        // The first one is still to come.
        Err(FileError::Missing { .. }) => return Ok(()),
        read => read?,
    };
    match key_in(path, &chain) {
        Ok((_, NEXT_KEY_FILE)) => files::rename(path, &path.join(NEXT_KEY_FILE), KEY_FILE),
        // In its place, or lost: then a renewal is what helps.
        _ => Ok(()),
    }
}

/// That each of `offered` revokes nothing that the newest of its CA, which is among `newest`, does not. It may only be
/// what has expired; but whoever offers a list has to hear that it is not taken.
fn check_taken(
    offered: &[RevocationList],
    roots: &[CertificateDer<'_>],
    newest: &[RevocationList],
) -> Result<(), FolderError> {
    for list in offered {
        let root = roots.iter().find(|root| list.is_of(root));
        let known = root.and_then(|root| newest.iter().find(|newest| newest.is_of(root)));
        let known = known.expect("of whoever has signed one, the newest is kept");
        let count = known.lacks(list);
        if count > 0 {
            return Err(FolderError::OlderList {
                known: known.number(),
                offered: list.number(),
                count,
            });
        }
    }
    Ok(())
}

/// Certificates and lists of a CA, from its folder or from a file.
fn authority_pem(path: &Path) -> Result<Vec<u8>, FileError> {
    if !path.is_dir() {
        return Ok(files::read(path, Kind::Bundle)?.to_vec());
    }
    let mut pem = files::read(&path.join(CA_CERTIFICATE_FILE), Kind::Public)?.to_vec();
    match files::read(&path.join(LIST_FILE), Kind::Bundle) {
        Ok(list) => pem.extend_from_slice(&list),
        Err(FileError::Missing { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(pem)
}

/// The certificates in what [`authority_pem`] found at `path`.
fn authorities(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FolderError> {
    certificates(pem, NAME_OF_INPUT, ROOTS_MAX).map_err(|error| match error {
        CredentialsError::NotPem { .. } => FolderError::NoAuthority {
            path: path.to_owned(),
        },
        other => other.into(),
    })
}

fn bundle(roots: &[CertificateDer<'_>], lists: &[RevocationList]) -> String {
    let roots = roots.iter().map(|root| pem_text("CERTIFICATE", root));
    roots
        .chain(lists.iter().map(RevocationList::to_pem))
        .collect()
}

/// Why a folder was left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Peers would refuse what would be in it, and why.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// What was requested can not be read.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Nothing of a CA where one was to be read.
    #[error(
        "{} holds no certificate of a CA, nor its revocation list: give the folder of a CA, or a file {CA_CERTIFICATE_FILE} or \
         ca.pem",
        .path.display()
    )]
    NoAuthority {
        /// The file or folder.
        path: PathBuf,
    },
    /// No certificate, and nothing that says whose the first one is to be.
    #[error(
        "{} has neither {CERTIFICATE_FILE} nor {REQUEST_FILE}: ask for its first certificate with `quorate certs request`, or \
         put the request there that another tool has made for its {KEY_FILE}",
        .path.display()
    )]
    NothingRequested {
        /// The folder.
        path: PathBuf,
    },
    /// A certificate without a key.
    #[error(
        "{} has no key in it, and none waits in {} for its certificate: bring what was issued or signed for that folder",
        .brought.display(), .path.display()
    )]
    NoKey {
        /// What was brought.
        brought: PathBuf,
        /// The folder.
        path: PathBuf,
    },
    /// Credentials of somebody else.
    #[error("{} is the folder of {holder}, and this is {offered}: issue one for {holder}", .path.display())]
    OtherIdentity {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        holder: Identity,
        /// Whose would have gone into it.
        offered: Identity,
    },
    /// The CA of another cluster.
    #[error("{authority:?} is the CA of another cluster than that of {holder}")]
    OtherCluster {
        /// The name of that CA.
        authority: String,
        /// Whose folder it is.
        holder: Identity,
    },
    /// A CA that may have been distrusted, or that peers may not know yet.
    #[error(
        "{} does not trust {authority:?}, and peers may not either: take a certificate of a CA that it trusts; or, if that \
         one is to be trusted, first run `quorate certs trust` for every folder",
        .path.display()
    )]
    NotTrusted {
        /// The folder.
        path: PathBuf,
        /// The name of that CA.
        authority: String,
    },
    /// A list that is not the newest, and revokes what the newest does not.
    #[error(
        "revocation list number {offered} is older than number {known} of that CA, and revokes {count} certificates that \
         the newer one does not: revoke them by their numbers where ca.crl is the newest, unless they have expired; see \
         \"A lost list\" in docs/certificates.md"
    )]
    OlderList {
        /// The number of the newest list.
        known: u64,
        /// The number of the one that is older.
        offered: u64,
        /// How many of those on it are not on the other.
        count: usize,
    },
    /// The CA that issued the folder's own certificate.
    #[error(
        "the certificate in {} is vouched for by that CA and no other: renew it first with \
         `quorate certs renew`",
        .path.display()
    )]
    StillNeeded {
        /// The folder.
        path: PathBuf,
    },
}
