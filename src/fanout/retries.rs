//! The sessions whose sockets were full, and when a lane tries each of them again.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::backplane::SessionId;

/// The shortest and the longest delay before a session's next try. It doubles until the socket takes something. With 20 ms,
/// the backlog of a client that received 8 MB/s overflowed in between.
const DELAY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(8));

/// Sessions to try again.
#[derive(Default)]
pub struct Retries {
    /// When each is due, and after which delay.
    sessions: HashMap<SessionId, (Instant, Duration)>,
    /// The same, soonest first.
    order: BTreeSet<(Instant, SessionId)>,
}

impl Retries {
    /// This session's socket is full; `moved` is when it last took something.
    pub fn add(&mut self, session: SessionId, moved: Instant, now: Instant) {
        if moved == now || !self.sessions.contains_key(&session) {
            self.put(session, DELAY.0, now);
        }
    }

    /// It is not full, or the session has ended.
    pub fn remove(&mut self, session: SessionId) {
        if let Some((at, _)) = self.sessions.remove(&session) {
            self.order.remove(&(at, session));
        }
    }

    /// When the next try is due.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// A session to try now. It is due again, after twice the delay, unless it is added or removed.
    pub fn due(&mut self, now: Instant) -> Option<SessionId> {
        let (_, session) = *self.order.first().filter(|(at, _)| *at <= now)?;
        let delay = self.sessions.get(&session).map_or(DELAY.0, |(_, delay)| *delay * 2);
        self.put(session, delay.min(DELAY.1), now);
        Some(session)
    }

    fn put(&mut self, session: SessionId, delay: Duration, now: Instant) {
        self.remove(session);
        self.sessions.insert(session, (now + delay, delay));
        self.order.insert((now + delay, session));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_never_reads_delays_no_other() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        retries.add(1, start, start);
        for ms in [2, 6, 14, 22, 30, 38] {
            assert_eq!(
                (retries.next(), retries.due(after(ms)), retries.due(after(ms))),
                (Some(after(ms)), Some(1), None)
            );
            retries.add(1, start, after(ms));
        }
        retries.add(2, after(38), after(38));
        assert_eq!((retries.next(), retries.due(after(40))), (Some(after(40)), Some(2)));
        retries.add(2, after(40), after(40));
        assert_eq!(retries.next(), Some(after(42)), "it has taken something");
        retries.remove(2);
        assert_eq!(retries.next(), Some(after(46)));
        retries.remove(1);
        assert_eq!(retries.next(), None);
    }
}
