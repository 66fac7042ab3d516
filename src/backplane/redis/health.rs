//! Whether Redis can be used: the state that `/readyz` and the clients receive, and how long is waited after the
//! connection is lost.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backplane::{Event, EventSink};

/// The first and the longest wait before Redis is tried again; each try doubles it, and chance takes up to half off.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A connection that lasted this long was a good one, and the next wait is the first again. A server that takes connections
/// and refuses work, a replica in a failover for instance, is tried ever less often.
const LASTING: Duration = Duration::from_secs(8);

/// The state of the connection. The sink gets [`Event::Status`] when it changes.
pub struct ConnectionHealth {
    /// Read by every call, so it is beside the lock.
    up: AtomicBool,
    state: Mutex<State>,
    /// Signalled when the connection is up for the first time.
    first_up: Condvar,
    sink: EventSink,
}

struct State {
    /// Since when it is up, or why it is not.
    now: Result<Instant, String>,
    /// Whether it was ever up.
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

    /// Whether Redis can be used now.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Whether Redis can be used. Before it could for the first time since the start, waits for that, up to `patience`.
    pub fn is_up_within(&self, patience: Duration) -> bool {
        if !self.is_up() {
            let wait = self.first_up.wait_timeout_while(self.state(), patience, |state| !state.ever_up);
            drop(wait.unwrap_or_else(PoisonError::into_inner));
        }
        self.is_up()
    }

    /// Since when it is up, or why it is not.
    pub fn since(&self) -> Result<Instant, String> {
        self.state().now.clone()
    }

    /// It is up.
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
        // Only the reader's thread calls this and `set_down`, so the order of the events is that of the changes.
        (self.sink)(Event::Status(true));
    }

    /// It is down, because of this.
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

/// A wait that grows with each failure, with some chance in it, so that a thousand instances do not come all at once.
pub struct Backoff(Duration);

impl Backoff {
    /// A fresh one.
    pub fn new() -> Backoff {
        Backoff(BACKOFF.0)
    }

    /// The next wait, after a connection that lasted this long.
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
