//! A primary Redis and its replica, each with an append-only file, and the connections to them: one proxy per instance,
//! and one for the replication. Which of the two servers is the primary changes; the proxies' addresses do not.

use super::clock::{self, At};
use super::common::redis::DURABLE;
use super::common::{PATIENCE, Redis, poll_until};
use super::ledger::Ledger;
use super::proxy::{Proxy, Which};
use super::rng::Rng;
use std::thread;
use std::time::Duration;

pub struct Pair {
    pub primary: Redis,
    pub replica: Redis,
    /// The proxy for the replication.
    feed: Proxy,
    /// One per instance, which knows Redis only under the proxy's address.
    pub proxies: Vec<Proxy>,
}

impl Pair {
    pub fn start(instances: usize) -> Pair {
        let args = [&DURABLE[..], &["--repl-diskless-sync-delay", "0"]].concat();
        let (primary, replica) = (Redis::with(&args), Redis::with(&args));
        let feed = Proxy::start(primary.addr());
        let proxies = (0..instances).map(|_| Proxy::start(primary.addr())).collect();
        let pair = Pair { primary, replica, feed, proxies };
        pair.follow();
        poll_until("the replica follows", PATIENCE, || pair.follows());
        pair
    }

    /// Makes the replica replicate through the feed.
    fn follow(&self) {
        self.replica.cmd::<()>(&format!("REPLICAOF 127.0.0.1 {}", self.feed.addr.port()));
    }

    /// Whether the replica has everything but the latest data.
    pub fn follows(&self) -> bool {
        self.replica.cmd::<String>("INFO replication").contains("master_link_status:up")
    }

    /// Kills the primary while its replica lags behind, and promotes the replica. Does nothing and returns false if the
    /// replica is not connected.
    pub fn promote(&mut self, rng: &mut Rng, ledger: &Ledger) -> bool {
        let Some(since) = self.lag(rng) else { return false };
        self.primary.kill();
        ledger.lose(since);
        self.part();
        self.swap();
        self.lead();
        true
    }

    /// Restarts the former primary, empty, as a replica of the other.
    pub fn follow_again(&mut self) {
        self.replica.wipe();
        self.replica.up();
        self.follow();
    }

    /// Promotes the replica and makes the primary its replica, which therefore rejects writes; existing connections
    /// still lead to it.
    pub fn demote(&mut self, rng: &mut Rng, ledger: &Ledger) -> bool {
        let Some(since) = self.lag(rng) else { return false };
        self.part();
        self.swap();
        self.follow();
        ledger.lose(since);
        true
    }

    /// Directs new connections to the current primary.
    pub fn lead(&self) {
        self.proxies.iter().for_each(|proxy| proxy.lead_to(self.primary.addr()));
    }

    /// Delays the replication for a moment; returns since when data may be lost.
    fn lag(&mut self, rng: &mut Rng) -> Option<At> {
        let since = clock::now();
        let kept = offset(&self.primary, "master_repl_offset")?;
        let deadline = since + 10_000;
        while !(self.follows() && offset(&self.replica, "slave_repl_offset") >= Some(kept)) {
            if clock::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.feed.hold(None, Some(Which::All));
        thread::sleep(rng.millis(0, 300));
        Some(since)
    }

    /// Ends the replication.
    fn part(&mut self) {
        self.feed.cut(Which::All);
        self.replica.cmd::<()>("REPLICAOF NO ONE");
        self.feed.release();
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.replica);
        self.feed.lead_to(self.primary.addr());
    }
}

/// A server's offset in the replication stream.
fn offset(redis: &Redis, name: &str) -> Option<u64> {
    let info = redis.cmd::<String>("INFO replication");
    let (_, rest) = info.split_once(&format!("{name}:"))?;
    rest.split('\r').next()?.parse().ok()
}
