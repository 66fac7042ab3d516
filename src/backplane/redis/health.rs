//! The state of the connection, as reported to `/readyz` and to clients, and the delay before reconnecting.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backplane::{Event, EventSink};

/// The shortest and the longest delay before reconnecting. It doubles with each attempt, and jitter shortens it by up
/// to half.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A connection that lasted this long resets the delay. A server that accepts connections and then refuses work, such
/// as a replica during a failover, is tried less and less often.
const LASTING: Duration = Duration::from_secs(8);

/// The state of the connection. The sink receives [`Event::Status`] when it changes.
pub struct ConnectionHealth {
    /// Read by every call, so it is outside the lock.
    up: AtomicBool,
    state: Mutex<State>,
    /// Signalled when the connection is up for the first time.
    first_up: Condvar,
    sink: EventSink,
}

struct State {
    /// Since when it has been up, or why it is down.
    now: Result<Instant, String>,
    /// Whether it has ever been up.
    ever_up: bool,
}

impl ConnectionHealth {
    /// Down, until the reader reports otherwise.
    pub fn new(sink: EventSink) -> ConnectionHealth {
        let state = Mutex::new(State { now: Err("not connected yet".to_owned()), ever_up: false });
        ConnectionHealth { up: AtomicBool::new(false), state, first_up: Condvar::new(), sink }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Redis is usable now.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Whether Redis is usable. If it has not been up since the start, waits for that, at most `patience`.
    pub fn is_up_within(&self, patience: Duration) -> bool {
        if !self.is_up() {
            let wait = self.first_up.wait_timeout_while(self.state(), patience, |state| !state.ever_up);
            drop(wait.unwrap_or_else(PoisonError::into_inner));
        }
        self.is_up()
    }

    /// Since when it has been up, or why it is down.
    pub fn since(&self) -> Result<Instant, String> {
        self.state().now.clone()
    }

    /// The connection is up.
    pub fn set_up(&self) {
        let mut state = self.state();
        if state.now.is_ok() {
            return;
        }
        *state = State { now: Ok(Instant::now()), ever_up: true };
        self.up.store(true, Relaxed);
        self.first_up.notify_all();
        log::info!("redis is up");
        drop(state);
        // Only the reader's thread calls this and `set_down`, so events are sent in the order of the changes.
        (self.sink)(Event::Status(true));
    }

    /// The connection is down for this reason.
    pub fn set_down(&self, why: String) {
        let mut state = self.state();
        if state.now.as_ref().err() != Some(&why) {
            log::warn!("redis is down: {why}");
        }
        let was_up = state.now.is_ok();
        state.now = Err(why);
        self.up.store(false, Relaxed);
        drop(state);
        if was_up {
            (self.sink)(Event::Status(false));
        }
    }
}

/// A delay that grows with each failure, with jitter, so that a thousand instances do not reconnect at once.
pub struct Backoff(Duration);

impl Backoff {
    /// Starts with the shortest delay.
    pub fn new() -> Backoff {
        Backoff(BACKOFF.0)
    }

    /// The next delay, after a connection that lasted this long.
    pub fn next(&mut self, lasted: Duration) -> Duration {
        if lasted >= LASTING {
            self.0 = BACKOFF.0;
        }
        let wait = self.0;
        self.0 = (wait * 2).min(BACKOFF.1);
        wait - wait.mul_f64(crate::limits::jitter() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn each_change_is_told_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let copy = told.clone();
        let health = ConnectionHealth::new(Arc::new(move |event| {
            if let Event::Status(up) = event {
                copy.lock().expect("no panic holds it").push(up);
            }
        }));
        assert!(health.since().is_err() && !health.is_up_within(Duration::ZERO));
        health.set_down("gone".to_owned());
        health.set_up();
        health.set_up();
        assert!(health.since().is_ok() && health.is_up());
        health.set_down("gone".to_owned());
        health.set_down("gone".to_owned());
        assert_eq!(health.since().expect_err("down"), "gone");
        assert!(!health.is_up_within(Duration::MAX), "it waits for the first time only");
        assert_eq!(*told.lock().expect("no panic holds it"), [true, false]);
    }

    #[test]
    fn the_backoff_doubles_to_its_bound_until_a_connection_lasts() {
        let mut backoff = Backoff::new();
        let mut next = |lasted| backoff.next(lasted).as_millis();
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let wait = next(Duration::from_secs(1));
            assert!((expected / 2..=expected).contains(&wait), "{wait} of {expected}");
        }
        assert!(next(LASTING) <= 100);
    }
}
