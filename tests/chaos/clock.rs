//! The clock of a run: milliseconds since its start. Everything is recorded in it, and message ids, which contain
//! Redis's time, are converted to it (all processes share this machine's clock).

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

/// Milliseconds since the start of the run.
pub type At = u64;

static START: OnceLock<(Instant, u64)> = OnceLock::new();

fn start() -> (Instant, u64) {
    *START.get_or_init(|| {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
        (Instant::now(), wall.as_millis() as u64)
    })
}

/// The current time; the first call starts the clock.
pub fn now() -> At {
    start().0.elapsed().as_millis() as u64
}

/// Converts a Unix time in milliseconds to the run's clock (0 for anything before the run).
pub fn from_unix(millis: u64) -> At {
    millis.saturating_sub(start().1)
}

/// Formats a time for people: `12.345 s`.
pub fn show(at: At) -> String {
    format!("{}.{:03} s", at / 1000, at % 1000)
}
