//! One lane: the thread that owns the write side of its share of the sessions, and what it does with its posts.
//!
//! Its neighbour `lanes.rs` is the handle by which the rest of the program speaks to all of them.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tungstenite::Bytes;

use crate::backplane::{Change, Event, Room, SessionId, Unavailable};
use crate::fanout::drain::Drain;
use crate::fanout::outbox::{Batch, OrderKey, OutFrame, Outbox, Outcome};
use crate::fanout::socket::SharedSocket;
use crate::metrics::Metrics;
use crate::protocol::{self, Close, ErrorCode, Id, PRESENCE_NAMES, ServerFrame};

/// Posts that are taken at a time before messages are written, and the bytes of one room's messages written together.
const GATHER: (usize, usize) = (256, 64 * 1024);
/// Under load, more posts are waited for: one part in so many of the time that the last writing took. It is load if that
/// was longer than the second, and ended no longer ago.
const PATIENCE: (u32, Duration) = (8, Duration::from_millis(1));
/// Up to this many people, changes of presence are told at once.
const SMALL_ROOM: u64 = 50;
/// In larger rooms they are gathered for so long.
const GATHER_PRESENCE: Duration = Duration::from_secs(1);
/// Sockets that did not take all are tried again after the first of these, then ever later up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// What a lane is told about one session.
pub enum SessionCommand {
    /// It is about to join: hold what comes for it.
    Join(Room, Arc<SharedSocket>),
    /// Its `welcome` is written, with messages up to this and presence up to that, see [`Outbox::open`].
    Open(Id, u64),
    /// A frame of its own thread.
    Own(Bytes),
    /// Say goodbye to it.
    Close(Close),
    /// Its thread has ended.
    Leave,
}

/// What a lane is told.
pub enum LaneCommand {
    /// Something about one session.
    To(SessionId, SessionCommand),
    /// What the backplane tells.
    Event(Arc<Event>),
    /// Say goodbye to all, spread over this time.
    Drain(Duration),
    /// Say goodbye to this many.
    Rebalance(usize),
}

/// See the module.
pub struct Lane {
    posts: Receiver<LaneCommand>,
    metrics: Arc<Metrics>,
    rooms: HashMap<Room, LaneRoom>,
    /// Which room a session is in.
    homes: HashMap<SessionId, Room>,
    /// Rooms with messages that are not written yet.
    dirty: Vec<Room>,
    /// When each room with gathered presence is to be told, soonest first.
    gathering: VecDeque<(Instant, Room)>,
    /// Sessions whose outbox wants another look.
    pending_writes: HashSet<SessionId>,
    retry_at: Instant,
    retry_wait: Duration,
    /// When messages were last written, and for how long.
    wrote: (Instant, Duration),
    drain: Option<Drain>,
}

#[derive(Default)]
struct LaneRoom {
    /// In the order in which they came, which mostly is that of their sockets in memory: a tenth more deliveries/s.
    outboxes: BTreeMap<SessionId, Outbox>,
    messages: Vec<OutFrame>,
    message_bytes: usize,
    /// Gathered presence.
    change: Option<Change>,
}

impl Lane {
    /// A lane with nobody in it.
    pub fn new(posts: Receiver<LaneCommand>, metrics: Arc<Metrics>) -> Lane {
        Lane {
            posts,
            metrics,
            rooms: HashMap::new(),
            homes: HashMap::new(),
            dirty: Vec::new(),
            gathering: VecDeque::new(),
            pending_writes: HashSet::new(),
            retry_at: Instant::now(),
            retry_wait: RETRY.0,
            wrote: (Instant::now(), Duration::ZERO),
            drain: None,
        }
    }

    /// Works until the handle is dropped.
    pub fn run(mut self) {
        loop {
            let first = match self.next_duty() {
                None => self.posts.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.posts.recv_deadline(at),
            };
            match first {
                Ok(post) => {
                    self.take(post);
                    self.gather();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let began = Instant::now();
            self.write_messages();
            let now = Instant::now();
            self.wrote = (now, now - began);
            self.do_duties(now);
        }
    }

    /// Takes what else has come. Where one message is, others are close behind, and those that are written together
    /// cost one `send` a session: so the subscriber may run once more first, a microsecond where nobody else wants to.
    /// A lane that has only just written for a while is under load, and waits a little for them.
    fn gather(&mut self) {
        std::thread::yield_now();
        let (ended, took) = self.wrote;
        let busy = took > PATIENCE.1 && ended.elapsed() < PATIENCE.1;
        let until = busy.then(|| Instant::now() + took / PATIENCE.0);
        for _ in 1..GATHER.0 {
            let next = match until {
                Some(until) => self.posts.recv_deadline(until).ok(),
                None => self.posts.try_recv().ok(),
            };
            let Some(post) = next else { break };
            self.take(post);
        }
    }

    fn take(&mut self, post: LaneCommand) {
        let now = Instant::now();
        if let LaneCommand::Event(event) = &post
            && let Event::Message { room, id, frame } = &**event
        {
            return self.gather_message(room, *id, frame);
        }
        // All else keeps its place behind the messages that came before it.
        self.write_messages();
        match post {
            LaneCommand::To(session, letter) => self.open_letter(session, letter, now),
            LaneCommand::Drain(over) => {
                let sessions: Vec<SessionId> = self.homes.keys().copied().collect();
                self.drain = Some(Drain::new(sessions, over, now));
            }
            LaneCommand::Rebalance(count) => self.rebalance(count, now),
            LaneCommand::Event(event) => self.hear(&event, now),
        }
    }

    fn open_letter(&mut self, session: SessionId, letter: SessionCommand, now: Instant) {
        match letter {
            SessionCommand::Join(room, wire) => {
                self.homes.insert(session, room.clone());
                self.rooms.entry(room).or_default().outboxes.insert(session, Outbox::new(wire, now));
                if self.drain.is_some() {
                    self.close(session, Close::GoingAway, now);
                }
            }
            SessionCommand::Open(last, stamp) => self.with(session, now, |outbox| outbox.open(last, stamp, now)),
            SessionCommand::Own(bytes) => self.own(session, bytes, now),
            SessionCommand::Close(code) => self.close(session, code, now),
            SessionCommand::Leave => self.leave(session),
        }
    }

    fn hear(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Typing { room, frame } => {
                let piece = OutFrame { bytes: frame.clone(), mark: OrderKey::Other };
                self.each_in(room, now, |_, outbox| outbox.put(&piece, now));
            }
            Event::Presence { room, change } => self.gather_presence(room, change, now),
            Event::Receipt { session, id, frame } => {
                let piece = OutFrame { bytes: frame.clone(), mark: OrderKey::Other };
                // One that is not delivered yet will be, in its order, and then is the receipt.
                self.with(
                    *session,
                    now,
                    |outbox| {
                        if *id <= outbox.last() { outbox.put(&piece, now) } else { Outcome::Done }
                    },
                );
            }
            Event::Refused { session, reference } => {
                let error = ServerFrame::Error {
                    code: ErrorCode::Unavailable,
                    message: &Unavailable.to_string(),
                    reference: reference.as_deref(),
                    retry_ms: None,
                };
                self.metrics.refused.inc();
                self.own(*session, protocol::text_frame(protocol::json(&error)), now);
            }
            Event::Status(up) => {
                self.metrics.backplane_up.set(i64::from(*up));
                let status = ServerFrame::Status { backplane: if *up { "up" } else { "down" } };
                let piece = OutFrame { bytes: protocol::text_frame(protocol::json(&status)), mark: OrderKey::Other };
                let rooms: Vec<Room> = self.rooms.keys().cloned().collect();
                rooms.iter().for_each(|room| self.each_in(room, now, |_, outbox| outbox.put(&piece, now)));
            }
            // Handled before they come here.
            Event::Message { .. } | Event::TakenOver(_) | Event::Evicted(_) => {}
        }
    }

    fn gather_message(&mut self, name: &Room, id: Id, frame: &Bytes) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.messages.is_empty() {
            self.dirty.push(name.clone());
        }
        room.message_bytes += frame.len();
        room.messages.push(OutFrame { bytes: frame.clone(), mark: OrderKey::Message(id) });
        if room.message_bytes > GATHER.1 {
            self.write_messages();
        }
    }

    fn write_messages(&mut self) {
        while let Some(name) = self.dirty.pop() {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            room.message_bytes = 0;
            let Some(batch) = Batch::new(std::mem::take(&mut room.messages)) else { continue };
            self.metrics.deliveries.inc_by((batch.pieces.len() * room.outboxes.len()) as u64);
            let now = Instant::now();
            self.each_in(&name, now, |_, outbox| outbox.put_batch(&batch, now));
        }
    }

    fn gather_presence(&mut self, name: &Room, news: &Change, now: Instant) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let gathered = match room.change.take() {
            Some(mut change) => {
                change.add(news);
                change
            }
            None => {
                if news.participants > SMALL_ROOM {
                    self.gathering.push_back((now + GATHER_PRESENCE, name.clone()));
                }
                news.clone()
            }
        };
        room.change = Some(gathered);
        if news.participants <= SMALL_ROOM {
            self.tell_presence(name, now);
        }
    }

    /// Tells a room who came and went. A small room is told all names, if need be in several frames; a large one is
    /// told some names and the count.
    fn tell_presence(&mut self, name: &Room, now: Instant) {
        let Some(change) = self.rooms.get_mut(name).and_then(|room| room.change.take()) else { return };
        let frames = change.joined.len().max(change.left.len()).div_ceil(PRESENCE_NAMES).max(1);
        for number in 0..if change.participants <= SMALL_ROOM { frames } else { 1 } {
            let part = |names: &[String]| -> Vec<String> {
                names.iter().skip(number * PRESENCE_NAMES).take(PRESENCE_NAMES).cloned().collect()
            };
            let (joined, left) = (part(&change.joined), part(&change.left));
            let frame = ServerFrame::Presence { joined: &joined, left: &left, participants: change.participants };
            let piece = OutFrame {
                bytes: protocol::text_frame(protocol::json(&frame)),
                mark: OrderKey::Presence(change.stamp),
            };
            self.each_in(name, now, |session, outbox| {
                let known = change.about == Some(session) && !outbox.told_presence();
                if known { Outcome::Done } else { outbox.put(&piece, now) }
            });
        }
    }

    fn own(&mut self, session: SessionId, bytes: Bytes, now: Instant) {
        let piece = OutFrame { bytes, mark: OrderKey::Other };
        self.with(session, now, |outbox| outbox.put(&piece, now));
    }

    fn close(&mut self, session: SessionId, code: Close, now: Instant) {
        self.with(session, now, |outbox| {
            outbox.close(code, now);
            outbox.retry(now)
        });
    }

    fn leave(&mut self, session: SessionId) {
        let Some(name) = self.homes.remove(&session) else { return };
        self.pending_writes.remove(&session);
        if let Some(room) = self.rooms.get_mut(&name) {
            room.outboxes.remove(&session);
            if room.outboxes.is_empty() {
                self.rooms.remove(&name);
            }
        }
    }

    fn rebalance(&mut self, count: usize, now: Instant) {
        let open = |(session, outbox): (&SessionId, &Outbox)| outbox.is_open().then_some(*session);
        let some: Vec<SessionId> =
            self.rooms.values().flat_map(|room| room.outboxes.iter().filter_map(open)).take(count).collect();
        self.metrics.rebalanced.inc_by(some.len() as u64);
        some.into_iter().for_each(|session| self.close(session, Close::GoingAway, now));
    }

    /// Does something with one session's outbox, and sees to what comes of it.
    fn with(&mut self, session: SessionId, now: Instant, act: impl FnOnce(&mut Outbox) -> Outcome) {
        let home = self.homes.get(&session).and_then(|room| self.rooms.get_mut(room));
        let Some(outbox) = home.and_then(|room| room.outboxes.get_mut(&session)) else { return };
        let outcome = act(outbox);
        self.handle_outcome(session, outcome, now);
    }

    /// Does something with all outboxes of a room.
    fn each_in(&mut self, name: &Room, now: Instant, act: impl Fn(SessionId, &mut Outbox) -> Outcome) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let mut unfinished = Vec::new();
        for (session, outbox) in &mut room.outboxes {
            match act(*session, outbox) {
                Outcome::Done => {}
                outcome => unfinished.push((*session, outcome)),
            }
        }
        unfinished.into_iter().for_each(|(session, outcome)| self.handle_outcome(session, outcome, now));
    }

    fn handle_outcome(&mut self, session: SessionId, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Done => drop(self.pending_writes.remove(&session)),
            Outcome::Waiting => {
                if self.pending_writes.is_empty() {
                    self.retry_wait = RETRY.0;
                    self.retry_at = now + RETRY.0;
                }
                self.pending_writes.insert(session);
            }
            Outcome::TooSlow => {
                self.metrics.cut.inc();
                log::debug!("session {session} is too slow");
                self.close(session, Close::TooSlow, now);
            }
        }
    }

    /// When something is to be done without being told.
    fn next_duty(&self) -> Option<Instant> {
        let retry = (!self.pending_writes.is_empty()).then_some(self.retry_at);
        let gathered = self.gathering.front().map(|(at, _)| *at);
        [retry, gathered, self.drain.as_ref().and_then(Drain::next)].into_iter().flatten().min()
    }

    fn do_duties(&mut self, now: Instant) {
        while let Some((at, _)) = self.gathering.front()
            && *at <= now
            && let Some((_, name)) = self.gathering.pop_front()
        {
            self.tell_presence(&name, now);
        }
        while let Some(session) = self.drain.as_mut().and_then(|drain| drain.due(now)) {
            self.close(session, Close::GoingAway, now);
        }
        if !self.pending_writes.is_empty() && now >= self.retry_at {
            self.retry_wait = (self.retry_wait * 2).min(RETRY.1);
            self.retry_at = now + self.retry_wait;
            let pending_writes: Vec<SessionId> = self.pending_writes.iter().copied().collect();
            pending_writes.into_iter().for_each(|session| self.with(session, now, |outbox| outbox.retry(now)));
        }
    }
}
