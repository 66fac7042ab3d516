//! The reader: the thread that owns the read side of the main connection. It connects and reconnects, passes each reply
//! to its command's handler, and passes publications on. It blocks on nothing but Redis.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::{PushKind, ServerErrorKind, Value};

use super::connect::{Connection, LinkError, REDIS_TIMEOUT, Server, as_sent, ends_use};
use super::core::Core;
use super::health::Backoff;
use super::pipeline::{Failure, Priority};
use super::replies::{Published, published, text};
use crate::backplane::{Event, HEARTBEAT};
use crate::{protocol, threads};

/// The longest time the thread reads without checking the clock.
const TICK: Duration = Duration::from_millis(250);
/// The number of clock checks without a reply that add up to [`REDIS_TIMEOUT`]. Checks are counted instead of elapsed
/// time, because after the process was suspended the clock has advanced although the replies are there to be read.
const SILENT_LOOKS: u32 = (REDIS_TIMEOUT.as_millis() / TICK.as_millis()) as u32;
/// Rooms subscribed together on a new connection.
const TOGETHER: usize = 100;
/// The number of probes that were answered but not delivered after which a subscription counts as stale: a proxy
/// forwards replies, but not publications. One is not enough, because newer servers send the reply first.
const MISSED_PROBES: u32 = 2;

/// The state of the reader's thread.
pub struct Reader {
    core: Arc<Core>,
    server: Server,
    probe: Arc<Probe>,
    next_probe: Instant,
    next_look: Instant,
    /// Checks of the clock since the last reply. Publications do not reset it, because one direction alone may be dead.
    silent_looks: u32,
}

/// What became of the probes that this instance publishes to its own channel.
#[derive(Default)]
struct Probe {
    /// Whether the last one has arrived through the subscription.
    received: AtomicBool,
    /// How many in a row Redis has accepted that did not arrive.
    missed: AtomicU32,
}

impl Reader {
    /// Starts the thread.
    pub fn start(core: Arc<Core>, server: Server) -> std::io::Result<()> {
        let now = Instant::now();
        let mut reader =
            Reader { core, server, probe: Arc::default(), next_probe: now, next_look: now, silent_looks: 0 };
        threads::spawn_critical("redis-reader", move || reader.run()).map(drop)
    }

    fn run(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            let started = Instant::now();
            let Err(lost) = self.serve();
            self.core.pipeline.disconnect();
            self.core.discard_reads();
            // Their receipts can no longer arrive on this connection. A client that resends its message with the same
            // `ref` does not duplicate it.
            for (session, reference) in self.core.rooms.take_authors() {
                (self.core.sink)(Event::Refused { session, reference });
            }
            self.core.health.set_down(lost.to_string());
            std::thread::sleep(backoff.next(started.elapsed()));
        }
    }

    /// Serves one connection from start to end.
    fn serve(&mut self) -> Result<Infallible, LinkError> {
        let mut connection = self.server.connect(&self.core.commands.load_scripts(), None)?;
        self.core.discard_reads();
        connection.socket.tcp().set_read_timeout(Some(TICK))?;
        (self.probe, self.silent_looks) = (Arc::default(), 0);
        self.core.pipeline.connect(connection.socket.clone());
        self.resume(&mut connection)?;
        self.core.may_expire.store(false, Relaxed);
        self.core.pipeline.open();
        self.core.pipeline.append_deferred();
        self.core.health.set_up();
        loop {
            self.read(&mut connection)?;
        }
    }

    /// Brings a new connection to the state of the last one: leaves that were kept for later, then for each room its
    /// subscription, leases and roster. Sessions may append afterwards.
    fn resume(&mut self, connection: &mut Connection) -> Result<(), LinkError> {
        let core = self.core.clone();
        // Without a connection, the next read fails.
        let _ = core.pipeline.append_subscription(core.commands.subscribe_own(), 2);
        core.read_clock();
        core.read_bans();
        core.pipeline.append_deferred();
        self.read_all_replies(connection)?;
        for rooms in core.rooms.names().chunks(TOGETHER) {
            core.resume(rooms);
            core.pipeline.flush();
            self.read_all_replies(connection)?;
        }
        Ok(())
    }

    fn read_all_replies(&mut self, connection: &mut Connection) -> Result<(), LinkError> {
        while !self.core.pipeline.is_idle() {
            self.read(connection)?;
        }
        Ok(())
    }

    /// Reads and handles one reply or push message, and does the work that is due.
    fn read(&mut self, connection: &mut Connection) -> Result<(), LinkError> {
        match connection.read() {
            Ok(Value::Push { kind, data }) => self.pushed(&kind, data),
            Ok(reply) => self.replied(reply)?,
            Err(LinkError::Read(error)) if error.is_timeout() => {}
            Err(error) => return Err(error),
        }
        self.look_at_clock()
    }

    fn look_at_clock(&mut self) -> Result<(), LinkError> {
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        // Slightly sooner than the read timeout.
        self.next_look = now + TICK - TICK / 10;
        self.silent_looks += 1;
        if self.silent_looks > SILENT_LOOKS && self.core.pipeline.oldest_wait() >= REDIS_TIMEOUT {
            return Err(LinkError::NoAnswer);
        }
        while let Some(room) = self.core.rooms.take_overdue(now) {
            log::warn!("{room}: a message was kept but not published in time; reading the log");
            self.core.refill.start_room(&room);
        }
        if now >= self.next_probe {
            self.next_probe = now + HEARTBEAT;
            self.send_probe();
            self.core.read_clock();
            self.core.pipeline.flush();
        }
        if self.probe.missed.load(Relaxed) >= MISSED_PROBES { Err(LinkError::Stale) } else { Ok(()) }
    }

    fn send_probe(&self) {
        let probe = self.probe.clone();
        let count = move |reply: Result<Value, Failure>| {
            if probe.received.swap(false, Relaxed) {
                probe.missed.store(0, Relaxed);
            } else if reply.is_ok() {
                probe.missed.fetch_add(1, Relaxed);
            }
        };
        // Without a connection, the next read fails.
        let _ = self.core.pipeline.append(self.core.commands.probe(), Priority::Urgent, count);
    }

    fn replied(&mut self, reply: Value) -> Result<(), LinkError> {
        self.silent_looks = 0;
        let Some(pending) = self.core.pipeline.take_oldest() else {
            return Err(LinkError::Unsuitable("Redis sent an unexpected reply".to_owned()));
        };
        let Value::ServerError(error) = reply else {
            (pending.done)(Ok(reply));
            return Ok(());
        };
        if error.kind() == Some(ServerErrorKind::NoScript) && pending.command.is_some() {
            // The scripts have been flushed (`SCRIPT FLUSH`).
            for script in self.core.commands.load_scripts() {
                let _ = self.core.pipeline.append(script, Priority::Urgent, drop);
            }
            self.core.pipeline.append_again(pending);
            self.core.pipeline.flush();
            return Ok(());
        }
        log::warn!("redis rejected a command: {}", as_sent(&error));
        (pending.done)(Err(Failure::Refused(error.code().to_owned())));
        if ends_use(&error) { Err(LinkError::Refused("a command", error)) } else { Ok(()) }
    }

    fn pushed(&self, kind: &PushKind, data: Vec<Value>) {
        match kind {
            PushKind::Subscribe | PushKind::Unsubscribe => self.core.pipeline.acknowledge(),
            PushKind::Message => {
                let mut texts = data.into_iter().map(text);
                if let (Some(Some(channel)), Some(Some(payload))) = (texts.next(), texts.next()) {
                    self.published(&channel, &payload);
                }
            }
            _ => {}
        }
    }

    fn published(&self, channel: &str, payload: &str) {
        let core = &self.core;
        let Some(room) = core.commands.room_of(channel) else {
            if channel == core.commands.bans_channel() {
                return core.read_bans();
            }
            // The probe arrived on this instance's own channel.
            return self.probe.received.store(true, Relaxed);
        };
        match published(payload, &core.commands) {
            Some(Published::Message(id, body)) => {
                let room = core.rooms.deliver(room, |room, delivery| delivery.published(id).then(|| room.clone()));
                if let Some(Some(room)) = room {
                    let frame = protocol::text_frame(protocol::message_json(id, body));
                    (core.sink)(Event::Message { room, id, frame });
                }
            }
            Some(Published::Change(change)) => {
                let news = core.rooms.deliver(room, |room, delivery| {
                    delivery.changed(change).map(|change| Event::Presence { room: room.clone(), change })
                });
                news.flatten().into_iter().for_each(|event| (core.sink)(event));
            }
            Some(Published::Typing(json)) => {
                if let Some(room) = core.rooms.deliver(room, |room, _| room.clone()) {
                    (core.sink)(Event::Typing { room, frame: protocol::text_frame(json.to_owned()) });
                }
            }
            Some(Published::Removed(frames)) => {
                core.log_cache.drop_room(room);
                core.refill.removed(room, frames);
            }
            Some(Published::TakenOver(session)) => {
                if let Some(session) = core.commands.own_session(session) {
                    (core.sink)(Event::TakenOver(session));
                }
            }
            None => log::debug!("{room}: ignoring a publication that is not Bobbin's"),
        }
    }
}
