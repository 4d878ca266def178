//! Certificates that are good no more before their time: the lists that CAs sign (RFC 5280 section 5).
//!
//! A list stands among the roots, in the same file and after the same PEM: whoever trusts a CA takes its list with
//! it, and both change in one step.

use std::collections::HashSet;
use std::time::SystemTime;

use pem::{EncodeConfig, LineEnding, Pem};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::credentials::CredentialsError;
use crate::serial::Serial;
use crate::trust::{ROOTS_MAX, TrustError};

/// One list, as somebody has signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    /// Rises with every list of one CA.
    number: u64,
    /// Of one CA, never before that of a list with a lower number.
    this_update: SystemTime,
    revoked: Vec<Revoked>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revoked {
    pub(crate) serial: Serial,
    pub(crate) at: SystemTime,
}

impl RevocationList {
    /// Reads one list with nothing after it. The error names what could not be read.
    pub(crate) fn read(der: CertificateRevocationListDer<'static>) -> Result<Self, &'static str> {
        let (rest, list) = CertificateRevocationList::from_der(&der)
            .map_err(|_| "not an X.509 revocation list")?;
        if !rest.is_empty() {
            return Err("bytes after the revocation list");
        }
        let number = list
            .crl_number()
            .and_then(|number| u64::try_from(number).ok())
            .ok_or("a revocation list without a number, or with too large a one")?;
        let revoked = list
            .iter_revoked_certificates()
            .map(|entry| Revoked {
                serial: Serial::new(entry.raw_serial()),
                at: entry.revocation_date.to_datetime().into(),
            })
            .collect();
        Ok(Self {
            number,
            this_update: list.last_update().to_datetime().into(),
            revoked,
            der,
        })
    }

    pub(crate) fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }

    pub(crate) fn to_pem(&self) -> String {
        pem_text("X509 CRL", &self.der)
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn this_update(&self) -> SystemTime {
        self.this_update
    }

    pub(crate) fn revoked(&self) -> &[Revoked] {
        &self.revoked
    }

    /// How many of those that `other` has revoked are not on it.
    pub(crate) fn lacks(&self, other: &Self) -> usize {
        let own: HashSet<&Serial> = self.revoked.iter().map(|entry| &entry.serial).collect();
        let others = other.revoked.iter();
        others.filter(|entry| !own.contains(&entry.serial)).count()
    }

    /// Whether `authority` has signed it: by name and by key, since names can be had by anybody.
    pub(crate) fn is_of(&self, authority: &CertificateDer<'_>) -> bool {
        let (Ok((_, list)), Ok((_, authority))) = (
            CertificateRevocationList::from_der(&self.der),
            X509Certificate::from_der(authority),
        ) else {
            return false;
        };
        list.issuer().as_raw() == authority.subject().as_raw()
            && list.verify_signature(authority.public_key()).is_ok()
    }
}

/// One block of PEM.
pub(crate) fn pem_text(tag: &str, der: &[u8]) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new(tag, der), config)
}

/// Of each root the newest list. An older one says less.
///
/// Errors: a list that no root has signed, and two of one root of which neither follows the other.
pub(crate) fn newest_of(
    lists: impl IntoIterator<Item = RevocationList>,
    roots: &[CertificateDer<'_>],
) -> Result<Vec<RevocationList>, TrustError> {
    let mut newest: Vec<Option<RevocationList>> = vec![None; roots.len()];
    for (position, list) in lists.into_iter().enumerate() {
        let root = roots.iter().position(|root| list.is_of(root));
        let newest = &mut newest[root.ok_or(TrustError::ForeignList { position })?];
        *newest = Some(match newest.take() {
            Some(known) => later_of(known, list)?,
            None => list,
        });
    }
    Ok(newest.into_iter().flatten().collect())
}

/// Which one of two lists of one CA follows the other. Number and date tell, and have to say the same: a CA that has
/// lost its list, or works from two copies of its folder, can sign one that is later and has no greater number.
fn later_of(one: RevocationList, other: RevocationList) -> Result<RevocationList, TrustError> {
    let (earlier, later) = match one.number <= other.number {
        true => (one, other),
        false => (other, one),
    };
    let is_followed = earlier.number < later.number && earlier.this_update <= later.this_update;
    match is_followed || earlier == later {
        true => Ok(later),
        false => Err(TrustError::ForkedLists {
            earlier: earlier.number,
            later: later.number,
        }),
    }
}

/// All lists in `pem`, at most [`ROOTS_MAX`].
pub(crate) fn lists_in(
    pem: &[u8],
    file: &'static str,
) -> Result<Vec<RevocationList>, CredentialsError> {
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem) {
        let position = lists.len();
        if position == ROOTS_MAX {
            return Err(TrustError::TooManyLists.into());
        }
        let list = list.map_err(|_| CredentialsError::NotPem { file })?;
        let list = RevocationList::read(list)
            .map_err(|detail| TrustError::MalformedList { position, detail })?;
        lists.push(list);
    }
    Ok(lists)
}
