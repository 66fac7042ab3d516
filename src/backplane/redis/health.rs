//! Whether Redis is there: how both connections are made, how long is waited after one is lost, and the state that
//! `/readyz` and the clients are told. The publisher and the subscriber share it and know nothing else of each other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Client, Connection, RedisError, RedisResult};

use crate::backplane::{Event, EventSink};

/// How long Redis may take to connect, to take a command or to answer. A client must hear within 2 s that it does not.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(1500);
/// The first and the longest wait before Redis is tried again; each try doubles it, and chance takes up to half off.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// One of the two connections.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// The one that asks.
    Publisher,
    /// The one that listens.
    Subscriber,
}

/// The state of both connections. The listener hears [`Event::Status`] when it changes.
pub struct Link {
    /// Read with each message, so it is kept beside the lock: which parts stand.
    stands: [AtomicBool; 2],
    /// Guards changes.
    state: Mutex<State>,
    listener: EventSink,
}

struct State {
    /// Why each part is down, if it is.
    faults: [Option<String>; 2],
    /// Since when both stand.
    up_since: Option<Instant>,
}

impl Link {
    /// A link that is down until both threads say otherwise.
    pub fn new(listener: EventSink) -> Arc<Link> {
        let fault = || Some("not connected yet".to_owned());
        let state = Mutex::new(State { faults: [fault(), fault()], up_since: None });
        Arc::new(Link { stands: [AtomicBool::new(false), AtomicBool::new(false)], state, listener })
    }

    /// Whether this part stands.
    pub fn stands(&self, part: Part) -> bool {
        self.stands[part as usize].load(Relaxed)
    }

    /// Whether messages can be kept and heard.
    pub fn is_up(&self) -> bool {
        self.stands(Part::Publisher) && self.stands(Part::Subscriber)
    }

    /// Since when it is up, or why it is not.
    pub fn state(&self) -> Result<Instant, String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.up_since.ok_or_else(|| state.faults.iter().flatten().next().cloned().unwrap_or_default())
    }

    /// Notes that a part stands, or why it does not.
    pub fn set(&self, part: Part, new: Result<(), String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let was_up = self.is_up();
        self.stands[part as usize].store(new.is_ok(), Relaxed);
        let fault = new.err();
        if let Some(why) = fault.as_ref().filter(|_| state.faults[part as usize] != fault) {
            log::warn!("redis: {part:?}: {why}");
        }
        state.faults[part as usize] = fault;
        let up = self.is_up();
        if up != was_up {
            state.up_since = up.then(Instant::now);
            log::info!("redis is {}", if up { "up" } else { "down" });
            // Under the lock, so that two changes are told in their order; the listener only fills queues.
            (self.listener)(Event::Status(up));
        }
    }
}

/// A wait that grows with each failure, with some chance in it, so that a thousand tasks do not come all at once.
pub struct Backoff(Duration);

impl Backoff {
    /// A fresh one.
    pub fn new() -> Backoff {
        Backoff(BACKOFF.0)
    }

    /// The next wait.
    pub fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(BACKOFF.1);
        wait - wait.mul_f64(crate::limits::jitter() / 2.0)
    }
}

/// Connects within [`REDIS_TIMEOUT`]; no later write takes longer than that, and no read longer than `read_timeout`.
pub fn connect(client: &Client, read_timeout: Duration) -> RedisResult<Connection> {
    let connection = client.get_connection_with_timeout(REDIS_TIMEOUT)?;
    connection.set_read_timeout(Some(read_timeout))?;
    connection.set_write_timeout(Some(REDIS_TIMEOUT))?;
    Ok(connection)
}

/// Why a connection was lost, for people: the system's own words for a time-out explain nothing.
pub fn why(error: &RedisError) -> String {
    if error.is_timeout() { "no answer in time".to_owned() } else { error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_up_when_both_parts_are_and_says_so_once() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let copy = heard.clone();
        let link = Link::new(Arc::new(move |event| {
            if let Event::Status(up) = event {
                copy.lock().expect("no panic holds it").push(up);
            }
        }));
        assert!(link.state().is_err());
        link.set(Part::Publisher, Ok(()));
        assert!(!link.is_up());
        link.set(Part::Subscriber, Ok(()));
        link.set(Part::Subscriber, Ok(()));
        assert!(link.is_up() && link.state().is_ok());
        link.set(Part::Publisher, Err("gone".to_owned()));
        assert_eq!(link.state().expect_err("down"), "gone");
        link.set(Part::Publisher, Err("gone".to_owned()));
        assert_eq!(*heard.lock().expect("no panic holds it"), [true, false]);
    }

    #[test]
    fn the_backoff_doubles_to_its_bound() {
        let mut backoff = Backoff::new();
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let wait = backoff.next().as_millis();
            assert!((expected / 2..=expected).contains(&wait), "{wait} of {expected}");
        }
    }
}
