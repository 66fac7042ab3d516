//! Rebalancing: an instance with more than its share of sessions asks some of them to reconnect. Without it a scale-out
//! would not relieve the first instances, because open sockets stay where they are.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::app::App;

/// How often the instances exchange their session counts.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// Rebalancing starts at this multiple of the average, if that is at least [`MIN_SURPLUS`] more, and stops at the
/// average.
const START: f64 = 1.5;
/// A smaller surplus is not worth the reconnects.
const MIN_SURPLUS: u64 = 200;
/// Pause after the last session was asked to reconnect. Clients wait up to 3 s before they do, and instances report
/// every 3 s: until then the moving sessions are counted nowhere, the average is too low, and too many would be asked.
const SETTLE: Duration = Duration::from_secs(10);

/// The state of rebalancing, kept by the main thread.
pub struct Rebalancing {
    /// Sessions asked per second; 0 turns rebalancing off.
    rate: u32,
    next_report: Instant,
    /// Sessions still to be asked, decided once per start.
    surplus: u64,
    /// No new start before this time.
    settled: Instant,
}

impl Rebalancing {
    /// At most `rate` sessions per second; 0 turns rebalancing off.
    pub fn new(rate: u32) -> Rebalancing {
        let now = Instant::now();
        Rebalancing { rate, next_report: now + REPORT_EVERY, surplus: 0, settled: now }
    }

    /// Called once per second.
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

/// The number of sessions that an instance has beyond its share; 0 if too few to act on.
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
