//! A queue in which addresses take turns.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::address::{counted_as, network_of};

/// Whoever waits, in the order in which they are served: the addresses take turns, so that one person does not wait behind an
/// address that sends many. An IPv6 address counts as its network.
pub struct Turns<T> {
    /// Those of one address, the oldest first; never empty.
    waiting: HashMap<IpAddr, VecDeque<T>>,
    /// The addresses, the next one first.
    turns: VecDeque<IpAddr>,
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { waiting: HashMap::new(), turns: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Adds one from this address.
    pub fn push(&mut self, address: IpAddr, one: T) {
        let address = turn(address);
        let queue = self.waiting.entry(address).or_default();
        if queue.is_empty() {
            self.turns.push_back(address);
        }
        queue.push_back(one);
    }

    /// Removes and returns the next one.
    pub fn pop(&mut self) -> Option<T> {
        let address = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&address)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&address);
        } else {
            self.turns.push_back(address);
        }
        next
    }

    /// Removes the one from this address for which `is_it` is true.
    pub fn remove(&mut self, address: IpAddr, is_it: impl Fn(&T) -> bool) {
        let address = turn(address);
        let Some(queue) = self.waiting.get_mut(&address) else { return };
        queue.retain(|one| !is_it(one));
        if queue.is_empty() {
            self.forget(address);
        }
    }

    fn forget(&mut self, address: IpAddr) {
        self.waiting.remove(&address);
        self.turns.retain(|other| *other != address);
    }

    /// Removes and returns the newest one of the address with the most, if that has more than this many. Those for which
    /// `is_shared` is true come from a proxy, behind which are many people, and never give way.
    pub fn pop_excess(&mut self, few: usize, is_shared: impl Fn(&T) -> bool) -> Option<T> {
        let own = self.waiting.iter_mut().filter(|(_, queue)| queue.back().is_some_and(|newest| !is_shared(newest)));
        let (&address, longest) = own.max_by_key(|(_, queue)| queue.len()).filter(|(_, queue)| queue.len() > few)?;
        let excess = longest.pop_back();
        if longest.is_empty() {
            self.forget(address);
        }
        excess
    }
}

/// The address as which another one takes its turns.
fn turn(address: IpAddr) -> IpAddr {
    network_of(address).unwrap_or_else(|| counted_as(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns() {
        let [mallory, trudy, alice] = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
        let mut turns = Turns::default();
        (0..3).for_each(|n| turns.push(mallory, n));
        (10..12).for_each(|n| turns.push(trudy, n));
        assert_eq!(turns.pop(), Some(0));
        turns.push(alice, 20);
        assert_eq!(std::iter::from_fn(|| turns.pop()).collect::<Vec<_>>(), [10, 1, 20, 11, 2]);
        assert_eq!(turns.len(), 0);
        assert!(turns.is_empty() && turns.waiting.is_empty());
    }

    #[test]
    fn whoever_gives_up_leaves_the_queue() {
        let [mallory, alice] = ["2001:db8:1:1::1", "2001:db8:2:1::1"].map(|text| text.parse().expect("an address"));
        let mut turns = Turns::default();
        (0..3).for_each(|n| turns.push(mallory, n));
        turns.push(alice, 10);
        turns.remove(alice, |n| *n == 10);
        turns.remove("2001:db8:1:2::1".parse().expect("of the same network"), |n| *n == 1);
        turns.remove(alice, |n| *n == 2);
        assert_eq!(std::iter::from_fn(|| turns.pop()).collect::<Vec<_>>(), [0, 2]);
        assert!(turns.is_empty() && turns.waiting.is_empty());
    }

    #[test]
    fn the_newest_of_the_address_with_the_most_gives_way() {
        const FEW: usize = 6;
        let [mallory, alice, proxy] = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
        let mut turns = Turns::default();
        (0..6).for_each(|n| turns.push(alice, n));
        (0..FEW + 2).for_each(|n| turns.push(mallory, n));
        (100..100 + FEW * 2).for_each(|n| turns.push(proxy, n));
        let excess = std::iter::from_fn(|| turns.pop_excess(FEW, |n| *n >= 100));
        assert_eq!(excess.collect::<Vec<_>>(), [FEW + 1, FEW]);
        assert_eq!(turns.len(), 6 + FEW + FEW * 2);
        assert!((0..6 + FEW).all(|_| turns.pop_excess(0, |n| *n >= 100).is_some_and(|n| n < 100)));
        assert_eq!(std::iter::from_fn(|| turns.pop()).count(), FEW * 2);
    }
}
