//! What one address has used recently: a bucket or a counter for each limit.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::limit::{Limit, Refusal};

/// One address may hold one in this many of the places for waiting requests.
const POLLS_PART: usize = 4;
/// Bursts, as seconds of the corresponding rate. The burst of joins is at least [`LEAST_JOINS`], or a minute's joins if
/// those are fewer.
const CONNECTION_BURST: f64 = 10.0;
const JOIN_BURST: f64 = 20.0;
const LEAST_JOINS: u32 = 10;
const HISTORY_BURST: f64 = 8.0;
/// Short, because all of it may come at once from many addresses, and other people's messages then wait behind it.
const TEXT_BURST: f64 = 2.0;
/// Messages are also limited by their number, because a ref is kept for ten minutes and can take more space than a short
/// text. The rate is what the rate of text allows if each message has this many bytes; the burst is ten minutes of that.
const MESSAGE_BYTES: f64 = 4096.0;
const MESSAGE_BURST: f64 = 600.0;
/// Plain requests are allowed at this multiple of the rate and burst of connections: loading the page takes about a
/// dozen.
const REQUESTS: f64 = 10.0;
/// The minimum charge for a read from the log, in bytes, because the lookup has a cost too.
const SMALLEST_READ: f64 = 8192.0;
/// The longest wait after wrong passphrases. Each further wrong one doubles the wait, up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time without a wrong passphrase, after the wait, that resets the count.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10 * 60);
/// If the cap is at least this many times the limit per address, the last quarter of the slots is reserved for
/// addresses that hold less than a tenth of their limit, so that a few busy addresses cannot fill the server.
const SHARED_FROM: usize = 4;
const KEPT_PART: usize = 4;
const FEW_PART: usize = 10;

/// The limits per address; 0 turns one off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerAddress {
    /// Concurrent connections.
    pub connections: usize,
    /// New connections per second.
    pub connection_rate: u32,
    /// Joins per minute.
    pub joins: u32,
    /// Wrong passphrases before the address has to wait.
    pub wrong_passphrases: u32,
    /// Rooms created per hour.
    pub new_rooms: u32,
    /// Bytes per second read from the logs.
    pub history: u32,
    /// Bytes of message text per second.
    pub text: u32,
}

/// What one address has used recently.
pub struct Account {
    address: IpAddr,
    limits: PerAddress,
    state: Mutex<State>,
}

struct State {
    used: Instant,
    connections: usize,
    polls: usize,
    new_connections: Bucket,
    requests: Bucket,
    joins: Bucket,
    new_rooms: Bucket,
    history: Bucket,
    text: Bucket,
    messages: Bucket,
    wrong: u32,
    wait_until: Instant,
}

impl State {
    fn may_connect(&mut self, most: usize, free: usize, cap: usize, now: Instant) -> Result<(), Refusal> {
        let over = most > 0 && self.connections >= most;
        let scarce = most > 0 && cap >= SHARED_FROM.saturating_mul(most) && free <= cap / KEPT_PART;
        if over || (scarce && self.connections >= most.div_ceil(FEW_PART)) {
            return Err(Refusal { limit: Limit::Connections, wait: Duration::from_secs(10) });
        }
        self.new_connections.wait(1.0, now).map_err(|wait| Refusal { limit: Limit::ConnectionRate, wait })
    }
}

impl Account {
    pub(super) fn new(address: IpAddr, limits: PerAddress, now: Instant) -> Account {
        let bucket = |per_second: f64, burst: f64| Bucket::new(per_second, per_second * burst, now);
        let rate = f64::from(limits.connection_rate);
        let joins = f64::from(limits.joins) / 60.0;
        let join_burst = (joins * JOIN_BURST).max(f64::from(limits.joins.min(LEAST_JOINS)));
        let state = State {
            used: now,
            connections: 0,
            polls: 0,
            new_connections: bucket(rate, CONNECTION_BURST),
            requests: bucket(rate * REQUESTS, CONNECTION_BURST),
            joins: Bucket::new(joins, join_burst, now),
            new_rooms: bucket(f64::from(limits.new_rooms) / 3600.0, 3600.0),
            history: bucket(f64::from(limits.history), HISTORY_BURST),
            text: bucket(f64::from(limits.text), TEXT_BURST),
            messages: bucket(f64::from(limits.text) / MESSAGE_BYTES, MESSAGE_BURST),
            wrong: 0,
            wait_until: now,
        };
        Account { address, limits, state: Mutex::new(state) }
    }

    /// The address, or the first 64 bits of an IPv6 one.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    fn state(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used = state.used.max(now);
        state
    }

    /// The time since it was last used.
    pub(super) fn rested(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.state.lock().unwrap_or_else(PoisonError::into_inner).used)
    }

    /// Counts a new connection until the returned value is dropped. `free` and `cap` are the server's free and total
    /// slots.
    ///
    /// # Errors
    /// The address has too many connections, or opens them too fast.
    pub fn connect(self: &Arc<Account>, free: usize, cap: usize, now: Instant) -> Result<Connected, Refusal> {
        let mut state = self.state(now);
        state.may_connect(self.limits.connections, free, cap, now)?;
        state.new_connections.charge(1.0);
        state.connections += 1;
        Ok(Connected(self.clone()))
    }

    /// Whether a new connection would be accepted.
    ///
    /// # Errors
    /// As [`Account::connect`].
    pub fn may_connect(&self, free: usize, cap: usize, now: Instant) -> Result<(), Refusal> {
        self.state(now).may_connect(self.limits.connections, free, cap, now)
    }

    /// Counts a plain HTTP request.
    ///
    /// # Errors
    /// The address sends too many.
    pub fn request(&self, now: Instant) -> Result<(), Refusal> {
        let refusal = |wait| Refusal { limit: Limit::ConnectionRate, wait };
        self.state(now).requests.take(now).map_err(refusal)
    }

    /// Counts a join that the backplane is about to carry out.
    ///
    /// # Errors
    /// The address joins too often.
    pub fn join(&self, now: Instant) -> Result<(), Refusal> {
        self.state(now).joins.take(now).map_err(|wait| Refusal { limit: Limit::Joins, wait })
    }

    /// Whether the address may try a passphrase now.
    ///
    /// # Errors
    /// It has tried too many wrong ones.
    pub fn may_try_passphrase(&self, now: Instant) -> Result<(), Refusal> {
        let wait = self.state(now).wait_until.saturating_duration_since(now);
        if wait.is_zero() { Ok(()) } else { Err(Refusal { limit: Limit::Passphrases, wait }) }
    }

    /// Counts a wrong passphrase. Past the limit, each one doubles the wait before the next try.
    pub fn wrong_passphrase(&self, now: Instant) {
        let mut state = self.state(now);
        if now.saturating_duration_since(state.wait_until) >= FORGIVEN_AFTER {
            state.wrong = 0;
        }
        state.wrong = state.wrong.saturating_add(1);
        let over = state.wrong.saturating_sub(self.limits.wrong_passphrases);
        state.wait_until = now;
        if self.limits.wrong_passphrases > 0 && over > 0 {
            state.wait_until += Duration::from_secs(1 << (over - 1).min(10)).min(LONGEST_WAIT);
        }
    }

    /// Counts a room that a join may create. If it does not, call [`Account::no_new_room`].
    ///
    /// # Errors
    /// The address has created too many.
    pub fn new_room(&self, now: Instant) -> Result<(), Refusal> {
        self.state(now).new_rooms.take(now).map_err(|wait| Refusal { limit: Limit::Rooms, wait })
    }

    /// Takes back a room counted by [`Account::new_room`].
    pub fn no_new_room(&self) {
        self.state(Instant::now()).new_rooms.charge(-1.0);
    }

    /// Counts a waiting request until the returned value is dropped; `None` if the address already has its share of all
    /// `places`.
    pub fn poll(self: &Arc<Account>, places: usize) -> Option<Polling> {
        let mut state = self.state(Instant::now());
        if self.limits.connections > 0 && state.polls >= places.div_ceil(POLLS_PART) {
            return None;
        }
        state.polls += 1;
        Some(Polling(self.clone()))
    }

    /// Whether the address may read from a log now.
    ///
    /// # Errors
    /// It has read too much.
    pub fn may_read(&self, now: Instant) -> Result<(), Refusal> {
        self.state(now).history.wait(SMALLEST_READ, now).map_err(|wait| Refusal { limit: Limit::History, wait })
    }

    /// Charges bytes read from a log, in addition to those of earlier reads.
    pub fn charge_read(&self, bytes: usize, now: Instant) {
        self.state(now).history.charge((bytes as f64).max(SMALLEST_READ));
    }

    /// Counts a message, in addition to its text.
    ///
    /// # Errors
    /// The address sends too many.
    pub fn message(&self, now: Instant) -> Result<(), Refusal> {
        self.state(now).messages.take(now).map_err(|wait| Refusal { limit: Limit::Text, wait })
    }

    /// Counts the bytes of a message text.
    ///
    /// # Errors
    /// The address sends too much text.
    pub fn text(&self, bytes: usize, now: Instant) -> Result<(), Refusal> {
        self.state(now).text.take_many(bytes as f64, now).map_err(|wait| Refusal { limit: Limit::Text, wait })
    }
}

/// A connection counted against its address until this is dropped. See [`Account::connect`].
pub struct Connected(Arc<Account>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.state(Instant::now()).connections -= 1;
    }
}

/// A waiting request counted against its address until this is dropped. See [`Account::poll`].
pub struct Polling(Arc<Account>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.state(Instant::now()).polls -= 1;
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const LIMITS: PerAddress = PerAddress {
        connections: 100,
        connection_rate: 20,
        joins: 600,
        wrong_passphrases: 3,
        new_rooms: 60,
        history: 100_000,
        text: 10_000,
    };

    fn account(limits: PerAddress, now: Instant) -> Arc<Account> {
        Arc::new(Account::new(IpAddr::from([192, 0, 2, 1]), limits, now))
    }

    #[test]
    fn connections_are_counted_while_they_last() {
        let start = Instant::now();
        let ada = account(LIMITS, start);
        let mut held: Vec<_> = (0..100).map(|_| ada.connect(10_000, 10_000, start).expect("a place")).collect();
        let refused = ada.connect(10_000, 10_000, start).err().expect("one too many");
        assert_eq!(refused.limit, Limit::Connections);
        held.pop();
        held.extend(ada.connect(10_000, 10_000, start));
        assert!(held.len() == 100 && ada.connect(10_000, 10_000, start).is_err());
        drop(held);
        assert_eq!(
            (0..200).filter(|_| ada.connect(10_000, 10_000, start).is_ok()).count(),
            99,
            "the burst of 200 is gone"
        );
    }

    #[test]
    fn the_wait_after_wrong_passphrases_grows() {
        let mut now = Instant::now();
        let mallory = account(LIMITS, now);
        for _ in 0..3 {
            assert!(mallory.may_try_passphrase(now).is_ok());
            mallory.wrong_passphrase(now);
        }
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(mallory.may_try_passphrase(now).is_ok());
            mallory.wrong_passphrase(now);
            let refusal = Refusal { limit: Limit::Passphrases, wait: Duration::from_secs(wait) };
            assert_eq!(mallory.may_try_passphrase(now), Err(refusal));
            now += Duration::from_secs(wait);
        }
        now += FORGIVEN_AFTER;
        mallory.wrong_passphrase(now);
        assert!(mallory.may_try_passphrase(now).is_ok());
    }

    #[test]
    fn few_joins_per_minute_may_come_at_once() {
        let now = Instant::now();
        for (joins, at_once) in [(1, 1), (2, 2), (10, 10), (30, 10), (600, 200)] {
            let ada = account(PerAddress { joins, ..LIMITS }, now);
            assert_eq!((0..1000).filter(|_| ada.join(now).is_ok()).count(), at_once, "{joins}");
        }
    }

    #[test]
    fn small_messages_are_counted_too() {
        let now = Instant::now();
        let ada = account(LIMITS, now);
        assert_eq!(
            (0..5000).filter(|_| ada.message(now).is_ok()).count(),
            1464,
            "600 s of 10,000 bytes, 4,096 for each"
        );
        assert!(ada.message(now + Duration::from_secs(1)).is_ok());
        let unlimited = account(PerAddress { text: 0, ..LIMITS }, now);
        assert!((0..5000).all(|_| unlimited.message(now).is_ok()));
    }

    #[test]
    fn a_limit_of_zero_is_off() {
        let now = Instant::now();
        let off = PerAddress {
            connections: 0,
            connection_rate: 0,
            joins: 0,
            wrong_passphrases: 0,
            new_rooms: 0,
            history: 0,
            text: 0,
        };
        let ada = account(off, now);
        let held: Vec<_> = (0..1000).map(|_| ada.connect(1, 1000, now)).collect();
        assert!(held.iter().all(Result::is_ok));
        for _ in 0..1000 {
            ada.wrong_passphrase(now);
            ada.charge_read(1 << 20, now);
            let all =
                [ada.request(now), ada.join(now), ada.may_try_passphrase(now), ada.new_room(now), ada.may_read(now)];
            assert!(all.iter().all(Result::is_ok) && ada.text(4096, now).is_ok());
        }
    }
}
