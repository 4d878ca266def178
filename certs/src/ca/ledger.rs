//! What a CA has issued, a line each, in its folder: nobody could say otherwise which serial numbers somebody has.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339 as Format;

use super::CaError;
use crate::facts::Rfc3339;
use crate::files::{self, ABANDONED, FileError};
use crate::identity::Identity;
use crate::serial::Serial;

const LEDGER_FILE: &str = "ca.issued";

/// Largest ledger that is read: some hundred thousand certificates.
const LEDGER_BYTES_MAX: u64 = 16 << 20;

/// One certificate that a CA has issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub serial: Serial,
    /// Whom it speaks for.
    pub identity: Identity,
    /// When it expires.
    pub not_after: SystemTime,
}

/// Notes one more. On disk when this returns.
pub(super) fn add(directory: &Path, record: &Record) -> Result<(), CaError> {
    let Record {
        serial,
        identity,
        not_after,
    } = record;
    let line = format!("{serial} {} {identity}", Rfc3339(*not_after));
    Ok(files::append_line(directory, LEDGER_FILE, &line)?)
}

/// All of them, in their order; none where there is no ledger yet. A line that cannot be read is an error: nobody
/// should revoke what somebody has and miss a certificate.
pub(super) fn read(directory: &Path) -> Result<Vec<Record>, CaError> {
    let path = directory.join(LEDGER_FILE);
    let failed = |source| FileError::Io {
        path: path.clone(),
        action: "read",
        source,
    };
    let bytes = match std::fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error).into()),
    };
    if bytes > LEDGER_BYTES_MAX {
        return Err(CaError::LedgerTooLarge);
    }
    let bytes = std::fs::read(&path).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    // A line that was not finished is of a certificate that was not handed out.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().zip(1..);
    let finished = lines.filter(|(line, _)| !line.ends_with(ABANDONED));
    finished
        .map(|(line, number)| parse(line).ok_or(CaError::LedgerLine { number }))
        .collect()
}

fn parse(line: &str) -> Option<Record> {
    let mut words = line.split(' ');
    let (serial, not_after, uri) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    Some(Record {
        serial: serial.parse().ok()?,
        identity: Identity::from_uri(uri).ok()?,
        not_after: OffsetDateTime::parse(not_after, &Format).ok()?.into(),
    })
}
