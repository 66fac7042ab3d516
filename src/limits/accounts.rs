//! The accounts of all addresses that were active recently.
//!
//! An account lives as long as a connection from its address, and until nothing that it has used counts any more. The
//! number of accounts without a connection is bounded, so that addresses cannot exhaust memory: at the bound, those unused
//! for a minute are dropped, first those that have opened no rooms, and if that is not enough, all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::account::Account;
use super::address::{counted_as, network_of};
use super::usage::PerAddress;

/// The number of accounts at which those without a connection start to be dropped early. If more than this have connections, the
/// bound is a quarter above their number, so that not every new address causes a search.
const MAX_ACCOUNTS: usize = 20_000;
/// How long an account without a connection is kept after its last use at least: the longest time over which anything but
/// rooms is counted.
const REST: Duration = Duration::from_secs(60 * 60);
/// How often idle accounts are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The number of accounts in a network from which on its other addresses share the network's account, so that one network
/// cannot have all accounts dropped.
const MAX_OF_NETWORK: usize = 1_000;

/// The accounts of all addresses.
pub struct Accounts {
    limits: PerAddress,
    known: Mutex<Known>,
}

struct Known {
    accounts: HashMap<IpAddr, Arc<Account>>,
    /// The accounts of networks of IPv6 addresses.
    networks: HashMap<IpAddr, Arc<Account>>,
    /// The number of accounts at which some are dropped next, at least [`MAX_ACCOUNTS`].
    bound: usize,
    swept: Instant,
}

impl Accounts {
    /// No accounts yet.
    pub fn new(limits: PerAddress) -> Accounts {
        Accounts {
            limits,
            known: Mutex::new(Known {
                accounts: HashMap::new(),
                networks: HashMap::new(),
                bound: MAX_ACCOUNTS,
                swept: Instant::now(),
            }),
        }
    }

    /// The account of an address. The caller holds it for as long as it serves the address.
    pub fn of(&self, address: IpAddr, now: Instant) -> Arc<Account> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(known.swept) >= SWEEP_EVERY {
            known.swept = now;
            known.forget(|account| account.rested(now) >= REST && account.owes_no_room(now));
        }
        let address = counted_as(address);
        if let Some(account) = known.accounts.get(&address) {
            return account.clone();
        }
        let network = network_of(address).map(|network| {
            let new = || Arc::new(Account::of_network(network, &self.limits, now));
            known.networks.entry(network).or_insert_with(new).clone()
        });
        if let Some(network) = network.as_ref().filter(|network| Arc::strong_count(network) > MAX_OF_NETWORK) {
            return network.clone();
        }
        let idle = |account: &Account| account.rested(now) >= SWEEP_EVERY;
        let no_loss = |account: &Account| idle(account) && account.owes_no_room(now);
        if known.accounts.len() >= known.bound {
            for which in [&no_loss as &dyn Fn(&Account) -> bool, &idle, &|_| true] {
                if known.accounts.len() >= MAX_ACCOUNTS {
                    known.forget(which);
                }
            }
            known.bound = MAX_ACCOUNTS.max(known.accounts.len() / 4 * 5);
        }
        let account = Arc::new(Account::new(address, network, &self.limits, now));
        known.accounts.insert(address, account.clone());
        account
    }
}

impl Known {
    /// Drops the accounts without a connection for which `which` is true.
    fn forget(&mut self, which: impl Fn(&Account) -> bool) {
        for accounts in [&mut self.accounts, &mut self.networks] {
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || !which(account));
            accounts.shrink_to(accounts.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::tests::LIMITS;
    use super::super::counted::NewRoom;
    use super::*;

    #[test]
    fn a_few_addresses_cannot_fill_the_server() {
        let now = Instant::now();
        let accounts = Accounts::new(PerAddress { connection_rate: 0, ..LIMITS });
        let mut held = Vec::new();
        for number in 0..32 {
            let one = accounts.of(IpAddr::from([192, 0, 2, number]), now);
            while let Ok(place) = one.connect(2000_usize.saturating_sub(held.len()), 2000, now) {
                held.push(place);
            }
        }
        assert!(held.len() <= 1700, "{}", held.len());
        let newcomer = accounts.of(IpAddr::from([198, 51, 100, 1]), now);
        assert!(newcomer.connect(2000 - held.len(), 2000, now).is_ok());
        // A small server may belong to one household, so nothing is reserved.
        assert!((0..50).all(|n| accounts.of(IpAddr::from([203, 0, 113, 1]), now).connect(50 - n, 50, now).is_ok()));
    }

    #[test]
    fn a_new_visit_does_not_renew_an_hours_limit() {
        let (start, address) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        let accounts = Accounts::new(LIMITS);
        let opened = |now: Instant| {
            let open = |n: &usize| accounts.of(address, now).new_room(&format!("{now:?}-{n}"), now).map(NewRoom::keep);
            (0..1000).filter(|n| open(n).is_ok()).count()
        };
        assert_eq!(opened(start), 60);
        // 20 minutes later a third of them.
        assert_eq!(opened(start + Duration::from_secs(20 * 60)), 20);
    }

    #[test]
    fn an_ipv6_network_has_the_limits_of_ten_addresses() {
        let now = Instant::now();
        let accounts = Accounts::new(LIMITS);
        let address = |n: u16| IpAddr::from([0x2001, 0xdb8, 7, n, 0, 0, 0, 1]);
        let mut held = Vec::new();
        for n in 0..100 {
            let one = accounts.of(address(n), now);
            held.extend((0..50).map_while(|_| one.connect(100_000, 100_000, now).ok()));
        }
        assert_eq!(held.len(), 1000);
        let other = accounts.of(IpAddr::from([0x2001, 0xdb8, 8, 0, 0, 0, 0, 1]), now);
        assert!(other.connect(100_000, 100_000, now).is_ok());
        drop(held);
        assert!(accounts.of(address(200), now).connect(100_000, 100_000, now).is_ok());
        let join = |n| accounts.of(address(n), now).join(now).is_ok();
        assert_eq!((0..10_000).filter(|n| join(n % 100)).count(), 2000, "ten times the burst of 200");
    }

    #[test]
    fn one_network_does_not_have_the_others_forgotten() {
        let now = Instant::now();
        let accounts = Accounts::new(LIMITS);
        let mallory = IpAddr::from([192, 0, 2, 1]);
        (0..4).for_each(|n| _ = accounts.of(mallory, now).try_passphrase(Some(&n.to_string()), now));
        for n in 0..MAX_ACCOUNTS as u32 * 2 {
            let [high, low] = [(n >> 16) as u16, n as u16];
            // A /64 each, of one /48.
            accounts.of(IpAddr::from([0x2001, 0xdb8, 7, low, high, 0, 0, 1]), now);
        }
        assert!(accounts.of(mallory, now).try_passphrase(None, now).is_err());
        assert!(accounts.known.lock().expect("no panic").accounts.len() <= MAX_OF_NETWORK + 2);
    }

    #[test]
    fn limits_hold_beside_any_number_of_connections() {
        let now = Instant::now();
        let accounts = Accounts::new(LIMITS);
        let address = |n: u32| IpAddr::from((0x0A00_0000 + n).to_be_bytes());
        let mut connected: Vec<_> = (0..=MAX_ACCOUNTS as u32).map(|n| accounts.of(address(n), now)).collect();
        let mallory = IpAddr::from([192, 0, 2, 1]);
        (0..4).for_each(|n| _ = accounts.of(mallory, now).try_passphrase(Some(&n.to_string()), now));
        connected.extend((1..1000).map(|n| accounts.of(address(MAX_ACCOUNTS as u32 + n), now)));
        assert!(accounts.of(mallory, now).try_passphrase(None, now).is_err());
        drop(connected);
        (0..MAX_ACCOUNTS as u32 * 2).for_each(|n| drop(accounts.of(address(n * 7), now)));
        assert!(accounts.known.lock().expect("no panic").accounts.len() <= MAX_ACCOUNTS / 4 * 5);
    }

    #[test]
    fn a_network_does_not_suffer_from_one_address() {
        let mut now = Instant::now();
        let accounts = Accounts::new(LIMITS);
        let address = |n: u16| IpAddr::from([0x2001, 0xdb8, 7, n, 0, 0, 0, 1]);
        for n in 0..200 {
            assert!(accounts.of(address(1), now).try_passphrase(Some(&n.to_string()), now).is_ok());
            now += Duration::from_secs(60);
        }
        assert!([1, 2].iter().all(|n| accounts.of(address(*n), now).try_passphrase(Some("another"), now).is_ok()));
        assert!(accounts.of(address(3), now).try_passphrase(None, now).is_ok(), "it has tried none");
        assert!(accounts.of(address(2), now).try_passphrase(None, now).is_err(), "one wrong, and many in its network");
        // Rooms in which nobody says anything are opened again and again.
        let opens = |n: u16, room: &str| accounts.of(address(n), now).new_room(room, now).map(NewRoom::keep).is_ok();
        for round in 0..50 {
            for n in 0..120 {
                assert!(opens(4 + n % 2, &format!("quiet-{n}")), "round {round}");
            }
        }
        assert!(opens(6, "another"));
    }

    #[test]
    fn one_network_takes_a_quarter_of_a_small_server() {
        let now = Instant::now();
        let accounts = Accounts::new(LIMITS);
        let mut held = Vec::new();
        for n in 0..200 {
            let one = accounts.of(IpAddr::from([0x2001, 0xdb8, 7, n, 0, 0, 0, 1]), now);
            held.extend((0..9).map_while(|_| one.connect(800, 800, now).ok()));
        }
        assert_eq!(held.len(), 200);
    }

    #[test]
    fn accounts_without_connections_are_forgotten() {
        let start = Instant::now();
        let accounts = Accounts::new(LIMITS);
        let here = accounts.of(IpAddr::from([192, 0, 2, 1]), start);
        for n in 0..MAX_ACCOUNTS as u32 * 2 {
            accounts.of(IpAddr::V4(n.into()), start);
        }
        let count = |accounts: &Accounts| accounts.known.lock().expect("no panic").accounts.len();
        assert!(count(&accounts) <= MAX_ACCOUNTS);
        let later = start + REST + SWEEP_EVERY;
        assert!(Arc::ptr_eq(&here, &accounts.of(here.address(), later)) && count(&accounts) == 1);
    }
}
