//! Fan-out: the few threads that write to all sockets.
//!
//! Waking a thread for each recipient would cost three to five times as much as its `send`. So a *lane* is one thread
//! per core that owns the write side of its share of the sessions. It takes all commands in its channel, gathers the
//! messages of each room, and makes one `send` per session: a delivery costs that system call and one comparison of
//! ids. Messages arrive already encoded. Joins and leaves use the same channel as messages, so their order is the
//! channel's. In a small room the sends cost less than waking the lane, so if the lane is idle, the backplane's thread
//! writes to the sockets itself.

pub mod command;
pub mod drain;
pub mod frame;
mod lane;
mod lane_room;
pub mod outbox;
pub mod placement;
pub mod polls;
mod retries;
pub mod socket;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use self::command::{LaneCommand, SessionCommand};
use self::lane::Lane;
use self::placement::{Berth, MAX_LANES, Placement};
use crate::backplane::{Event, Room, SessionId};
use crate::metrics::Metrics;
use crate::protocol::Close;
use crate::threads;

/// Capacity of a lane's channel. Senders wait if it is full; a lane never waits for anyone, so it empties.
const QUEUE: usize = 1024;
/// The handle through which the rest of the program reaches the lanes. Dropping the last one ends them.
pub struct Lanes {
    inboxes: Vec<Sender<LaneCommand>>,
    /// Each is locked by its thread except while that waits for commands, and by [`Lanes::write_here`]. No write to a
    /// socket under this lock blocks.
    lanes: Vec<Arc<Mutex<Lane>>>,
    placement: Arc<Placement>,
    common: Arc<Common>,
}

/// What all lanes share.
#[derive(Default)]
struct Common {
    metrics: Arc<Metrics>,
    /// See [`Lanes::removals`].
    removals: AtomicU64,
    /// In a large room, at most this many are announced as typing at a time; 0 is unlimited.
    typing_names: usize,
}

impl Lanes {
    /// Starts `count` lanes, 1 to [`MAX_LANES`].
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(count: usize, typing_names: usize, metrics: &Arc<Metrics>) -> io::Result<Lanes> {
        let common = Arc::new(Common { metrics: metrics.clone(), removals: AtomicU64::new(0), typing_names });
        let start = |number| {
            let (inbox, commands) = bounded(QUEUE);
            let lane = Arc::new(Mutex::new(Lane::new(commands, common.clone())));
            let same = lane.clone();
            threads::spawn_critical(&format!("lane-{number}"), move || Lane::run(&lane)).map(|_| (inbox, same))
        };
        let both: Vec<_> = (0..count.clamp(1, MAX_LANES)).map(start).collect::<io::Result<_>>()?;
        let (inboxes, lanes): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        Ok(Lanes { placement: Placement::new(inboxes.len()), inboxes, lanes, common })
    }

    /// Assigns a number and a lane to a session.
    pub fn assign(&self, room: &Room) -> Berth {
        self.placement.assign(room)
    }

    /// Sends a command to a session's lane.
    pub fn post(&self, session: SessionId, command: SessionCommand) {
        self.send(self.placement.lane_of(session), LaneCommand::Session(session, command));
    }

    fn send(&self, lane: usize, command: LaneCommand) {
        // Lanes are critical threads: the process ends with any of them, so the receiver exists.
        let _ = self.inboxes[lane].send(command);
    }

    /// The number of removals so far, in all rooms. It grows just before clients are notified: if it has grown since a
    /// page of a log was requested, the page may contain messages that its client knows to be removed.
    pub fn removals(&self) -> u64 {
        self.common.removals.load(SeqCst)
    }

    /// Passes an event on: to the lane of one session, or to the lanes with members of the room.
    pub fn publish(&self, event: Event) {
        if matches!(event, Event::Removed { .. }) {
            self.common.removals.fetch_add(1, SeqCst);
        }
        match &event {
            Event::Receipt { session, .. } | Event::Refused { session, .. } => {
                self.send(self.placement.lane_of(*session), LaneCommand::Event(event));
            }
            Event::TakenOver(session) => self.post(*session, SessionCommand::Close(Close::TakenOver)),
            Event::Evicted(session) => self.post(*session, SessionCommand::Close(Close::GoingAway)),
            Event::Banned(session) => self.post(*session, SessionCommand::Close(Close::Banned)),
            Event::Message { room, .. }
            | Event::Removed { room, .. }
            | Event::Typing { room, .. }
            | Event::Presence { room, .. } => {
                let lanes = self.placement.lanes_of(room);
                let is_small = lanes.is_small;
                for lane in lanes {
                    if !(is_small && self.write_here(lane, &event)) {
                        self.send(lane, LaneCommand::Event(event.clone()));
                    }
                }
            }
            Event::Kept(_) | Event::Trimmed | Event::RoomTrimmed => {}
            Event::Status(_) => (0..self.inboxes.len()).for_each(|n| self.send(n, LaneCommand::Event(event.clone()))),
        }
    }

    /// Handles an event on this thread if the lane is idle, because waking the lane's own thread would cost more than
    /// the few sends. Returns whether it did: an event must not overtake what is in the lane's channel.
    fn write_here(&self, number: usize, event: &Event) -> bool {
        let Ok(mut lane) = self.lanes[number].try_lock() else { return false };
        if !self.inboxes[number].is_empty() {
            return false;
        }
        if lane.carry_out_here(event.clone()) {
            // If the channel is full, the lane wakes anyway.
            let _ = self.inboxes[number].try_send(LaneCommand::LookAtClock);
        }
        true
    }

    /// The length of each lane's channel.
    pub fn queued(&self) -> Vec<usize> {
        self.inboxes.iter().map(Sender::len).collect()
    }

    /// Closes all sessions, spread over this time, and any that join later.
    pub fn drain(&self, over: Duration) {
        (0..self.inboxes.len()).for_each(|lane| self.send(lane, LaneCommand::Drain(over)));
    }

    /// Asks this many sessions to reconnect, so that other instances serve them.
    pub fn rebalance(&self, count: usize) {
        let lanes = self.inboxes.len();
        for lane in 0..lanes {
            self.send(lane, LaneCommand::Rebalance(count / lanes + usize::from(lane < count % lanes)));
        }
    }
}
