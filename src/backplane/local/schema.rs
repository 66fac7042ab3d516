//! The tables, and the check of a file's contents: only files that Bobbin created are accepted, and none of a newer
//! version.
//!
//! Kind and version are in the two numbers that SQLite's header reserves for applications. They are checked before
//! anything is written, so a refused file is unchanged.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::data_error::DataError;

/// Identifies Bobbin's files: the ASCII bytes "Bobb".
pub const APPLICATION_ID: i64 = 0x426F_6262;

/// The migration from each version to the next; an empty file has version 0.
const STEPS: &[&str] = &["
    -- A room, from its first message on. `last_ms` and `last_seq` are the newest id it ever assigned. `messages` and
    -- `bytes` count the rows of its log, whose beginning is lost once `trimmed` is 1.
    CREATE TABLE rooms (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last_ms INTEGER NOT NULL, last_seq INTEGER NOT NULL,
        messages INTEGER NOT NULL, bytes INTEGER NOT NULL, trimmed INTEGER NOT NULL);

    -- The logs. The key stores a room's messages next to each other, so a page of them is in a few pages of the file. A
    -- message removed through the admin API keeps its row, without a body, until it is trimmed: it causes no gap.
    CREATE TABLE messages (
        room INTEGER NOT NULL, ms INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT,
        PRIMARY KEY (room, ms, seq)) WITHOUT ROWID;
    CREATE INDEX removed ON messages (room) WHERE body IS NULL;

    -- The id of the message kept under each sender's `ref`. `period` counts ten minutes of service; two are kept.
    CREATE TABLE refs (
        period INTEGER NOT NULL, room INTEGER NOT NULL, by TEXT NOT NULL, ref TEXT NOT NULL,
        ms INTEGER NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (period, room, by, ref)) WITHOUT ROWID;

    -- The people in each room, by folded name: read once, at startup, so that nobody is shown leaving at a restart.
    CREATE TABLE seats (
        room TEXT NOT NULL, key TEXT NOT NULL, by TEXT NOT NULL, name TEXT NOT NULL,
        PRIMARY KEY (room, key)) WITHOUT ROWID;

    -- Banned marks and addresses, each until a time in Unix milliseconds.
    CREATE TABLE bans (id INTEGER PRIMARY KEY, by TEXT, address TEXT, until INTEGER NOT NULL);

    -- One row: how long the file has been in service, when it was last written, and the clock by which messages are
    -- deleted (see `clock.rs`); all in milliseconds.
    CREATE TABLE clock (ran INTEGER NOT NULL, wrote INTEGER NOT NULL, paced INTEGER NOT NULL);
    INSERT INTO clock VALUES (0, 0, 0);
"];

/// Checks a file, migrates it, and creates the tables in an empty one. `file` is `None` for an in-memory database.
pub fn prepare(conn: &mut Connection, file: Option<&Path>) -> Result<(), DataError> {
    upgrade(conn, file, STEPS)
}

fn upgrade(conn: &mut Connection, file: Option<&Path>, steps: &[&str]) -> Result<(), DataError> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (application, version, tables) != (0, 0, 0) {
        return Err(DataError::Foreign);
    }
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    let Some(missing) = steps.get(done..) else { return Err(DataError::Newer { version, known: steps.len() }) };
    if missing.is_empty() {
        return Ok(());
    }
    if done > 0
        && let Some(file) = file
    {
        copy_beside(conn, file, version)?;
    }
    let transaction = conn.transaction()?;
    missing.iter().try_for_each(|step| transaction.execute_batch(step))?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", steps.len() as i64)?;
    Ok(transaction.commit()?)
}

/// Copies the file to a name that ends in its version, under a temporary name until the copy is complete.
fn copy_beside(conn: &Connection, file: &Path, version: i64) -> Result<(), DataError> {
    let named = |ending: &str| PathBuf::from(format!("{}-version-{version}{ending}", file.display()));
    let (copy, part) = (named(""), named(".part"));
    let _ = fs::remove_file(&part);
    conn.execute("VACUUM INTO ?1", [part.to_string_lossy()])?;
    fs::rename(&part, &copy).map_err(|error| DataError::Unusable(format!("{}: {error}", copy.display())))?;
    log::info!("upgrading {} from version {version}; a copy is in {}", file.display(), copy.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_file_is_brought_up_to_date_after_a_copy_beside_it() {
        let dir = std::env::temp_dir().join(format!("bobbin-upgrade-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let file = dir.join("chat.db");
        let open = || Connection::open(&file).expect("a file");
        let count = |path: &Path, sql: &str| {
            Connection::open(path).and_then(|conn| conn.query_row(sql, [], |row| row.get::<_, i64>(0)))
        };
        upgrade(&mut open(), Some(&file), &["CREATE TABLE a (x); INSERT INTO a VALUES (7)"]).expect("made");
        let steps = ["CREATE TABLE a (x)", "CREATE TABLE b AS SELECT x FROM a", "INSERT INTO b VALUES (8)"];
        upgrade(&mut open(), Some(&file), &steps).expect("brought up to date");
        assert_eq!(count(&file, "SELECT sum(x) FROM b"), Ok(15));
        let copy = dir.join("chat.db-version-1");
        assert_eq!(count(&copy, "SELECT x FROM a"), Ok(7));
        assert!(count(&copy, "SELECT sum(x) FROM b").is_err(), "the copy is as the file was");

        // A migration that fails leaves the file unchanged.
        assert!(upgrade(&mut open(), Some(&file), &["", "", "", "INSERT INTO b VALUES (9)", "nonsense"]).is_err());
        assert_eq!(count(&file, "SELECT sum(x) FROM b"), Ok(15));
        assert_eq!(count(&file, "PRAGMA user_version"), Ok(3));
        fs::remove_dir_all(&dir).expect("its own files");
    }

    #[test]
    fn foreign_and_newer_files_are_refused() {
        let made = |sql: &str| {
            let mut conn = Connection::open_in_memory().expect("memory");
            conn.execute_batch(sql).expect("plain SQL");
            prepare(&mut conn, None)
        };
        assert!(made("").is_ok());
        assert!(matches!(made("CREATE TABLE theirs (x)"), Err(DataError::Foreign)));
        assert!(matches!(made("PRAGMA application_id = 7"), Err(DataError::Foreign)));
        assert!(matches!(made("PRAGMA user_version = 1"), Err(DataError::Foreign)));
        let newer = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99");
        assert!(matches!(made(&newer), Err(DataError::Newer { version: 99, .. })));
    }
}
