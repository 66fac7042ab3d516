//! The backplane of any number of instances that share one Redis.
//!
//! One connection (RESP3) carries commands, replies and publications. A session's thread writes its own commands
//! (`pipeline.rs`); one thread reads replies and publications in the order in which Redis executed the commands, and
//! passes events on (`reader.rs`). Pages of the log are read through connections of their own (`bulk.rs`); the
//! heartbeat renews leases. If Redis takes too much memory, the largest logs are trimmed (`storage.rs`).
//!
//! The path of a message: `say` appends a script call; Redis keeps the message and publishes it; every instance with
//! people in the room reads it, checks it against `delivery.rs`, and hands it to its lanes.

mod admin;
mod bulk;
pub mod commands;
pub mod connect;
mod core;
mod delivery;
mod health;
mod heartbeat;
mod log_cache;
mod log_part;
mod pipeline;
mod reader;
mod refill;
mod replies;
mod rooms;
mod roster;
mod socket;
mod storage;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use self::bulk::Bulk;
use self::commands::{Commands, Range, excluded};
use self::connect::REDIS_TIMEOUT;
pub use self::connect::{Connection, LinkError, Server};
use self::core::Core;
use self::health::ConnectionHealth;
use self::heartbeat::{Heartbeat, renew_all};
use self::log_cache::LogCache;
use self::log_part::{LogPart, Missed};
use self::pipeline::{PATIENCE, Pipeline, Priority};
use self::reader::Reader;
use self::refill::Refill;
use self::replies::{Kept, Seated, from_value, kept};
use self::rooms::Rooms;
use super::admin::Bans;
use super::{
    Arrival, Backplane, Event, EventSink, Health, JoinError, Leave, Limits, Page, Room, Seat, Span, Terms, Unavailable,
};
use crate::limits::{Gate, Pass};
use crate::protocol::{Id, RESUME_MESSAGES, WELCOME_MESSAGES};

/// The most leaves that are sent at a time, and the commands under way beyond which they wait if Redis is near, but no longer than
/// this, because the room is to be notified within 250 ms. Whether there are fewer is checked at this interval.
const LEAVES: usize = 2;
const FEW_COMMANDS: usize = 16;
const LEAVE_TIME: Duration = Duration::from_millis(150);
const LEAVE_LOOK: Duration = Duration::from_millis(1);
/// The most messages read from a log with the first command, and with each: twice as many each time. If all have the longest
/// texts, of characters that are escaped, the first is 600 KiB, which a slow network carries in time too.
const STEP: usize = 25;
const LARGEST_STEP: usize = 100;

/// The handle used by sessions. Its threads live as long as the process.
pub struct Redis {
    core: Arc<Core>,
    /// Those who leave.
    leaving: Gate,
}

impl Redis {
    /// Starts the threads without waiting for Redis; [`Backplane::health`] reports whether it is connected.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(server: Server, limits: &Limits, sink: EventSink) -> std::io::Result<Redis> {
        let instance = crate::limits::random_name()[..16].to_owned();
        let commands = Arc::new(Commands::new(instance, server.database, &limits.retention));
        let pipeline = Arc::new(Pipeline::default());
        let log_cache = Arc::new(LogCache::default());
        let rooms = Arc::new(Rooms::new(pipeline.clone(), commands.clone(), log_cache.clone(), limits.rooms));
        let bulk = Arc::new(Bulk::new(server.clone(), commands.clone(), pipeline.clone()));
        let refill = Refill::start(rooms.clone(), bulk.clone(), commands.clone(), sink.clone())?;
        let core = Arc::new(Core {
            commands,
            pipeline,
            rooms,
            bulk,
            log_cache,
            refill,
            health: ConnectionHealth::new(sink.clone()),
            may_expire: AtomicBool::new(false),
            clock: Mutex::default(),
            was_suspended: AtomicBool::new(false),
            bans: Bans::default(),
            sink,
        });
        Reader::start(core.clone(), server)?;
        Heartbeat::start(core.clone())?;
        storage::start(core.clone(), limits.storage)?;
        Ok(Redis { core, leaving: Gate::new(LEAVES) })
    }

    /// Takes the seat. If the reply is lost or late, releases the seat again, because Redis may have executed the join.
    /// Only the reply states whether the client took the seat over from its older session; without one, the caller's
    /// guess `is_back` decides.
    fn take_seat(&self, seat: &Seat, terms: Terms, is_back: bool, deadline: Instant) -> Result<Seated, JoinError> {
        let core = &self.core;
        let (to, answer) = bounded(1);
        let (reading, taken) = (core.clone(), seat.clone());
        // After this time the caller has given up, and the client may have joined elsewhere.
        let latest = core.on_redis_clock(deadline.min(Instant::now() + REDIS_TIMEOUT));
        let command = core.commands.join(seat, terms, core.may_expire.load(Relaxed), latest);
        core.pipeline.send(command, move |reply| {
            let seated = reply.map_err(|error| Unavailable::from(error).into()).and_then(replies::seated);
            if let Ok(seated) = &seated {
                reading.seated(&taken, seated);
            }
            // The receiver is gone if the reply was late.
            let _ = to.send(seated);
        });
        match answer.recv_deadline(deadline) {
            Ok(Ok(seated)) => Ok(seated),
            Ok(Err(refused)) if refused != JoinError::Unavailable => Err(refused),
            Ok(Err(_)) | Err(_) => {
                self.give_back(seat, is_back);
                Err(JoinError::Unavailable)
            }
        }
    }

    /// Releases the seat of a join that failed. A returning client keeps its lease: the name was its own before the
    /// join.
    fn give_back(&self, seat: &Seat, came_back: bool) {
        if !came_back {
            self.core.pipeline.send_reliably(self.core.commands.leave(seat));
        }
    }

    /// The part of the log for a `welcome`, up to at least `newest`.
    fn welcome_page(&self, room: &Room, since: Option<Id>, newest: Id, until: Instant) -> Result<Missed, Unavailable> {
        if since.is_none() && newest == Id::default() {
            return Ok(Missed { newest, ..Missed::default() });
        }
        let limit = if since.is_some() { RESUME_MESSAGES } else { WELCOME_MESSAGES };
        let mut part = self.read_log(room, Range::backwards(None, since), limit, until)?;
        let last = part.start.or(since).unwrap_or_default();
        if since.is_none() && last >= newest {
            return Ok(Missed { newest: last, part, ..Missed::default() });
        }
        // After the log, so that it notices what was trimmed meanwhile.
        let reply = self.core.bulk.ask_one(self.core.commands.welcome(room, since, newest), until)?;
        let (was_removed, gap, has_older, recent, upto): (bool, bool, bool, String, String) = from_value(reply)?;
        let removed = since.map(|since| replies::recent_removals(&recent, &upto, since)).unwrap_or_default();
        if last < newest && !was_removed {
            // Read from a server that lags behind, such as a primary that has just been demoted.
            return Err(Unavailable);
        }
        part.more |= has_older;
        Ok(Missed { newest: part.start.unwrap_or_default().max(newest), gap, removed, part })
    }

    /// Reads up to `limit` messages in this range.
    fn read_log(&self, room: &Room, mut range: Range, limit: usize, until: Instant) -> Result<LogPart, Unavailable> {
        let (mut part, mut count) = (LogPart::default(), STEP);
        loop {
            let step = limit.min(part.entries() + count);
            // One more shows whether there are more.
            let command = self.core.commands.read(room, &range, step + 1 - part.entries());
            let is_all = part.add(self.core.bulk.ask_one(command, until)?, step)?;
            match part.end {
                Some(end) if !is_all && part.entries() == step && step < limit => range.from = excluded(end),
                _ => return Ok(part),
            }
            count = (2 * count).min(LARGEST_STEP);
        }
    }

    /// Waits for this client's turn to leave, and briefly while many commands are under way: if hundreds leave at once, messages
    /// would wait behind all of them.
    fn wait_to_leave(&self, address: IpAddr) -> Option<Pass<'_>> {
        let are_few = || self.core.pipeline.pending() < FEW_COMMANDS || self.core.pipeline.is_far();
        self.leaving.enter_when(address, Instant::now() + LEAVE_TIME, LEAVE_LOOK, are_few)
    }

    fn say_command(&self, room: &Room, by: &str, body: &str, reference: Option<&str>) -> Vec<u8> {
        self.core.commands.say(room, by, body, reference, self.core.rooms.last(room))
    }
}

impl Backplane for Redis {
    fn join(&self, seat: &Seat, since: Option<Id>, terms: Terms) -> Result<Arrival, JoinError> {
        let (core, deadline) = (&self.core, bulk::deadline());
        if !core.health.is_up_within(PATIENCE) {
            return Err(JoinError::Unavailable);
        }
        if let Some(left) = core.bans.left(&seat.by, seat.address) {
            return Err(JoinError::Banned(left));
        }
        core.rooms.enter(&seat.room)?;
        let arrival = self.take_seat(seat, terms, since.is_some(), deadline).and_then(|mut seated| {
            let read = || self.welcome_page(&seat.room, since, seated.newest, deadline);
            let missed = core.log_cache.get_or_read(&seat.room, since, seated.newest, read).inspect_err(|_| {
                self.give_back(seat, seated.came_back);
            })?;
            seated.names.sort_unstable();
            Ok(Arrival {
                participants: seated.participants,
                is_new_room: seated.is_new_room,
                names: seated.names,
                last: missed.newest,
                gap: missed.gap,
                removed: missed.removed,
                stamp: seated.stamp,
                page: missed.part.newest_last(),
            })
        });
        match &arrival {
            // The stamp is in microseconds.
            Ok(arrival) => core.rooms.acquire(seat, arrival.stamp / 1000),
            Err(_) => core.rooms.exit(&seat.room),
        }
        // A ban added during the join did not see this seat.
        match core.bans.left(&seat.by, seat.address) {
            Some(left) if arrival.is_ok() => {
                self.leave(seat, Leave::Now);
                Err(JoinError::Banned(left))
            }
            _ => arrival,
        }
    }

    fn leave(&self, seat: &Seat, how: Leave) {
        let core = &self.core;
        let Some(taken) = core.rooms.release(seat, how) else { return };
        let _turn = self.wait_to_leave(seat.address);
        match how {
            Leave::Now => core.pipeline.send_reliably(core.commands.leave(seat)),
            Leave::Expire(lease) => {
                // If the connection is lost, the lease of the last heartbeat applies.
                let lease = core.commands.renew(&seat.room, [&taken], lease, false, false);
                let _ = core.pipeline.append(lease, Priority::Urgent, drop);
                core.pipeline.flush();
            }
        }
    }

    fn say(&self, seat: &Seat, body: String, reference: Option<String>) {
        let command = self.say_command(&seat.room, &seat.by, &body, reference.as_deref());
        let (core, room, since) = (self.core.clone(), seat.room.clone(), Instant::now());
        let author = (seat.session, reference);
        self.core.pipeline.send(command, move |reply| core.said(&room, author, since, reply));
    }

    fn typing(&self, room: &Room, json: String) {
        let _ = self.core.pipeline.append(self.core.commands.typing(room, &json), Priority::Bounded, drop);
        self.core.pipeline.flush();
    }

    fn history(&self, room: &Room, span: Span, limit: usize) -> Result<Page, Unavailable> {
        if !self.core.health.is_up() {
            return Err(Unavailable);
        }
        let read = |range| self.read_log(room, range, limit, bulk::deadline());
        match span {
            // No id is smaller, and Redis rejects a range that excludes its only end.
            Span::Before(Some(before)) if before == Id::default() => Ok(Page::default()),
            Span::Before(before) => read(Range::backwards(before, None)).map(LogPart::newest_last),
            Span::After { after, before } => {
                let part = read(Range::forwards(after, before))?;
                Ok(Page { messages: part.messages, more: part.more })
            }
        }
    }

    fn post(
        &self,
        room: &Room,
        by: &str,
        body: String,
        reference: Option<String>,
    ) -> Result<(Id, String), Unavailable> {
        let (since, command) = (Instant::now(), self.say_command(room, by, &body, reference.as_deref()));
        match kept(self.core.pipeline.queue(command).wait()?)? {
            Kept::Now(id) => {
                self.core.rooms.kept(room, id, None);
                (self.core.sink)(Event::Kept(since.elapsed()));
                self.core.trim_if_empty(room);
                Ok((id, body))
            }
            Kept::Before(id, first) => Ok((id, first)),
        }
    }

    fn load_report(&self, sessions: u64) -> Option<(u64, u64)> {
        let report = self.core.pipeline.queue(self.core.commands.load_report(sessions));
        from_value(report.wait().ok()?).ok()
    }

    fn health(&self) -> Health {
        self.core.health.since().map(drop).map_err(|why| format!("redis: {why}"))
    }

    fn delay(&self) -> Duration {
        self.core.pipeline.delay()
    }

    fn queue(&self) -> (usize, Duration) {
        (self.core.pipeline.pending(), self.core.pipeline.oldest_wait())
    }

    fn stop(&self, deadline: Duration) {
        // Replies arrive in order, so once these are here, all earlier ones are too.
        let _ = renew_all(&self.core, false, Instant::now() + deadline);
    }
}
