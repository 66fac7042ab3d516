//! Fan-out: the few threads that write to all sockets.
//!
//! Waking a thread for each recipient costs three to five times what the `send` itself does. So a *lane* is one thread
//! per core that owns the write side of its share of the sessions. It takes what has piled up in its channel, gathers
//! the messages of each room, and makes one `send` per session: a delivery costs that system call, one comparison of
//! ids and nothing else. Messages reach it encoded. Joins and leaves come through the same channel as messages, so the
//! channel's order is their order. In a small room the sends cost less than waking the lane: there the backplane's thread
//! writes itself, if the lane is idle.

pub mod drain;
pub mod frame;
pub mod lane;
mod lane_room;
pub mod outbox;
pub mod placement;
pub mod polls;
pub mod socket;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use self::lane::{Lane, LaneCommand, SessionCommand};
use self::placement::{Berth, MAX_LANES, Placement};
use crate::backplane::{Event, Room, SessionId};
use crate::metrics::Metrics;
use crate::protocol::Close;
use crate::threads;

/// Commands that may wait for a lane. Whoever finds it full waits: a lane never waits for anybody, so it empties.
const QUEUE: usize = 1024;

/// The handle by which the rest of the program reaches the lanes. When the last one is dropped, they end.
pub struct Lanes {
    inboxes: Vec<Sender<LaneCommand>>,
    /// Locked by their threads except while these wait for commands, and by [`Lanes::write_here`]. No send under this
    /// lock ever waits.
    lanes: Vec<Arc<Mutex<Lane>>>,
    placement: Arc<Placement>,
}

impl Lanes {
    /// Starts `count` lanes, 1 to [`MAX_LANES`].
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(count: usize, metrics: &Arc<Metrics>) -> io::Result<Lanes> {
        let start = |number| {
            let (inbox, commands) = bounded(QUEUE);
            let lane = Arc::new(Mutex::new(Lane::new(commands, metrics.clone())));
            let same = lane.clone();
            threads::spawn_critical(&format!("lane-{number}"), move || Lane::run(&lane)).map(|_| (inbox, same))
        };
        let both: Vec<_> = (0..count.clamp(1, MAX_LANES)).map(start).collect::<io::Result<_>>()?;
        let (inboxes, lanes): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        Ok(Lanes { placement: Placement::new(inboxes.len()), inboxes, lanes })
    }

    /// Numbers a session and gives it a lane.
    pub fn assign(&self, room: &Room) -> Berth {
        self.placement.assign(room)
    }

    /// Sends a command to a session's lane.
    pub fn post(&self, session: SessionId, command: SessionCommand) {
        self.send(self.placement.lane_of(session), LaneCommand::Session(session, command));
    }

    fn send(&self, lane: usize, command: LaneCommand) {
        // Lanes are critical threads: were one gone, the process would be too.
        let _ = self.inboxes[lane].send(command);
    }

    /// Passes an event of the backplane on: to one session's lane, or to the lanes that have members of the room.
    pub fn publish(&self, event: Event) {
        match &event {
            Event::Receipt { session, .. } | Event::Refused { session, .. } => {
                self.send(self.placement.lane_of(*session), LaneCommand::Event(event));
            }
            Event::TakenOver(session) => self.post(*session, SessionCommand::Close(Close::TakenOver)),
            Event::Evicted(session) => self.post(*session, SessionCommand::Close(Close::GoingAway)),
            Event::SentAway(session) => self.post(*session, SessionCommand::Close(Close::SentAway)),
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
            Event::Kept(_) => {}
            Event::Status(_) => (0..self.inboxes.len()).for_each(|n| self.send(n, LaneCommand::Event(event.clone()))),
        }
    }

    /// Carries an event out on this thread if the lane is idle, since waking the lane's own thread would cost more than
    /// the few sends themselves. Whether it did: nothing may overtake what waits in the lane's channel.
    fn write_here(&self, number: usize, event: &Event) -> bool {
        let Ok(mut lane) = self.lanes[number].try_lock() else { return false };
        if !self.inboxes[number].is_empty() {
            return false;
        }
        if lane.carry_out_here(event.clone()) {
            // Full means that it wakes anyway.
            let _ = self.inboxes[number].try_send(LaneCommand::LookAtClock);
        }
        true
    }

    /// What waits in each lane's queue.
    pub fn queued(&self) -> Vec<usize> {
        self.inboxes.iter().map(Sender::len).collect()
    }

    /// Closes all sessions, spread over this time, and all that come later.
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
