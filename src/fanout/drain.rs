//! A drain: closes many sessions spread evenly over a period, so that they do not all reconnect at once.

use std::time::{Duration, Instant};

use crate::backplane::SessionId;

/// The sessions to close, and the pace.
pub struct Drain {
    /// The sessions not yet closed.
    sessions: Vec<SessionId>,
    total: usize,
    started: Instant,
    over: Duration,
}

impl Drain {
    /// The first session is closed at once, the last shortly before `over` has passed.
    pub fn new(sessions: Vec<SessionId>, over: Duration, now: Instant) -> Drain {
        Drain { total: sessions.len(), sessions, started: now, over }
    }

    /// When the next session is due.
    pub fn next(&self) -> Option<Instant> {
        let closed = self.total - self.sessions.len();
        (!self.sessions.is_empty()).then(|| self.started + self.over.mul_f64(closed as f64 / self.total as f64))
    }

    /// Takes a session that is due.
    pub fn due(&mut self, now: Instant) -> Option<SessionId> {
        self.next().filter(|at| *at <= now).and_then(|_| self.sessions.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_spread_evenly() {
        let start = Instant::now();
        let mut drain = Drain::new(vec![1, 2, 3, 4, 5], Duration::from_secs(10), start);
        let mut closed = |seconds| {
            let now = start + Duration::from_secs(seconds);
            std::iter::from_fn(|| drain.due(now)).count()
        };
        assert_eq!([closed(0), closed(1), closed(2), closed(5), closed(100)], [1, 0, 1, 1, 2]);
    }
}
