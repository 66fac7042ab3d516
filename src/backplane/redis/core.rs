//! State shared by the handle, the reader and the heartbeat, and the handling of replies that is common to them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bulk::Bulk;
use super::commands::{Commands, Taken};
use super::delivery::Author;
use super::health::ConnectionHealth;
use super::log_cache::LogCache;
use super::pipeline::{Failure, Pipeline, Priority, Reply};
use super::refill::Refill;
use super::replies::{self, Kept, Renewed, Seated};
use super::rooms::Rooms;
use crate::backplane::admin::Bans;
use crate::backplane::{Event, EventSink, Room, Seat, Unavailable};
use crate::protocol::{self, Id};

/// Leases renewed by one command; that takes Redis about 0.1 ms.
pub const RENEW: usize = 250;
/// Grace period: expired leases are not cleared for this long after Redis is reachable or accepts renewals again, and
/// rosters are not compared for this long after seats were lost. Every instance must first have time to renew its own
/// seats, which takes at most the longest reconnect delay (5 s) and one heartbeat.
pub const GRACE: Duration = Duration::from_secs(10);

/// Shared by the handle and the threads.
pub struct Core {
    /// Encodes commands.
    pub commands: Arc<Commands>,
    /// Sends commands.
    pub pipeline: Arc<Pipeline>,
    /// The rooms with people on this instance.
    pub rooms: Arc<Rooms>,
    /// Reads logs.
    pub bulk: Arc<Bulk>,
    /// Recent reads of logs.
    pub log_cache: Arc<LogCache>,
    /// Reads messages that were missed.
    pub refill: Refill,
    /// Whether Redis is usable.
    pub health: ConnectionHealth,
    /// Whether expired leases may be cleared: only after every instance has had time to renew its own, see
    /// `heartbeat.rs`.
    pub may_expire: AtomicBool,
    /// A reading of Redis's clock: at the `Instant` it showed at most this many milliseconds.
    pub clock: Mutex<Option<(u64, Instant)>>,
    /// Set after this process was suspended (`SIGSTOP`, a paused machine): its missing seats were expired rightly and
    /// must not be restored.
    pub was_suspended: AtomicBool,
    /// The bans in force.
    pub bans: Bans,
    /// The receiver of events.
    pub sink: EventSink,
}

impl Core {
    /// Discards what was read through pooled connections: the main connection has ended, or there is a new one.
    pub fn discard_reads(&self) {
        self.bulk.forget();
        self.log_cache.clear();
    }

    /// Reads Redis's clock.
    pub fn read_clock(self: &Arc<Core>) {
        let (core, asked) = (self.clone(), Instant::now());
        let _ = self.pipeline.append(self.commands.time(), Priority::Urgent, move |reply| {
            let Ok(Ok([seconds, micros])) = reply.map(replies::from_value::<[u64; 2]>) else { return };
            // The time may be as old as the whole round trip.
            let now = seconds * 1000 + micros / 1000 + asked.elapsed().as_millis() as u64;
            *core.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, Instant::now()));
        });
    }

    /// Converts a moment to Redis's clock, in milliseconds; the result may be somewhat late, never early. 0 before the
    /// clock has been read, which is before sessions may send commands.
    pub fn on_redis_clock(&self, at: Instant) -> u64 {
        let clock = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.map_or(0, |(ms, read)| ms + at.saturating_duration_since(read).as_millis() as u64)
    }

    /// Handles a successful join. Called in the order of replies and publications, so this reply contains everything
    /// published before it and nothing published after it.
    pub fn seated(self: &Arc<Core>, seat: &Seat, seated: &Seated) {
        let room = &seat.room;
        self.rooms.begin(seat, seated);
        let complete = seated.names.len() as u64 == seated.participants;
        let must_read = self.rooms.deliver(room, |_, delivery| {
            if !delivery.roster.is_known() && complete {
                delivery.roster.correct(seated.names.clone(), seated.stamp, false);
            }
            delivery.roster.start_reading()
        });
        if must_read == Some(true) {
            self.compare(room, false);
        }
    }

    /// Handles the reply to a session's message, which was submitted at `since`.
    pub fn said(&self, room: &Room, author: Author, since: Instant, reply: Reply) {
        let (session, reference) = author;
        match reply.map_err(Unavailable::from).and_then(replies::kept) {
            // The published message itself will be the receipt.
            Ok(Kept::Now(id)) => {
                self.rooms.kept(room, id, Some((session, reference)));
                (self.sink)(Event::Kept(since.elapsed()));
            }
            Ok(Kept::Before(id, body)) => {
                // The receipt waits until this message has been delivered here. If its publication was missed, it is
                // read from the log.
                self.rooms.kept(room, id, None);
                let frame = protocol::text_frame(protocol::message_json(id, &body));
                (self.sink)(Event::Receipt { session, id, frame });
            }
            Err(Unavailable) => (self.sink)(Event::Refused { session, reference }),
        }
    }

    /// Brings rooms up to date on a new connection: subscribes, renews leases, and reads removals and rosters.
    pub fn resume(self: &Arc<Core>, rooms: &[Room]) {
        // If the connection is already lost, the reader notices that itself.
        for room in self.rooms.resubscribe(rooms).unwrap_or_default() {
            let sessions = self.rooms.sessions(&room);
            if sessions.is_empty() {
                self.resumed(&room, None);
            }
            for sessions in sessions.chunks(RENEW) {
                let (core, name) = (self.clone(), room.clone());
                let again = !self.was_suspended.load(Relaxed);
                let renewed = self.rooms.renew(&room, sessions, again, false, move |seats, reply| {
                    let renewed = core.renewed(&name, &seats, reply);
                    core.resumed(&name, renewed.ok().map(|renewed| renewed.newest));
                });
                if renewed.is_err() {
                    self.resumed(&room, None);
                }
            }
            let (core, name) = (self.clone(), room.clone());
            let removals = self.commands.removals(&room);
            let _ = self.pipeline.append(removals, Priority::Urgent, move |reply| {
                core.log_cache.drop_room(&name);
                if let Ok(Ok(frames)) = reply.map(replies::removals) {
                    core.refill.removed(&name, frames);
                }
            });
            // If the names were still being read when the connection was lost, it is not known what was missed.
            let is_known = self.rooms.deliver(&room, |_, delivery| delivery.roster.is_known());
            self.compare(&room, is_known == Some(false));
        }
    }

    /// Handles the reply to a renewal. An error reply of Redis is returned with its code.
    pub fn renewed(&self, room: &Room, seats: &[Taken], reply: Reply) -> Result<Renewed, Failure> {
        let renewed = replies::renewed(reply?).unwrap_or_default();
        self.catch_up(room, renewed.newest);
        if renewed.trimmed {
            (self.sink)(Event::RoomTrimmed);
        }
        if renewed.taken_again > 0 {
            // Redis has lost its data. Until all instances have restored their seats, people still here would appear to
            // leave.
            self.rooms.deliver(room, |_, delivery| delivery.compare_at = Some(Instant::now() + GRACE));
        }
        for (number, own_client) in &renewed.lost {
            // The session may have left while the renewal was under way.
            if let Some(Taken { seat, .. }) = seats.get(*number).filter(|taken| self.rooms.has(&taken.seat)) {
                let event = if *own_client { Event::TakenOver } else { Event::Evicted };
                (self.sink)(event(seat.session));
            }
        }
        Ok(renewed)
    }

    /// Trims the log of a room in which nobody is on this instance. With the others, the renewal of leases does.
    pub fn trim_if_empty(self: &Arc<Core>, room: &Room) {
        if self.rooms.sessions(room).is_empty() {
            let (core, command) = (self.clone(), self.commands.renew(room, [], Duration::ZERO, false, false));
            let _ = self.pipeline.append(command, Priority::Bounded, move |reply| {
                if reply.is_ok_and(|reply| replies::renewed(reply).is_ok_and(|renewed| renewed.trimmed)) {
                    (core.sink)(Event::RoomTrimmed);
                }
            });
            self.pipeline.flush();
        }
    }

    /// The room is subscribed again; `newest` is the end of its log, if known.
    fn resumed(&self, room: &Room, newest: Option<Id>) {
        if self.rooms.deliver(room, |_, delivery| delivery.resume(newest)) == Some(true) {
            self.refill.queue_room(room.clone());
        }
        self.refill.removed(room, Vec::new());
    }

    /// Compares the newest delivered message with the end of the log. Everything published up to that point has been
    /// received, so a difference means that messages were missed.
    fn catch_up(&self, room: &Room, newest: Id) {
        if self.rooms.last(room) < newest {
            self.rooms.kept(room, newest, None);
            self.refill.start_room(room);
        }
    }

    /// Reads who is in a room, and notifies the clients of differences. Uses the main connection, because the reply
    /// must be ordered among the published changes. With `all`, every name is announced, because some clients may know
    /// fewer names than others.
    pub fn compare(self: &Arc<Core>, room: &Room, all: bool) {
        let (core, name) = (self.clone(), room.clone());
        let _ = self.pipeline.append(self.commands.roster(room), Priority::Urgent, move |reply| {
            let Ok(Ok((stamp, names))) = reply.map(replies::roster) else {
                core.rooms.deliver(&name, |_, delivery| delivery.roster.reading_failed());
                return;
            };
            let news = core.rooms.deliver(&name, |_, delivery| {
                if delivery.compare_at.is_some() { None } else { delivery.roster.correct(names, stamp, all) }
            });
            if let Some(Some(change)) = news {
                log::warn!("{name}: {} joins and {} leaves were missed", change.joined.len(), change.left.len());
                (core.sink)(Event::Presence { room: name, change });
            }
        });
        self.pipeline.flush();
    }
}
