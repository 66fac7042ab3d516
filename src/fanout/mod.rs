//! Fan-out: the few threads that write to all sockets.
//!
//! Waking a thread for each recipient costs three to five times what the `send` itself does. So a *lane* is one thread
//! a core that owns the write side of its share of the sessions. It takes what has piled up in its channel, gathers
//! the messages of each room, and makes one `send` a session: a delivery costs that system call, one comparison of
//! ids and nothing else. Messages reach it encoded. Joins and leaves come through the same channel as messages, so the
//! channel's order is their order, and no lock is needed.

pub mod drain;
pub mod lane;
pub mod outbox;
pub mod polls;
pub mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use crate::backplane::{Event, SessionId};
use crate::fanout::lane::{Lane, LaneCommand, SessionCommand};
use crate::metrics::Metrics;
use crate::protocol::Close;
use crate::threads;

/// Posts that may wait for a lane. Whoever finds it full waits: a lane never waits for anybody, so it empties.
const QUEUE: usize = 1024;

/// The handle. When the last one is dropped, the lanes end.
pub struct Lanes {
    inboxes: Vec<Sender<LaneCommand>>,
}

impl Lanes {
    /// Starts `count` lanes.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(count: usize, metrics: &Arc<Metrics>) -> io::Result<Lanes> {
        let start = |number| {
            let (inbox, posts) = bounded(QUEUE);
            let lane = Lane::new(posts, metrics.clone());
            threads::spawn_critical(&format!("lane-{number}"), move || lane.run()).map(|_| inbox)
        };
        Ok(Lanes { inboxes: (0..count.max(1)).map(start).collect::<io::Result<_>>()? })
    }

    /// Tells a session's lane something.
    pub fn post(&self, session: SessionId, letter: SessionCommand) {
        self.send(session, LaneCommand::To(session, letter));
    }

    fn send(&self, session: SessionId, post: LaneCommand) {
        // Lanes are vital: were one gone, the process would be too.
        let _ = self.inboxes[session as usize % self.inboxes.len()].send(post);
    }

    /// Passes on what the backplane tells: to one session's lane, or to all.
    pub fn hear(&self, event: Event) {
        match &event {
            Event::Receipt { session, .. } | Event::Refused { session, .. } => {
                self.send(*session, LaneCommand::Event(Arc::new(event)));
            }
            Event::TakenOver(session) => self.post(*session, SessionCommand::Close(Close::TakenOver)),
            Event::Evicted(session) => self.post(*session, SessionCommand::Close(Close::GoingAway)),
            _ => {
                let event = Arc::new(event);
                self.inboxes.iter().for_each(|inbox| drop(inbox.send(LaneCommand::Event(event.clone()))));
            }
        }
    }

    /// Says goodbye to all sessions, spread over this time, and to all that come later.
    pub fn drain(&self, over: Duration) {
        self.inboxes.iter().for_each(|inbox| drop(inbox.send(LaneCommand::Drain(over))));
    }

    /// Says goodbye to so many sessions, to be served by other tasks.
    pub fn rebalance(&self, count: usize) {
        let lanes = self.inboxes.len();
        for (number, inbox) in self.inboxes.iter().enumerate() {
            let share = count / lanes + usize::from(number < count % lanes);
            let _ = inbox.send(LaneCommand::Rebalance(share));
        }
    }
}
