//! The rooms with people on this instance: the seats in each, its delivery state, and its subscription.
//!
//! A room that everybody has left remains subscribed for [`LINGER`]. Somebody who comes back, or hundreds who come and go, would
//! otherwise cost Redis two subscription changes each, and in a large room a read of all names.
//!
//! One map under one lock. The lock is held for look-ups and while a command is appended to the pipeline (in memory, no
//! I/O), so that decisions and commands have the same order. Events are passed on after it is released, and only by the
//! thread whose turn it is to deliver: the reader, or the one that refills a room from its log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::commands::{Commands, Taken};
use super::delivery::{Author, CONFIRMATION, Delivery};
use super::log_cache::LogCache;
use super::pipeline::{Pipeline, Priority, Reply};
use super::replies::Seated;
use super::roster::Roster;
use crate::backplane::{JoinError, LEASE, Leave, Room, Seat, SessionId, Unavailable};
use crate::protocol::Id;

/// How long a room that everybody has left remains subscribed, until the next heartbeat, and how many such rooms there are at
/// most. Any further ones are closed at once.
const LINGER: Duration = Duration::from_secs(5);
const MOST_EMPTY: usize = 1000;
/// The most rooms closed with one command, and the pause between two, because messages wait behind them in Redis.
const CLOSE_TOGETHER: usize = 100;
const CLOSE_PAUSE: Duration = Duration::from_millis(10);

/// All rooms with people on this instance.
pub struct Rooms {
    state: Mutex<State>,
    pipeline: Arc<Pipeline>,
    commands: Arc<Commands>,
    log_cache: Arc<LogCache>,
    /// The most rooms with people on this instance.
    limit: usize,
}

#[derive(Default)]
struct State {
    rooms: HashMap<Room, RoomState>,
    /// Those of `rooms` that everybody has left, and when.
    empty: HashMap<Room, Instant>,
    /// Rooms whose last client here broke off, until its lease ends. They count as rooms, so that it can come back.
    held: HashMap<Room, Instant>,
    /// When to check whether a room's messages were published, soonest first.
    doubts: VecDeque<(Instant, Room)>,
}

impl State {
    /// Whether people are in the room, or joining it.
    fn has_people(&self, room: &Room) -> bool {
        self.rooms.contains_key(room) && !self.empty.contains_key(room)
    }

    /// Whether this room, in which nobody is, would be one too many.
    fn is_full(&mut self, room: &Room, limit: usize, now: Instant) -> bool {
        let are_many = |state: &State| state.rooms.len() - state.empty.len() + state.held.len() >= limit;
        if are_many(self) {
            self.held.retain(|_, end| *end > now);
        }
        are_many(self) && !self.held.contains_key(room)
    }
}

/// The state of a room. It exists, and is subscribed, from the first join under way until [`LINGER`] after the last leave.
#[derive(Default)]
struct RoomState {
    /// The number of joins under way.
    joining: usize,
    /// Whether everybody had left it, and nobody has succeeded in joining since.
    was_empty: bool,
    seats: HashMap<SessionId, Taken>,
    delivery: Delivery,
}

impl Rooms {
    /// No rooms.
    pub fn new(pipeline: Arc<Pipeline>, commands: Arc<Commands>, log_cache: Arc<LogCache>, limit: usize) -> Rooms {
        Rooms { state: Mutex::default(), pipeline, commands, log_cache, limit }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a join under way. The first one subscribes, before its join command is appended, unless the room still is.
    ///
    /// # Errors
    /// The room would be one too many, or Redis is away.
    pub fn enter(&self, room: &Room) -> Result<(), JoinError> {
        let mut state = self.state();
        if !state.has_people(room) {
            if state.is_full(room, self.limit, Instant::now()) {
                return Err(JoinError::Full);
            }
            if !state.rooms.contains_key(room) {
                self.pipeline.append_subscription(self.commands.subscribe([room]), 1)?;
            }
        }
        let was_empty = state.empty.remove(room).is_some();
        let found = state.rooms.entry(room.clone()).or_default();
        found.joining += 1;
        found.was_empty |= was_empty;
        Ok(())
    }

    /// A join has failed.
    pub fn exit(&self, room: &Room) {
        self.remove(room, |state| state.joining -= 1);
    }

    /// A join has succeeded.
    pub fn acquire(&self, seat: &Seat, since: u64) {
        if let Some(state) = self.state().rooms.get_mut(&seat.room) {
            state.joining -= 1;
            state.seats.insert(seat.session, Taken { seat: seat.clone(), since });
        }
    }

    /// Removes the session's seat and returns it, if there is one.
    pub fn release(&self, seat: &Seat, how: Leave) -> Option<Taken> {
        let mut taken = None;
        self.remove(&seat.room, |state| taken = state.seats.remove(&seat.session));
        if let (Some(_), Leave::Expire(lease)) = (&taken, how) {
            let mut state = self.state();
            if !state.has_people(&seat.room) {
                state.held.insert(seat.room.clone(), Instant::now() + lease);
            }
        }
        taken
    }

    /// Changes a room. If nobody is left, it is closed later.
    fn remove(&self, room: &Room, change: impl FnOnce(&mut RoomState)) {
        let mut state = self.state();
        let Some(found) = state.rooms.get_mut(room) else { return };
        change(found);
        if found.joining > 0 || !found.seats.is_empty() {
            return;
        }
        if state.empty.len() < MOST_EMPTY {
            state.empty.insert(room.clone(), Instant::now());
            return;
        }
        self.close(&mut state, std::slice::from_ref(room));
        drop(state);
        self.pipeline.flush();
    }

    /// Forgets rooms in which nobody is, and unsubscribes.
    fn close(&self, state: &mut State, rooms: &[Room]) {
        for room in rooms {
            state.rooms.remove(room);
            state.empty.remove(room);
            self.log_cache.drop_room(room);
        }
        // Without a connection there is no subscription.
        let _ = self.pipeline.append_subscription(self.commands.unsubscribe(rooms), rooms.len());
    }

    /// Closes the rooms that everybody has left, [`LINGER`] ago.
    pub fn close_empty(&self) {
        let now = Instant::now();
        loop {
            let mut state = self.state();
            let over = state.empty.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= LINGER);
            let rooms: Vec<Room> = over.map(|(room, _)| room.clone()).take(CLOSE_TOGETHER).collect();
            if rooms.is_empty() {
                return;
            }
            self.close(&mut state, &rooms);
            drop(state);
            self.pipeline.flush();
            std::thread::sleep(CLOSE_PAUSE);
        }
    }

    /// The names of all rooms.
    pub fn names(&self) -> Vec<Room> {
        self.state().rooms.keys().cloned().collect()
    }

    /// Suspends those among `rooms` that still exist, resubscribes them with one command, and returns them. Forgets those that
    /// everybody has left.
    pub fn resubscribe(&self, rooms: &[Room]) -> Result<Vec<Room>, Unavailable> {
        let mut state = self.state();
        for room in rooms {
            if state.empty.remove(room).is_some() {
                state.rooms.remove(room);
            }
        }
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

    /// The sessions with a seat in a room.
    pub fn sessions(&self, room: &Room) -> Vec<SessionId> {
        self.state().rooms.get(room).map(|state| state.seats.keys().copied().collect()).unwrap_or_default()
    }

    /// Appends the renewal of these sessions' leases; `done` receives those that still have a seat, and the reply.
    /// Under the lock, a session that leaves is either excluded or its leave follows the renewal: a seat just released
    /// must not be restored.
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
        let command = self.commands.renew(room, &here, LEASE, again, may_expire);
        self.pipeline.append(command, Priority::Urgent, move |reply| done(here, reply))
    }

    /// All seats.
    pub fn seats(&self) -> Vec<Seat> {
        self.state().rooms.values().flat_map(|state| state.seats.values().map(|taken| taken.seat.clone())).collect()
    }

    /// Whether this session has its seat in the room.
    pub fn has(&self, seat: &Seat) -> bool {
        self.state().rooms.get(&seat.room).is_some_and(|state| state.seats.contains_key(&seat.session))
    }

    /// Accesses a room's delivery, if the room has people here, or had until recently.
    pub fn deliver<T>(&self, room: &str, act: impl FnOnce(&Room, &mut Delivery) -> T) -> Option<T> {
        let mut state = self.state();
        let name = state.rooms.get_key_value(room)?.0.clone();
        state.rooms.get_mut(room).map(|state| act(&name, &mut state.delivery))
    }

    /// The newest id seen in a room.
    pub fn last(&self, room: &str) -> Id {
        self.state().rooms.get(room).map(|state| state.delivery.last()).unwrap_or_default()
    }

    /// The log has this message. If this instance sent it, `author` waits for the receipt.
    pub fn kept(&self, room: &Room, id: Id, author: Option<Author>) {
        let (now, mut state) = (Instant::now(), self.state());
        if state.rooms.get_mut(room).is_some_and(|state| state.delivery.kept(id, author, now)) {
            state.doubts.push_back((now + CONFIRMATION, room.clone()));
        }
    }

    /// Removes and returns the authors in all rooms who wait for a receipt.
    pub fn take_authors(&self) -> Vec<Author> {
        self.state().rooms.values_mut().flat_map(|state| state.delivery.take_authors()).collect()
    }

    /// A client takes its seat.
    pub fn begin(&self, seat: &Seat, seated: &Seated) {
        let (now, mut state) = (Instant::now(), self.state());
        state.held.remove(&seat.room);
        let Some(room) = state.rooms.get_mut(&seat.room) else { return };
        // While nobody was here, nothing would have noticed that Redis lost its data.
        if std::mem::take(&mut room.was_empty) && !room.delivery.roster.may_be(seated.participants, &seat.name) {
            room.delivery.roster = Roster::default();
        }
        if room.delivery.begin(seated.newest, now) {
            state.doubts.push_back((now + CONFIRMATION, seat.room.clone()));
        }
    }

    /// Takes a room whose kept message is overdue for publication.
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
