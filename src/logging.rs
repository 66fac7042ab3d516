//! The log: one line per entry, on stderr. A line that cannot be written is lost, and nothing else is.
//!
//! `info` is the process's life, `debug` its clients' doings, `warn` who is refused. What people write is never logged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

/// Lines of one kind that are written per period; the others are counted.
const LINES: u32 = 3;
const PERIOD: Duration = Duration::from_secs(1);

/// Starts the log. tungstenite, which logs frames, is kept to its warnings.
pub fn start(level: LevelFilter) {
    let inner = SimpleLogger::new()
        .with_level(level)
        .with_module_level("tungstenite", level.min(LevelFilter::Warn))
        .with_utc_timestamps()
        .with_threads(true);
    log::set_max_level(inner.max_level());
    // It fails only if there is a logger already.
    let _ = log::set_boxed_logger(Box::new(Logger { inner }));
}

/// simple_logger panics where stderr is closed, because `eprintln!` does; the reader of a log that died would take
/// with it whichever thread logs next.
struct Logger {
    inner: SimpleLogger,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.inner.enabled(record.metadata()) {
            let _ = catch_unwind(AssertUnwindSafe(|| self.inner.log(record)));
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

/// Limits lines of one kind, so that whoever makes the server log does not fill its disk.
#[derive(Default)]
pub struct Throttle(Mutex<Option<Lately>>);

struct Lately {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Throttle {
    /// Whether a line may be written now, and how many were left out before it.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = lately.get_or_insert(Lately { since: now, written: 0, left_out: 0 });
        if now.saturating_duration_since(lately.since) >= PERIOD {
            (lately.since, lately.written) = (now, 0);
        }
        if lately.written >= LINES {
            lately.left_out += 1;
            return None;
        }
        lately.written += 1;
        Some(std::mem::take(&mut lately.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_kind_are_limited_and_the_others_counted() {
        let (start, throttle) = (Instant::now(), Throttle::default());
        let said: Vec<_> = (0..10).map(|_| throttle.admit(start)).collect();
        assert_eq!(said, [[Some(0); 3].to_vec(), [None; 7].to_vec()].concat());
        assert_eq!(throttle.admit(start + PERIOD), Some(7));
        assert_eq!(throttle.admit(start + PERIOD), Some(0));
    }
}
