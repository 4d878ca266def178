//! A folder of credentials whose content changes: a renewed certificate, other roots.

use std::path::{Path, PathBuf};

use pem::{EncodeConfig, LineEnding, Pem};
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::ca::parse_authority_name;
use crate::credentials::{Credentials, CredentialsError, certificates, key_in};
use crate::facts::Facts;
use crate::files::{self, FileError, Secrecy};
use crate::identity::Identity;
use crate::issued::{CERTIFICATE_FILE, Issued, KEY_FILE, NEXT_KEY_FILE, ROOTS_FILE};
use crate::trust::{CHAIN_CERTIFICATES_MAX, ROOTS_MAX, TrustError, identity_of};
use crate::verify_error::VerifyError;

/// The folder that [`Issued::write`] made, to be changed while its owner runs.
///
/// Every change is checked as a peer would check it before a byte is written, and is made in steps
/// after each of which [`Credentials::load`] finds whole credentials: the old or the new. One process at
/// a time may change a folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    identity: Identity,
    roots: Vec<CertificateDer<'static>>,
}

impl Folder {
    /// Reads whose folder it is and whom it trusts. Its certificate may be expired, and its key is not
    /// looked at.
    ///
    /// Errors: a file that is missing or too large, or that holds something else.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let chain = files::read(&path.join(CERTIFICATE_FILE), Secrecy::Public)?;
        let chain = certificates(&chain, CERTIFICATE_FILE, CHAIN_CERTIFICATES_MAX)?;
        let identity = Facts::read(&chain[0])
            .map_err(|detail| VerifyError::Malformed {
                detail: detail.to_owned(),
            })
            .and_then(|facts| identity_of(&facts))
            .map_err(CredentialsError::from)?;
        let roots = files::read(&path.join(ROOTS_FILE), Secrecy::Public)?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            roots: certificates(&roots, ROOTS_FILE, ROOTS_MAX)?,
        })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Puts what a CA has just issued in the place of key and certificate. Whom the folder trusts stays,
    /// and what the CA says is trusted as well: during a rotation there are peers of both.
    ///
    /// Returns what is in the folder now. Errors: credentials of somebody else, or such as peers would
    /// refuse; a file that can not be written.
    pub fn renew(&mut self, issued: &Issued) -> Result<Credentials, FolderError> {
        self.install(
            issued.key_pem().as_bytes(),
            issued.certificate_pem().as_bytes(),
            issued.roots_pem().as_bytes(),
        )
    }

    /// As [`renew`](Self::renew), with the content of another folder, which was brought here from where
    /// the CA is.
    ///
    /// Errors: those of [`renew`](Self::renew), and those of reading the other folder.
    pub fn renew_from(&mut self, other: &Path) -> Result<Credentials, FolderError> {
        let key = files::read(&other.join(KEY_FILE), Secrecy::Secret)?;
        let chain = files::read(&other.join(CERTIFICATE_FILE), Secrecy::Public)?;
        let roots = files::read(&other.join(ROOTS_FILE), Secrecy::Public)?;
        self.install(&key, &chain, &roots)
    }

    fn install(
        &mut self,
        key: &[u8],
        chain: &[u8],
        roots: &[u8],
    ) -> Result<Credentials, FolderError> {
        let roots = self.with(certificates(roots, ROOTS_FILE, ROOTS_MAX)?);
        let bundle = bundle(&roots);
        let credentials = Credentials::from_pem(key, chain, bundle.as_bytes(), UnixTime::now())?;
        if *credentials.identity() != self.identity {
            return Err(FolderError::OtherIdentity {
                path: self.path.clone(),
                holder: self.identity.clone(),
                offered: credentials.identity().clone(),
            });
        }
        self.finish_renewal()?;
        // The old certificate is good with more roots. Then the key has to be there before its
        // certificate is: a certificate without a key is of no use, and a key without one does no harm.
        files::replace(&self.path, ROOTS_FILE, bundle.as_bytes(), Secrecy::Public)?;
        files::replace(&self.path, NEXT_KEY_FILE, key, Secrecy::Secret)?;
        files::replace(&self.path, CERTIFICATE_FILE, chain, Secrecy::Public)?;
        files::rename(&self.path, &self.path.join(NEXT_KEY_FILE), KEY_FILE)?;
        self.roots = roots;
        Ok(credentials)
    }

    /// Trusts the CA whose certificate is in the file `authority` as well. Returns whether it did not
    /// before.
    ///
    /// Errors: a file that holds no CA's certificate, or that of a CA of another cluster; more than
    /// [`ROOTS_MAX`] in all; a file that can not be written.
    pub fn trust(&mut self, authority: &Path) -> Result<bool, FolderError> {
        let added = authorities(authority)?;
        for certificate in &added {
            let facts = Facts::read(certificate).map_err(|detail| TrustError::MalformedRoot {
                position: 0,
                detail,
            });
            let name = facts.map_err(CredentialsError::from)?.subject_cn;
            let named = name.as_deref().and_then(parse_authority_name);
            if named.is_some_and(|(cluster, _)| cluster != self.identity.cluster) {
                return Err(FolderError::OtherCluster {
                    authority: name.unwrap_or_default(),
                    holder: self.identity.clone(),
                });
            }
        }
        let roots = self.with(added);
        let is_news = roots.len() > self.roots.len();
        self.set_roots(roots)?;
        Ok(is_news)
    }

    /// Trusts the CA whose certificate is in the file `authority` no longer. Returns whether it did
    /// before.
    ///
    /// Errors: [`FolderError::StillNeeded`] where the folder's own certificate would not be good any more; a
    /// file that can not be read or written.
    pub fn distrust(&mut self, authority: &Path) -> Result<bool, FolderError> {
        let removed = authorities(authority)?;
        let mut roots = self.roots.clone();
        roots.retain(|root| !removed.contains(root));
        if roots.len() == self.roots.len() {
            return Ok(false);
        }
        self.set_roots(roots).map_err(|error| match error {
            FolderError::Credentials(
                CredentialsError::Trust(TrustError::NoRoots)
                | CredentialsError::NotPem { .. }
                | CredentialsError::Refused(_),
            ) => FolderError::StillNeeded {
                path: self.path.clone(),
            },
            other => other,
        })?;
        Ok(true)
    }

    /// The roots, and those of `more` that are not among them.
    fn with(&self, more: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
        let mut roots = self.roots.clone();
        for root in more {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        roots
    }

    fn set_roots(&mut self, roots: Vec<CertificateDer<'static>>) -> Result<(), FolderError> {
        let bundle = bundle(&roots);
        Credentials::load_trusting(&self.path, bundle.as_bytes())?;
        files::replace(&self.path, ROOTS_FILE, bundle.as_bytes(), Secrecy::Public)?;
        self.roots = roots;
        Ok(())
    }

    /// Gives the key of the certificate its proper name, if a renewal was cut short before that.
    fn finish_renewal(&self) -> Result<(), FileError> {
        let chain = files::read(&self.path.join(CERTIFICATE_FILE), Secrecy::Public)?;
        match key_in(&self.path, &chain) {
            Ok((_, NEXT_KEY_FILE)) => {
                files::rename(&self.path, &self.path.join(NEXT_KEY_FILE), KEY_FILE)
            }
            // In its place, or lost: then a renewal is what helps.
            _ => Ok(()),
        }
    }
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, FolderError> {
    let pem = files::read(file, Secrecy::Public)?;
    let found = certificates(&pem, "the authority's file", ROOTS_MAX)?;
    Ok(found)
}

fn bundle(roots: &[CertificateDer<'_>]) -> String {
    let blocks: Vec<Pem> = roots
        .iter()
        .map(|root| Pem::new("CERTIFICATE", root.to_vec()))
        .collect();
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_many_config(&blocks, config)
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
