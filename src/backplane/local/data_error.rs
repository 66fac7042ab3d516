//! Why a data file cannot be used.

use std::fmt;

use rusqlite::ErrorCode;

/// Why a data file cannot be used. The file has not been changed.
#[derive(Debug)]
pub enum DataError {
    /// Another process holds its lock.
    InUse,
    /// It belongs to another program.
    Foreign,
    /// It was written by a newer version of Bobbin.
    Newer {
        /// The file's schema version.
        version: i64,
        /// The newest schema version this program knows.
        known: usize,
    },
    /// Its contents are corrupt.
    Damaged(String),
    /// It cannot be opened or created.
    Unusable(String),
    /// The disk is full or failing; a retry may succeed.
    Disk(String),
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataError::InUse => f.write_str("another process is using it"),
            DataError::Foreign => f.write_str("it belongs to another program"),
            DataError::Newer { version, known } => {
                write!(f, "it has version {version}, but this program supports versions up to {known}; use a newer one")
            }
            DataError::Damaged(how) => {
                write!(f, "it is corrupt ({how}); restore a backup, or recover what is readable (docs/storage.md)")
            }
            DataError::Unusable(why) | DataError::Disk(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for DataError {}

impl From<rusqlite::Error> for DataError {
    fn from(error: rusqlite::Error) -> DataError {
        let text = error.to_string();
        match error.sqlite_error_code() {
            _ if is_damage(&error) => DataError::Damaged(text),
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => DataError::Disk(text),
            _ => DataError::Unusable(text),
        }
    }
}

/// Whether the error means that the file is corrupt, so that retrying is pointless.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
