//! Rebalancing: an instance that holds more than its share asks some sessions to reconnect, so that a scale-out takes load
//! from the instances that have it. Otherwise sockets stay where they are, and the average looks fine while the first
//! instances are overloaded.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::app::App;

/// How often the instances exchange their numbers of sessions.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// It starts at this many times the average, if that is at least [`MIN_SURPLUS`] more, and goes on down to the average.
const START: f64 = 1.5;
/// A smaller surplus is not worth anybody's reconnect.
const MIN_SURPLUS: u64 = 200;

/// What the main thread keeps between two looks.
pub struct Rebalancing {
    /// Sessions per second; 0: off.
    rate: u32,
    next_report: Instant,
    /// Sessions that are still to be asked.
    surplus: u64,
}

impl Rebalancing {
    /// At most `rate` sessions per second; 0 is off.
    pub fn new(rate: u32) -> Rebalancing {
        Rebalancing { rate, next_report: Instant::now() + REPORT_EVERY, surplus: 0 }
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
            let going_on = self.surplus > 0;
            self.surplus = counted.map_or(0, |(instances, sessions)| surplus(own, instances, sessions, going_on));
            if self.surplus > 0 && !going_on {
                log::info!("rebalancing {} of {own} sessions, {} per second", self.surplus, self.rate);
            }
        }
        let some = self.surplus.min(u64::from(self.rate));
        if some > 0 {
            app.lanes.rebalance(some as usize);
            self.surplus -= some;
        }
    }
}

/// The number of sessions that an instance has beyond its share.
fn surplus(own: u64, instances: u64, sessions: u64, going_on: bool) -> u64 {
    let average = sessions / instances.max(1);
    let over = own.saturating_sub(average);
    let starts = own as f64 > START * average as f64 && over >= MIN_SURPLUS;
    if starts || going_on { over } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_surplus_starts_it_and_it_goes_on_to_the_average() {
        for (own, instances, sessions, going_on, expected) in [
            (500, 4, 1000, false, 250),
            (300, 4, 1000, false, 0),
            (300, 4, 1000, true, 50),
            (250, 4, 1000, true, 0),
            (190, 2, 200, false, 0),
            (1000, 1, 1000, false, 0),
            (5, 0, 0, false, 0),
        ] {
            assert_eq!(surplus(own, instances, sessions, going_on), expected, "{own} of {sessions} on {instances}");
        }
    }
}
