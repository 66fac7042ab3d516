//! Accepted connections that wait for a thread.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// Connections in the order in which they are served: the addresses take turns, so that whoever opens one connection does
/// not wait behind an address that opens many.
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

    /// Whether none is waiting.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
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

    /// Removes and returns the newest one of the address with the most, if that has several.
    pub fn pop_excess(&mut self) -> Option<T> {
        let longest = self.waiting.values_mut().max_by_key(|queue| queue.len())?;
        if longest.len() > 1 { longest.pop_back() } else { None }
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
        assert!(arrivals.is_empty() && arrivals.waiting.is_empty());
    }

    #[test]
    fn the_newest_of_the_address_with_the_most_gives_way() {
        let [mallory, alice] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let mut arrivals = Arrivals::new();
        arrivals.push(alice, 20);
        (0..3).for_each(|n| arrivals.push(mallory, n));
        assert_eq!(std::iter::from_fn(|| arrivals.pop_excess()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(std::iter::from_fn(|| arrivals.pop()).collect::<Vec<_>>(), [20, 0]);
    }
}
