//! A drain: the closing of many sessions, spread evenly over a time, so that they do not all reconnect at once.

use std::time::{Duration, Instant};

use crate::backplane::SessionId;

/// Sessions to be closed, and the pace.
pub struct Drain {
    /// Those that are still to be closed.
    sessions: Vec<SessionId>,
    total: usize,
    started: Instant,
    over: Duration,
}

impl Drain {
    /// The first is closed at once, the last shortly before `over` has passed.
    pub fn new(sessions: Vec<SessionId>, over: Duration, now: Instant) -> Drain {
        Drain { total: sessions.len(), sessions, started: now, over }
    }

    /// When the next session is to be closed.
    pub fn next(&self) -> Option<Instant> {
        let closed = self.total - self.sessions.len();
        (!self.sessions.is_empty()).then(|| self.started + self.over.mul_f64(closed as f64 / self.total as f64))
    }

    /// One that is to be closed by now.
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
