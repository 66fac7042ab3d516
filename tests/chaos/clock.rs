//! The clock of a run: milliseconds since its start. Everything is recorded in it, and message ids, which contain
//! Redis's time, are converted to it. It follows this machine's clock, which all processes share and which may be set
//! during a run, but never goes back.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the start of the run.
pub type At = u64;

/// The Unix time at the start of the run, in milliseconds.
static START: LazyLock<u64> = LazyLock::new(unix);
static LATEST: AtomicU64 = AtomicU64::new(0);

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

/// The current time; the first call starts the clock.
pub fn now() -> At {
    let now = from_unix(unix());
    LATEST.fetch_max(now, SeqCst).max(now)
}

/// Converts a Unix time in milliseconds to the run's clock (0 for anything before the run).
pub fn from_unix(millis: u64) -> At {
    millis.saturating_sub(*START)
}

/// Formats a time for people: `12.345 s`.
pub fn show(at: At) -> String {
    format!("{}.{:03} s", at / 1000, at % 1000)
}
