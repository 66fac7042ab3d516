//! The backplane of any number of tasks on one Redis: what each call means in commands (see `commands.rs`), and the
//! heartbeat that keeps leases alive.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use redis::{Client, Cmd, FromRedisValue, Script};

use super::commands::{
    CENSUS, JOIN, LEAVE, READ, RENEW_LEASES, SAY, SCRIPTS, channel_of_room, log_key, script, who_key,
};
use super::link::Link;
use super::publisher::{Publisher, Queued};
use super::replies::{entries, from_value, is_body, not_understood};
use super::subscriber::Subscriber;
use super::subscriptions::Subscriptions;
use super::{
    Arrival, Backplane, Event, HEARTBEAT, Health, JoinError, LEASE, Leave, Listener, Page, REF_LIFE, Room, Seat,
    SessionId, Unavailable,
};
use crate::protocol::{self, Id, RESUME_MESSAGES, WELCOME_MESSAGES};
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
    listener: Listener,
    seats: Mutex<HashMap<SessionId, Seat>>,
    keep: usize,
    life: Duration,
}

impl Redis {
    /// Starts the three threads. Whether Redis is there shows later, in [`Backplane::health`].
    pub fn start(client: Client, keep: usize, life: Duration, listener: Listener) -> std::io::Result<Redis> {
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
        let heartbeat = Heartbeat { shared: shared.clone(), subscriptions: subscriptions.clone() };
        threads::vital("heartbeat", move || heartbeat.run(&stopped))?;
        Ok(Redis { shared, subscriptions, _heart: heart })
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
            Leave::Lapse => self.shared.publisher.send(self.shared.renew(&seat.room, &[seat], false), drop),
        }
        self.subscriptions.exit(&seat.room);
    }

    fn say(&self, seat: &Seat, body: String, reference: Option<String>) {
        let shared = &self.shared;
        let newest = Id { ms: self.subscriptions.newest_ms(&seat.room).load(Relaxed), seq: 0 };
        let command = script(&SAY, 2)
            .arg(log_key(&seat.room))
            .arg(format!("bobbin:{{{}}}:ref:{}", seat.room, reference.as_deref().unwrap_or_default()))
            .arg(channel_of_room(&seat.room))
            .arg(&body)
            .arg(newest.to_string())
            .arg(shared.keep)
            .arg(shared.life.as_secs())
            .arg(if reference.is_some() { REF_LIFE.as_secs() } else { 0 })
            .get_packed_command();
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

    fn history(&self, room: &Room, before: Id, limit: usize) -> Result<Page, Unavailable> {
        // Nothing is older, and Redis refuses an interval that excludes its only end; so it does with the largest id.
        if before == Id::default() {
            return Ok(Page::default());
        }
        // One more than asked for tells whether there are older ones.
        let command = redis::cmd("XREVRANGE")
            .arg(log_key(room))
            .arg(format!("({before}"))
            .arg("-")
            .arg("COUNT")
            .arg(limit + 1)
            .get_packed_command();
        let mut messages = entries(self.shared.publisher.ask(command)?)?;
        let more = messages.len() > limit;
        messages.truncate(limit);
        messages.retain(|(_, body)| is_body(body));
        messages.reverse();
        Ok(Page { messages, more })
    }

    fn census(&self, sessions: u64) -> Option<(u64, u64)> {
        let command = script(&CENSUS, 1).arg("bobbin:tasks").arg(&*self.shared.task).arg(sessions).get_packed_command();
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
            .arg(&*seat.client)
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
            command.arg(&*seat.key).arg(self.session(seat.session)).arg(&*seat.client).arg(&*seat.name);
        }
        command.get_packed_command()
    }
}

/// Keeps the task's leases alive, clears lapsed ones away, probes the subscription.
struct Heartbeat {
    shared: Arc<Shared>,
    subscriptions: Subscriptions,
}

/// Leases on their way to be renewed.
struct Renewal<'a> {
    room: &'a Room,
    /// Who of them was still there when it was sent.
    here: Vec<&'a Seat>,
    answer: Queued,
}

impl Heartbeat {
    fn run(&self, stopped: &Receiver<()>) {
        // Whether Redis was found without its data, and for which stretch of the link's life rosters were compared.
        let (mut data_lost, mut compared) = (false, None);
        while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            let Ok(up_since) = self.shared.link.state() else { continue };
            // A name that is gone soon after Redis came back was lost with its data, and is taken again. At any other
            // time others cleared it away, because this process was frozen: its clients, if they are still there,
            // join anew, so the room never sees one that is not.
            let grace = up_since.elapsed() < GRACE;
            match self.beat(grace) {
                Err(Unavailable) => log::debug!("heartbeat: redis does not answer"),
                Ok(taken_again) => data_lost |= taken_again > 0,
            }
            // What happened while the link was down was not heard. If the data was lost too, all tasks must have
            // taken their names again first, or the room would see people leave who are there.
            if compared != Some(up_since) && !(grace && data_lost) {
                self.subscriptions.compare(data_lost);
                (data_lost, compared) = (false, Some(up_since));
            }
        }
    }

    /// One heartbeat: how many names were gone and had to be taken again.
    fn beat(&self, again: bool) -> Result<u64, Unavailable> {
        self.subscriptions.probe();
        let rooms = self.shared.seats_by_room();
        let parts = rooms.iter().flat_map(|(room, seats)| seats.chunks(RENEW).map(move |part| (room, part)));
        let mut taken_again = 0;
        let (mut under_way, mut seats) = (Vec::new(), 0);
        for (room, part) in parts {
            if seats + part.len() > RENEW {
                taken_again += self.renewed(under_way.drain(..))?;
                seats = 0;
                std::thread::sleep(RENEW_PAUSE);
            }
            seats += part.len();
            under_way.push(self.renew(room, part, again)?);
        }
        Ok(taken_again + self.renewed(under_way.drain(..))?)
    }

    /// Has leases of one room renewed.
    fn renew<'a>(&self, room: &'a Room, part: &'a [Seat], again: bool) -> Result<Renewal<'a>, Unavailable> {
        // Queued while the seats are locked: who leaves is not among them, or leaves after it. Otherwise a name that has
        // just left could be taken again, with nobody there.
        let held = self.shared.seats();
        let here: Vec<&Seat> = part.iter().filter(|seat| held.contains_key(&seat.session)).collect();
        let answer = self.shared.publisher.queue(self.shared.renew(room, &here, again))?;
        Ok(Renewal { room, here, answer })
    }

    /// Waits for answers: how many names had to be taken again.
    fn renewed<'a>(&self, mut renewals: impl Iterator<Item = Renewal<'a>>) -> Result<u64, Unavailable> {
        renewals.try_fold(0, |sum, renewal| match self.take_in(&renewal) {
            Ok(taken_again) => Ok(sum + taken_again),
            // One room that is spoilt in Redis must not cost the others their leases.
            Err(Unavailable) if self.shared.link.is_up() => {
                log::warn!("{}: leases could not be renewed", renewal.room);
                Ok(sum)
            }
            unavailable => unavailable,
        })
    }

    fn take_in(&self, renewal: &Renewal<'_>) -> Result<u64, Unavailable> {
        let reply: Vec<String> = from_value(renewal.answer.wait()?)?;
        let [newest, taken, lost @ ..] = reply.as_slice() else { return Err(not_understood(&reply)) };
        self.subscriptions.expect(renewal.room.clone(), newest.parse().map_err(not_understood)?, None);
        for pair in lost.chunks_exact(2) {
            let number: usize = pair[0].parse().map_err(not_understood)?;
            self.lost(renewal.here.get(number).copied(), pair[1] == "1");
        }
        taken.parse().map_err(not_understood)
    }

    /// A session's name is another session's by now, or nobody's.
    fn lost(&self, seat: Option<&Seat>, own_client: bool) {
        let Some(seat) = seat else { return };
        // It may have left while the heartbeat was under way.
        if self.shared.seats().contains_key(&seat.session) {
            let event = if own_client { Event::TakenOver } else { Event::Evicted };
            (self.shared.listener)(event(seat.session));
        }
    }
}
