//! The subscriber: the one connection on which this task hears what happens in its rooms, and the thread that owns it.
//!
//! Pub/sub is for speed, the log is the truth. Every message names the one before it, so the thread sees when it
//! missed some, whatever the reason, and reads them from the log before it goes on. Three more things make it look:
//! a new connection, a message that was kept but not heard of within [`SUSPICION`], and the log's newest id, which
//! every heartbeat brings. The thread never touches a client's socket.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use redis::{Client, Msg, PubSub, RedisResult};

use super::commands::{ask_for_people, channel_of_room, channel_of_task, log_key};
use super::health::{Backoff, Link, Part, connect};
use super::publisher::Publisher;
use super::replies;
use super::roster::Roster;
use super::subscriptions::{Author, Registry, Wish};
use crate::backplane::{Change, Event, EventSink, Room, Unavailable};
use crate::protocol::{self, Id};
use crate::threads;

/// The longest the thread listens without looking at its wishes and its clock.
const TICK: Duration = Duration::from_millis(500);
/// How long after a message was kept it should have been heard of.
const SUSPICION: Duration = Duration::from_millis(500);
/// A connection on which the task's own probe (one each heartbeat) was not heard for this long is deaf: a heartbeat's
/// 3 s and the 5 s that a probe may take.
const DEAF: Duration = Duration::from_secs(8);
/// How many messages are read from the log at a time.
const FILL: usize = 500;

/// See the module.
pub struct Subscriber {
    /// How to reach Redis.
    pub client: Client,
    /// This task's name, and its own channel's.
    pub task: Arc<str>,
    /// Who reads the log.
    pub publisher: Publisher,
    /// The state of the connection.
    pub link: Arc<Link>,
    /// Where events go.
    pub listener: EventSink,
    /// What is asked for.
    pub inbox: Receiver<Wish>,
    /// Which rooms have sessions here.
    pub watched: Registry,
    /// The rooms that are subscribed to, and how far each was delivered.
    pub rooms: HashMap<Room, Cursor>,
    /// Where a message should have been heard of since when, oldest first.
    pub suspects: VecDeque<(Room, Instant)>,
    /// When the task's own probe was last heard.
    pub heard: Instant,
    /// Until when all was surely heard, if rosters were not compared since a connection was lost.
    pub sure_until: Option<Instant>,
}

/// How far a room was delivered.
pub struct Cursor {
    /// The newest message delivered; those at or below it are not delivered again.
    last: Id,
    newest_ms: Arc<AtomicU64>,
    /// Who was told to be there.
    roster: Roster,
    /// Messages that the log has and that were not heard of yet, by id.
    unheard: VecDeque<Unheard>,
}

struct Unheard {
    id: Id,
    at: Instant,
    author: Option<Author>,
}

/// Why listening ended.
enum End {
    /// The handles are gone.
    Stopped,
    Lost(String),
}

impl<E: std::fmt::Display> From<E> for End {
    fn from(error: E) -> End {
        End::Lost(error.to_string())
    }
}

impl Subscriber {
    /// Starts the thread.
    pub fn start(mut self) -> std::io::Result<()> {
        threads::spawn_critical("subscriber", move || self.run()).map(drop)
    }

    fn run(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            let started = Instant::now();
            match self.listen() {
                End::Stopped => return,
                End::Lost(why) => self.link.set(Part::Subscriber, Err(why)),
            }
            self.sure_until.get_or_insert(self.heard);
            if started.elapsed() > DEAF {
                backoff = Backoff::new();
            }
            // Wishes wait meanwhile: whoever waits for one gives up by itself.
            std::thread::sleep(backoff.next());
        }
    }

    fn listen(&mut self) -> End {
        match self.try_listen() {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    fn try_listen(&mut self) -> Result<std::convert::Infallible, End> {
        let mut connection = connect(&self.client, super::health::REDIS_TIMEOUT)?;
        let mut pubsub = connection.as_pubsub();
        pubsub.subscribe(channel_of_task(&self.task))?;
        for room in self.rooms.keys() {
            pubsub.subscribe(channel_of_room(room))?;
        }
        // What was kept but not heard of must be known before the logs are read: see `fill`.
        self.grant_wishes(&mut pubsub)?;
        let rooms: Vec<Room> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.fill(&room).map_err(|_| End::Lost("the log can't be read".to_owned()))?;
        }
        pubsub.set_read_timeout(Some(TICK))?;
        self.link.set(Part::Subscriber, Ok(()));
        self.heard = Instant::now();
        loop {
            self.grant_wishes(&mut pubsub)?;
            match pubsub.get_message() {
                Ok(message) if message.get_channel_name().starts_with("bobbin:task:") => self.heard = Instant::now(),
                Ok(message) => self.hear(&message),
                Err(error) if error.is_timeout() => {}
                Err(error) => return Err(error.into()),
            }
            self.look_into_suspects();
            if self.heard.elapsed() > DEAF {
                return Err(End::Lost("deaf: the task's own probes are not heard".to_owned()));
            }
        }
    }

    fn grant_wishes(&mut self, pubsub: &mut PubSub<'_>) -> Result<(), End> {
        loop {
            match self.inbox.try_recv() {
                Ok(Wish::Subscribe { room, done }) => {
                    pubsub.set_read_timeout(Some(super::health::REDIS_TIMEOUT))?;
                    let answer = self.subscribe(pubsub, &room);
                    pubsub.set_read_timeout(Some(TICK))?;
                    // Dropped without an answer, it says no.
                    if answer? {
                        let _ = done.send(());
                    }
                }
                Ok(Wish::Unsubscribe { room }) => self.unsubscribe(pubsub, &room)?,
                Ok(Wish::Tail { room, id, at, author }) => self.suspect(room, Unheard { id, at, author }),
                Ok(Wish::Welcomed { room, names, at }) => {
                    if let Some(cursor) = self.rooms.get_mut(&room) {
                        cursor.roster.welcome(names, at);
                    }
                }
                Ok(Wish::Compare { data_lost }) => self.compare_rosters(data_lost),
                Err(crossbeam_channel::TryRecvError::Empty) => return Ok(()),
                Err(crossbeam_channel::TryRecvError::Disconnected) => return Err(End::Stopped),
            }
        }
    }

    /// Whether the room is heard now. One whose log can't be read (its key is of another type, say) is not, and harms
    /// no other room.
    fn subscribe(&mut self, pubsub: &mut PubSub<'_>, room: &Room) -> Result<bool, End> {
        if !self.rooms.contains_key(room) {
            pubsub.subscribe(channel_of_room(room))?;
            let (Ok(last), Ok((stamp, names))) = (self.newest(room), self.people(room)) else {
                pubsub.unsubscribe(channel_of_room(room))?;
                return Ok(false);
            };
            let (newest_ms, roster) = (Arc::new(AtomicU64::new(last.ms)), Roster::new(names, stamp));
            self.rooms.insert(room.clone(), Cursor { last, newest_ms, roster, unheard: VecDeque::new() });
        }
        if let (Some(entry), Some(cursor)) = (self.watched.lock().get_mut(room), self.rooms.get(room)) {
            entry.ready = true;
            entry.newest_ms = cursor.newest_ms.clone();
        }
        Ok(true)
    }

    fn unsubscribe(&mut self, pubsub: &mut PubSub<'_>, room: &Room) -> RedisResult<()> {
        {
            let mut watched = self.watched.lock();
            if watched.get(room).is_none_or(|entry| entry.sessions > 0) {
                return Ok(());
            }
            watched.remove(room);
        }
        if self.rooms.remove(room).is_some() {
            pubsub.unsubscribe(channel_of_room(room))?;
        }
        Ok(())
    }

    /// Takes one published event apart; the scripts (`*.lua`) write them.
    fn hear(&mut self, message: &Msg) {
        let room = message.get_channel_name().strip_prefix("bobbin:{").and_then(|rest| rest.strip_suffix("}:live"));
        let payload = std::str::from_utf8(message.get_payload_bytes()).ok();
        let heard = room.zip(payload).and_then(|(room, payload)| {
            let room = self.rooms.get_key_value(room)?.0.clone();
            match (payload.get(..1)?, payload.get(1..)?) {
                ("m", rest) => self.hear_message(&room, rest),
                ("p", rest) => replies::change(rest, &self.task).map(|change| self.hear_change(room, change)),
                ("t", json) => {
                    let frame = protocol::text_frame(json.to_owned());
                    (self.listener)(Event::Typing { room, frame });
                    Some(())
                }
                ("k", session) => {
                    if let Some(session) = replies::own_session(session, &self.task) {
                        (self.listener)(Event::TakenOver(session));
                    }
                    Some(())
                }
                _ => None,
            }
        });
        if heard.is_none() {
            log::debug!("not for us, or not understood: {}", message.get_channel_name());
        }
    }

    fn hear_message(&mut self, room: &Room, rest: &str) -> Option<()> {
        let (ids, body) = rest.split_once('\n')?;
        let (before, id) = ids.split_once(' ')?;
        let (before, id): (Id, Id) = (before.parse().ok()?, id.parse().ok()?);
        let last = self.rooms.get(room)?.last;
        if before > last && self.fill(room).is_err() {
            // Not delivered, or what is in the hole never could be: it comes with the next try.
            self.suspect(room.clone(), Unheard { id, at: Instant::now(), author: None });
            return Some(());
        }
        self.deliver(room, id, body);
        Some(())
    }

    fn deliver(&mut self, room: &Room, id: Id, body: &str) {
        let Some(cursor) = self.rooms.get_mut(room) else { return };
        if id <= cursor.last {
            return;
        }
        cursor.last = id;
        cursor.newest_ms.store(id.ms, Relaxed);
        let heard = cursor.unheard.partition_point(|unheard| unheard.id <= id);
        let heard: Vec<Unheard> = cursor.unheard.drain(..heard).collect();
        // One that was passed over is not in the log any more.
        self.refuse(heard.into_iter().filter(|unheard| unheard.id < id));
        if !protocol::is_body(body) {
            return;
        }
        let frame = protocol::text_frame(protocol::message_json(id, body));
        (self.listener)(Event::Message { room: room.clone(), id, frame });
    }

    /// Delivers what the log has after the newest message delivered. What was kept and is not there was lost with
    /// Redis's data: its author hears so, and can send it again.
    fn fill(&mut self, room: &Room) -> Result<(), Unavailable> {
        while let Some(cursor) = self.rooms.get(room) {
            let command = redis::cmd("XRANGE")
                .arg(log_key(room))
                .arg(format!("({}", cursor.last))
                .arg("+")
                .arg("COUNT")
                .arg(FILL)
                .get_packed_command();
            let entries = replies::entries(self.publisher.ask(command)?)?;
            entries.iter().for_each(|(id, body)| self.deliver(room, *id, body));
            if entries.len() < FILL {
                break;
            }
        }
        let lost = self.rooms.get_mut(room).map(|cursor| std::mem::take(&mut cursor.unheard));
        self.refuse(lost.into_iter().flatten());
        Ok(())
    }

    fn refuse(&self, lost: impl Iterator<Item = Unheard>) {
        for (session, reference) in lost.filter_map(|unheard| unheard.author) {
            (self.listener)(Event::Refused { session, reference });
        }
    }

    fn newest(&self, room: &Room) -> Result<Id, Unavailable> {
        let command =
            redis::cmd("XREVRANGE").arg(log_key(room)).arg("+").arg("-").arg("COUNT").arg(1).get_packed_command();
        Ok(replies::entries(self.publisher.ask(command)?)?.first().map_or(Id::default(), |(id, _)| *id))
    }

    /// When it was asked, and who is in a room then.
    fn people(&self, room: &Room) -> Result<(u64, Vec<String>), Unavailable> {
        replies::people(self.publisher.ask(ask_for_people(room))?)
    }

    fn hear_change(&mut self, room: Room, change: Change) {
        if self.rooms.get_mut(&room).is_some_and(|cursor| !cursor.roster.follow(&change)) {
            return;
        }
        (self.listener)(Event::Presence { room, change });
    }

    /// Tells what changes of presence were not heard. All that was heard is told when this thread asks who is there,
    /// so the answer is never older than the roster; what it contains and is read only later is dropped then. Where someone joined while the subscription was away already, the
    /// clients differ in what they know.
    fn compare_rosters(&mut self, data_lost: bool) {
        let rooms: Vec<Room> = self.rooms.keys().cloned().collect();
        for room in rooms {
            let Ok((stamp, names)) = self.people(&room) else { return };
            let Some(Cursor { roster, .. }) = self.rooms.get_mut(&room) else { continue };
            let all = data_lost || self.sure_until.is_some_and(|sure| roster.welcomed_after(sure));
            let change = roster.correct(names, stamp, all);
            if let Some(change) = change {
                log::info!("{room}: {} came and {} went unheard", change.joined.len(), change.left.len());
                (self.listener)(Event::Presence { room, change });
            }
        }
        self.sure_until = None;
    }

    fn suspect(&mut self, room: Room, unheard: Unheard) {
        if let Some(cursor) = self.rooms.get_mut(&room).filter(|cursor| cursor.last < unheard.id) {
            let place = cursor.unheard.partition_point(|other| other.id <= unheard.id);
            self.suspects.push_back((room, unheard.at));
            cursor.unheard.insert(place, unheard);
        }
    }

    fn look_into_suspects(&mut self) {
        let is_ripe = |at: &Instant| at.elapsed() >= SUSPICION;
        while self.suspects.front().is_some_and(|(_, at)| is_ripe(at))
            && let Some((room, _)) = self.suspects.pop_front()
        {
            let unheard = self.rooms.get(&room).and_then(|cursor| cursor.unheard.front());
            if let Some(Unheard { id, .. }) = unheard.filter(|unheard| is_ripe(&unheard.at)) {
                log::info!("{room}: {id} was kept but not heard of; reading the log");
                if self.fill(&room).is_err() {
                    self.suspects.push_back((room, Instant::now()));
                }
            }
        }
    }
}
