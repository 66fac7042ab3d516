//! Time, for a file that outlives processes and wall clocks that jump.
//!
//! The wall clock gives ids and decides which messages are shown. It may be a day or a year off, so it must not delete
//! anything at once: that follows a clock which the wall clock pulls along at a limited pace. Refs are forgotten by the
//! time in service, which no jump touches. (Leases are not here: they are plain `Instant`s.)

use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, params};

use crate::backplane::REF_LIFE;

/// How much faster than time itself the clock of deletions may go to catch up: a month in 30 hours. A wall clock that is
/// set right again before that costs nothing.
const PACE: u64 = 24;

/// The row of the table `clock`, all in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockRow {
    /// For how long the file has been in service.
    ran: u64,
    /// When it was last written, by the wall clock.
    wrote: u64,
    /// The clock of deletions; 0 is not set yet.
    paced: u64,
}

/// The clocks of a data file, advanced once per second.
pub struct Clock {
    row: ClockRow,
    looked: Instant,
}

impl Clock {
    /// Goes on where the file stopped.
    pub fn new(row: ClockRow) -> Clock {
        let paced = if row.paced == 0 { unix_ms() } else { row.paced };
        Clock { row: ClockRow { paced, ..row }, looked: Instant::now() }
    }

    /// Looks at the clocks; called about once per second. Returns whether a new period has begun.
    pub fn tick(&mut self, now: Instant) -> bool {
        let period = self.period();
        self.advance(now.saturating_duration_since(self.looked), unix_ms());
        self.looked = now;
        period != self.period()
    }

    fn advance(&mut self, elapsed: Duration, wall: u64) {
        let elapsed = millis(elapsed);
        self.row.ran += elapsed;
        self.row.wrote = wall;
        if wall > self.row.paced {
            self.row.paced = wall.min(self.row.paced + PACE * elapsed);
        }
    }

    /// As it goes into the file.
    pub fn row(&self) -> ClockRow {
        self.row
    }

    /// In which period of service this is; a ref is forgotten when the next one is over.
    pub fn period(&self) -> u64 {
        self.row.ran / millis(REF_LIFE)
    }

    /// Messages before this, in Unix milliseconds, are deleted; a clock that is behind deletes none.
    pub fn delete_before(&self, life: Duration) -> u64 {
        self.row.paced.min(self.row.wrote).saturating_sub(millis(life))
    }
}

/// Reads the row.
pub fn read(conn: &Connection) -> rusqlite::Result<ClockRow> {
    conn.query_row("SELECT ran, wrote, paced FROM clock", [], |row| {
        Ok(ClockRow { ran: row.get(0)?, wrote: row.get(1)?, paced: row.get(2)? })
    })
}

/// Writes the row.
pub fn write(conn: &Connection, row: ClockRow) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE clock SET ran = ?, wrote = ?, paced = ?")?
        .execute(params![row.ran, row.wrote, row.paced])
        .map(drop)
}

/// Messages before this, in Unix milliseconds, are not shown.
pub fn show_from(life: Duration) -> u64 {
    unix_ms().saturating_sub(millis(life))
}

/// Now, in Unix milliseconds. Before 1970 it is 0; ids grow all the same.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
}

/// In milliseconds, at most what SQLite's integers hold.
fn millis(time: Duration) -> u64 {
    time.as_millis().min(i64::MAX as u128) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    #[test]
    fn a_wall_clock_that_jumps_deletes_nothing_at_once() {
        let (second, life) = (Duration::from_secs(1), Duration::from_millis(30 * DAY));
        let start = 20_000 * DAY;
        let mut clock = Clock::new(ClockRow { ran: 0, wrote: start, paced: start });
        clock.advance(second, start + 1000);
        assert_eq!(clock.delete_before(life), start + 1000 - 30 * DAY, "it follows a clock that goes as it should");
        // A year ahead: an hour later, a day's worth of messages are gone.
        clock.advance(second, start + 365 * DAY);
        assert_eq!(clock.delete_before(life), start + 1000 + PACE * 1000 - 30 * DAY);
        clock.advance(Duration::from_secs(3600), start + 365 * DAY + HOUR);
        assert!(clock.delete_before(life) < start + 25 * HOUR - 30 * DAY);
        // Set right again: what is left is deleted when its time has come.
        clock.advance(second, start + HOUR);
        assert_eq!(clock.delete_before(life), start + HOUR - 30 * DAY);
        // Back in 1970, as a machine without a battery starts: nothing is deleted, and all goes on when it is right.
        clock.advance(second, 5000);
        assert_eq!(clock.delete_before(life), 0);
        clock.advance(second, start + 2 * HOUR);
        assert_eq!(clock.delete_before(life), start + 2 * HOUR - 30 * DAY);
        assert_eq!(clock.row().ran, HOUR + 5000, "the time in service knows no jumps");
    }
}
