//! A lane: the thread that owns the write side of its share of the sessions.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, TryRecvError};
use tungstenite::Bytes;

use super::Common;
use super::command::{LaneCommand, SessionCommand};
use super::drain::Drain;
use super::frame::{Batch, OrderKey, OutFrame};
use super::lane_room::{LaneRoom, When};
use super::outbox::{Attention, Outbox};
use super::retries::Retries;
use crate::backplane::{Event, Room, SessionId, Unavailable};
use crate::limits::Limit;
use crate::protocol::{self, Close, ErrorCode, Id, ServerFrame};

/// The most commands taken from the channel before messages are written.
const MAX_GATHERED: usize = 256;
/// The most bytes of one room's messages written together.
const MAX_BATCH_BYTES: usize = 64 * 1024;
/// The lane is under load if its last write pass took longer than this, and ended less than this ago.
const LOAD: Duration = Duration::from_millis(1);
/// Under load, wait 1/8 of the last write pass for more commands before writing.
const WAIT_SHARE: u32 = 8;
/// How long presence and typing notices are gathered in large rooms.
const GATHER_NOTICES: Duration = Duration::from_secs(1);

/// The state of a lane.
pub struct Lane {
    /// [`super::Lanes`] has the senders; when they are dropped, the thread ends.
    commands: Receiver<LaneCommand>,
    common: Arc<Common>,
    rooms: HashMap<Room, LaneRoom>,
    /// The room of each session.
    homes: HashMap<SessionId, Room>,
    /// Rooms with gathered messages.
    dirty: Vec<Room>,
    /// When gathered notices are due, soonest first.
    notices_due: VecDeque<(Instant, Room)>,
    /// Sessions whose outbox needed attention when last checked.
    retries: Retries,
    /// When the last write pass ended, and how long it took.
    wrote: (Instant, Duration),
    drain: Option<Drain>,
    /// When the thread will wake without a command.
    wakes_at: Option<Instant>,
}

impl Lane {
    /// A lane without sessions.
    pub fn new(commands: Receiver<LaneCommand>, common: Arc<Common>) -> Lane {
        let (rooms, homes, dirty, notices_due, retries, drain, wakes_at) = Default::default();
        let wrote = (Instant::now(), Duration::ZERO);
        Lane { commands, common, rooms, homes, dirty, notices_due, retries, wrote, drain, wakes_at }
    }

    /// Runs until the senders are dropped. The lane is locked while it works, and unlocked while its thread waits.
    pub fn run(lane: &Mutex<Lane>) {
        let lock = || lane.lock().unwrap_or_else(PoisonError::into_inner);
        let commands = lock().commands.clone();
        let mut select = Select::new();
        select.recv(&commands);
        loop {
            let wait_until = {
                let mut lane = lock();
                lane.wakes_at = lane.next_duty();
                lane.wakes_at
            };
            let _ = match wait_until {
                None => Ok(select.ready()),
                Some(at) => select.ready_deadline(at),
            };
            let mut lane = lock();
            match commands.try_recv() {
                Ok(command) => {
                    lane.carry_out(command);
                    lane.gather();
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            let began = Instant::now();
            lane.write_messages();
            let now = Instant::now();
            lane.wrote = (now, now - began);
            lane.do_duties(now);
        }
    }

    /// Handles an event on the caller's thread. Returns whether the lane's own thread would now wake too late.
    pub fn carry_out_here(&mut self, event: Event) -> bool {
        self.carry_out(LaneCommand::Event(event));
        self.write_messages();
        self.next_duty().is_some_and(|at| self.wakes_at.is_none_or(|wakes| at < wakes))
    }

    /// Takes further commands from the channel. A message is often followed by others, and messages written together
    /// cost one `send` per session. So the thread first yields to the backplane's, which takes a microsecond if no
    /// other thread is ready. Under load it also waits briefly.
    fn gather(&mut self) {
        std::thread::yield_now();
        let (ended, took) = self.wrote;
        let loaded = took > LOAD && ended.elapsed() < LOAD;
        let until = loaded.then(|| Instant::now() + took / WAIT_SHARE);
        for _ in 1..MAX_GATHERED {
            let next = match until {
                Some(until) => self.commands.recv_deadline(until).ok(),
                None => self.commands.try_recv().ok(),
            };
            let Some(command) = next else { break };
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: LaneCommand) {
        if let LaneCommand::Event(Event::Message { room, id, frame }) = &command {
            return self.gather_message(room, *id, frame);
        }
        // Any other command must not overtake the messages that preceded it.
        self.write_messages();
        let now = Instant::now();
        match command {
            LaneCommand::Session(session, command) => self.serve(session, command, now),
            LaneCommand::Event(event) => self.handle_event(event, now),
            LaneCommand::Drain(over) => {
                self.drain = Some(Drain::new(self.homes.keys().copied().collect(), over, now));
            }
            LaneCommand::Rebalance(count) => self.rebalance(count, now),
            LaneCommand::LookAtClock => {}
        }
    }

    fn serve(&mut self, session: SessionId, command: SessionCommand, now: Instant) {
        match command {
            SessionCommand::Join(room, socket) => {
                self.homes.insert(session, room.clone());
                self.rooms.entry(room).or_default().outboxes.insert(session, Outbox::new(socket, now));
                if self.drain.is_some() {
                    self.close(session, Close::GoingAway, now);
                }
            }
            SessionCommand::Open(last, stamp) => {
                let mut sent = 0;
                self.with(session, now, |outbox| sent = outbox.open(last, stamp, now));
                self.common.metrics.deliveries.inc_by(sent as u64);
            }
            SessionCommand::Own(bytes) => self.send_to(session, bytes, now),
            SessionCommand::Page { frame, removals, is_current } => {
                let current = removals == self.common.removals.load(SeqCst);
                // The reader of the page waits for this.
                let _ = is_current.send(current);
                if current {
                    self.send_to(session, frame, now);
                }
            }
            SessionCommand::Close(code) => self.close(session, code, now),
            SessionCommand::Leave => self.leave(session),
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Removed { room, frame } => {
                let frame = OutFrame::unordered(frame);
                self.each_in(&room, now, |_, outbox| _ = outbox.put(&frame, now));
            }
            Event::Typing { room, frame } => {
                self.gather_notice(&room, now, |room, most| room.gather_typing(&frame, most))
            }
            Event::Presence { room, change } => self.gather_notice(&room, now, |room, _| room.gather_change(&change)),
            // If the message has not been delivered yet, its delivery, in order, will be the receipt.
            Event::Receipt { session, id, frame } => self.with(session, now, |outbox| {
                if id <= outbox.last() {
                    outbox.put(&OutFrame::unordered(frame), now);
                }
            }),
            Event::Refused { session, reference } => {
                let error = ServerFrame::Error {
                    code: ErrorCode::Unavailable,
                    message: &Unavailable.to_string(),
                    reference: reference.as_deref(),
                    retry_ms: None,
                };
                self.common.metrics.refuse(ErrorCode::Unavailable.as_str());
                self.send_to(session, protocol::text_frame(protocol::json(&error)), now);
            }
            Event::Status(up) => {
                self.common.metrics.backplane_up.set(i64::from(up));
                let status = ServerFrame::Status { backplane: if up { "up" } else { "down" } };
                let frame = OutFrame::unordered(protocol::text_frame(protocol::json(&status)));
                let rooms: Vec<Room> = self.rooms.keys().cloned().collect();
                rooms.iter().for_each(|room| self.each_in(room, now, |_, outbox| _ = outbox.put(&frame, now)));
            }
            // Messages are handled in `carry_out`, the others in `Lanes::publish`.
            Event::Message { .. } | Event::TakenOver(_) | Event::Evicted(_) | Event::Banned(_) => {}
            Event::Kept(_) | Event::Trimmed | Event::RoomTrimmed => {}
        }
    }

    fn gather_message(&mut self, name: &Room, id: Id, frame: &Bytes) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let bytes = room.gather_message(id, frame);
        if bytes == frame.len() {
            self.dirty.push(name.clone());
        }
        if bytes > MAX_BATCH_BYTES {
            self.write_messages();
        }
    }

    fn write_messages(&mut self) {
        while let Some(name) = self.dirty.pop() {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            let Some(batch) = Batch::new(room.take_messages()) else { continue };
            let (now, mut delivered) = (Instant::now(), 0);
            self.each_in(&name, now, |_, outbox| delivered += outbox.put_batch(&batch, now));
            self.common.metrics.deliveries.inc_by(delivered as u64);
            self.common.metrics.delivery.observe(batch.first.age().as_secs_f64());
        }
    }

    fn gather_notice(&mut self, name: &Room, now: Instant, gather: impl FnOnce(&mut LaneRoom, usize) -> When) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        match gather(room, self.common.typing_names) {
            When::Now => self.write_notices(name, now),
            When::Later => self.notices_due.push_back((now + GATHER_NOTICES, name.clone())),
            When::Set => {}
            When::Dropped => self.common.metrics.limit(Limit::Typing),
        }
    }

    fn write_notices(&mut self, name: &Room, now: Instant) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let (frames, about) = room.take_notices();
        for frame in frames {
            let is_presence = matches!(frame.key, OrderKey::Presence(_));
            self.each_in(name, now, |session, outbox| {
                let knows = is_presence && about == Some(session) && !outbox.knows_presence();
                if !knows {
                    outbox.put(&frame, now);
                }
            });
        }
    }

    fn send_to(&mut self, session: SessionId, bytes: Bytes, now: Instant) {
        self.with(session, now, |outbox| _ = outbox.put(&OutFrame::unordered(bytes), now));
    }

    fn close(&mut self, session: SessionId, code: Close, now: Instant) {
        self.with(session, now, |outbox| _ = outbox.close(code, now));
    }

    fn leave(&mut self, session: SessionId) {
        let Some(name) = self.homes.remove(&session) else { return };
        self.retries.remove(session);
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
        self.common.metrics.rebalanced.inc_by(some.len() as u64);
        some.into_iter().for_each(|session| self.close(session, Close::GoingAway, now));
    }

    /// Applies `act` to a session's outbox.
    fn with(&mut self, session: SessionId, now: Instant, act: impl FnOnce(&mut Outbox)) {
        let home = self.homes.get(&session).and_then(|room| self.rooms.get_mut(room));
        let Some(outbox) = home.and_then(|room| room.outboxes.get_mut(&session)) else { return };
        act(outbox);
        match outbox.attention(now) {
            Attention::None => return self.retries.remove(session),
            Attention::Retry => {}
            Attention::TooSlow => {
                if outbox.close(Close::TooSlow, now) {
                    self.common.metrics.cut.inc();
                    log::debug!("session {session} is not reading: cut");
                }
            }
        }
        self.retries.add(session, outbox.moved(), now);
    }

    /// Applies `act` to all outboxes of a room.
    fn each_in(&mut self, name: &Room, now: Instant, mut act: impl FnMut(SessionId, &mut Outbox)) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let mut unsettled = Vec::new();
        for (session, outbox) in &mut room.outboxes {
            act(*session, outbox);
            if outbox.attention(now) != Attention::None {
                unsettled.push(*session);
            }
        }
        unsettled.into_iter().for_each(|session| self.with(session, now, |_| {}));
    }

    /// When the next timed work is due.
    fn next_duty(&self) -> Option<Instant> {
        let notices = self.notices_due.front().map(|(at, _)| *at);
        [self.retries.next(), notices, self.drain.as_ref().and_then(Drain::next)].into_iter().flatten().min()
    }

    fn do_duties(&mut self, now: Instant) {
        while self.notices_due.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, name)) = self.notices_due.pop_front()
        {
            self.write_notices(&name, now);
        }
        while let Some(session) = self.drain.as_mut().and_then(|drain| drain.due(now)) {
            self.close(session, Close::GoingAway, now);
        }
        while let Some(session) = self.retries.due(now) {
            self.with(session, now, |outbox| outbox.retry(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::SharedSocket;
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    /// A client's end of a connection, the server's, and a lane.
    fn connected() -> (TcpStream, Arc<SharedSocket>, Lane) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (server, _) = listener.accept().expect("connected");
        let (_commands, inbox) = crossbeam_channel::unbounded();
        (client, SharedSocket::new(server), Lane::new(inbox, Arc::default()))
    }

    #[test]
    fn who_joins_while_the_process_drains_is_sent_away() {
        let (mut client, socket, mut lane) = connected();
        lane.carry_out(LaneCommand::Drain(Duration::from_secs(60)));
        lane.carry_out(LaneCommand::Session(7, SessionCommand::Join(Room::from("tea"), socket)));
        // Its welcome has been written.
        lane.carry_out(LaneCommand::Session(7, SessionCommand::Open(Id::default(), 0)));
        drop(lane);
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("a frame, up to the end");
        assert!(received.starts_with(&[0x88]) && received[2..4] == 1012_u16.to_be_bytes(), "{received:?}");
    }

    #[test]
    fn who_does_not_read_is_tried_less_and_less_often() {
        let (_client, socket, mut lane) = connected();
        lane.carry_out(LaneCommand::Session(7, SessionCommand::Join(Room::from("tea"), socket)));
        lane.carry_out(LaneCommand::Session(7, SessionCommand::Open(Id::default(), 0)));
        while lane.retries.next().is_none() {
            lane.carry_out(LaneCommand::Session(7, SessionCommand::Own(Bytes::from(vec![0; 1 << 16]))));
        }
        let waits = std::iter::from_fn(|| {
            let now = lane.retries.next()?;
            lane.do_duties(now);
            Some((lane.retries.next()? - now).as_millis())
        });
        assert!(waits.take(8).eq([4, 8, 8, 8, 8, 8, 8, 8]));
    }

    #[test]
    fn a_receipt_overtakes_no_message_and_is_sent_again_after_its_own() {
        let (mut client, socket, mut lane) = connected();
        let (room, id) = (Room::from("tea"), |ms| Id { ms, seq: 0 });
        lane.carry_out(LaneCommand::Session(7, SessionCommand::Join(room.clone(), socket)));
        lane.carry_out(LaneCommand::Session(7, SessionCommand::Open(id(1), 0)));
        let message = |ms, frame: &'static str| Event::Message { room: room.clone(), id: id(ms), frame: frame.into() };
        let receipt = |frame: &'static str| Event::Receipt { session: 7, id: id(3), frame: frame.into() };
        for event in [receipt("early "), message(2, "two "), message(3, "three "), receipt("again")] {
            lane.carry_out_here(event);
        }
        drop(lane);
        let mut received = String::new();
        client.read_to_string(&mut received).expect("text, up to the end");
        assert_eq!(received, "two three again");
    }
}
