//! The backplane of a single process, without Redis: rooms are in an SQLite file or in memory.
//!
//! One thread owns all rooms and executes commands from one channel, so the order of the channel is the order of the
//! rooms, and no state needs a lock. `rooms.rs` is that thread, with `people.rs` and `pages.rs`; `store.rs` has its
//! transactions, `space.rs` the limit on its size, `room_log.rs` and `all_logs.rs` the SQL of logs, `schema.rs` the
//! tables. `watch.rs` answers for it while the disk hangs. The other implementation, `redis/`, sends the same commands to
//! a server instead.

mod admin;
mod all_logs;
mod clock;
mod data_error;
pub mod dump;
mod file;
mod pages;
mod people;
mod room_log;
mod rooms;
mod schema;
mod space;
mod store;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

pub use self::data_error::DataError;
pub use self::file::lock_of;
use self::rooms::Rooms;
pub use self::schema::APPLICATION_ID;
use self::store::Store;
use self::watch::Condition;
use super::admin::Bans;
use super::{
    Arrival, Backplane, Event, EventSink, Health, JoinError, Leave, Limits, Page, Room, Seat, Span, Terms, Unavailable,
};
use crate::protocol::Id;
use crate::threads;

/// Capacity of the command queue. A session waits while it is full, so clients cannot send faster than the rooms'
/// thread works.
const QUEUE: usize = 1024;
/// How long a session waits for a place in the queue and its answer, so that clients are answered within 2 s.
const PATIENCE: Duration = Duration::from_millis(1800);

/// The handle used by sessions. Dropping the last one ends the thread.
pub struct Local {
    commands: Sender<Command>,
    listener: EventSink,
    condition: Condition,
    bans: Arc<Bans>,
}

enum Command {
    Join {
        seat: Seat,
        since: Option<Id>,
        terms: Terms,
        /// When the caller gives up; the seat is not taken after that.
        deadline: Instant,
        reply: Sender<Result<Arrival, JoinError>>,
    },
    /// Releases a seat that a join has taken after its caller gave up.
    GiveBack {
        seat: Seat,
    },
    Leave {
        seat: Seat,
        how: Leave,
    },
    Say {
        seat: Seat,
        body: String,
        reference: Option<String>,
        /// See [`Condition::submit`].
        number: u64,
        since: Instant,
    },
    Post {
        room: Room,
        by: String,
        body: String,
        reference: Option<String>,
        reply: Sender<(Id, String)>,
        since: Instant,
    },
    Typing {
        room: Room,
        json: String,
    },
    History {
        room: Room,
        span: Span,
        limit: usize,
        reply: Sender<Page>,
    },
    Admin(admin::Job),
    Stop {
        reply: Sender<()>,
    },
}

impl Local {
    /// Opens the file (`None`: in memory), and starts the rooms' thread and the thread that watches it.
    ///
    /// # Errors
    /// The file cannot be used, or a thread cannot be started.
    pub fn start(file: Option<&Path>, limits: Limits, listener: EventSink) -> Result<Local, DataError> {
        let (commands, inbox) = bounded(QUEUE);
        let condition = Condition::new();
        let store = Store::open(file, limits)?;
        let rooms = Rooms::new(store, limits, listener.clone(), condition.clone())?;
        log::info!("{}", rooms.describe());
        if let Some(most) = rooms.store.space.most {
            log::info!("all rooms together may take {} MiB (STORAGE_BYTES)", most >> 20);
        }
        let bans = rooms.bans.clone();
        let unusable = |error: std::io::Error| DataError::Unusable(error.to_string());
        let (alive, ended) = bounded(0);
        let (watched, publish) = (condition.clone(), listener.clone());
        threads::spawn_critical("local-watch", move || watched.watch(&ended, &publish)).map_err(unusable)?;
        let serve = move || {
            let _alive = alive;
            rooms.serve(&inbox);
        };
        threads::spawn_critical("local", serve).map_err(unusable)?;
        Ok(Local { commands, listener, condition, bans })
    }

    /// Executes a command and returns its answer, unless the disk hangs.
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, Unavailable> {
        if self.condition.is_stalled() {
            return Err(Unavailable);
        }
        self.request(Instant::now() + PATIENCE, command).map_err(|_| Unavailable)
    }

    /// Queues a command and waits for its answer. After `Disconnected` it is not executed, after `Timeout` it may be.
    fn request<T>(&self, deadline: Instant, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, RecvTimeoutError> {
        let (reply, answer) = bounded(1);
        self.commands.send_deadline(command(reply), deadline).map_err(|_| RecvTimeoutError::Disconnected)?;
        answer.recv_deadline(deadline)
    }
}

impl Backplane for Local {
    fn join(&self, seat: &Seat, since: Option<Id>, terms: Terms) -> Result<Arrival, JoinError> {
        if self.condition.is_stalled() {
            return Err(JoinError::Unavailable);
        }
        let deadline = Instant::now() + PATIENCE;
        let command = |reply| Command::Join { seat: seat.clone(), since, terms, deadline, reply };
        let arrival = self.request(deadline, command);
        if matches!(arrival, Err(RecvTimeoutError::Timeout)) {
            let _ = self.commands.send(Command::GiveBack { seat: seat.clone() });
        }
        arrival.unwrap_or(Err(JoinError::Unavailable))
    }

    fn leave(&self, seat: &Seat, how: Leave) {
        // Must not be lost, so this waits without limit. No client waits for it.
        let _ = self.commands.send(Command::Leave { seat: seat.clone(), how });
    }

    fn say(&self, seat: &Seat, body: String, reference: Option<String>) {
        let Some(number) = self.condition.submit(seat.session, reference.clone()) else {
            return (self.listener)(Event::Refused { session: seat.session, reference });
        };
        let command = Command::Say { seat: seat.clone(), body, reference, number, since: Instant::now() };
        if self.commands.send_timeout(command, PATIENCE).is_err()
            && let Some(refusal) = self.condition.answer(number)
        {
            (self.listener)(refusal);
        }
    }

    fn typing(&self, room: &Room, json: String) {
        // While the disk hangs, the queue is reserved for leaves.
        if !self.condition.is_stalled() {
            let _ = self.commands.try_send(Command::Typing { room: room.clone(), json });
        }
    }

    fn history(&self, room: &Room, span: Span, limit: usize) -> Result<Page, Unavailable> {
        self.ask(|reply| Command::History { room: room.clone(), span, limit, reply })
    }

    fn post(
        &self,
        room: &Room,
        by: &str,
        body: String,
        reference: Option<String>,
    ) -> Result<(Id, String), Unavailable> {
        let since = Instant::now();
        self.ask(|reply| Command::Post { room: room.clone(), by: by.to_owned(), body, reference, reply, since })
    }

    fn load_report(&self, sessions: u64) -> Option<(u64, u64)> {
        Some((1, sessions))
    }

    fn health(&self) -> Health {
        self.condition.health()
    }

    fn queue(&self) -> (usize, Duration) {
        (self.commands.len(), self.condition.oldest_wait())
    }

    fn stop(&self, _deadline: Duration) {
        let _ = self.request(Instant::now() + PATIENCE, |reply| Command::Stop { reply });
    }
}
