//! Slots, of connections and other things: each is held by a value and released when the value is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How often a thread that waits for a slot checks whether one is free.
const LOOK: Duration = Duration::from_millis(5);

/// A fixed number of slots.
pub struct Slots {
    taken: AtomicUsize,
    cap: usize,
}

impl Slots {
    /// `cap` free slots.
    pub fn new(cap: usize) -> Arc<Slots> {
        Arc::new(Slots { taken: AtomicUsize::new(0), cap })
    }

    /// Takes a slot until the returned value is dropped; `None` at the cap.
    pub fn take(self: &Arc<Slots>) -> Option<Slot> {
        let one_more = |taken| (taken < self.cap).then_some(taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, one_more).ok().map(|_| Slot(self.clone()))
    }

    /// Takes a slot; if none is free, waits for one, at most until this time.
    pub fn take_by(self: &Arc<Slots>, deadline: Instant) -> Option<Slot> {
        loop {
            match self.take() {
                None if Instant::now() < deadline => std::thread::sleep(LOOK),
                slot => return slot,
            }
        }
    }

    /// How many slots are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    /// The total number of slots.
    pub fn cap(&self) -> usize {
        self.cap
    }
}

/// One taken slot. See [`Slots::take`].
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

    #[test]
    fn a_slot_is_waited_for_until_the_deadline() {
        let slots = Slots::new(1);
        let held = slots.take().expect("it is free");
        assert!(slots.take_by(Instant::now()).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| slots.take_by(Instant::now() + Duration::from_secs(60)));
            drop(held);
            assert!(waiting.join().expect("no panic").is_some());
        });
    }
}
