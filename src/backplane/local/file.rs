//! The data file: found, locked against a second process, opened, and looked after while it is in use.
//!
//! The lock is on a file of its own beside it. SQLite's own locks must come and go with each transaction, so that
//! backups can read the file meanwhile; and closing any handle on the data file would drop those of this process.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema;

/// How long another program's write to the file, `sqlite3 chat.db` say, is waited for.
const BUSY: Duration = Duration::from_secs(1);
/// A file up to this size is read whole at the start, to find damage: some 0.2 s for 64 MiB.
const CHECKED: u64 = 64 * 1024 * 1024;

/// Why a data file is not used. The file is as it was.
#[derive(Debug)]
pub enum DataError {
    /// Another process has it.
    InUse,
    /// It is another program's.
    Foreign,
    /// A newer Bobbin made it.
    Newer {
        /// Its version.
        version: i64,
        /// The newest version that this program knows.
        known: usize,
    },
    /// Its contents are not what SQLite wrote.
    Damaged(String),
    /// It can't be opened or made.
    Unusable(String),
    /// Its disk is full or broken, which may mend itself.
    Disk(String),
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataError::InUse => f.write_str("another process uses it"),
            DataError::Foreign => f.write_str("it is not a file of Bobbin's"),
            DataError::Newer { version, known } => {
                write!(f, "it has version {version}, and this program knows versions up to {known}; use a newer one")
            }
            DataError::Damaged(how) => {
                write!(f, "it is damaged ({how}); restore a backup, or save what can be read (docs/storage.md)")
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
            _ if schema::is_damage(&error) => DataError::Damaged(text),
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => DataError::Disk(text),
            _ => DataError::Unusable(text),
        }
    }
}

/// What guards the file that a connection has open.
pub struct DataFile {
    path: PathBuf,
    /// Device and number of the file and of its log: what the paths must still lead to.
    identity: [Identity; 2],
    /// Locked for as long as it is open.
    _lock: File,
}

type Identity = Option<(u64, u64)>;

/// Opens the file, or a database in memory, and accepts its contents.
///
/// # Errors
/// [`DataError`].
pub fn open(path: Option<&Path>) -> Result<(Connection, Option<DataFile>), DataError> {
    let Some(path) = path else {
        let mut conn = Connection::open_in_memory()?;
        schema::prepare(&mut conn, None)?;
        return Ok((conn, None));
    };
    let unusable = |error: io::Error| DataError::Unusable(error.to_string());
    // Where a file may not grow (RLIMIT_FSIZE), that is an error to be answered, not the end of the process.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default()).map_err(unusable)?;
    let path = resolve(path).map_err(unusable)?;
    let options = |new| OpenOptions::new().write(true).create(true).create_new(new).mode(0o600).clone();
    let lock = options(false).open(lock_of(&path)).map_err(unusable)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => DataError::InUse,
        TryLockError::Error(error) => unusable(error),
    })?;
    // SQLite would make it readable for everybody.
    match options(true).open(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let mut conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.busy_timeout(BUSY)?;
    schema::prepare(&mut conn, Some(&path))?;
    check(&conn, &path)?;
    // Commits append to a log beside the file, and are on the disk when they return.
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    let mut file = DataFile { path, identity: [None, None], _lock: lock };
    // The log is made when it is first read or written.
    conn.query_row("SELECT count(*) FROM clock", [], |_| Ok(()))?;
    file.identity = file.look();
    Ok((conn, Some(file)))
}

impl DataFile {
    /// Its path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still in its place. What is written to a file that was removed or replaced ends with the process,
    /// without any error.
    pub fn is_in_place(&self) -> bool {
        self.look() == self.identity
    }

    fn look(&self) -> [Identity; 2] {
        let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        [identity(&self.path), identity(&beside(&self.path, "-wal"))]
    }
}

/// A file of this size can be checked without a delay that anybody notices.
fn check(conn: &Connection, path: &Path) -> Result<(), DataError> {
    if fs::metadata(path).is_ok_and(|found| found.len() > CHECKED) {
        return Ok(());
    }
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(DataError::Damaged(found.replace('\n', " "))) }
}

/// The same file must have the same lock by whatever path it is reached.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    if let Ok(found) = path.canonicalize() {
        return Ok(found);
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("it is not the path of a file"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(|error| io::Error::other(format!("{}: {error}", parent.display())))?;
    Ok(parent.join(name))
}

/// The file that a server locks for as long as it has this one open.
pub fn lock_of(path: &Path) -> PathBuf {
    beside(path, "-lock")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
