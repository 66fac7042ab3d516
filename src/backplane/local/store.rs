//! The transaction shared by a batch of commands, and the recovery when it fails.
//!
//! A failed write rolls back the whole transaction: nothing of it is kept, its senders are refused, and the store is
//! *down* until a write succeeds again. Reads continue meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::clock::{self, Clock};
use super::data_error::{DataError, is_damage};
use super::file::{self, DataFile};
use super::space::Space;
use super::{all_logs, room_log};
use crate::backplane::{Health, Limits, Unavailable};
use crate::limits;
use crate::settings::Retention;

/// Delay before a store that is down is tried again: it starts at the first value, doubles up to the second, and starts
/// over once the store has been up for longer than the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Rooms checked per tick for messages to trim.
const SWEEP: usize = 100;
/// How long logs are trimmed per tick while all rooms together take too many bytes.
const TRIM_TIME: Duration = Duration::from_millis(20);
/// Old refs deleted per tick, and per new message. The latter bounds their number at any message rate.
const FORGET: (usize, usize) = (2000, 2);
/// Capacity of the statement cache, larger than the number of statements.
const STATEMENTS: usize = 64;

/// Why the store is down when its file has been moved.
const GONE: &str = "the data file was removed or replaced; put it back, or restart";

/// The database that holds the rooms, on disk or in memory.
pub struct Store {
    conn: Connection,
    file: Option<DataFile>,
    retention: Retention,
    /// What all rooms may take together.
    pub space: Space,
    pub clock: Clock,
    /// Whether anything has been written since the clock was last written.
    clock_is_behind: bool,
    /// Whether the write-ahead log may still contain messages that were removed, also by an earlier process.
    log_has_removed: bool,
    /// The number of the room last checked for messages to trim.
    swept: i64,
    /// Whether there may be refs of an earlier period.
    old_refs: bool,
    batch: Batch,
    down: Option<Down>,
    up_since: Instant,
    retry_wait: Duration,
}

/// The state of the current transaction.
#[derive(PartialEq)]
enum Batch {
    /// Nothing has been written.
    Empty,
    /// The transaction has begun.
    Open,
    /// A write failed.
    Failed,
}

struct Down {
    why: String,
    /// `None` if the file is corrupt: it is not written again.
    retry_at: Option<Instant>,
}

impl Store {
    /// Opens the file, or an in-memory database.
    pub fn open(path: Option<&Path>, limits: Limits) -> Result<Store, DataError> {
        let (conn, file) = file::open(path)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        // Otherwise SQLite compiles statements with a `LIMIT ?` again each time they run, because it looks at the value.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        let clock = Clock::new(clock::read(&conn)?);
        let most = match (limits.storage, &file) {
            (None, Some(file)) => file.share_of_disk(&conn),
            (storage, Some(_)) => storage.filter(|bytes| *bytes > 0),
            (storage, None) => limits::rooms_in_memory(storage).or(Some(limits::MOST_IN_MEMORY)),
        };
        Ok(Store {
            file,
            retention: limits.retention,
            space: Space::new(most, &conn),
            conn,
            clock,
            clock_is_behind: true,
            log_has_removed: true,
            swept: 0,
            old_refs: true,
            batch: Batch::Empty,
            down: None,
            up_since: Instant::now(),
            retry_wait: RETRY.0,
        })
    }

    /// The file's path; `None` if in memory.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(DataFile::path)
    }

    /// The connection, for reading.
    pub fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Whether writing works, and if not, why.
    pub fn health(&self) -> Health {
        self.down.as_ref().map_or(Ok(()), |down| Err(down.why.clone()))
    }

    /// Calls `act` within the batch's transaction, which the first write begins. After one has failed, the others of
    /// the batch fail too.
    pub fn write<T>(&mut self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Unavailable> {
        if self.down.is_some() || self.batch == Batch::Failed {
            return Err(Unavailable);
        }
        let begun = if self.batch == Batch::Open { Ok(()) } else { self.run("BEGIN IMMEDIATE") };
        self.batch = Batch::Open;
        self.clock_is_behind = true;
        begun.and_then(|()| act(&self.conn)).map_err(|error| {
            self.batch = Batch::Failed;
            self.fail(&error);
            Unavailable
        })
    }

    /// Ends the batch, which contains this number of new messages. Returns whether it was committed.
    pub fn commit(&mut self, messages: usize) -> bool {
        if self.old_refs && messages > 0 {
            self.forget_refs(messages * FORGET.1);
        }
        self.space.grow(messages, &self.conn);
        match std::mem::replace(&mut self.batch, Batch::Empty) {
            Batch::Empty => return true,
            Batch::Failed => {}
            Batch::Open => match self.run("COMMIT") {
                Ok(()) if self.is_in_place() => {
                    self.erase_log();
                    return true;
                }
                Ok(()) => self.go_down(GONE.to_owned(), true),
                Err(error) => self.fail(&error),
            },
        }
        // Some errors have already rolled the transaction back.
        if !self.conn.is_autocommit()
            && let Err(error) = self.run("ROLLBACK")
        {
            self.fail(&error);
        }
        false
    }

    /// Calls `act` like [`Store::write`]. After the commit, the write-ahead log no longer contains what it deletes.
    pub fn erase<T>(&mut self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Unavailable> {
        self.log_has_removed = true;
        self.write(act)
    }

    /// Empties the write-ahead log if it may contain removed messages. While another program reads the file, that is not possible;
    /// then it is tried again later.
    fn erase_log(&mut self) {
        if self.log_has_removed {
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            let is_busy =
                file::without_waiting(&self.conn, |conn| conn.query_row(sql, [], |row| row.get::<_, bool>(0)));
            self.log_has_removed = is_busy.unwrap_or(true);
        }
    }

    fn run(&self, sql: &str) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(DataFile::is_in_place)
    }

    fn fail(&mut self, error: &rusqlite::Error) {
        self.go_down(error.to_string(), !is_damage(error));
    }

    fn go_down(&mut self, why: String, may_mend: bool) {
        if self.up_since.elapsed() > RETRY.1 {
            self.retry_wait = RETRY.0;
        }
        self.down = Some(Down { why, retry_at: may_mend.then(|| Instant::now() + self.retry_wait) });
        self.retry_wait = (self.retry_wait * 2).min(RETRY.1);
    }

    /// Whether a store that was down is due for a retry. It then counts as up until a write fails.
    pub fn try_again(&mut self, now: Instant) -> bool {
        let is_due = self.down.as_ref().and_then(|down| down.retry_at).is_some_and(|at| at <= now);
        if is_due {
            self.down = None;
            self.up_since = now;
            self.clock_is_behind = true;
        }
        is_due
    }

    /// Periodic work, once per second: deletes old messages and refs, and writes the clock if anything else was
    /// written. Returns the rooms whose row changed. Rooms for which `is_held` is true stay, even if empty.
    pub fn tick(&mut self, now: Instant, is_held: impl Fn(&str) -> bool) -> Vec<String> {
        if self.down.is_none() && !self.is_in_place() {
            self.go_down(GONE.to_owned(), true);
        }
        self.erase_log();
        self.old_refs |= self.clock.tick(now);
        if self.old_refs {
            self.forget_refs(FORGET.0);
        }
        let mut changed = self.sweep(is_held);
        if let Some(bytes) = self.space.trim_to {
            changed.extend(self.trim_largest(bytes));
        }
        if self.clock_is_behind {
            let row = self.clock.row();
            let _ = self.write(|conn| clock::write(conn, row));
            self.clock_is_behind = false;
        }
        changed
    }

    fn forget_refs(&mut self, count: usize) {
        let period = self.clock.period();
        self.old_refs = self.write(|conn| room_log::forget_refs(conn, period, count)) != Ok(0);
    }

    /// Whether logs are to be trimmed without waiting for the next tick.
    pub fn must_trim(&self) -> bool {
        self.down.is_none() && self.space.is_short()
    }

    /// Checks what all rooms take together, and returns whether more logs are trimmed from now on.
    pub fn limit_logs(&mut self) -> bool {
        self.down.is_none() && self.space.check(&self.conn)
    }

    /// Trims some rooms, and returns those whose row changed.
    fn sweep(&mut self, is_held: impl Fn(&str) -> bool) -> Vec<String> {
        let (retention, before) = (self.retention, self.clock.delete_before(self.retention.life));
        let found = all_logs::rooms_after(&self.conn, self.swept, SWEEP).unwrap_or_default();
        self.swept = found.last().filter(|_| found.len() == SWEEP).map_or(0, |(_, log)| log.number());
        let mut changed = Vec::new();
        for (name, mut log) in found {
            let is_dead = log.is_empty() && log.last.ms < clock::unix_ms() && !is_held(&name);
            let is_over = || log.is_over(&self.conn, &retention, before).unwrap_or_default();
            if is_dead || is_over() {
                let _ = self.write(|conn| {
                    if is_dead {
                        log.remove(conn)
                    } else {
                        log.trim(conn, &retention, before, room_log::TRIM).and_then(|()| log.save(conn))
                    }
                });
                changed.push(name);
            }
        }
        changed
    }

    /// Trims the largest logs if all rooms together took too many bytes, and returns the rooms whose row changed.
    fn trim_largest(&mut self, bytes: usize) -> Vec<String> {
        let (end, retention) = (Instant::now() + TRIM_TIME, Retention { bytes, ..self.retention });
        let largest = all_logs::largest(&self.conn, bytes, SWEEP).unwrap_or_default();
        if largest.is_empty() {
            self.space.trim_to = None;
        }
        let mut changed = Vec::new();
        for (name, mut log) in largest {
            if Instant::now() > end {
                break;
            }
            let _ = self.write(|conn| log.trim(conn, &retention, 0, room_log::TRIM).and_then(|()| log.save(conn)));
            changed.push(name);
        }
        changed
    }
}
