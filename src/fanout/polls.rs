//! HTTP requests that wait for a room's next message: how they are woken, and how many there may be.
//!
//! They are not sessions: no lane knows them, and an instance may receive no events of a room in which nobody has
//! joined. So a wake-up only saves time, and waiting requests also read the log at intervals.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::backplane::Room;
use crate::limits::{Slot, Slots};

/// All waiting requests of this instance.
pub struct Polls {
    places: Arc<Slots>,
    rooms: Mutex<HashMap<Room, Waiters>>,
}

/// The requests that wait for one room; exists while there are any.
#[derive(Default)]
struct Waiters {
    count: usize,
    /// How often they have been woken.
    wakeups: u64,
    wake: Arc<Condvar>,
}

/// A waiting request. Dropping it frees its place.
pub struct Poll<'a> {
    polls: &'a Polls,
    room: Room,
    /// The number of wake-ups when it was last checked.
    seen: u64,
    _place: Slot,
}

impl Polls {
    /// No waiting requests, and this many places for them.
    pub fn new(places: usize) -> Polls {
        Polls { places: Slots::new(places), rooms: Mutex::default() }
    }

    /// Takes a place, if one is free. Messages from now on are not missed.
    pub fn enter(&self, room: &Room) -> Option<Poll<'_>> {
        let place = self.places.take()?;
        let mut rooms = self.rooms();
        let waiters = rooms.entry(room.clone()).or_default();
        waiters.count += 1;
        Some(Poll { polls: self, room: room.clone(), seen: waiters.wakeups, _place: place })
    }

    /// The number of places, free or taken.
    pub fn places(&self) -> usize {
        self.places.cap()
    }

    /// The number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.places.taken()
    }

    /// Wakes the requests that wait for this room. Called on the backplane's threads for each message, so it is cheap
    /// if there are none.
    pub fn wake(&self, room: &Room) {
        if self.waiting() > 0
            && let Some(waiters) = self.rooms().get_mut(room)
        {
            waiters.wake();
        }
    }

    /// Wakes all requests, when the process shuts down.
    pub fn wake_all(&self) {
        self.rooms().values_mut().for_each(Waiters::wake);
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<Room, Waiters>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    fn wake(&mut self) {
        self.wakeups += 1;
        self.wake.notify_all();
    }
}

impl Poll<'_> {
    /// Waits for a wake-up that the last call did not return for, or until the deadline. Returns whether there was one.
    pub fn wait(&mut self, until: Instant) -> bool {
        let mut rooms = self.polls.rooms();
        while let Some(waiters) = rooms.get(&self.room) {
            let left = until.saturating_duration_since(Instant::now());
            if waiters.wakeups != self.seen || left.is_zero() {
                return std::mem::replace(&mut self.seen, waiters.wakeups) != waiters.wakeups;
            }
            let wake = waiters.wake.clone();
            rooms = wake.wait_timeout(rooms, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        let mut rooms = self.polls.rooms();
        if let Some(waiters) = rooms.get_mut(&self.room) {
            waiters.count -= 1;
            if waiters.count == 0 {
                rooms.remove(&self.room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wake_up_between_entering_and_waiting_is_not_missed() {
        let polls = Polls::new(2);
        let tea: Room = "tea".into();
        let mut poll = polls.enter(&tea).expect("a place");
        polls.wake(&"other".into());
        polls.wake(&tea);
        let start = Instant::now();
        poll.wait(start + Duration::from_secs(60));
        assert!(start.elapsed() < Duration::from_secs(30), "it was woken");
        poll.wait(Instant::now() + Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(20), "it was not woken again");
    }

    #[test]
    fn waiters_wake_and_places_come_back() {
        let polls = Polls::new(2);
        let tea: Room = "tea".into();
        std::thread::scope(|scope| {
            let mut poll = polls.enter(&tea).expect("a place");
            let second = polls.enter(&tea).expect("a place");
            assert!(polls.enter(&tea).is_none());
            let waiter = scope.spawn(move || poll.wait(Instant::now() + Duration::from_secs(60)));
            polls.wake_all();
            waiter.join().expect("it woke");
            drop(second);
        });
        assert!(polls.waiting() == 0 && polls.rooms().is_empty());
    }
}
