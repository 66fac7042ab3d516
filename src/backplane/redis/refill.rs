//! Refilling: reads messages that a room has missed from its log. One thread does this, for many rooms at a time.
//!
//! Publications in a room that is being refilled are not delivered, since their messages are in the log. So this thread
//! and the reader never deliver in the same room at the same time.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tungstenite::Bytes;

use super::bulk::{self, Bulk};
use super::commands::{Commands, Range};
use super::delivery::Refilled;
use super::log_part::LogPart;
use super::pipeline::{Failure, Reply};
use super::rooms::Rooms;
use crate::backplane::{Event, EventSink, Room};
use crate::protocol::{self, Id};
use crate::threads;

/// The most rooms read with one request.
const TOGETHER: usize = 16;
/// The most messages read from one log at a time, and with one request. Texts of ordinary characters are then at most [`protocol::PAGE_BYTES`];
/// more at once would not fit into the queue of a client that reads as fast as it can.
const LIMIT: usize = 50;
const MESSAGES: usize = TOGETHER * LIMIT;
/// Pause when Redis does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// The handle, which queues rooms to be refilled.
#[derive(Clone)]
pub struct Refill {
    rooms: Arc<Rooms>,
    sink: EventSink,
    /// Unbounded, because each room is in it at most once.
    queue: Sender<Room>,
}

/// The state of the thread.
struct Refiller {
    handle: Refill,
    queue: Receiver<Room>,
    bulk: Arc<Bulk>,
    commands: Arc<Commands>,
    /// How many messages to read with one request: half as many after one that failed, so that a slow network, which cannot
    /// carry many in time, carries some; and a few more after each that succeeded.
    messages: Cell<usize>,
}

impl Refill {
    /// Starts the thread.
    pub fn start(
        rooms: Arc<Rooms>,
        bulk: Arc<Bulk>,
        commands: Arc<Commands>,
        sink: EventSink,
    ) -> std::io::Result<Refill> {
        let (sender, queue) = unbounded();
        let handle = Refill { rooms, sink, queue: sender };
        let messages = Cell::new(MESSAGES);
        let refiller = Refiller { handle: handle.clone(), queue, bulk, commands, messages };
        threads::spawn_critical("redis-refill", move || refiller.run())?;
        Ok(handle)
    }

    /// Refills a room, unless that is already under way.
    pub fn start_room(&self, room: &Room) {
        if self.rooms.deliver(room, |_, delivery| delivery.begin_refill()) == Some(true) {
            self.queue_room(room.clone());
        }
    }

    /// Queues a room for which the caller has just begun a refill.
    pub fn queue_room(&self, room: Room) {
        // The receiver lives as long as the process.
        let _ = self.queue.send(room);
    }

    /// Announces removed messages, those held back before included, unless the room is being read.
    pub fn removed(&self, room: &str, frames: Vec<Bytes>) {
        let news = self.rooms.deliver(room, |room, delivery| (room.clone(), delivery.removed(frames)));
        if let Some((room, frames)) = news {
            frames.into_iter().for_each(|frame| (self.sink)(Event::Removed { room: room.clone(), frame }));
        }
    }
}

/// A room in a pass, and the newest id known when the pass began.
type Target = (Room, Id);

impl Refiller {
    fn run(&self) {
        while let Ok(first) = self.queue.recv() {
            let others = self.queue.try_iter().take(TOGETHER.min(self.messages.get()) - 1);
            let rooms: Vec<Room> = std::iter::once(first).chain(others).collect();
            self.refill(&rooms);
        }
    }

    fn refill(&self, rooms: &[Room]) {
        let (mut targets, mut commands): (Vec<Target>, Vec<Vec<u8>>) = Default::default();
        let limit = LIMIT.min(self.messages.get() / rooms.len());
        for room in rooms {
            // A room that everybody has left needs no refill.
            let begun = self.handle.rooms.deliver(room, |_, delivery| (delivery.refill_target(), delivery.last()));
            if let Some((Some(target), last)) = begun {
                // One more shows whether there are more.
                commands.push(self.commands.read(room, &Range::forwards(last, None), limit + 1));
                targets.push((room.clone(), target));
            }
        }
        match self.bulk.ask(&commands, bulk::deadline()) {
            Ok(replies) => {
                self.messages.set((self.messages.get() + 10).min(MESSAGES));
                targets.into_iter().zip(replies).for_each(|(target, reply)| self.take_in(target, reply, limit));
            }
            Err(_) => {
                self.messages.set((self.messages.get() / 2).max(1));
                std::thread::sleep(PAUSE);
                targets.into_iter().for_each(|(room, _)| self.handle.queue_room(room));
            }
        }
    }

    fn take_in(&self, (room, target): Target, reply: Reply, limit: usize) {
        let mut part = LogPart::default();
        let read = match reply {
            Ok(value) => part.add(value, limit).map_err(|_| "not understood".to_owned()),
            Err(Failure::Down) => return self.handle.queue_room(room),
            Err(Failure::Refused(why)) if why == "WRONGTYPE" => Err(why),
            // Any other error is a temporary state of the server: it is loading its data, or has just become a replica.
            Err(Failure::Refused(why)) => {
                log::debug!("{room}: the log can't be read at the moment ({why})");
                std::thread::sleep(PAUSE);
                return self.handle.queue_room(room);
            }
        };
        // If another program has written to the log, this room continues as if it had been read, and the others are
        // unaffected.
        if let Err(why) = read {
            log::warn!("{room}: the log can't be read ({why}) and is skipped");
            part = LogPart::default();
            part.end = Some(target);
        }
        if part.skipped > 0 {
            log::warn!("{room}: skipping {} log entries that are not Bobbin's messages", part.skipped);
        }
        for (id, body) in part.messages {
            self.deliver(&room, id, &body);
        }
        if let Some(end) = part.end {
            self.handle.rooms.deliver(&room, |_, delivery| delivery.read(end));
        }
        let done = match part.more {
            true => Some(Refilled::More),
            false => self.handle.rooms.deliver(&room, |_, delivery| delivery.end_refill(target)),
        };
        match done {
            Some(Refilled::More) => self.handle.queue_room(room),
            Some(Refilled::Complete(lost)) => {
                for (session, reference) in lost {
                    (self.handle.sink)(Event::Refused { session, reference });
                }
                self.handle.removed(&room, Vec::new());
            }
            None => {}
        }
    }

    fn deliver(&self, room: &Room, id: Id, body: &str) {
        if self.handle.rooms.deliver(room, |_, delivery| delivery.read(id)) == Some(true) {
            let frame = protocol::text_frame(protocol::message_json(id, body));
            (self.handle.sink)(Event::Message { room: room.clone(), id, frame });
        }
    }
}
