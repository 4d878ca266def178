//! Revoking: a CA's list of certificates that are good no more before their time.

use std::path::Path;
use std::slice;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;

use super::{CA_CERTIFICATE_FILE, Ca, CaError, ledger};
use crate::credentials::CredentialsError;
use crate::facts::{offset_date_time, unix_time};
use crate::files::{self, FILE_BYTES_MAX, FileError, Kind};
use crate::revocation::{RevocationList, Revoked, lists_in, newest_of};
use crate::serial::Serial;
use crate::trust::TrustError;

pub(crate) const LIST_FILE: &str = "ca.crl";

/// For how long what has expired stays on a list: clocks may differ.
const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

impl Ca {
    /// What it has issued, in its order: as far back as it has kept account, and nothing for one in memory.
    ///
    /// Errors: a file that can not be read, is too large, or has a line that is damaged.
    pub fn issued(&self) -> Result<Vec<super::Record>, CaError> {
        self.directory
            .as_deref()
            .map_or(Ok(Vec::new()), ledger::read)
    }

    /// The numbers of what it has revoked and what is not long expired.
    pub fn revoked(&self) -> impl Iterator<Item = Serial> + '_ {
        let revoked = self.list.iter().flat_map(RevocationList::revoked);
        revoked.map(|entry| entry.serial.clone())
    }

    /// Its list of revoked certificates in PEM; nothing before the first.
    pub fn revocation_list_pem(&self) -> String {
        self.list
            .as_ref()
            .map_or_else(String::new, RevocationList::to_pem)
    }

    /// Revokes the certificates with these numbers as of `now`. Where the CA is in a folder, the new list is on
    /// disk when this returns, with what others have revoked there meanwhile; nobody else knows it yet: see
    /// [`Folder::trust`](crate::Folder::trust).
    ///
    /// The list has no end but that of the CA: one that had to be renewed every week would some day not be,
    /// and take the cluster down. What has expired leaves it.
    ///
    /// Returns how many of them had not been revoked. Errors: a file that can not be read or written; a list
    /// of more than some 1,370 certificates ([`FILE_BYTES_MAX`](crate::FILE_BYTES_MAX)).
    pub fn revoke(&mut self, serials: &[Serial], now: SystemTime) -> Result<usize, CaError> {
        let mut _alone = None;
        if let Some(directory) = &self.directory {
            _alone = Some(files::lock(&directory.join(CA_CERTIFICATE_FILE))?);
            // Somebody else may have revoked others since it was read.
            self.list = read(directory, &self.certificate)?;
        }
        // Where that cannot be read, nothing is known to be over, and revoking by number still works.
        let records = self.issued().unwrap_or_default();
        let is_over = |serial: &Serial| {
            let known = records.iter().find(|record| record.serial == *serial);
            known.is_some_and(|record| record.not_after + KEPT_AFTER_EXPIRY < now)
        };
        let known: Vec<Serial> = self.revoked().collect();
        let mut news: Vec<Serial> = serials.to_vec();
        news.sort();
        news.dedup();
        news.retain(|serial| !known.contains(serial));
        if news.is_empty() {
            return Ok(0);
        }
        let old = self.list.iter().flat_map(RevocationList::revoked).cloned();
        let entries = old.filter(|entry| !is_over(&entry.serial));
        let added = news
            .iter()
            .cloned()
            .map(|serial| Revoked { serial, at: now });
        let entries: Vec<Revoked> = entries.chain(added).collect();
        let list = self.sign_list(&entries, now)?;
        let pem = list.to_pem();
        // Also of a CA in memory, for those who have to keep its list in their bundles.
        if pem.len() as u64 > FILE_BYTES_MAX {
            return Err(CaError::ListTooLarge);
        }
        if let Some(directory) = &self.directory {
            files::replace(directory, LIST_FILE, pem.as_bytes(), Kind::Public)?;
        }
        self.list = Some(list);
        Ok(news.len())
    }

    /// The list after the one that it has.
    ///
    /// Its number is the time, so that it is news to whoever knows an earlier one, also where that was lost here, or an
    /// older one was put back. Where a clock was set back, number and date are still not below those before.
    fn sign_list(&self, entries: &[Revoked], now: SystemTime) -> Result<RevocationList, CaError> {
        let old = self.list.as_ref();
        let number = old.map_or(1, |old| old.number().saturating_add(1));
        let number = number.max(unix_time(now).as_secs());
        let this_update = old.map_or(now, |old| old.this_update().max(now));
        let date = |time| offset_date_time(time).ok_or(CaError::BadTime);
        let entry = |entry: &Revoked| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(entry.serial.bytes()),
                revocation_time: date(entry.at)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate, &*self.key).map_err(CaError::signing)?;
        let params = CertificateRevocationListParams {
            this_update: date(this_update)?,
            next_update: date(self.not_after)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries.iter().map(entry).collect::<Result<_, CaError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&issuer).map_err(CaError::signing)?;
        RevocationList::read(list.into()).map_err(|detail| CaError::Signing {
            detail: detail.into(),
        })
    }
}

/// The list in `directory` of the CA with `certificate`, if there is one; the newest, where there are several, and not one
/// of other CAs: so that what somebody's `ca.pem` holds can be put in the place of a list that was lost.
pub(super) fn read(
    directory: &Path,
    certificate: &CertificateDer<'_>,
) -> Result<Option<RevocationList>, CaError> {
    let pem = match files::read(&directory.join(LIST_FILE), Kind::Bundle) {
        Ok(pem) => pem,
        Err(FileError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut lists = match lists_in(&pem, LIST_FILE) {
        Err(CredentialsError::Trust(error @ TrustError::TooManyLists)) => return Err(error.into()),
        read => read.unwrap_or_default(),
    };
    lists.retain(|list| list.is_of(certificate));
    let newest = newest_of(lists, slice::from_ref(certificate))?.pop();
    newest.map(Some).ok_or(CaError::ForeignList)
}
