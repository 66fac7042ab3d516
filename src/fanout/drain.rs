//! A drain: goodbyes to many sessions, spread evenly over a time, so that they do not all come back at once.

use std::time::{Duration, Instant};

use crate::backplane::SessionId;

/// See the module.
pub struct Drain {
    /// Who is still to be told.
    sessions: Vec<SessionId>,
    total: usize,
    started: Instant,
    over: Duration,
}

impl Drain {
    /// The first is told at once, the last shortly before `over` has passed.
    pub fn new(sessions: Vec<SessionId>, over: Duration, now: Instant) -> Drain {
        Drain { total: sessions.len(), sessions, started: now, over }
    }

    /// When the next session is to be told.
    pub fn next(&self) -> Option<Instant> {
        let told = self.total - self.sessions.len();
        (!self.sessions.is_empty()).then(|| self.started + self.over.mul_f64(told as f64 / self.total as f64))
    }

    /// One that is to be told by now.
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
        let mut told = |seconds| {
            let now = start + Duration::from_secs(seconds);
            std::iter::from_fn(|| drain.due(now)).count()
        };
        assert_eq!([told(0), told(1), told(2), told(5), told(100)], [1, 0, 1, 1, 2]);
    }
}
