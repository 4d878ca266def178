//! Backups: the whole state as it was at one moment, in a file, and a new cluster from it.

mod file;
mod held;
mod restore;
#[cfg(test)]
mod tests;

pub use file::{
    BACKUP_FORMAT, BackupError, BackupHeader, BackupReader, BackupSummary, BackupWriter,
};
pub(crate) use held::Held;
pub use held::{BACKUP_IDLE_MAX, BACKUPS_MAX};
pub use restore::{RestoreError, Restored, restore};
