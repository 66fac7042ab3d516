//! A gate that lets a bounded number through at a time; the rest wait in line for a while.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Bounds how many threads do something at a time. Those who wait need no rate: the faster the work is done, the more
/// of them get through, and no more than the gate is wide is ever under way.
pub struct Gate {
    /// A channel of free places: whoever waits for one waits in the channel's own line.
    free: Receiver<()>,
    back: Sender<()>,
}

impl Gate {
    /// A gate of this width.
    pub fn new(width: usize) -> Gate {
        let (back, free) = bounded(width);
        for _ in 0..width {
            let _ = back.send(());
        }
        Gate { free, back }
    }

    /// Waits for a place; `None` if there is none by the deadline.
    pub fn enter(&self, deadline: Instant) -> Option<Pass<'_>> {
        let free = self.free.try_recv().is_ok() || self.free.recv_deadline(deadline).is_ok();
        free.then_some(Pass(self))
    }
}

/// A place inside, see [`Gate::enter`].
pub struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // It has room: this place was taken out of it.
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
