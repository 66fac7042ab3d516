//! Checks that the data file is Bobbin's and writable. Only its header is read, so nothing changes, and a server that
//! has it open is not disturbed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::backplane::local::{APPLICATION_ID, lock_of};

/// The first bytes of an SQLite file, and the offsets of the two application numbers in its header (SQLite file format,
/// section 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const APPLICATION_AT: usize = 68;
const HEADER: usize = 100;

/// Checks the file.
pub(super) fn look(path: Option<&Path>) -> Finding {
    let Some(path) = path else {
        return Finding::warning(
            "data",
            "rooms are in memory and are lost when the process ends; set DATA_FILE or REDIS_ENDPOINT",
        );
    };
    let shown = path.display();
    match header(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => missing(path),
        Err(error) => {
            Finding::error("data", format!("DATA_FILE {shown} can't be used: {error}; check its owner and mode"))
        }
        Ok(header) if header.is_empty() => Finding::ok("data", format!("{shown} is empty, and will be used")),
        Ok(header) if !is_ours(&header) => {
            Finding::error("data", format!("DATA_FILE {shown} belongs to another program; choose another file"))
        }
        Ok(_) if is_locked(path) => Finding::ok("data", format!("{shown} is in use by a running server")),
        Ok(_) => Finding::ok("data", format!("{shown} is writable")),
    }
}

/// Checks that a file that does not exist could be created.
fn missing(path: &Path) -> Finding {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // An unnamed temporary file, which disappears when closed.
    match OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder) {
        Ok(_) => Finding::ok("data", format!("{} will be created", path.display())),
        Err(error) => {
            let folder = folder.display();
            Finding::error(
                "data",
                format!(
                    "DATA_FILE can't be created in {folder}: {error}; create the folder, or make it writable for this user"
                ),
            )
        }
    }
}

/// Reads the file's first bytes. It is opened for writing, but not written.
fn header(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).append(true).open(path)?;
    let mut header = Vec::new();
    file.take(HEADER as u64).read_to_end(&mut header)?;
    Ok(header)
}

fn is_ours(header: &[u8]) -> bool {
    let number = header.get(APPLICATION_AT..APPLICATION_AT + 4).and_then(|bytes| bytes.try_into().ok());
    header.starts_with(MAGIC) && number.map(u32::from_be_bytes).map(i64::from) == Some(APPLICATION_ID)
}

/// Whether a server holds the file's lock. If none does, this holds the lock for a moment.
fn is_locked(path: &Path) -> bool {
    let path: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Ok(lock) = File::open(lock_of(&path)) else { return false };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}
