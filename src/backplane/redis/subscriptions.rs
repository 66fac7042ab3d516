//! Which rooms this task listens to: the handle by which sessions come and go.
//!
//! Its neighbour `subscriber.rs` is the thread that does the listening, and grants the wishes that are sent from here.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::commands::channel_of_task;
use super::publisher::Publisher;
use crate::backplane::{Room, SessionId, Unavailable};
use crate::protocol::Id;

/// Wishes that may wait. `Subscribe` waits for its turn; a `Tail` is only a hint and is dropped when it is full.
const QUEUE: usize = 4096;
/// How long a newcomer waits for its room's subscription.
const PATIENCE: Duration = Duration::from_secs(2);

/// The handle: who is interested in which room.
#[derive(Clone)]
pub struct Subscriptions {
    watched: Registry,
    wishes: Sender<Wish>,
    publisher: Publisher,
    task: Arc<str>,
}

/// The rooms with sessions here; locked for a look-up, never while waiting.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<HashMap<Room, Watched>>>);

impl Registry {
    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, HashMap<Room, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a room.
pub struct Watched {
    /// How many sessions here are in the room, or on their way.
    pub sessions: usize,
    /// Whether the subscription stands.
    pub ready: bool,
    /// Milliseconds of the newest id seen here: what a new id must not fall behind.
    pub newest_ms: Arc<AtomicU64>,
}

/// A session that said something, and the message's `ref`.
pub type Author = (SessionId, Option<String>);

/// What the thread is asked for.
pub enum Wish {
    /// Subscribe, then answer.
    Subscribe { room: Room, done: Sender<()> },
    /// Unsubscribe, if by then nobody is in the room.
    Unsubscribe { room: Room },
    /// The log had this message at that time. If it came from here, `author` waits for its receipt.
    Tail { room: Room, id: Id, at: Instant, author: Option<Author> },
    /// A newcomer was told these names.
    Welcomed { room: Room, names: Vec<String>, at: Instant },
    /// Changes of presence may have been missed; all of them, if Redis lost its data.
    Compare { data_lost: bool },
}

impl Subscriptions {
    /// The handle, and where the thread finds the wishes. `task` is this task's name, and its own channel's.
    pub fn new(task: &Arc<str>, publisher: Publisher) -> (Subscriptions, Receiver<Wish>) {
        let (wishes, inbox) = bounded(QUEUE);
        (Subscriptions { watched: Registry::default(), wishes, publisher, task: task.clone() }, inbox)
    }

    /// Counts a session in, and returns once the room's events are heard.
    pub fn enter(&self, room: &Room) -> Result<(), Unavailable> {
        let ready = {
            let mut watched = self.watched.lock();
            let entry = watched.entry(room.clone()).or_insert_with(|| Watched {
                sessions: 0,
                ready: false,
                newest_ms: Arc::default(),
            });
            entry.sessions += 1;
            entry.ready
        };
        let subscribed = || {
            let (done, answer) = bounded(1);
            let wish = Wish::Subscribe { room: room.clone(), done };
            self.wishes.send_timeout(wish, PATIENCE).map_err(|_| Unavailable)?;
            self.probe();
            answer.recv_timeout(PATIENCE).map_err(|_| Unavailable)
        };
        if ready { Ok(()) } else { subscribed().inspect_err(|_| self.exit(room)) }
    }

    /// Counts a session out.
    pub fn exit(&self, room: &Room) {
        if let Some(entry) = self.watched.lock().get_mut(room) {
            entry.sessions -= 1;
            if entry.sessions > 0 {
                return;
            }
        }
        // Not waited for, and tried again with the next one to leave if the queue is full: a room too many is harmless.
        let _ = self.wishes.try_send(Wish::Unsubscribe { room: room.clone() });
    }

    /// What a new id in this room must not fall behind, in milliseconds.
    pub fn newest_ms(&self, room: &Room) -> Arc<AtomicU64> {
        self.watched.lock().get(room).map(|entry| entry.newest_ms.clone()).unwrap_or_default()
    }

    /// Says that the log has this message, so it should be heard of.
    pub fn expect(&self, room: Room, id: Id, author: Option<Author>) {
        let _ = self.wishes.try_send(Wish::Tail { room, id, at: Instant::now(), author });
    }

    /// Says whom a newcomer was told to be there.
    pub fn welcomed(&self, room: &Room, names: Vec<String>) {
        let _ = self.wishes.send_timeout(Wish::Welcomed { room: room.clone(), names, at: Instant::now() }, PATIENCE);
    }

    /// Compares who is in each room with what was told here, and tells the difference.
    pub fn compare(&self, data_lost: bool) {
        let _ = self.wishes.send_timeout(Wish::Compare { data_lost }, PATIENCE);
    }

    /// Publishes to the task's own channel. It wakes the thread, and shows it that it can hear.
    pub fn probe(&self) {
        self.publisher
            .send(redis::cmd("PUBLISH").arg(channel_of_task(&self.task)).arg("probe").get_packed_command(), drop);
    }

    /// What the thread shares.
    pub fn registry(&self) -> Registry {
        self.watched.clone()
    }
}
