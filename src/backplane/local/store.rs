//! The transaction that a batch of commands shares, and what follows when it fails.
//!
//! A write that fails spoils the whole transaction: nothing of it is kept, its senders are refused, and the store is
//! *down* until a write succeeds again. Reading goes on meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::clock::{self, Clock};
use super::file::{self, DataError, DataFile};
use super::{room_log, schema};
use crate::backplane::{Health, Unavailable};
use crate::settings::Retention;

/// While the store is down, it is tried again after the first of these, then after twice as long each time, up to the
/// second. The wait starts anew once the store was up for longer than that.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Rooms whose excess of messages is looked for, per tick.
const SWEEP: usize = 100;
/// Old refs that are forgotten per tick, and for each new message: so their number stays bounded at any rate.
const FORGET: (usize, usize) = (500, 2);
/// Statements that stay prepared: more than there are.
const STATEMENTS: usize = 64;

/// Why the store is down once its file is elsewhere.
const GONE: &str = "the data file was removed or replaced; put it back, or start again";

/// The file, or the memory, that holds the rooms.
pub struct Store {
    conn: Connection,
    file: Option<DataFile>,
    retention: Retention,
    pub clock: Clock,
    /// Whether something was written since the clock was.
    clock_is_behind: bool,
    /// The last room whose excess was looked for.
    swept: i64,
    /// Whether there may be refs of an earlier period.
    old_refs: bool,
    batch: Batch,
    down: Option<Down>,
    up_since: Instant,
    retry_wait: Duration,
}

/// How far the transaction of the commands at hand is.
#[derive(PartialEq)]
enum Batch {
    /// Nothing is written yet.
    Empty,
    /// It has begun.
    Open,
    /// A write failed.
    Failed,
}

struct Down {
    why: String,
    /// `None`: the file is damaged, and is left alone.
    retry_at: Option<Instant>,
}

impl Store {
    /// Opens the file, or memory.
    pub fn open(path: Option<&Path>, retention: Retention) -> Result<Store, DataError> {
        let (conn, file) = file::open(path)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        let clock = Clock::new(clock::read(&conn)?);
        Ok(Store {
            conn,
            file,
            retention,
            clock,
            clock_is_behind: true,
            swept: 0,
            old_refs: true,
            batch: Batch::Empty,
            down: None,
            up_since: Instant::now(),
            retry_wait: RETRY.0,
        })
    }

    /// The file's path; `None` in memory.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(DataFile::path)
    }

    /// For reading.
    pub fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Whether it can be written, and if not, why.
    pub fn health(&self) -> Health {
        self.down.as_ref().map_or(Ok(()), |down| Err(down.why.clone()))
    }

    /// Writes something, in the transaction of this batch.
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

    /// Ends the batch; `messages` is the number of new ones in it. Returns whether all that was written is kept.
    pub fn commit(&mut self, messages: usize) -> bool {
        if self.old_refs && messages > 0 {
            self.forget_refs(messages * FORGET.1);
        }
        match std::mem::replace(&mut self.batch, Batch::Empty) {
            Batch::Empty => return true,
            Batch::Failed => {}
            Batch::Open => match self.run("COMMIT") {
                Ok(()) if self.is_in_place() => return true,
                Ok(()) => self.go_down(GONE.to_owned(), true),
                Err(error) => self.fail(&error),
            },
        }
        // Some errors have rolled it back already.
        if !self.conn.is_autocommit()
            && let Err(error) = self.run("ROLLBACK")
        {
            self.fail(&error);
        }
        false
    }

    fn run(&self, sql: &str) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(DataFile::is_in_place)
    }

    fn fail(&mut self, error: &rusqlite::Error) {
        self.go_down(error.to_string(), !schema::is_damage(error));
    }

    fn go_down(&mut self, why: String, may_mend: bool) {
        if self.up_since.elapsed() > RETRY.1 {
            self.retry_wait = RETRY.0;
        }
        self.down = Some(Down { why, retry_at: may_mend.then(|| Instant::now() + self.retry_wait) });
        self.retry_wait = (self.retry_wait * 2).min(RETRY.1);
    }

    /// Whether it was down and is to be tried again: it counts as up then, until a write fails.
    pub fn try_again(&mut self, now: Instant) -> bool {
        let is_due = self.down.as_ref().and_then(|down| down.retry_at).is_some_and(|at| at <= now);
        if is_due {
            self.down = None;
            self.up_since = now;
            self.clock_is_behind = true;
        }
        is_due
    }

    /// What is done once per second: what is too old is deleted, and the time is written if anything else was. Returns
    /// the rooms whose row changed. Rooms that are held may become empty, but stay.
    pub fn tick(&mut self, now: Instant, is_held: impl Fn(&str) -> bool) -> Vec<String> {
        if self.down.is_none() && !self.is_in_place() {
            self.go_down(GONE.to_owned(), true);
        }
        self.old_refs |= self.clock.tick(now);
        if self.old_refs {
            self.forget_refs(FORGET.0);
        }
        let changed = self.sweep(is_held);
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

    fn sweep(&mut self, is_held: impl Fn(&str) -> bool) -> Vec<String> {
        let (retention, before) = (self.retention, self.clock.delete_before(self.retention.life));
        let found = room_log::rooms_after(&self.conn, self.swept, SWEEP).unwrap_or_default();
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
                        log.trim(conn, &retention, before).and_then(|()| log.save(conn))
                    }
                });
                changed.push(name);
            }
        }
        changed
    }
}
