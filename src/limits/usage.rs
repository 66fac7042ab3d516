//! What counts against an address or a network: a bucket or a counter for each limit.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::limit::{Limit, Refusal};
use super::openings::{Openings, RoomLimits};

/// A wrong passphrase that is tried again counts only each time in this many: when the passphrase has been changed, all pages in an
/// office try the old one, and whoever guesses learns nothing from it.
const REPEATED: u32 = 10;
/// How many wrong passphrases of an address are remembered for that, as hashes with a random key.
const TRIED: usize = 32;
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
/// One address may hold one in this many of the places for waiting requests.
const POLLS_PART: usize = 4;
/// Bursts, as seconds of the corresponding rate. The burst of joins is at least [`LEAST_JOINS`], or a minute's joins if
/// those are fewer.
const CONNECTION_BURST: f64 = 10.0;
const JOIN_BURST: f64 = 20.0;
const LEAST_JOINS: u32 = 10;
const HISTORY_BURST: f64 = 8.0;
const TEXT_BURST: f64 = 2.0;
/// The part of a burst of text that is passed on at once, as the time in which it is gained. The rest is spread over a short
/// time, because it may come from many addresses together, and other people's messages would wait behind it.
pub const TEXT_AT_ONCE: Duration = Duration::from_millis(250);
/// Messages are also limited by their number, because a ref is kept for ten minutes and can take more space than a short
/// text. The rate is what the rate of text allows if each message has this many bytes; the burst is ten minutes of that.
const MESSAGE_BYTES: f64 = 2048.0;
const MESSAGE_BURST: f64 = 600.0;
/// A browser opens up to this many connections to a server for one page, and keeps them open. So an address may have this
/// many times as many connections that are not WebSockets, and open as many more at once.
pub const PER_PAGE: usize = 6;
/// An address that opens connections faster than its rate, after this many at once, opens many: more than one person does.
const FEW_STARTS: f64 = 2.0;
/// Plain requests are allowed at this multiple of the rate and burst of connections: loading the page takes about a
/// dozen.
const REQUESTS: f64 = 10.0;
/// Refused frames have the rate of connections, and this burst. Beyond the part of it that is answered at once, the
/// connections of an address are read more slowly: after a refusal one pauses for at most the difference, 4 s. With a difference of a
/// second, thousands of clients that send too much were closed and came back every 13 s. Whoever waits as long as a refusal says
/// never gets there.
const REFUSAL_BURST: f64 = 6.0;
pub const REFUSALS_AT_ONCE: Duration = Duration::from_secs(2);
/// What a connection that is closed because of too many frames costs its address, in joins: otherwise its client would only have to
/// connect again. With more, one bad script that is closed once per second would take all joins from its neighbours.
pub const FLOOD_PRICE: f64 = 3.0;
/// The minimum charge for a read from the log, in bytes, because the lookup has a cost too.
pub const SMALLEST_READ: f64 = 8192.0;
/// The longest wait after wrong passphrases. Each further wrong one doubles the wait, up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time without a wrong passphrase, after the wait, that resets the count.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(10 * 60);
/// If the cap is at least this many times the limit per address, the last quarter of the slots is reserved for
/// addresses that hold less than a tenth of their limit, so that a few busy addresses cannot fill the server. The same
/// holds for places of waiting requests.
const SHARED_FROM: usize = 4;
const KEPT_PART: usize = 4;
const FEW_PART: usize = 10;
/// The answer to an address with too many connections.
const TOO_MANY: Refusal = Refusal { limit: Limit::Connections, wait: Duration::from_secs(10) };

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
    /// Opening rooms.
    pub rooms: RoomLimits,
    /// Bytes per second read from the logs.
    pub history: u32,
    /// Bytes of message text per second.
    pub text: u32,
}

/// What has been used.
pub struct Usage {
    /// The time of the last use.
    pub used: Instant,
    /// Of one address; 0 is unlimited.
    most_connections: usize,
    /// 1, or how many times the limits of an address a network has.
    times: u32,
    pub connections: usize,
    /// Connections that have been accepted and are not WebSockets yet.
    pub guests: usize,
    pub polls: usize,
    pub arrivals: Bucket,
    pub starts: Bucket,
    pub new_connections: Bucket,
    pub requests: Bucket,
    pub joins: Bucket,
    pub rooms: Openings,
    pub history: Bucket,
    pub text: Bucket,
    pub messages: Bucket,
    pub refusals: Bucket,
    /// 0 is unlimited.
    most_wrong: u32,
    /// How many wrong passphrases were tried, and the hashes of the last ones.
    pub wrong: u32,
    tried: VecDeque<u64>,
    /// How often one of these was tried again.
    repeated: u32,
    pub wait_until: Instant,
}

impl Usage {
    /// Nothing yet. The limits are multiplied by `times`.
    pub fn new(limits: &PerAddress, times: u32, now: Instant) -> Usage {
        let number = |limit: u32| f64::from(limit) * f64::from(times);
        let bucket = |per_second: f64, burst: f64| Bucket::new(per_second, per_second * burst, now);
        let joins = number(limits.joins) / 60.0;
        let join_burst = (joins * JOIN_BURST).max(f64::from(limits.joins.min(LEAST_JOINS)));
        Usage {
            used: now,
            most_connections: limits.connections,
            times,
            connections: 0,
            guests: 0,
            polls: 0,
            arrivals: bucket(number(limits.connection_rate), CONNECTION_BURST * PER_PAGE as f64),
            starts: Bucket::new(number(limits.connection_rate), FEW_STARTS * f64::from(times), now),
            new_connections: bucket(number(limits.connection_rate), CONNECTION_BURST),
            requests: bucket(number(limits.connection_rate) * REQUESTS, CONNECTION_BURST),
            joins: Bucket::new(joins, join_burst, now),
            rooms: Openings::new(&limits.rooms, times, now),
            history: bucket(number(limits.history), HISTORY_BURST),
            text: bucket(number(limits.text), TEXT_BURST),
            messages: bucket(number(limits.text) / MESSAGE_BYTES, MESSAGE_BURST),
            refusals: bucket(number(limits.connection_rate), REFUSAL_BURST),
            most_wrong: limits.wrong_passphrases.saturating_mul(times),
            wrong: 0,
            tried: VecDeque::new(),
            repeated: 0,
            wait_until: now,
        }
    }

    /// Whether a new connection would be accepted, see `Account::connect`.
    pub fn may_connect(&mut self, free: usize, cap: usize, now: Instant) -> Result<(), Refusal> {
        let (of_one, most) = (self.most_connections, self.most(cap));
        let scarce = of_one > 0 && cap >= SHARED_FROM.saturating_mul(of_one) && free <= cap / KEPT_PART;
        if self.connections >= if scarce { most.div_ceil(FEW_PART) } else { most } {
            return Err(TOO_MANY);
        }
        self.new_connections.wait(1.0, now).map_err(|wait| Refusal { limit: Limit::ConnectionRate, wait })
    }

    /// Whether a connection would be accepted that has not sent anything, see `Account::accept`.
    pub fn may_accept(&mut self, cap: usize, now: Instant) -> Result<(), Refusal> {
        if self.guests >= self.most(cap).saturating_mul(PER_PAGE) {
            return Err(TOO_MANY);
        }
        self.arrivals.wait(1.0, now).map_err(|wait| Refusal { limit: Limit::ConnectionRate, wait })
    }

    /// The most WebSockets. A network may hold as many as several addresses, but not the greater part of a small server.
    fn most(&self, cap: usize) -> usize {
        match self.most_connections {
            0 => usize::MAX,
            of_one => of_one.saturating_mul(self.times as usize).min((cap / SHARED_FROM).max(of_one)),
        }
    }

    /// Whether it may take one of `places` for waiting requests, of which this many are `free`.
    pub fn may_poll(&self, free: usize, places: usize) -> bool {
        let share = places.div_ceil(POLLS_PART);
        let most = if free <= places / KEPT_PART { share.div_ceil(FEW_PART) } else { share };
        self.most_connections == 0 || self.polls < most
    }

    /// Remembers this wrong passphrase, and returns whether it counts: always, unless it is one of the last that were tried.
    pub fn remember(&mut self, wrong: &str) -> bool {
        let hash = HASHER.hash_one(wrong);
        if self.tried.contains(&hash) {
            self.repeated = self.repeated.wrapping_add(1);
            return self.repeated.is_multiple_of(REPEATED);
        }
        self.tried.push_back(hash);
        if self.tried.len() > TRIED {
            self.tried.pop_front();
        }
        true
    }

    /// Counts a wrong passphrase. Past the limit, each one doubles the wait before the next try.
    pub fn wrong_passphrase(&mut self, now: Instant) {
        if now.saturating_duration_since(self.wait_until) >= FORGIVEN_AFTER {
            self.wrong = 0;
        }
        self.wrong = self.wrong.saturating_add(1);
        let over = self.wrong.saturating_sub(self.most_wrong);
        self.wait_until = now;
        if self.most_wrong > 0 && over > 0 {
            self.wait_until += Duration::from_secs(1 << (over - 1).min(10)).min(LONGEST_WAIT);
        }
    }
}
