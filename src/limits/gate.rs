//! Limits how many threads do something at once; the others wait in line for a limited time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Bounds how many threads do something at once. Waiting threads need no rate limit: the faster the work completes, the
/// more of them get through, and never more than `width` at a time.
pub struct Gate {
    /// The number of free places.
    free: Mutex<usize>,
    /// Signalled when a place becomes free. Not a channel, whose receivers yield the processor several times before
    /// they sleep: with hundreds of waiting threads, that is noticeable.
    freed: Condvar,
}

impl Gate {
    /// A gate that lets `width` threads through at a time.
    pub fn new(width: usize) -> Gate {
        Gate { free: Mutex::new(width), freed: Condvar::new() }
    }

    /// Waits for a place; `None` if none is free by the deadline.
    pub fn enter(&self, deadline: Instant) -> Option<Pass<'_>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(free, left, |free| *free == 0);
        let mut free = waited.unwrap_or_else(PoisonError::into_inner).0;
        *free = free.checked_sub(1)?;
        Some(Pass(self))
    }
}

/// A place in the gate, given up when dropped. See [`Gate::enter`].
pub struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    #[test]
    fn it_is_as_wide_as_it_says_and_everybody_gets_through() {
        let (gate, inside, done) = (Gate::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let pass = gate.enter(deadline).expect("in time");
                    assert!(inside.fetch_add(1, SeqCst) < 3);
                    std::thread::sleep(Duration::from_millis(2));
                    inside.fetch_sub(1, SeqCst);
                    drop(pass);
                    done.fetch_add(1, SeqCst);
                });
            }
        });
        assert_eq!(done.load(SeqCst), 20);
        let held: Vec<_> = (0..3).map(|_| gate.enter(deadline)).collect();
        assert!(held.iter().all(Option::is_some) && gate.enter(Instant::now()).is_none());
        drop(held);
        assert!(gate.enter(Instant::now()).is_some());
    }
}
