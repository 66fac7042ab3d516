//! The rooms with people here: who sits in each, how far it is delivered, and whether it is subscribed to.
//!
//! One map under one lock, which is held for look-ups and while a command is appended to the pipeline (memory, no I/O), so
//! that the order of decisions is the order of commands. Events are passed on after it is released, only by the thread whose
//! turn it is to deliver: the reader, or the one that refills a room from its log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::commands::Commands;
use super::delivery::{Author, CONFIRMATION, Delivery};
use super::pipeline::{Pipeline, Priority, Reply};
use crate::backplane::{Room, Seat, SessionId, Unavailable};
use crate::protocol::Id;

/// See the module.
pub struct Rooms {
    state: Mutex<State>,
    pipeline: Arc<Pipeline>,
    commands: Arc<Commands>,
}

#[derive(Default)]
struct State {
    rooms: HashMap<Room, RoomState>,
    /// When to look whether a room's messages were published, soonest first.
    doubts: VecDeque<(Instant, Room)>,
}

/// What is known of a room. It is there, and subscribed to, from the first join that is under way to the last leave.
#[derive(Default)]
struct RoomState {
    /// Joins under way.
    joining: usize,
    seats: HashMap<SessionId, Taken>,
    delivery: Delivery,
}

/// A seat that was taken.
#[derive(Clone)]
pub struct Taken {
    /// Whose it is.
    pub seat: Seat,
    /// Since when, in milliseconds of Redis's clock.
    pub since: u64,
}

impl Rooms {
    /// No rooms.
    pub fn new(pipeline: Arc<Pipeline>, commands: Arc<Commands>) -> Rooms {
        Rooms { state: Mutex::default(), pipeline, commands }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a join in. The first one subscribes: what it sends later is carried out later.
    pub fn enter(&self, room: &Room) -> Result<(), Unavailable> {
        let mut state = self.state();
        if !state.rooms.contains_key(room) {
            self.pipeline.append_subscription(self.commands.subscribe([room]), 1)?;
        }
        state.rooms.entry(room.clone()).or_default().joining += 1;
        Ok(())
    }

    /// A join has failed.
    pub fn exit(&self, room: &Room) {
        self.remove(room, |state| state.joining -= 1);
    }

    /// A join has been carried out.
    pub fn sit(&self, seat: &Seat, since: u64) {
        if let Some(state) = self.state().rooms.get_mut(&seat.room) {
            state.joining -= 1;
            state.seats.insert(seat.session, Taken { seat: seat.clone(), since });
        }
    }

    /// A session gives its seat back, if it has one.
    pub fn rise(&self, seat: &Seat) -> Option<Taken> {
        let mut taken = None;
        self.remove(&seat.room, |state| taken = state.seats.remove(&seat.session));
        taken
    }

    /// Changes a room, and unsubscribes if nobody is left.
    fn remove(&self, room: &Room, change: impl FnOnce(&mut RoomState)) {
        let mut state = self.state();
        let Some(found) = state.rooms.get_mut(room) else { return };
        change(found);
        if found.joining == 0 && found.seats.is_empty() {
            state.rooms.remove(room);
            // Without a connection there is no subscription.
            let _ = self.pipeline.append_subscription(self.commands.unsubscribe(room), 1);
        }
        drop(state);
        self.pipeline.flush();
    }

    /// All rooms.
    pub fn names(&self) -> Vec<Room> {
        self.state().rooms.keys().cloned().collect()
    }

    /// Those among `rooms` that are still there, suspended, and subscribed to anew by one command.
    pub fn resubscribe(&self, rooms: &[Room]) -> Result<Vec<Room>, Unavailable> {
        let mut state = self.state();
        let there: Vec<Room> = rooms.iter().filter(|room| state.rooms.contains_key(*room)).cloned().collect();
        for room in &there {
            if let Some(state) = state.rooms.get_mut(room) {
                state.delivery.suspend();
            }
        }
        if !there.is_empty() {
            self.pipeline.append_subscription(self.commands.subscribe(&there), there.len())?;
        }
        Ok(there)
    }

    /// The sessions that sit in a room.
    pub fn sessions(&self, room: &Room) -> Vec<SessionId> {
        self.state().rooms.get(room).map(|state| state.seats.keys().copied().collect()).unwrap_or_default()
    }

    /// Appends the renewal of these sessions' leases; `done` gets those that still sit here, and the reply. A session that
    /// leaves is not among them, or its leave is sent later; a name that has just been given up must not be taken again.
    pub fn renew(
        &self,
        room: &Room,
        sessions: &[SessionId],
        again: bool,
        may_expire: bool,
        done: impl FnOnce(Vec<Taken>, Reply) + Send + 'static,
    ) -> Result<(), Unavailable> {
        let state = self.state();
        let seats = state.rooms.get(room).map(|state| &state.seats);
        let here: Vec<Taken> = sessions.iter().filter_map(|session| seats?.get(session).cloned()).collect();
        let command = self.commands.renew(room, &here, again, may_expire);
        self.pipeline.append(command, Priority::Urgent, move |reply| done(here, reply))
    }

    /// All seats.
    pub fn seats(&self) -> Vec<Seat> {
        self.state().rooms.values().flat_map(|state| state.seats.values().map(|taken| taken.seat.clone())).collect()
    }

    /// Whether this session sits in the room.
    pub fn has(&self, seat: &Seat) -> bool {
        self.state().rooms.get(&seat.room).is_some_and(|state| state.seats.contains_key(&seat.session))
    }

    /// Does something with a room's delivery, if somebody is in it.
    pub fn deliver<T>(&self, room: &str, act: impl FnOnce(&Room, &mut Delivery) -> T) -> Option<T> {
        let mut state = self.state();
        let name = state.rooms.get_key_value(room)?.0.clone();
        state.rooms.get_mut(room).map(|state| act(&name, &mut state.delivery))
    }

    /// The newest id that was seen in a room.
    pub fn last(&self, room: &str) -> Id {
        self.state().rooms.get(room).map(|state| state.delivery.last()).unwrap_or_default()
    }

    /// The log has this message. If it was sent here, `author` waits for its receipt.
    pub fn kept(&self, room: &Room, id: Id, author: Option<Author>) {
        let (now, mut state) = (Instant::now(), self.state());
        if state.rooms.get_mut(room).is_some_and(|state| state.delivery.kept(id, author, now)) {
            state.doubts.push_back((now + CONFIRMATION, room.clone()));
        }
    }

    /// A newcomer's welcome goes up to this newest entry.
    pub fn begin(&self, room: &Room, newest: Id) {
        let (now, mut state) = (Instant::now(), self.state());
        if state.rooms.get_mut(room).is_some_and(|state| state.delivery.begin(newest, now)) {
            state.doubts.push_back((now + CONFIRMATION, room.clone()));
        }
    }

    /// A room in which a kept message should have been published by now, and was not.
    pub fn take_overdue(&self, now: Instant) -> Option<Room> {
        let mut state = self.state();
        while state.doubts.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, room)) = state.doubts.pop_front()
        {
            let Some(delivery) = state.rooms.get(&room).map(|state| &state.delivery) else { continue };
            if delivery.is_overdue(now) {
                return Some(room);
            }
            if delivery.has_unconfirmed() {
                state.doubts.push_back((now + CONFIRMATION, room));
            }
        }
        None
    }
}
