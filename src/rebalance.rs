//! Rebalancing: an instance that holds more than its share asks some sessions to reconnect, so that a scale-out takes load
//! from the instances that have it. Otherwise sockets stay where they are, and the average looks fine while the first
//! instances are overloaded.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::app::App;

/// How often the instances exchange their numbers of sessions.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// It starts at this many times the average, if that is at least [`MIN_SURPLUS`] more, and goes down to the average.
const START: f64 = 1.5;
/// A smaller surplus is not worth anybody's reconnect.
const MIN_SURPLUS: u64 = 200;
/// Pause after the last session was asked. Clients wait up to 3 s before they reconnect, and other instances report
/// every 3 s: until then the ones on their way count nowhere, the average looks too low, and too many would be asked.
const SETTLE: Duration = Duration::from_secs(10);

/// What the main thread keeps between two looks.
pub struct Rebalancing {
    /// Sessions per second; 0: off.
    rate: u32,
    next_report: Instant,
    /// Sessions that are still to be asked; decided once, when it starts.
    surplus: u64,
    /// Until then no new start.
    settled: Instant,
}

impl Rebalancing {
    /// At most `rate` sessions per second; 0 is off.
    pub fn new(rate: u32) -> Rebalancing {
        let now = Instant::now();
        Rebalancing { rate, next_report: now + REPORT_EVERY, surplus: 0, settled: now }
    }

    /// To be called once a second.
    pub fn tick(&mut self, app: &App) {
        if self.rate == 0 || app.draining.load(Relaxed) {
            return;
        }
        let now = Instant::now();
        if now >= self.next_report {
            self.next_report = now + REPORT_EVERY;
            let own = app.sessions.taken() as u64;
            let counted = app.backplane.load_report(own);
            if self.surplus == 0 && now >= self.settled {
                self.surplus = counted.map_or(0, |(instances, sessions)| surplus(own, instances, sessions));
                if self.surplus > 0 {
                    log::info!("rebalancing {} of {own} sessions, {} per second", self.surplus, self.rate);
                }
            }
        }
        let some = self.surplus.min(u64::from(self.rate));
        if some > 0 {
            app.lanes.rebalance(some as usize);
            self.surplus -= some;
            self.settled = now + SETTLE;
        }
    }
}

/// The number of sessions that an instance has beyond its share; 0 where that is too few to act on.
fn surplus(own: u64, instances: u64, sessions: u64) -> u64 {
    let average = sessions / instances.max(1);
    let over = own.saturating_sub(average);
    let starts = own as f64 > START * average as f64 && over >= MIN_SURPLUS;
    if starts { over } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_surplus_starts_it() {
        for (own, instances, sessions, expected) in [
            (500, 4, 1000, 250),
            (300, 4, 1000, 0),
            (250, 4, 1000, 0),
            (190, 2, 200, 0),
            (1000, 1, 1000, 0),
            (5, 0, 0, 0),
        ] {
            assert_eq!(surplus(own, instances, sessions), expected, "{own} of {sessions} on {instances}");
        }
    }
}
