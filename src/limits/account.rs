//! The account of one address: what it has used recently, and its network's account, which is charged too.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::limit::{Limit, Refusal};
use super::usage::{FLOOD_PRICE, PerAddress, REFUSALS_AT_ONCE, SMALLEST_READ, TEXT_AT_ONCE, Usage};

/// A network of IPv6 addresses, of which one person can have 65,536, has this many times the limits of one address.
const NETWORK: u32 = 10;

/// What one address has used recently.
pub struct Account {
    address: IpAddr,
    /// The account of the larger network that an IPv6 address belongs to, charged for all of its addresses.
    pub(super) network: Option<Arc<Account>>,
    usage: Mutex<Usage>,
}

impl Account {
    /// An account that has used nothing.
    pub(super) fn new(address: IpAddr, network: Option<Arc<Account>>, limits: &PerAddress, now: Instant) -> Account {
        Account { address, network, usage: Mutex::new(Usage::new(limits, 1, now)) }
    }

    /// The account of a network, with [`NETWORK`] times the limits.
    pub(super) fn of_network(network: IpAddr, limits: &PerAddress, now: Instant) -> Account {
        Account { address: network, network: None, usage: Mutex::new(Usage::new(limits, NETWORK, now)) }
    }

    /// The address, or the first 64 bits of an IPv6 one.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn usage(&self, now: Instant) -> MutexGuard<'_, Usage> {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage.used = usage.used.max(now);
        usage
    }

    /// The time since it was last used.
    pub(super) fn rested(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.usage.lock().unwrap_or_else(PoisonError::into_inner).used)
    }

    /// Whether none of the rooms that it has opened counts any more.
    pub(super) fn owes_no_room(&self, now: Instant) -> bool {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).rooms.are_forgotten(now)
    }

    /// What this account and its network's have used, locked in this order.
    pub(super) fn usages(&self, now: Instant) -> Vec<MutexGuard<'_, Usage>> {
        std::iter::once(self).chain(self.network.as_deref()).map(|account| account.usage(now)).collect()
    }

    /// Takes this much from a bucket, or nothing if there is not enough. Returns what was charged, still locked.
    fn take(
        &self,
        limit: Limit,
        bucket: fn(&mut Usage) -> &mut Bucket,
        count: f64,
        now: Instant,
    ) -> Result<Vec<MutexGuard<'_, Usage>>, Refusal> {
        let mut usages = self.usages(now);
        for usage in &mut usages {
            bucket(usage).wait(count, now).map_err(|wait| Refusal { limit, wait })?;
        }
        usages.iter_mut().for_each(|usage| bucket(usage).charge(count));
        Ok(usages)
    }

    /// Counts a connection that waits to be served. Returns whether its address opens many.
    pub fn opens_many(&self, now: Instant) -> bool {
        // Charges the network even if the address alone opens many.
        self.usages(now).iter_mut().fold(false, |many, usage| many | !usage.starts.take_or_owe(now))
    }

    /// Whether a new WebSocket would be accepted.
    ///
    /// # Errors
    /// The address has too many WebSockets, or opens them too fast.
    pub fn may_connect(&self, free: usize, cap: usize, now: Instant) -> Result<(), Refusal> {
        self.usages(now).iter_mut().try_for_each(|usage| usage.may_connect(free, cap, now))
    }

    /// Counts a plain HTTP request.
    ///
    /// # Errors
    /// The address sends too many.
    pub fn request(&self, now: Instant) -> Result<(), Refusal> {
        self.take(Limit::ConnectionRate, |usage| &mut usage.requests, 1.0, now).map(drop)
    }

    /// Counts a join that the backplane is about to carry out.
    ///
    /// # Errors
    /// The address joins too often.
    pub fn join(&self, now: Instant) -> Result<(), Refusal> {
        self.take(Limit::Joins, |usage| &mut usage.joins, 1.0, now).map(drop)
    }

    /// Counts a try of a passphrase: the right one, or this wrong one. Past the limit, each wrong one doubles the wait before the
    /// next try.
    ///
    /// # Errors
    /// The address has tried too many wrong ones, and has to wait; whether this one is right is then not disclosed.
    pub fn try_passphrase(&self, wrong: Option<&str>, now: Instant) -> Result<(), Refusal> {
        let mut usages = self.usages(now);
        // Of a network's addresses, only those that have tried a wrong one wait for the others.
        let waiting = &usages[..if usages[0].wrong > 0 { usages.len() } else { 1 }];
        let until = waiting.iter().map(|usage| usage.wait_until).max().unwrap_or(now);
        let wait = until.saturating_duration_since(now);
        if !wait.is_zero() {
            return Err(Refusal { limit: Limit::Passphrases, wait });
        }
        if wrong.is_some_and(|wrong| usages[0].remember(wrong)) {
            usages.iter_mut().for_each(|usage| usage.wrong_passphrase(now));
        }
        Ok(())
    }

    /// How many rooms must remain for others if this address opens one: none if it has opened few lately.
    pub fn spare_rooms(&self, now: Instant) -> usize {
        let spare = self.usages(now).iter_mut().map(|usage| usage.rooms.spare(now)).max();
        spare.unwrap_or_default() as usize
    }

    /// Whether the address may read from a log now.
    ///
    /// # Errors
    /// It has read too much.
    pub fn may_read(&self, now: Instant) -> Result<(), Refusal> {
        let mut usages = self.usages(now);
        let refusal = |wait| Refusal { limit: Limit::History, wait };
        usages.iter_mut().try_for_each(|usage| usage.history.wait(SMALLEST_READ, now)).map_err(refusal)
    }

    /// Charges bytes read from a log, in addition to those of earlier reads.
    pub fn charge_read(&self, bytes: usize, now: Instant) {
        let bytes = (bytes as f64).max(SMALLEST_READ);
        self.usages(now).iter_mut().for_each(|usage| usage.history.charge(bytes));
    }

    /// Counts a message, in addition to its text. Returns how long until no more of the text rate is used in advance than
    /// may be passed on at once.
    ///
    /// # Errors
    /// The address sends too many.
    pub fn message(&self, now: Instant) -> Result<Duration, Refusal> {
        let usages = self.take(Limit::Text, |usage| &mut usage.messages, 1.0, now)?;
        Ok(usages.iter().map(|usage| usage.text.pause(TEXT_AT_ONCE)).max().unwrap_or_default())
    }

    /// Counts the bytes of a message text.
    ///
    /// # Errors
    /// The address sends too much text.
    pub fn text(&self, bytes: usize, now: Instant) -> Result<(), Refusal> {
        self.take(Limit::Text, |usage| &mut usage.text, bytes as f64, now).map(drop)
    }

    /// Charges for a connection that had to be closed because of too many frames.
    pub fn charge_flood(&self, now: Instant) {
        let mut price = FLOOD_PRICE;
        for usage in &mut self.usages(now) {
            // The network pays no more than the address could.
            price = usage.joins.take_up_to(price, now);
        }
    }

    /// How long a client that is refused now should wait at least before it tries again: until those refused before it have tried, one
    /// after the other at the rate of refusals. Otherwise all of them would try again at the same moment.
    pub fn retry_after(&self, now: Instant) -> Duration {
        let mut usages = self.usages(now);
        usages.iter_mut().for_each(|usage| _ = usage.refusals.wait(0.0, now));
        usages.iter().map(|usage| usage.refusals.pause(Duration::ZERO)).max().unwrap_or_default()
    }

    /// Counts a refused frame. Returns how long its connection should not be read.
    pub fn refused(&self, now: Instant) -> Duration {
        let mut usages = self.usages(now);
        // If it has no token left, the pause is the longest possible.
        usages.iter_mut().for_each(|usage| _ = usage.refusals.take(now));
        usages.iter().map(|usage| usage.refusals.pause(REFUSALS_AT_ONCE)).max().unwrap_or_default()
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::openings::RoomLimits;
    use super::super::usage::FORGIVEN_AFTER;
    use super::*;

    pub const LIMITS: PerAddress = PerAddress {
        connections: 100,
        connection_rate: 20,
        joins: 600,
        wrong_passphrases: 3,
        rooms: RoomLimits { per_hour: 60, most: 10_000, life: Duration::from_secs(30 * 86_400) },
        history: 100_000,
        text: 10_000,
    };

    fn account(limits: PerAddress, now: Instant) -> Arc<Account> {
        Arc::new(Account::new(IpAddr::from([192, 0, 2, 1]), None, &limits, now))
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
    fn an_address_opens_many_if_it_exceeds_its_rate() {
        let start = Instant::now();
        let ada = account(LIMITS, start);
        assert_eq!([0, 1, 2].map(|_| ada.opens_many(start)), [false, false, true]);
        let later = (1..=1200).map(|n| start + Duration::from_secs(1) + Duration::from_millis(50) * n);
        assert!(later.into_iter().all(|at| !ada.opens_many(at)), "20 per second are within its rate");
        let network = Arc::new(Account::of_network(ada.address(), &LIMITS, start));
        let neighbours = |n| Account::new(IpAddr::from([192, 0, 2, n]), Some(network.clone()), &LIMITS, start);
        assert_eq!((1..=22).map(|n| neighbours(n).opens_many(start)).filter(|many| *many).count(), 2);
    }

    #[test]
    fn the_wait_after_wrong_passphrases_grows() {
        let mut now = Instant::now();
        let mallory = account(LIMITS, now);
        let mut guesses = (0..).map(|number| format!("guess {number}"));
        let mut guess = |now| mallory.try_passphrase(guesses.next().as_deref(), now);
        (0..3).for_each(|_| assert!(guess(now).is_ok()));
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(guess(now).is_ok());
            let refusal = Refusal { limit: Limit::Passphrases, wait: Duration::from_secs(wait) };
            assert_eq!(mallory.try_passphrase(None, now), Err(refusal));
            now += Duration::from_secs(wait);
        }
        now += FORGIVEN_AFTER;
        assert!(guess(now).is_ok());
        assert!(mallory.try_passphrase(None, now).is_ok());
    }

    #[test]
    fn the_same_wrong_passphrase_counts_less() {
        let now = Instant::now();
        let office = account(LIMITS, now);
        let tries = |wrong: &str| (0..100).take_while(|_| office.try_passphrase(Some(wrong), now).is_ok()).count();
        assert_eq!(tries("the old one"), 31, "once, and then each tenth time");
        assert!(office.try_passphrase(None, now).is_err() && tries("another") == 0);
    }

    #[test]
    fn a_few_addresses_cannot_take_all_places_for_waiting_requests() {
        let now = Instant::now();
        let mut held = Vec::new();
        for _ in 0..10 {
            let one = account(LIMITS, now);
            let wait = |held: &Vec<_>| one.poll(256 - held.len(), 256);
            while let Some(polling) = wait(&held) {
                held.push(polling);
            }
        }
        assert_eq!(held.len(), 3 * 64 + 7 * 7, "three have a quarter each, and seven a tenth of that");
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
    fn floods_cost_joins_but_none_in_advance() {
        let now = Instant::now();
        let network = Arc::new(Account::of_network(IpAddr::from([192, 0, 2, 0]), &LIMITS, now));
        let [ada, bob] =
            [(); 2].map(|()| Account::new(IpAddr::from([192, 0, 2, 1]), Some(network.clone()), &LIMITS, now));
        (0..50).for_each(|_| ada.charge_flood(now));
        assert_eq!((0..1000).filter(|_| ada.join(now).is_ok()).count(), 50, "of 200 at once");
        (0..1000).for_each(|_| ada.charge_flood(now));
        assert!(ada.join(now + Duration::from_millis(101)).is_ok(), "ten per second");
        assert_eq!(
            (0..1000).filter(|_| bob.join(now).is_ok()).count(),
            200,
            "the network has 2,000, less those of Ada"
        );
    }

    #[test]
    fn small_messages_are_counted_too() {
        let now = Instant::now();
        let ada = account(LIMITS, now);
        assert_eq!(
            (0..5000).filter(|_| ada.message(now).is_ok()).count(),
            2929,
            "600 s of 10,000 bytes, 2,048 for each"
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
            rooms: RoomLimits { per_hour: 0, ..LIMITS.rooms },
            history: 0,
            text: 0,
        };
        let ada = account(off, now);
        let held: Vec<_> = (0..1000).map(|_| ada.connect(1, 1000, now)).collect();
        assert!(held.iter().all(Result::is_ok));
        for number in 0..1000 {
            assert!(ada.try_passphrase(Some(&number.to_string()), now).is_ok());
            ada.charge_read(1 << 20, now);
            ada.new_room(&format!("room-{number}"), now).expect("unlimited").keep();
            let all = [ada.request(now), ada.join(now), ada.may_read(now)];
            assert!(all.iter().all(Result::is_ok) && ada.text(4096, now).is_ok());
        }
    }
}
