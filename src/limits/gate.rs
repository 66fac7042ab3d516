//! Limits how many threads do something at once; the others wait for a limited time, and their clients' addresses
//! take turns.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::turns::Turns;

/// Bounds how many threads do something at once. Waiting threads need no rate limit: the faster the work completes, the
/// more of them get through, and never more than `width` at a time.
pub struct Gate {
    queue: Mutex<Queue>,
}

struct Queue {
    /// The number of free places; zero while anybody waits.
    free: usize,
    waiting: Turns<Arc<Waiting>>,
}

struct Waiting {
    /// Parked. A receiver of a channel would yield the processor several times before it sleeps: with hundreds of waiting
    /// threads, that is noticeable.
    thread: Thread,
    /// Whether it was given a place. Changed only while the queue is locked.
    has_place: AtomicBool,
}

impl Gate {
    /// A gate that lets `width` threads through at a time.
    pub fn new(width: usize) -> Gate {
        Gate { queue: Mutex::new(Queue { free: width, waiting: Turns::default() }) }
    }

    /// Waits for a place, on behalf of this address; `None` if there is none by the deadline.
    pub fn enter(&self, address: IpAddr, deadline: Instant) -> Option<Pass<'_>> {
        let mut queue = self.queue();
        if queue.free > 0 {
            queue.free -= 1;
            return Some(Pass(self));
        }
        let own = Arc::new(Waiting { thread: thread::current(), has_place: AtomicBool::new(false) });
        queue.waiting.push(address, own.clone());
        drop(queue);
        while !own.has_place.load(SeqCst) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let mut queue = self.queue();
                queue.waiting.remove(address, |other| Arc::ptr_eq(other, &own));
                break;
            }
            thread::park_timeout(left);
        }
        own.has_place.load(SeqCst).then(|| Pass(self))
    }

    /// Waits for a place, and then until `may_pass` is true, which only those with a place check, at this interval; `None` if
    /// that is not by the deadline. If all who wait checked, hundreds of threads would wake up all the time.
    pub fn enter_when(
        &self,
        address: IpAddr,
        deadline: Instant,
        interval: Duration,
        mut may_pass: impl FnMut() -> bool,
    ) -> Option<Pass<'_>> {
        let pass = self.enter(address, deadline)?;
        while !may_pass() {
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(interval);
        }
        Some(pass)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the gate, given up when dropped. See [`Gate::enter`].
pub struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        match queue.waiting.pop() {
            Some(next) => {
                next.has_place.store(true, SeqCst);
                next.thread.unpark();
            }
            None => queue.free += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn address(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn it_is_as_wide_as_it_says_and_everybody_gets_through() {
        let (gate, inside, done) = (Gate::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        let (alice, deadline) = (address(1), Instant::now() + Duration::from_secs(60));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let pass = gate.enter(alice, deadline).expect("in time");
                    assert!(inside.fetch_add(1, SeqCst) < 3);
                    std::thread::sleep(Duration::from_millis(2));
                    inside.fetch_sub(1, SeqCst);
                    drop(pass);
                    done.fetch_add(1, SeqCst);
                });
            }
        });
        assert_eq!(done.load(SeqCst), 20);
        let held: Vec<_> = (0..3).map(|_| gate.enter(alice, deadline)).collect();
        assert!(held.iter().all(Option::is_some) && gate.enter(alice, Instant::now()).is_none());
        drop(held);
        assert!(gate.enter(alice, Instant::now()).is_some());
    }

    #[test]
    fn nobody_waits_behind_an_address_with_many() {
        let (gate, got_in) = (Gate::new(1), Mutex::new(Vec::new()));
        let deadline = Instant::now() + Duration::from_secs(60);
        let [mallory, alice] = [1, 2].map(address);
        let held = gate.enter(mallory, deadline);
        thread::scope(|scope| {
            let all = [(mallory, "m0"), (mallory, "m1"), (mallory, "m2"), (alice, "a")];
            for (place, (from, name)) in all.into_iter().enumerate() {
                let (gate, got_in) = (&gate, &got_in);
                scope.spawn(move || {
                    let _pass = gate.enter(from, deadline).expect("in time");
                    got_in.lock().expect("no panic").push(name);
                });
                while gate.queue().waiting.len() <= place {
                    thread::yield_now();
                }
            }
            assert!(gate.enter(alice, Instant::now() + Duration::from_millis(1)).is_none(), "it is held");
            assert_eq!(gate.queue().waiting.len(), 4, "whoever gives up leaves the queue");
            drop(held);
        });
        assert_eq!(*got_in.lock().expect("no panic"), ["m0", "a", "m1", "m2"]);
    }
}
