//! The data file: locating it, locking it against other processes, opening it, and watching it while in use.
//!
//! The lock is on a separate file beside it. SQLite's own locks must come and go with each transaction so that backups
//! can read the file; and closing any handle on the data file would release this process's locks on it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, DEFAULT_NAME, FileControl, OpenFlags};

use super::data_error::DataError;
use super::schema;
use crate::settings::LEAST_STORAGE;

/// How long to wait while another program, for example `sqlite3 chat.db`, is writing to the file.
const BUSY: Duration = Duration::from_secs(1);
/// Files up to this size are checked for damage at startup: 64 MiB take about 0.2 s.
const CHECKED: u64 = 64 * 1024 * 1024;

/// The largest database in memory, in bytes: what SQLite allocates at most (`SQLITE_MAX_ALLOCATION_SIZE`).
const LARGEST_IN_MEMORY: i64 = 0x7fff_feff;

/// The open data file: its lock, and its identity on disk.
pub struct DataFile {
    path: PathBuf,
    /// Device and inode of the file and of its write-ahead log. The paths must keep referring to these.
    identity: [Identity; 2],
    /// Holds the lock while open.
    _lock: File,
}

type Identity = Option<(u64, u64)>;

/// Opens the file, or an in-memory database, and verifies its contents.
///
/// # Errors
/// [`DataError`].
pub fn open(path: Option<&Path>) -> Result<(Connection, Option<DataFile>), DataError> {
    let Some(path) = path else {
        return Ok((open_in_memory()?, None));
    };
    let unusable = |error: io::Error| DataError::Unusable(error.to_string());
    // With a file size limit (RLIMIT_FSIZE), a write must fail with an error; without a handler the signal would end
    // the process.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default()).map_err(unusable)?;
    let path = resolve(path).map_err(unusable)?;
    if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return Err(DataError::Unusable(format!("{} is not a regular file", path.display())));
    }
    let options = |new| OpenOptions::new().write(true).create(true).create_new(new).mode(0o600).clone();
    let lock = options(false).open(lock_of(&path)).map_err(unusable)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => DataError::InUse,
        TryLockError::Error(error) => unusable(error),
    })?;
    // Create the file here, because SQLite would make it readable for everyone.
    match options(true).open(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let mut conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.busy_timeout(BUSY)?;
    schema::prepare(&mut conn, Some(&path))?;
    check(&conn, &path)?;
    // A commit appends to a log beside the file, and is durable when it returns.
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // Always, not only while messages are removed: SQLite leaves copies when it moves rows between pages.
    conn.pragma_update(None, "secure_delete", true)?;
    let mut file = DataFile { path, identity: [None, None], _lock: lock };
    // SQLite creates the log at the first access.
    conn.query_row("SELECT count(*) FROM clock", [], |_| Ok(()))?;
    file.identity = file.look();
    Ok((conn, Some(file)))
}

/// Calls `act`, which fails at once if another program uses the file.
pub fn without_waiting<T>(
    conn: &Connection,
    act: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    conn.busy_timeout(Duration::ZERO)?;
    let done = act(conn);
    conn.busy_timeout(BUSY)?;
    done
}

/// Opens a new database in memory, as a file of SQLite's `memdb`. With `:memory:`, commits look through all pages whenever some
/// were renumbered, so they would take longer the more is stored.
fn open_in_memory() -> Result<Connection, DataError> {
    let mut conn = Connection::open_with_flags_and_vfs("rooms", OpenFlags::default(), c"memdb")?;
    let mut most = LARGEST_IN_MEMORY;
    conn.file_control(DEFAULT_NAME, FileControl::SizeLimit(&mut most))?;
    // There is no other connection, so SQLite need not check for changes by one.
    conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    schema::prepare(&mut conn, None)?;
    Ok(conn)
}

/// The bytes of a database that are in use.
pub fn used(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok(pragma("page_count")?.saturating_sub(pragma("freelist_count")?) * pragma("page_size")?)
}

impl DataFile {
    /// The bytes that the file may take unless set otherwise: as many as it takes now, or half of these and of the disk's
    /// free space. `None` if the system does not say how much is free.
    pub fn share_of_disk(&self, conn: &Connection) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.path).ok().filter(|disk| disk.f_blocks > 0)?;
        let (used, free) = (used(conn).ok()?, disk.f_bavail.saturating_mul(disk.f_frsize));
        Some(used.max(used.saturating_add(free) / 2).max(LEAST_STORAGE))
    }

    /// The file's path, with symbolic links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the paths still refer to the open files. Writes to a removed or replaced file would succeed, but be lost
    /// when the process ends.
    pub fn is_in_place(&self) -> bool {
        self.look() == self.identity
    }

    fn look(&self) -> [Identity; 2] {
        let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        [identity(&self.path), identity(&beside(&self.path, "-wal"))]
    }
}

/// Checks small files for damage, as that takes no noticeable time.
fn check(conn: &Connection, path: &Path) -> Result<(), DataError> {
    if fs::metadata(path).is_ok_and(|found| found.len() > CHECKED) {
        return Ok(());
    }
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(DataError::Damaged(found.replace('\n', " "))) }
}

/// Resolves symbolic links, so that a file has the same lock under every path that leads to it.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    if let Ok(found) = path.canonicalize() {
        return Ok(found);
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("not the path of a file"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(|error| io::Error::other(format!("{}: {error}", parent.display())))?;
    Ok(parent.join(name))
}

/// The file that a server locks while it has this one open.
pub fn lock_of(path: &Path) -> PathBuf {
    beside(path, "-lock")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_in_memory_may_grow_to_what_sqlite_allocates() {
        let (conn, _) = open(None).expect("memory");
        let mut most = -1;
        conn.file_control(DEFAULT_NAME, FileControl::SizeLimit(&mut most)).expect("a file of `memdb`");
        assert_eq!(most, LARGEST_IN_MEMORY);
    }
}
