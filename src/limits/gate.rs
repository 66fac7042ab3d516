//! Limits how many threads do something at once; the others wait in line for a limited time.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Bounds how many threads do something at once. Waiting threads need no rate limit: the faster the work completes, the
/// more of them get through, and never more than `width` at a time.
pub struct Gate {
    /// Holds one token per free place; waiting threads queue on the channel.
    free: Receiver<()>,
    back: Sender<()>,
}

impl Gate {
    /// A gate that lets `width` threads through at a time.
    pub fn new(width: usize) -> Gate {
        let (back, free) = bounded(width);
        for _ in 0..width {
            let _ = back.send(());
        }
        Gate { free, back }
    }

    /// Waits for a place; `None` if none is free by the deadline.
    pub fn enter(&self, deadline: Instant) -> Option<Pass<'_>> {
        let free = self.free.try_recv().is_ok() || self.free.recv_deadline(deadline).is_ok();
        free.then_some(Pass(self))
    }
}

/// A place in the gate, given up when dropped. See [`Gate::enter`].
pub struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // Never full: this place's token was taken out of the channel.
        let _ = self.0.back.try_send(());
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
