//! Rates: a token bucket, and a count of what happened lately.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A burst of messages is this many seconds' worth of the rate limit.
pub const BURST_SECONDS: f64 = 4.0;

/// A token bucket: `rate` tokens per second in the long run, `burst` at once. A token is whatever the owner counts:
/// frames, joins, bytes.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    /// Below zero after [`Bucket::charge`].
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket. A `rate` of 0 never runs out.
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

    /// Takes several tokens at once, or none. More than the burst holds are taken from a full bucket.
    ///
    /// # Errors
    /// How long to wait for them.
    pub fn take_many(&mut self, count: f64, now: Instant) -> Result<(), Duration> {
        self.wait(count.min(self.burst), now)?;
        self.tokens -= count;
        Ok(())
    }

    /// Whether this many tokens are there; none are taken.
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
        let missing = count - self.tokens;
        if missing <= 0.0 { Ok(()) } else { Err(Duration::from_secs_f64(missing / self.rate)) }
    }

    /// Takes tokens for something that has happened already: the bucket may end up in debt.
    pub fn charge(&mut self, count: f64) {
        self.tokens -= count;
    }

    /// Whether it is as full as when it was made, so that nothing is lost if it is forgotten.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.wait(self.burst, now).is_ok()
    }
}

/// When something last happened, to count how often it did lately.
#[derive(Default)]
pub struct Recent(VecDeque<Instant>);

impl Recent {
    /// It happens: how many times it did within this time, now included.
    pub fn count(&mut self, now: Instant, within: Duration) -> usize {
        self.0.push_back(now);
        while self.0.front().is_some_and(|at| now.saturating_duration_since(*at) > within) {
            self.0.pop_front();
        }
        self.0.len()
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
        assert!(bucket.wait(1.0, start).is_ok() && bucket.is_full(start));
        bucket.charge(1500.0);
        assert_eq!(bucket.wait(0.0, start), Err(Duration::from_secs(5)));
        assert!(bucket.take_many(100.0, start + Duration::from_secs(6)).is_ok());
        assert!(
            bucket.take(start + Duration::from_secs(6)).is_err() && !bucket.is_full(start + Duration::from_secs(15))
        );
        assert!(bucket.is_full(start + Duration::from_secs(16)));
        // A piece that is larger than the burst passes once, and is paid for.
        assert!(bucket.take_many(2000.0, start + Duration::from_secs(16)).is_ok());
        assert!(bucket.take(start + Duration::from_secs(26)).is_err());
    }
}
