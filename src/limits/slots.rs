//! Places against a cap: each is taken by a value and given back when the value is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Counts connections against a cap.
pub struct Slots {
    taken: AtomicUsize,
    cap: usize,
}

impl Slots {
    /// `cap` slots, all free.
    pub fn new(cap: usize) -> Arc<Slots> {
        Arc::new(Slots { taken: AtomicUsize::new(0), cap })
    }

    /// Takes a slot, which is given back when the value is dropped; `None` at the cap.
    pub fn take(self: &Arc<Slots>) -> Option<Slot> {
        let one_more = |taken| (taken < self.cap).then_some(taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, one_more).ok().map(|_| Slot(self.clone()))
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    /// How many there are.
    pub fn cap(&self) -> usize {
        self.cap
    }
}

/// One connection's place, see [`Slots::take`].
pub struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back() {
        let slots = Slots::new(2);
        let (one, two) = (slots.take(), slots.take());
        assert!(one.is_some() && two.is_some() && slots.take().is_none());
        drop(one);
        assert_eq!(slots.taken(), 1);
        assert!(slots.take().is_some());
    }
}
