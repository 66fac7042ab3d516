//! Accepted connections that wait for a thread.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// An address with at most this many waiting connections never gives way: browsers open six for a page.
const FEW: usize = 16;

/// Connections in the order in which they are served: the addresses take turns, so that whoever opens one connection does
/// not wait behind an address that opens many. All who come through one proxy share its turns.
pub struct Arrivals<T> {
    /// Those of one address, the oldest first; never empty.
    waiting: HashMap<IpAddr, VecDeque<T>>,
    /// The addresses, the next one first.
    turns: VecDeque<IpAddr>,
}

impl<T> Arrivals<T> {
    /// None.
    pub fn new() -> Arrivals<T> {
        Arrivals { waiting: HashMap::new(), turns: VecDeque::new() }
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Adds one from this address.
    pub fn push(&mut self, address: IpAddr, arrival: T) {
        let queue = self.waiting.entry(address).or_default();
        if queue.is_empty() {
            self.turns.push_back(address);
        }
        queue.push_back(arrival);
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

    /// Removes and returns the newest one of the address with the most, if that has more than a few. Those for which
    /// `is_shared` is true come from a proxy, behind which are many people, and never give way.
    pub fn pop_excess(&mut self, is_shared: impl Fn(&T) -> bool) -> Option<T> {
        let own = self.waiting.values_mut().filter(|queue| queue.back().is_some_and(|newest| !is_shared(newest)));
        let longest = own.max_by_key(|queue| queue.len())?;
        if longest.len() > FEW { longest.pop_back() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns() {
        let [mallory, trudy, alice] = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
        let mut arrivals = Arrivals::new();
        (0..3).for_each(|n| arrivals.push(mallory, n));
        (10..12).for_each(|n| arrivals.push(trudy, n));
        assert_eq!(arrivals.pop(), Some(0));
        arrivals.push(alice, 20);
        assert_eq!(std::iter::from_fn(|| arrivals.pop()).collect::<Vec<_>>(), [10, 1, 20, 11, 2]);
        assert_eq!(arrivals.len(), 0);
        assert!(arrivals.is_empty() && arrivals.waiting.is_empty());
    }

    #[test]
    fn the_newest_of_the_address_with_the_most_gives_way() {
        let [mallory, alice, proxy] = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
        let mut arrivals = Arrivals::new();
        (0..6).for_each(|n| arrivals.push(alice, n));
        (0..FEW + 2).for_each(|n| arrivals.push(mallory, n));
        (100..100 + FEW * 2).for_each(|n| arrivals.push(proxy, n));
        let excess = std::iter::from_fn(|| arrivals.pop_excess(|n| *n >= 100));
        assert_eq!(excess.collect::<Vec<_>>(), [FEW + 1, FEW]);
        assert_eq!(arrivals.len(), 6 + FEW + FEW * 2);
        assert_eq!(std::iter::from_fn(|| arrivals.pop()).count(), 6 + FEW + FEW * 2);
    }
}
