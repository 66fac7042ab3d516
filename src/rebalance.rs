//! Rebalancing: an instance with more than its share of sessions asks some of them to reconnect. Without it a scale-out
//! would not relieve the first instances, because open sockets stay where they are.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::app::App;

/// How often the instances exchange their session counts.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// Rebalancing starts at this multiple of the average, provided the surplus is at least [`MIN_SURPLUS`], and stops at
/// the average.
const START: f64 = 1.5;
/// A smaller surplus is not worth the reconnects.
const MIN_SURPLUS: u64 = 200;
/// A round ends this long after the last session was asked. Clients wait up to 3 s before they reconnect, and instances
/// report every 3 s: until then the moving sessions are counted nowhere.
const SETTLE: Duration = Duration::from_secs(10);

/// The state of rebalancing, kept by the main thread.
pub struct Rebalancing {
    /// Sessions per second; 0: off.
    rate: u32,
    next_report: Instant,
    round: Option<Round>,
}

/// A round of rebalancing. Its surplus is computed from the counts at its start: later counts lack the sessions in
/// transit, so the average would be too low and too many sessions would be asked to move. Only the number of instances
/// is updated, because new instances rarely all start at the same moment.
struct Round {
    own: u64,
    sessions: u64,
    instances: u64,
    asked: u64,
    last_asked: Instant,
}

impl Round {
    /// How many sessions are still to be asked.
    fn rest(&self) -> u64 {
        (self.own - self.asked).saturating_sub(self.sessions / self.instances)
    }
}

impl Rebalancing {
    /// At most `rate` sessions per second; 0 is off.
    pub fn new(rate: u32) -> Rebalancing {
        Rebalancing { rate, next_report: Instant::now() + REPORT_EVERY, round: None }
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
            let Some((instances, sessions)) = app.backplane.load_report(own) else { return };
            self.report(own, instances.max(1), sessions, now);
        }
        if let Some(round) = &mut self.round {
            let some = round.rest().min(u64::from(self.rate));
            if some > 0 {
                app.lanes.rebalance(some as usize);
                round.asked += some;
                round.last_asked = now;
            }
        }
    }

    /// Starts a round if one is due, or updates the current one.
    fn report(&mut self, own: u64, instances: u64, sessions: u64, now: Instant) {
        match &mut self.round {
            Some(round) if now < round.last_asked + SETTLE => round.instances = instances,
            _ => {
                let round = Round { own, sessions, instances, asked: 0, last_asked: now };
                let due = own as f64 > START * (sessions / instances) as f64 && round.rest() >= MIN_SURPLUS;
                if due {
                    log::info!("rebalancing {} of {own} sessions, {} per second", round.rest(), self.rate);
                }
                self.round = due.then_some(round);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_surplus_starts_it() {
        for (own, instances, sessions, expected) in
            [(500, 4, 1000, 250), (300, 4, 1000, 0), (190, 2, 200, 0), (1000, 1, 1000, 0), (5, 1, 0, 0)]
        {
            let mut rebalancing = Rebalancing::new(10);
            rebalancing.report(own, instances, sessions, Instant::now());
            let rest = rebalancing.round.map_or(0, |round| round.rest());
            assert_eq!(rest, expected, "{own} of {sessions} on {instances}");
        }
    }

    #[test]
    fn sessions_on_their_way_are_not_asked_for_again_and_a_second_new_instance_gets_its_share() {
        let mut rebalancing = Rebalancing::new(10);
        let now = Instant::now();
        rebalancing.report(500, 3, 900, now);
        rebalancing.round.as_mut().expect("started").asked = 100;
        // 100 left this instance and 100 another full one; they are counted nowhere yet.
        rebalancing.report(400, 3, 700, now + REPORT_EVERY);
        assert_eq!(rebalancing.round.as_ref().expect("going on").rest(), 100);
        rebalancing.report(400, 4, 700, now + 2 * REPORT_EVERY);
        assert_eq!(rebalancing.round.as_ref().expect("going on").rest(), 175);
        rebalancing.report(225, 4, 900, now + SETTLE);
        assert!(rebalancing.round.is_none(), "even");
    }
}
