//! The backplane of any number of tasks on one Redis: what each call means in commands (see `commands.rs`), and the
//! heartbeat that keeps leases alive.

mod admin;
mod commands;
mod health;
mod heartbeat;
mod publisher;
mod replies;
mod roster;
mod subscriber;
mod subscriptions;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use redis::{Client, Cmd, FromRedisValue, Script};

use self::commands::{
    JOIN, LEAVE, LOAD_REPORT, READ, RENEW_LEASES, SAY, SCRIPTS, channel_of_room, log_key, script, who_key,
};
use self::health::Link;
use self::publisher::{Publisher, Queued};
use self::replies::{entries, from_value, not_understood};
use self::subscriber::Subscriber;
use self::subscriptions::Subscriptions;
use super::{
    Arrival, Backplane, Event, EventSink, HEARTBEAT, Health, JoinError, LEASE, Leave, Page, REF_LIFE, Room, Seat,
    SessionId, Span, Unavailable,
};
use crate::protocol::{self, Id, RESUME_MESSAGES, WELCOME_MESSAGES, is_body};
use crate::{limits, threads};

/// Sessions whose leases are renewed at a time, in one room or in many: some 2 ms of Redis's time.
const RENEW: usize = 250;
/// And then Redis and the processor are left to others for so long: 16,000 sessions pause for two thirds of a second.
const RENEW_PAUSE: Duration = Duration::from_millis(10);
/// For how long after Redis came back no lapsed lease is cleared away, and lost ones are taken again: every task gets
/// to renew its own first, after the longest back-off (5 s) and one heartbeat.
const GRACE: Duration = Duration::from_secs(10);

/// The handle that sessions hold.
pub struct Redis {
    shared: Arc<Shared>,
    subscriptions: Subscriptions,
    /// Dropping it ends the heartbeat.
    _heart: Sender<()>,
}

/// What the sessions' calls and the heartbeat both need.
struct Shared {
    task: Arc<str>,
    publisher: Publisher,
    link: Arc<Link>,
    listener: EventSink,
    seats: Mutex<HashMap<SessionId, Seat>>,
    keep: usize,
    life: Duration,
}

impl Redis {
    /// Starts the three threads. Whether Redis is there shows later, in [`Backplane::health`].
    pub fn start(client: Client, keep: usize, life: Duration, listener: EventSink) -> std::io::Result<Redis> {
        let task: Arc<str> = limits::random_name().into();
        let link = Link::new(listener.clone());
        let publisher = Publisher::start(client.clone(), SCRIPTS.to_vec(), link.clone())?;
        let (subscriptions, inbox) = Subscriptions::new(&task, publisher.clone());
        Subscriber {
            client,
            task: task.clone(),
            publisher: publisher.clone(),
            link: link.clone(),
            listener: listener.clone(),
            inbox,
            watched: subscriptions.registry(),
            rooms: HashMap::new(),
            suspects: VecDeque::new(),
            heard: Instant::now(),
            sure_until: None,
        }
        .start()?;
        let shared = Arc::new(Shared { task, publisher, link, listener, seats: Mutex::default(), keep, life });
        let (heart, stopped) = bounded(0);
        let heartbeat = heartbeat::Heartbeat { shared: shared.clone(), subscriptions: subscriptions.clone() };
        threads::spawn_critical("heartbeat", move || heartbeat.run(&stopped))?;
        Ok(Redis { shared, subscriptions, _heart: heart })
    }
}

impl Redis {
    fn say_command(&self, room: &Room, by: &str, body: &str, reference: Option<&str>) -> Vec<u8> {
        let newest = Id { ms: self.subscriptions.newest_ms(room).load(Relaxed), seq: 0 };
        script(&SAY, 2)
            .arg(log_key(room))
            .arg(format!("bobbin:{{{room}}}:ref:{by}:{}", reference.unwrap_or_default()))
            .arg(channel_of_room(room))
            .arg(body)
            .arg(newest.to_string())
            .arg(self.shared.keep)
            .arg(self.shared.life.as_secs())
            .arg(if reference.is_some() { REF_LIFE.as_secs() } else { 0 })
            .get_packed_command()
    }
}

impl Backplane for Redis {
    fn join(&self, seat: &Seat, since: Option<Id>) -> Result<Arrival, JoinError> {
        if !self.shared.link.is_up() {
            return Err(JoinError::Unavailable);
        }
        self.subscriptions.enter(&seat.room)?;
        // Read first, sit down last: what is said in between comes as an event.
        // If the answer alone was lost, the seat is taken all the same: it lapses like any other whose connection broke,
        // unless the client comes back to it before.
        let arrival = self.shared.read(&seat.room, since).map_err(JoinError::from).and_then(|read| {
            let (stamp, participants, names) = self.shared.sit(seat)?;
            Ok(Arrival { stamp, participants, names, ..read })
        });
        match &arrival {
            Ok(arrival) => {
                self.shared.seats().insert(seat.session, seat.clone());
                self.subscriptions.welcomed(&seat.room, arrival.names.clone());
            }
            Err(_) => self.subscriptions.exit(&seat.room),
        }
        arrival
    }

    fn leave(&self, seat: &Seat, how: Leave) {
        if self.shared.seats().remove(&seat.session).is_none() {
            return;
        }
        match how {
            Leave::Now => self.shared.rise(seat),
            Leave::Expire => self.shared.publisher.send(self.shared.renew(&seat.room, &[seat], false), drop),
        }
        self.subscriptions.exit(&seat.room);
    }

    fn say(&self, seat: &Seat, body: String, reference: Option<String>) {
        let shared = &self.shared;
        let command = self.say_command(&seat.room, &seat.by, &body, reference.as_deref());
        let (session, room) = (seat.session, seat.room.clone());
        let (listener, subscriptions) = (shared.listener.clone(), self.subscriptions.clone());
        shared.publisher.send(command, move |answer| {
            match answer.and_then(|value| Vec::<String>::from_redis_value(value).map_err(not_understood)).as_deref() {
                Ok([id]) => {
                    if let Ok(id) = id.parse() {
                        subscriptions.expect(room, id, Some((session, reference)));
                    }
                }
                Ok([id, body]) => {
                    let id = id.parse().unwrap_or_default();
                    let frame = protocol::text_frame(protocol::message_json(id, body));
                    listener(Event::Receipt { session, id, frame });
                }
                _ => listener(Event::Refused { session, reference }),
            }
        });
    }

    fn typing(&self, room: &Room, json: String) {
        let command = redis::cmd("PUBLISH").arg(channel_of_room(room)).arg(format!("t{json}")).get_packed_command();
        self.shared.publisher.send(command, drop);
    }

    fn post(
        &self,
        room: &Room,
        by: &str,
        body: String,
        reference: Option<String>,
    ) -> Result<(Id, String), Unavailable> {
        let command = self.say_command(room, by, &body, reference.as_deref());
        let mut reply: Vec<String> = from_value(self.shared.publisher.ask(command)?)?;
        let body = reply.get_mut(1).map(std::mem::take).unwrap_or(body);
        let id = reply.first().ok_or(Unavailable)?;
        Ok((id.parse().map_err(not_understood)?, body))
    }

    fn history(&self, room: &Room, span: Span, limit: usize) -> Result<Page, Unavailable> {
        let (order, from, to) = match span {
            // Nothing is older, and Redis refuses an interval that excludes its only end.
            Span::Before(Some(before)) if before == Id::default() => return Ok(Page::default()),
            Span::Before(before) => ("XREVRANGE", before.map_or("+".to_owned(), |id| format!("({id}")), "-".to_owned()),
            Span::After { after, before } => {
                ("XRANGE", format!("({after}"), before.map_or("+".to_owned(), |id| format!("({id}")))
            }
        };
        // One more than wanted shows whether there are more.
        let command =
            redis::cmd(order).arg(log_key(room)).arg(from).arg(to).arg("COUNT").arg(limit + 1).get_packed_command();
        let mut messages = entries(self.shared.publisher.ask(command)?)?;
        let more = messages.len() > limit;
        messages.truncate(limit);
        messages.retain(|(_, body)| is_body(body));
        if order == "XREVRANGE" {
            messages.reverse();
        }
        Ok(Page { messages, more })
    }

    fn load_report(&self, sessions: u64) -> Option<(u64, u64)> {
        let command =
            script(&LOAD_REPORT, 1).arg("bobbin:tasks").arg(&*self.shared.task).arg(sessions).get_packed_command();
        from_value(self.shared.publisher.ask(command).ok()?).ok()
    }

    fn health(&self) -> Health {
        self.shared.link.state().map(drop).map_err(|why| format!("redis: {why}"))
    }

    fn stop(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        for (room, seats) in self.shared.seats_by_room() {
            for some in seats.chunks(RENEW) {
                if Instant::now() >= end
                    || self.shared.publisher.ask(self.shared.renew(&room, &Vec::from_iter(some), false)).is_err()
                {
                    return;
                }
            }
        }
        // The queue is in order: once this one is answered, all before it are.
        let _ = self.shared.publisher.ask(redis::cmd("PING").get_packed_command());
    }
}

impl Shared {
    fn seats(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seats_by_room(&self) -> HashMap<Room, Vec<Seat>> {
        let mut rooms: HashMap<Room, Vec<Seat>> = HashMap::new();
        for seat in self.seats().values() {
            rooms.entry(seat.room.clone()).or_default().push(seat.clone());
        }
        rooms
    }

    /// A session's name between tasks.
    fn session(&self, number: SessionId) -> String {
        format!("{}/{number}", self.task)
    }

    /// A script of presence, with the arguments that `presence.lua` wants.
    fn presence(&self, script_: &Script, room: &Room) -> Cmd {
        let reap = self.link.state().is_ok_and(|since| since.elapsed() > GRACE);
        let mut command = script(script_, 3);
        command
            .arg(format!("bobbin:{{{room}}}:here"))
            .arg(who_key(room))
            .arg(log_key(room))
            .arg(channel_of_room(room))
            .arg(LEASE.as_millis() as u64)
            .arg(u8::from(reap));
        command
    }

    fn read(&self, room: &Room, since: Option<Id>) -> Result<Arrival, Unavailable> {
        let limit = if since.is_some() { RESUME_MESSAGES } else { WELCOME_MESSAGES };
        let since = since.map_or(String::new(), |id| id.min(Id { ms: u64::MAX, seq: u64::MAX - 1 }).to_string());
        let command = script(&READ, 1).arg(log_key(room)).arg(since).arg(limit).get_packed_command();
        let reply: Vec<String> = from_value(self.publisher.ask(command)?)?;
        let [last, more, gap, found @ ..] = reply.as_slice() else { return Err(not_understood(&reply)) };
        let mut messages = Vec::with_capacity(found.len() / 2);
        for pair in found.chunks_exact(2).rev().filter(|pair| is_body(&pair[1])) {
            messages.push((pair[0].parse().map_err(not_understood)?, pair[1].clone()));
        }
        Ok(Arrival {
            participants: 0,
            names: Vec::new(),
            stamp: 0,
            page: Page { messages, more: more == "1" },
            last: last.parse().map_err(not_understood)?,
            gap: gap == "1",
        })
    }

    /// Takes the seat: stamp, participants and names.
    fn sit(&self, seat: &Seat) -> Result<(u64, u64, Vec<String>), JoinError> {
        let command = self
            .presence(&JOIN, &seat.room)
            .arg(&*seat.key)
            .arg(self.session(seat.session))
            .arg(&*seat.by)
            .arg(&*seat.name)
            .get_packed_command();
        let reply: Vec<String> = from_value(self.publisher.ask(command)?)?;
        match reply.as_slice() {
            [] => Err(JoinError::NameTaken),
            [stamp, participants, names @ ..] => {
                let number = |text: &str| text.parse().map_err(not_understood);
                let mut names = names.to_vec();
                names.sort_unstable();
                Ok((number(stamp)?, number(participants)?, names))
            }
            _ => Err(not_understood(&reply).into()),
        }
    }

    fn rise(&self, seat: &Seat) {
        let command = self
            .presence(&LEAVE, &seat.room)
            .arg(&*seat.key)
            .arg(self.session(seat.session))
            .arg(&*seat.name)
            .get_packed_command();
        self.publisher.note(command);
    }

    /// Renews leases; `again`: names that are gone are taken again.
    fn renew(&self, room: &Room, seats: &[&Seat], again: bool) -> Vec<u8> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut command = self.presence(&RENEW_LEASES, room);
        command.arg(u8::from(again)).arg(now.saturating_sub(self.life).as_millis() as u64);
        for seat in seats {
            command.arg(&*seat.key).arg(self.session(seat.session)).arg(&*seat.by).arg(&*seat.name);
        }
        command.get_packed_command()
    }
}
