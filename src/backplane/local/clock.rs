//! Clocks for a data file, which outlives processes and jumps of the wall clock.
//!
//! The wall clock assigns ids and decides which messages are shown. It may be wrong by a day or a year, so it never
//! triggers deletion directly: deletion follows a paced clock, which approaches the wall clock at a limited speed. Refs
//! expire by the file's time in service, which is independent of the wall clock. (Leases use `Instant`.)

use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, params};

use crate::backplane::REF_LIFE;

/// How many times faster than real time the paced clock may advance to catch up: a month takes 30 hours. If the wall
/// clock is corrected before then, little or nothing has been deleted.
const PACE: u64 = 24;

/// The single row of the table `clock`; all values are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockRow {
    /// The file's time in service.
    ran: u64,
    /// The wall clock at the last write.
    wrote: u64,
    /// The paced clock; 0 if not yet set.
    paced: u64,
}

/// The clocks of a data file, updated once per second.
pub struct Clock {
    row: ClockRow,
    looked: Instant,
}

impl Clock {
    /// Continues from the state in the file.
    pub fn new(row: ClockRow) -> Clock {
        let paced = if row.paced == 0 { unix_ms() } else { row.paced };
        Clock { row: ClockRow { paced, ..row }, looked: Instant::now() }
    }

    /// Reads the system's clocks; called about once per second. Returns whether a new period has begun.
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

    /// The state to write to the file.
    pub fn row(&self) -> ClockRow {
        self.row
    }

    /// The current ten-minute period of service. Refs are kept until the end of the period after their own.
    pub fn period(&self) -> u64 {
        self.row.ran / millis(REF_LIFE)
    }

    /// Messages before this time, in Unix milliseconds, are to be deleted. A clock that is behind deletes nothing.
    pub fn delete_before(&self, life: Duration) -> u64 {
        self.row.paced.min(self.row.wrote).saturating_sub(millis(life))
    }
}

/// Reads the state from the file.
pub fn read(conn: &Connection) -> rusqlite::Result<ClockRow> {
    conn.query_row("SELECT ran, wrote, paced FROM clock", [], |row| {
        Ok(ClockRow { ran: row.get(0)?, wrote: row.get(1)?, paced: row.get(2)? })
    })
}

/// Writes the state to the file.
pub fn write(conn: &Connection, row: ClockRow) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE clock SET ran = ?, wrote = ?, paced = ?")?
        .execute(params![row.ran, row.wrote, row.paced])
        .map(drop)
}

/// Messages before this time, in Unix milliseconds, are not shown.
pub fn show_from(life: Duration) -> u64 {
    unix_ms().saturating_sub(millis(life))
}

/// The wall clock in Unix milliseconds; 0 before 1970 (ids grow regardless).
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
}

/// A duration in milliseconds, capped at SQLite's largest integer.
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
        // The wall clock jumps a year ahead: after an hour, one day of messages has been deleted.
        clock.advance(second, start + 365 * DAY);
        assert_eq!(clock.delete_before(life), start + 1000 + PACE * 1000 - 30 * DAY);
        clock.advance(Duration::from_secs(3600), start + 365 * DAY + HOUR);
        assert!(clock.delete_before(life) < start + 25 * HOUR - 30 * DAY);
        // The clock is corrected: the rest is deleted only when it is due.
        clock.advance(second, start + HOUR);
        assert_eq!(clock.delete_before(life), start + HOUR - 30 * DAY);
        // Back to 1970, as after booting without a clock battery: nothing is deleted, and all continues once the clock
        // is right.
        clock.advance(second, 5000);
        assert_eq!(clock.delete_before(life), 0);
        clock.advance(second, start + 2 * HOUR);
        assert_eq!(clock.delete_before(life), start + 2 * HOUR - 30 * DAY);
        assert_eq!(clock.row().ran, HOUR + 5000, "the time in service knows no jumps");
    }
}
