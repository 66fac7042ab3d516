//! Rate limits: a token bucket, and a counter of recent events.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Burst of messages, as seconds of the rate limit.
pub const BURST_SECONDS: f64 = 4.0;

/// A token bucket: `rate` tokens per second on average, `burst` at once. A token stands for whatever the owner counts:
/// frames, joins, bytes.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    /// Negative after [`Bucket::charge`].
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket. With a `rate` of 0 it never runs out.
    pub fn new(rate: f64, burst: f64, now: Instant) -> Bucket {
        Bucket { rate, burst, tokens: burst, filled: now }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// How long to wait for it.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.take_many(1.0, now)
    }

    /// Takes several tokens, or none.
    ///
    /// # Errors
    /// How long to wait for them.
    pub fn take_many(&mut self, count: f64, now: Instant) -> Result<(), Duration> {
        self.wait(count, now)?;
        self.tokens -= count;
        Ok(())
    }

    /// Whether this many tokens are available; takes none. A full bucket has enough for any count.
    ///
    /// # Errors
    /// How long to wait for them.
    pub fn wait(&mut self, count: f64, now: Instant) -> Result<(), Duration> {
        if self.rate == 0.0 {
            return Ok(());
        }
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = self.filled.max(now);
        let missing = count.min(self.burst) - self.tokens;
        if missing <= 0.0 { Ok(()) } else { Err(Duration::from_secs_f64(missing / self.rate)) }
    }

    /// How long until no more tokens are missing than are gained within this time. If everybody who takes some then waits
    /// this long, the first of a burst go ahead at once, and the others at the rate.
    pub fn pause(&self, at_once: Duration) -> Duration {
        let missing = if self.rate == 0.0 { 0.0 } else { (self.burst - self.tokens) / self.rate };
        Duration::from_secs_f64(missing).saturating_sub(at_once)
    }

    /// Takes one token, also if that is owed. Returns whether there was one.
    pub fn take_or_owe(&mut self, now: Instant) -> bool {
        let was_there = self.wait(1.0, now).is_ok();
        self.tokens = (self.tokens - 1.0).max(-self.burst);
        was_there
    }

    /// Takes this many tokens, or as many as there are. Returns how many.
    pub fn take_up_to(&mut self, count: f64, now: Instant) -> f64 {
        // Only to add the tokens gained since the last call.
        let _ = self.wait(0.0, now);
        let taken = count.min(self.tokens.max(0.0));
        self.tokens -= taken;
        taken
    }

    /// Takes tokens for something already done; the balance may become negative.
    pub fn charge(&mut self, count: f64) {
        self.tokens -= count;
    }
}

/// Counts recent events, by their times.
#[derive(Default)]
pub struct Recent(VecDeque<Instant>);

impl Recent {
    /// Records an event now, and returns how many happened within this period, this one included.
    pub fn count(&mut self, now: Instant, within: Duration) -> usize {
        self.0.push_back(now);
        while self.0.front().is_some_and(|at| now.saturating_duration_since(*at) > within) {
            self.0.pop_front();
        }
        self.0.len()
    }

    /// Does not count a pause as time that has passed.
    pub fn skip(&mut self, pause: Duration) {
        self.0.iter_mut().for_each(|at| *at += pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(5.0, 20.0, start);
        assert!((0..20).all(|_| bucket.take(start).is_ok()));
        assert_eq!(bucket.take(start), Err(Duration::from_millis(200)));
        assert!(bucket.take(start + Duration::from_millis(250)).is_ok());
        assert!(bucket.take(start + Duration::from_millis(260)).is_err());
        let mut free = Bucket::new(0.0, 0.0, start);
        assert!((0..1000).all(|_| free.take(start).is_ok()));
    }

    #[test]
    fn what_is_charged_afterwards_is_paid_back_first() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100.0, 1000.0, start);
        assert!(bucket.wait(1000.0, start).is_ok());
        bucket.charge(1500.0);
        assert_eq!(bucket.wait(0.0, start), Err(Duration::from_secs(5)));
        assert!(bucket.take_many(100.0, start + Duration::from_secs(6)).is_ok());
        assert!(bucket.take(start + Duration::from_secs(6)).is_err());
        assert!(bucket.wait(1000.0, start + Duration::from_secs(15)).is_err());
        assert!(bucket.wait(1000.0, start + Duration::from_secs(16)).is_ok());
        // A count larger than the burst is let through once, and paid off afterwards.
        assert!(bucket.take_many(2000.0, start + Duration::from_secs(16)).is_ok());
        assert!(bucket.take(start + Duration::from_secs(26)).is_err());
    }

    #[test]
    fn what_is_owed_is_at_most_a_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, 2.0, start);
        assert_eq!([0, 1, 2, 3].map(|_| bucket.take_or_owe(start)), [true, true, false, false]);
        (0..100).for_each(|_| _ = bucket.take_or_owe(start));
        assert!(!bucket.take_or_owe(start + Duration::from_millis(290)), "two are owed, and one more");
        assert!(bucket.take_or_owe(start + Duration::from_millis(600)));
        let mut free = Bucket::new(0.0, 2.0, start);
        assert!((0..1000).all(|_| free.take_or_owe(start)));
    }

    #[test]
    fn who_pauses_after_taking_some_goes_on_at_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, 20.0, start);
        let pauses: Vec<u128> = (0..20)
            .map(|_| {
                bucket.take(start).expect("within the burst");
                bucket.pause(Duration::from_millis(500)).as_millis()
            })
            .collect();
        assert_eq!(pauses[..7], [0, 0, 0, 0, 0, 100, 200]);
        assert_eq!((pauses[19], bucket.take(start).is_err()), (1500, true));
        let mut free = Bucket::new(0.0, 0.0, start);
        free.take(start).expect("unlimited");
        assert_eq!(free.pause(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_pause_does_not_count_as_time() {
        let (mut recent, start, second) = (Recent::default(), Instant::now(), Duration::from_secs(1));
        recent.count(start, second);
        recent.skip(10 * second);
        assert_eq!(recent.count(start + 10 * second, second), 2);
        assert_eq!(recent.count(start + 12 * second, second), 1);
    }
}
