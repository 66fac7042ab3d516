//! The backplane of one process alone: no Redis, the same promises for as long as the process lives.
//!
//! One thread owns all rooms and does what it is told through one channel, as Redis does: the channel's order is the
//! rooms' order and nothing needs a lock. Its neighbour `redis.rs` says the same things to a server instead.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{
    Arrival, Backplane, Change, Event, EventSink, Health, JoinError, LEASE, Leave, Page, REF_LIFE, Room, Seat,
    SessionId, Span, Unavailable,
};
use crate::protocol::{self, Id, RESUME_MESSAGES, WELCOME_MESSAGES, WELCOME_NAMES};
use crate::threads;

/// Commands that may wait. A session that finds it full waits, so that no client can outrun the rooms.
const QUEUE: usize = 1024;
/// How long a session waits for an answer; this thread never waits for anybody, so only a stopped machine needs it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often lapsed leases are looked for.
const REAP: Duration = Duration::from_secs(1);
/// Rooms that are kept; past it the one that was silent longest is forgotten if nobody is in it.
const MAX_ROOMS: usize = 10_000;

/// The handle that sessions hold. When the last one is dropped, the thread ends.
pub struct Local {
    commands: Sender<Command>,
}

enum Command {
    Join { seat: Seat, since: Option<Id>, reply: Sender<Result<Arrival, JoinError>> },
    Leave { seat: Seat, how: Leave },
    Say { seat: Seat, body: String, reference: Option<String> },
    Post { room: Room, by: String, body: String, reference: Option<String>, reply: Sender<(Id, String)> },
    Typing { room: Room, json: String },
    History { room: Room, span: Span, limit: usize, reply: Sender<Page> },
    Stop { reply: Sender<()> },
}

impl Local {
    /// Starts the thread. `keep` messages a room, for `life` at the longest.
    pub fn start(keep: usize, life: Duration, listener: EventSink) -> std::io::Result<Local> {
        let (commands, inbox) = bounded(QUEUE);
        let mut rooms = Rooms { keep, life, listener, rooms: HashMap::new(), changes: 0 };
        threads::spawn_critical("local", move || rooms.serve(&inbox))?;
        Ok(Local { commands })
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, Unavailable> {
        let (reply, answer) = bounded(1);
        self.commands.send_timeout(command(reply), PATIENCE).map_err(|_| Unavailable)?;
        answer.recv_timeout(PATIENCE).map_err(|_| Unavailable)
    }

    fn tell(&self, command: Command) {
        // The thread is vital: were it gone, the process would be too.
        let _ = self.commands.send(command);
    }
}

impl Backplane for Local {
    fn join(&self, seat: &Seat, since: Option<Id>) -> Result<Arrival, JoinError> {
        self.ask(|reply| Command::Join { seat: seat.clone(), since, reply })?
    }

    fn leave(&self, seat: &Seat, how: Leave) {
        self.tell(Command::Leave { seat: seat.clone(), how });
    }

    fn say(&self, seat: &Seat, body: String, reference: Option<String>) {
        self.tell(Command::Say { seat: seat.clone(), body, reference });
    }

    fn typing(&self, room: &Room, json: String) {
        self.tell(Command::Typing { room: room.clone(), json });
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
        self.ask(|reply| Command::Post { room: room.clone(), by: by.to_owned(), body, reference, reply })
    }

    fn load_report(&self, sessions: u64) -> Option<(u64, u64)> {
        Some((1, sessions))
    }

    fn health(&self) -> Health {
        Ok(())
    }

    fn stop(&self, _deadline: Duration) {
        let _ = self.ask(|reply| Command::Stop { reply });
    }
}

struct Rooms {
    keep: usize,
    life: Duration,
    listener: EventSink,
    rooms: HashMap<Room, LocalRoom>,
    /// Numbers the changes of presence: their stamp.
    changes: u64,
}

#[derive(Default)]
struct LocalRoom {
    log: VecDeque<(Id, String)>,
    last: Id,
    /// Whether the log has lost its beginning.
    trimmed: bool,
    refs: HashMap<String, (Id, String)>,
    /// When each ref is forgotten, in order.
    ref_ends: VecDeque<(Instant, String)>,
    people: HashMap<String, Person>,
}

struct Person {
    name: String,
    by: String,
    session: SessionId,
    /// When the lease ends; `None` while the connection lives.
    lapses: Option<Instant>,
}

impl Rooms {
    fn serve(&mut self, inbox: &Receiver<Command>) {
        let mut reap_at = Instant::now() + REAP;
        loop {
            match inbox.recv_deadline(reap_at) {
                Ok(command) => self.carry_out(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= reap_at {
                self.reap();
                reap_at = Instant::now() + REAP;
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        // A reply finds nobody only when the asker's patience is over.
        match command {
            Command::Join { seat, since, reply } => drop(reply.send(self.join(&seat, since))),
            Command::Leave { seat, how } => self.leave(&seat, how),
            Command::Say { seat, body, reference } => self.say(&seat, body, reference),
            Command::Typing { room, json } => {
                (self.listener)(Event::Typing { room, frame: protocol::text_frame(json) });
            }
            Command::Post { room, by, body, reference, reply } => {
                self.make_space(&room);
                self.rooms.entry(room.clone()).or_default();
                if let Some((_, id, body)) = self.keep(&room, &by, body, reference) {
                    drop(reply.send((id, body)));
                }
            }
            Command::History { room, span, limit, reply } => {
                drop(reply.send(self.rooms.get(&room).map(|r| r.history(span, limit)).unwrap_or_default()));
            }
            Command::Stop { reply } => drop(reply.send(())),
        }
    }

    fn join(&mut self, seat: &Seat, since: Option<Id>) -> Result<Arrival, JoinError> {
        self.make_space(&seat.room);
        let room = self.rooms.entry(seat.room.clone()).or_default();
        let person =
            Person { name: seat.name.to_string(), by: seat.by.to_string(), session: seat.session, lapses: None };
        let mut change = Change { about: Some(seat.session), ..Change::default() };
        match room.people.get(&*seat.key) {
            Some(old) if old.by == *seat.by => (self.listener)(Event::TakenOver(old.session)),
            Some(old) if old.lapses.is_none_or(|end| end > Instant::now()) => return Err(JoinError::NameTaken),
            Some(old) => {
                change.left.push(old.name.clone());
                change.joined.push(person.name.clone());
            }
            None => change.joined.push(person.name.clone()),
        }
        room.people.insert(seat.key.to_string(), person);
        self.announce(&seat.room, change);

        let room = &self.rooms[&seat.room];
        let limit = if since.is_some() { RESUME_MESSAGES } else { WELCOME_MESSAGES };
        let mut names: Vec<String> = room.people.values().take(WELCOME_NAMES).map(|p| p.name.clone()).collect();
        names.sort_unstable();
        Ok(Arrival {
            participants: room.people.len() as u64,
            names,
            page: room.page(since, None, limit),
            last: room.log.back().map_or(Id::default(), |(id, _)| *id),
            gap: since.is_some_and(|id| room.lost_some_after(id)),
            stamp: self.changes,
        })
    }

    fn leave(&mut self, seat: &Seat, how: Leave) {
        let Some(room) = self.rooms.get_mut(&seat.room) else { return };
        let Some(person) = room.people.get_mut(&*seat.key).filter(|p| p.session == seat.session) else { return };
        match how {
            Leave::Expire => person.lapses = Some(Instant::now() + LEASE),
            Leave::Now => {
                room.people.remove(&*seat.key);
                let left = vec![seat.name.to_string()];
                self.announce(&seat.room, Change { left, about: Some(seat.session), ..Change::default() });
            }
        }
    }

    fn say(&mut self, seat: &Seat, body: String, reference: Option<String>) {
        if let Some((false, id, body)) = self.keep(&seat.room, &seat.by, body, reference) {
            let frame = protocol::text_frame(protocol::message_json(id, &body));
            (self.listener)(Event::Receipt { session: seat.session, id, frame });
        }
    }

    /// Keeps a message, unless its ref is known: whether it is new, its id, and the body that is kept.
    fn keep(&mut self, name: &Room, by: &str, body: String, reference: Option<String>) -> Option<(bool, Id, String)> {
        let room = self.rooms.get_mut(name)?;
        let now = Instant::now();
        while room.ref_ends.front().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, old)) = room.ref_ends.pop_front() {
                room.refs.remove(&old);
            }
        }
        let reference = reference.map(|reference| format!("{by}:{reference}"));
        if let Some((id, body)) = reference.as_ref().and_then(|r| room.refs.get(r)) {
            return Some((false, *id, body.clone()));
        }
        let ms = unix_ms();
        let id = if ms > room.last.ms { Id { ms, seq: 0 } } else { Id { seq: room.last.seq + 1, ..room.last } };
        if let Some(reference) = reference {
            room.refs.insert(reference.clone(), (id, body.clone()));
            room.ref_ends.push_back((now + REF_LIFE, reference));
        }
        let frame = protocol::text_frame(protocol::message_json(id, &body));
        (self.listener)(Event::Message { room: name.clone(), id, frame });
        room.last = id;
        room.log.push_back((id, body.clone()));
        room.trim(self.keep, self.life);
        Some((true, id, body))
    }

    /// Gives lapsed seats free, and forgets what is too old.
    fn reap(&mut self) {
        let now = Instant::now();
        let mut changes = Vec::new();
        for (name, room) in &mut self.rooms {
            let lapsed = room.people.extract_if(|_, p| p.lapses.is_some_and(|end| end <= now));
            let left: Vec<String> = lapsed.map(|(_, person)| person.name).collect();
            if !left.is_empty() {
                changes.push((name.clone(), Change { left, ..Change::default() }));
            }
            room.trim(self.keep, self.life);
        }
        for (room, change) in changes {
            self.announce(&room, change);
        }
    }

    fn announce(&mut self, name: &Room, mut change: Change) {
        if change.joined.is_empty() && change.left.is_empty() {
            return;
        }
        let Some(room) = self.rooms.get(name) else { return };
        self.changes += 1;
        change.participants = room.people.len() as u64;
        change.stamp = self.changes;
        (self.listener)(Event::Presence { room: name.clone(), change });
    }

    fn make_space(&mut self, wanted: &Room) {
        if self.rooms.len() < MAX_ROOMS || self.rooms.contains_key(wanted) {
            return;
        }
        let empty = self.rooms.iter().filter(|(_, room)| room.people.is_empty());
        if let Some(oldest) = empty.min_by_key(|(_, room)| room.last).map(|(name, _)| name.clone()) {
            self.rooms.remove(&oldest);
        }
    }
}

impl LocalRoom {
    /// The newest `limit` messages after `since` and before `before`, oldest first.
    fn page(&self, since: Option<Id>, before: Option<Id>, limit: usize) -> Page {
        let start = since.map_or(0, |id| self.log.partition_point(|(i, _)| *i <= id));
        let end = before.map_or(self.log.len(), |id| self.log.partition_point(|(i, _)| *i < id)).max(start);
        let start = start.max(end.saturating_sub(limit));
        Page { messages: self.log.range(start..end).cloned().collect(), more: start > 0 }
    }

    fn history(&self, span: Span, limit: usize) -> Page {
        match span {
            Span::Before(before) => self.page(None, before, limit),
            Span::After { after, before } => {
                let start = self.log.partition_point(|(id, _)| *id <= after);
                let end = before.map_or(self.log.len(), |id| self.log.partition_point(|(i, _)| *i < id)).max(start);
                let cut = end.min(start + limit);
                Page { messages: self.log.range(start..cut).cloned().collect(), more: cut < end }
            }
        }
    }

    fn lost_some_after(&self, since: Id) -> bool {
        if since == Id::default() {
            self.trimmed
        } else {
            self.log.binary_search_by_key(&since, |(id, _)| *id).is_err()
        }
    }

    fn trim(&mut self, keep: usize, life: Duration) {
        let oldest = unix_ms().saturating_sub(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        while self.log.len() > keep || self.log.front().is_some_and(|(id, _)| id.ms < oldest) {
            self.log.pop_front();
            self.trimmed = true;
        }
    }
}

/// Now, in Unix milliseconds. Before 1970 it is 0; the ids grow all the same.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(ids: &[u64]) -> LocalRoom {
        let log: VecDeque<_> = ids.iter().map(|&ms| (Id { ms, seq: 0 }, format!("{{{ms}}}"))).collect();
        LocalRoom { last: log.back().map_or(Id::default(), |(id, _)| *id), log, ..LocalRoom::default() }
    }

    fn id(ms: u64) -> Id {
        Id { ms, seq: 0 }
    }

    #[test]
    fn a_page_is_the_newest_between_its_bounds() {
        let room = room(&[1, 2, 3, 4, 5]);
        let ms = |page: Page| (page.messages.iter().map(|(id, _)| id.ms).collect::<Vec<_>>(), page.more);
        assert_eq!(ms(room.page(None, None, 2)), (vec![4, 5], true));
        assert_eq!(ms(room.page(None, None, 9)), (vec![1, 2, 3, 4, 5], false));
        assert_eq!(ms(room.page(Some(id(3)), None, 9)), (vec![4, 5], true));
        assert_eq!(ms(room.page(Some(id(5)), None, 9)), (vec![], true));
        assert_eq!(ms(room.page(None, Some(id(3)), 1)), (vec![2], true));
        assert_eq!(ms(room.page(None, Some(id(1)), 9)), (vec![], false));
        assert_eq!(ms(room.page(Some(id(9)), Some(id(1)), 9)), (vec![], true));
    }

    #[test]
    fn a_gap_is_a_since_that_is_not_kept() {
        let mut room = room(&[1, 2, 3]);
        assert!(!room.lost_some_after(id(1)) && !room.lost_some_after(Id::default()));
        room.trim(2, Duration::MAX);
        assert!(room.lost_some_after(id(1)) && room.lost_some_after(Id::default()) && !room.lost_some_after(id(3)));
        room.trim(2, Duration::ZERO);
        assert!(room.log.is_empty() && room.lost_some_after(id(3)));
    }
}
