//! The one clock of a run: milliseconds since its start. Everything is written down in it, and message ids, which
//! carry Redis's own time, are translated into it (all processes share this machine's clock).

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

/// The present; the first call starts the clock.
pub fn now() -> At {
    start().0.elapsed().as_millis() as u64
}

/// A Unix time in milliseconds on the run's clock (0 for anything before the run).
pub fn from_unix(millis: u64) -> At {
    millis.saturating_sub(start().1)
}

/// `12.345 s`, for people.
pub fn show(at: At) -> String {
    format!("{}.{:03} s", at / 1000, at % 1000)
}
