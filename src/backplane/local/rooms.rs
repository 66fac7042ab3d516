//! The thread that owns the rooms. It executes all commands in its queue as one transaction, and publishes events and
//! answers only after the commit.
//!
//! Presence is decided in memory and written to the file afterwards: a join does not wait for the disk, and succeeds
//! even if the disk is full. Messages are only in the file. Pages of them are read between batches, a few at a time, so
//! that messages do not wait for many readers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};

use super::admin::Then;
use super::pages::Wanted;
use super::people::Person;
use super::room_log::{Draft, Kept, Log};
use super::store::Store;
use super::watch::Condition;
use super::{Command, all_logs, clock};
use crate::backplane::admin::Bans;
use crate::backplane::{Event, EventSink, JoinError, Limits, Room, SessionId, Unavailable};
use crate::protocol::{self, Id};

/// The most commands per transaction.
const BATCH: usize = 256;
/// The most pages read between two batches; they take a few milliseconds.
const PAGES: usize = 16;
/// Interval at which leases are expired and old messages deleted.
const TICK: Duration = Duration::from_secs(1);

/// The state owned by the thread: the store, and who is in the rooms.
pub struct Rooms {
    pub store: Store,
    pub limits: Limits,
    pub listener: EventSink,
    /// Shared with the handle and with the watching thread.
    pub condition: Condition,
    pub rooms: HashMap<Room, LocalRoom>,
    /// Leases of broken connections, in the order in which they end.
    pub expiring: VecDeque<(Instant, Room, Arc<str>)>,
    /// Counts changes of presence; its value is a change's stamp.
    pub changes: u64,
    /// The number of rooms in the file.
    stored: usize,
    /// Rooms with new messages, and the number of these messages.
    dirty: Vec<Room>,
    messages: usize,
    /// What to publish after the commit.
    pub outcomes: Vec<Outcome>,
    pages: VecDeque<Wanted>,
    /// The bans in force; the handle reads them too.
    pub bans: Arc<Bans>,
    /// Whether changed seats could not be written.
    pub seats_are_behind: bool,
}

/// A room with people, or with a message since the last tick.
pub struct LocalRoom {
    /// Its row in the file.
    pub log: Log,
    /// By folded name.
    pub people: HashMap<Arc<str>, Person>,
    /// Whether this batch has changed its log.
    is_dirty: bool,
}

impl LocalRoom {
    /// A room without people.
    pub fn new(log: Log) -> LocalRoom {
        LocalRoom { log, people: HashMap::new(), is_dirty: false }
    }
}

/// Who waits for a message to be kept.
pub enum Author {
    /// A session, and the message's number in [`Condition`].
    Session(SessionId, u64),
    /// A caller of `post`; dropping this refuses the message.
    Caller(Sender<(Id, String)>),
}

/// What to do after the commit.
pub enum Outcome {
    /// An event that does not depend on the commit.
    Event(Event),
    /// A job to continue, with the result of the commit.
    Then(Then),
    /// A message that could not be added.
    Refused(Author),
    /// A message that is in the log if the commit succeeded.
    Said { room: Room, author: Author, id: Id, body: String, is_new: bool, since: Instant },
}

impl Rooms {
    /// Loads the rooms from the file. Everyone present when the last process ended has a full lease.
    pub fn new(store: Store, limits: Limits, listener: EventSink, condition: Condition) -> rusqlite::Result<Rooms> {
        let mut rooms = Rooms {
            limits,
            listener,
            condition,
            rooms: HashMap::new(),
            expiring: VecDeque::new(),
            changes: 0,
            stored: all_logs::count_rooms(store.conn())?,
            dirty: Vec::new(),
            messages: 0,
            outcomes: Vec::new(),
            pages: VecDeque::new(),
            bans: Arc::default(),
            seats_are_behind: false,
            store,
        };
        rooms.seat_again()?;
        rooms.load_bans();
        Ok(rooms)
    }

    /// The storage in words, for the log.
    pub fn describe(&self) -> String {
        match self.store.path() {
            Some(path) => format!(
                "rooms are in {}, {} of them with messages; a receipt means that a message is on disk",
                path.display(),
                self.stored
            ),
            None => "rooms are in memory and are lost when this process ends; set DATA_FILE to keep them".to_owned(),
        }
    }

    /// Executes commands until [`Command::Stop`] arrives or the [`super::Local`] handle is dropped.
    pub fn serve(mut self, inbox: &Receiver<Command>) {
        let mut tick_at = Instant::now() + TICK;
        loop {
            let first = if self.pages.is_empty() && !self.store.must_trim() {
                inbox.recv_deadline(tick_at)
            } else {
                inbox.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            };
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            self.condition.set_busy(true);
            if let Some(stopped) = first.ok().and_then(|first| self.carry_out_all(first, inbox)) {
                // Closing the file merges its write-ahead log into it.
                drop(self);
                let _ = stopped.send(());
                return;
            }
            for _ in 0..PAGES {
                let Some(wanted) = self.pages.pop_front() else { break };
                self.read_page(wanted);
            }
            if Instant::now() >= tick_at || self.store.must_trim() {
                self.tick(Instant::now());
                tick_at = Instant::now() + TICK;
            }
            self.condition.set_busy(false);
        }
    }

    /// Executes a batch: a command and those queued behind it. Returns the channel on which to confirm a
    /// [`Command::Stop`].
    fn carry_out_all(&mut self, first: Command, inbox: &Receiver<Command>) -> Option<Sender<()>> {
        // Lets sessions that are about to send add to this transaction; see `Lane::gather`.
        thread::yield_now();
        let mut stopped = None;
        for command in std::iter::once(first).chain(inbox.try_iter().take(BATCH - 1)) {
            stopped = self.carry_out(command).or(stopped);
        }
        self.finish();
        stopped
    }

    /// Executes a command; what must wait for the commit is added to `outcomes`. Returns the channel on which to
    /// confirm a [`Command::Stop`].
    fn carry_out(&mut self, command: Command) -> Option<Sender<()>> {
        match command {
            Command::Join { deadline, .. } if deadline <= Instant::now() => {}
            Command::Join { seat, since, terms, reply, .. } => match self.acquire(&seat, terms) {
                Ok(is_new_room) => self.pages.push_back(Wanted::Arrival { seat, since, is_new_room, reply }),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Leave { seat, how } => self.leave(&seat, how),
            Command::GiveBack { seat } => self.give_back(&seat),
            Command::Say { number, .. } if !self.condition.is_unanswered(number) => {}
            Command::Say { seat, body, reference, number, since } => {
                let author = Author::Session(seat.session, number);
                self.say(&seat.room, (author, since), &seat.by, body, reference.as_deref());
            }
            Command::Post { room, by, body, reference, reply, since } => {
                self.say(&room, (Author::Caller(reply), since), &by, body, reference.as_deref());
            }
            Command::Typing { room, json } => {
                self.outcomes.push(Outcome::Event(Event::Typing { room, frame: protocol::text_frame(json) }));
            }
            Command::History { room, span, limit, reply } => {
                self.pages.push_back(Wanted::History(room, span, limit, reply));
            }
            Command::Admin(job) => {
                let then = job(self);
                self.outcomes.push(Outcome::Then(then));
            }
            Command::Stop { reply } => return Some(reply),
        }
        None
    }

    /// Loads the room into memory if it is not there. If it is a new one, this many must remain.
    pub fn open(&mut self, name: &Room, spare: usize) -> Result<(), JoinError> {
        if self.rooms.contains_key(name) {
            return Ok(());
        }
        let log = Log::load(self.store.conn(), name).map_err(|error| complain(&error))?;
        // Rooms are counted one by one only where the limit may be reached.
        let unstored = || self.rooms.values().filter(|room| room.log.number() == 0).count();
        let most = self.limits.rooms.saturating_sub(spare);
        if log.is_none() && self.stored + self.rooms.len() >= most && self.stored + unstored() >= most {
            return Err(JoinError::Full);
        }
        self.rooms.insert(name.clone(), LocalRoom::new(log.unwrap_or_default()));
        Ok(())
    }

    /// Adds a message that its author submitted at `since`.
    fn say(
        &mut self,
        name: &Room,
        (author, since): (Author, Instant),
        by: &str,
        body: String,
        reference: Option<&str>,
    ) {
        let stored = reference.map(protocol::stored_reference);
        let (reference, ms, period) = (stored.as_deref(), clock::unix_ms(), self.store.clock.period());
        let draft = Draft { by, body: &body, reference, ms, period };
        let (id, body, is_new) = match self.keep(name, &draft) {
            Ok(Kept::New(id)) => (id, body, true),
            Ok(Kept::Before(id, first)) => (id, first.unwrap_or(body), false),
            Err(Unavailable) => return self.outcomes.push(Outcome::Refused(author)),
        };
        self.messages += usize::from(is_new);
        self.outcomes.push(Outcome::Said { room: name.clone(), author, id, body, is_new, since });
    }

    fn keep(&mut self, name: &Room, draft: &Draft<'_>) -> Result<Kept, Unavailable> {
        self.open(name, 0).map_err(|_| Unavailable)?;
        let room = self.rooms.get_mut(name).ok_or(Unavailable)?;
        if self.store.space.is_full() && !room.log.knows(self.store.conn(), draft) {
            return Err(Unavailable);
        }
        if !std::mem::replace(&mut room.is_dirty, true) {
            self.dirty.push(name.clone());
        }
        let is_stored = room.log.number() != 0;
        let kept = self.store.write(|conn| room.log.keep(conn, name, draft))?;
        self.stored += usize::from(!is_stored);
        Ok(kept)
    }

    /// Ends the batch: writes the rooms' rows, commits, and publishes the outcomes.
    fn finish(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        for name in &dirty {
            let Some(room) = self.rooms.get_mut(name) else { continue };
            room.is_dirty = false;
            let trim_to = self.store.space.trim_to;
            if self.store.write(|conn| room.log.settle(conn, &self.limits.retention, trim_to)) == Ok(true) {
                (self.listener)(Event::RoomTrimmed);
            }
        }
        let is_kept = self.store.commit(std::mem::take(&mut self.messages));
        // Restarts the time after which the thread counts as hanging: the commit itself has taken its share of it.
        self.condition.set_busy(true);
        if !is_kept {
            self.seats_are_behind = true;
            self.reload(dirty.iter().map(|name| &**name));
        }
        self.report();
        for outcome in std::mem::take(&mut self.outcomes) {
            match outcome {
                Outcome::Event(event) => (self.listener)(event),
                Outcome::Then(then) => then(is_kept),
                Outcome::Said { room, author, id, body, is_new, since } if is_kept => {
                    (self.listener)(Event::Kept(since.elapsed()));
                    self.publish(room, author, id, body, is_new);
                }
                Outcome::Said { author, .. } | Outcome::Refused(author) => {
                    if let Author::Session(_, number) = author
                        && let Some(refusal) = self.condition.answer(number)
                    {
                        (self.listener)(refusal);
                    }
                }
            }
        }
    }

    fn publish(&self, room: Room, author: Author, id: Id, body: String, is_new: bool) {
        let frame = protocol::text_frame(protocol::message_json(id, &body));
        if let Author::Session(_, number) = author {
            // The message may have been refused in the meantime; from here on it no longer can be.
            let _ = self.condition.answer(number);
        }
        match author {
            _ if is_new => (self.listener)(Event::Message { room, id, frame }),
            Author::Session(session, _) => (self.listener)(Event::Receipt { session, id, frame }),
            Author::Caller(_) => {}
        }
        if let Author::Caller(reply) = author {
            let _ = reply.send((id, body));
        }
    }

    /// Notifies the log, the handle and the clients if the store went down or came back.
    fn report(&self) {
        let health = self.store.health();
        let before = self.condition.set_health(health.clone(), &self.listener);
        if health.is_ok() == before.is_ok() {
            return;
        }
        match &health {
            Ok(()) => log::info!("rooms can be written again"),
            Err(why) => log::error!("rooms can't be written, so messages are refused: {why}"),
        }
    }

    /// Stores a log's row that the admin operations have changed.
    pub fn put_log(&mut self, name: &Room, log: Log) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.log = log;
            if !std::mem::replace(&mut room.is_dirty, true) {
                self.dirty.push(name.clone());
            }
        }
    }

    /// Reloads rooms' rows from the file.
    fn reload<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        for name in names {
            if let Some(room) = self.rooms.get_mut(name) {
                let row = Log::load(self.store.conn(), name).map_err(|error| complain(&error));
                room.log = row.unwrap_or_default().unwrap_or_default();
            }
        }
        self.stored = all_logs::count_rooms(self.store.conn()).unwrap_or(self.stored);
    }

    /// Does the periodic work.
    fn tick(&mut self, now: Instant) {
        self.seats_are_behind |= self.store.try_again(now);
        if self.seats_are_behind {
            self.write_seats();
        }
        self.reap(now);
        if self.store.limit_logs() {
            (self.listener)(Event::Trimmed);
        }
        let changed = self.store.tick(now, |name| self.rooms.contains_key(name));
        self.finish();
        if !changed.is_empty() {
            self.reload(changed.iter().map(String::as_str));
        }
        self.rooms.retain(|_, room| !room.people.is_empty());
    }
}

/// Logs that reading the file failed.
pub fn complain(error: &rusqlite::Error) -> Unavailable {
    log::warn!("rooms can't be read: {error}");
    Unavailable
}
