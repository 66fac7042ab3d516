//! What sessions' calls, the reader and the heartbeat share: the parts of the backplane, and what is done with replies
//! whoever receives them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::bulk::Bulk;
use super::commands::Commands;
use super::delivery::Author;
use super::health::ConnectionHealth;
use super::pipeline::{Failure, Pipeline, Priority, Reply};
use super::refill::Refill;
use super::replies::{self, Kept, Renewed, Seated};
use super::rooms::{Rooms, Taken};
use crate::backplane::admin::Bans;
use crate::backplane::{Event, EventSink, Room, Unavailable};
use crate::protocol::{self, Id};

/// Sessions whose leases are renewed by one command: some 0.1 ms of Redis's time.
pub const RENEW: usize = 250;

/// What the handle and the three threads share.
pub struct Core {
    /// Packs commands.
    pub commands: Arc<Commands>,
    /// Sends them.
    pub pipeline: Arc<Pipeline>,
    /// Who is where.
    pub rooms: Arc<Rooms>,
    /// Reads logs.
    pub bulk: Arc<Bulk>,
    /// Reads what was missed.
    pub refill: Refill,
    /// Whether Redis can be used.
    pub health: ConnectionHealth,
    /// Whether expired leases may be cleared away: every instance has had time to renew its own, see `heartbeat.rs`.
    pub may_expire: AtomicBool,
    /// Redis's clock as it was read: no earlier than this many milliseconds at that moment.
    pub clock: Mutex<Option<(u64, Instant)>>,
    /// This process was stopped and has just been continued: names that are gone were rightly cleared away.
    pub slept: AtomicBool,
    /// Who is kept out.
    pub bans: Bans,
    /// Where events go.
    pub sink: EventSink,
}

impl Core {
    /// Reads Redis's clock.
    pub fn read_clock(self: &Arc<Core>) {
        let (core, asked) = (self.clone(), Instant::now());
        let _ = self.pipeline.append(self.commands.time(), Priority::Urgent, move |reply| {
            let Ok(Ok([seconds, micros])) = reply.map(replies::from_value::<[u64; 2]>) else { return };
            // Up to the whole exchange may have passed since.
            let now = seconds * 1000 + micros / 1000 + asked.elapsed().as_millis() as u64;
            *core.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, Instant::now()));
        });
    }

    /// This moment of the local clock on that of Redis, in milliseconds, if anything somewhat later.
    pub fn on_redis_clock(&self, at: Instant) -> u64 {
        let clock = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.map_or(0, |(ms, read)| ms + at.saturating_duration_since(read).as_millis() as u64)
    }

    /// A join has been carried out. Called in the channel's order: what is published from now on comes on top of it.
    pub fn seated(self: &Arc<Core>, room: &Room, seated: &Seated) {
        self.rooms.begin(room, seated.newest);
        let complete = seated.names.len() as u64 == seated.participants;
        let known = self.rooms.deliver(room, |_, delivery| {
            if !delivery.roster.is_known() && complete {
                delivery.roster.correct(seated.names.clone(), seated.stamp, false);
            }
            delivery.roster.is_known()
        });
        if known == Some(false) {
            self.compare(room, false);
        }
    }

    /// What became of a session's message that was handed over at `since`.
    pub fn said(&self, room: &Room, author: Author, since: Instant, reply: Reply) {
        let (session, reference) = author;
        match reply.map_err(Unavailable::from).and_then(replies::kept) {
            // The message itself, when it is published, is the receipt.
            Ok(Kept::Now(id)) => {
                self.rooms.kept(room, id, Some((session, reference)));
                (self.sink)(Event::Kept(since.elapsed()));
            }
            Ok(Kept::Before(id, body)) => {
                let frame = protocol::text_frame(protocol::message_json(id, &body));
                (self.sink)(Event::Receipt { session, id, frame });
            }
            Err(Unavailable) => (self.sink)(Event::Refused { session, reference }),
        }
    }

    /// Brings rooms up to date on a new connection: subscribes, renews leases, reads who is there.
    pub fn resume(self: &Arc<Core>, rooms: &[Room]) {
        // If the connection is lost already, the reader sees it by itself.
        for room in self.rooms.resubscribe(rooms).unwrap_or_default() {
            let sessions = self.rooms.sessions(&room);
            if sessions.is_empty() {
                self.resumed(&room, None);
            }
            for sessions in sessions.chunks(RENEW) {
                let (core, name) = (self.clone(), room.clone());
                let again = !self.slept.load(Relaxed);
                let renewed = self.rooms.renew(&room, sessions, again, false, move |seats, reply| {
                    let renewed = core.renewed(&name, &seats, reply);
                    core.resumed(&name, renewed.ok().map(|renewed| renewed.newest));
                });
                if renewed.is_err() {
                    self.resumed(&room, None);
                }
            }
            self.compare(&room, false);
        }
    }

    /// Deals with a renewal. An error of Redis's own is given back by its code.
    pub fn renewed(&self, room: &Room, seats: &[Taken], reply: Reply) -> Result<Renewed, Failure> {
        let renewed = replies::renewed(reply?).unwrap_or_default();
        self.catch_up(room, renewed.newest);
        if renewed.taken_again > 0 {
            // Redis has lost its data. Until all have taken their names again, people would seem to leave who are here.
            self.rooms.deliver(room, |_, delivery| delivery.compare_later = true);
        }
        for (number, own_client) in &renewed.lost {
            // It may have left while the renewal was under way.
            if let Some(Taken { seat, .. }) = seats.get(*number).filter(|taken| self.rooms.has(&taken.seat)) {
                let event = if *own_client { Event::TakenOver } else { Event::Evicted };
                (self.sink)(event(seat.session));
            }
        }
        Ok(renewed)
    }

    /// The room is subscribed to again, and its log goes up to here, if that is known.
    fn resumed(&self, room: &Room, newest: Option<Id>) {
        if self.rooms.deliver(room, |_, delivery| delivery.resume(newest)) == Some(true) {
            self.refill.queue_room(room.clone());
        }
    }

    /// The log goes up to here. What was published up to then has been received: the rest was missed.
    fn catch_up(&self, room: &Room, newest: Id) {
        if self.rooms.last(room) < newest {
            self.rooms.kept(room, newest, None);
            self.refill.start_room(room);
        }
    }

    /// Reads who is in a room, and sends the clients here what they do not know. On the channel's own connection, since the
    /// answer is as of its place among the changes. Where some clients know fewer names than others, `all` are told.
    pub fn compare(self: &Arc<Core>, room: &Room, all: bool) {
        let (core, name) = (self.clone(), room.clone());
        let _ = self.pipeline.append(self.commands.roster(room), Priority::Urgent, move |reply| {
            let Ok(Ok((stamp, names))) = reply.map(replies::roster) else { return };
            let news = core.rooms.deliver(&name, |_, delivery| {
                if delivery.compare_later { None } else { delivery.roster.correct(names, stamp, all) }
            });
            if let Some(Some(change)) = news {
                log::info!("{name}: {} came and {} went unnoticed", change.joined.len(), change.left.len());
                (core.sink)(Event::Presence { room: name, change });
            }
        });
        self.pipeline.flush();
    }
}
