//! The commands that a lane executes, in the order in which they arrive on its channel.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use tungstenite::Bytes;

use super::socket::SharedSocket;
use crate::backplane::{Event, Room, SessionId};
use crate::protocol::{Close, Id};

/// A command about one session.
pub enum SessionCommand {
    /// The session is about to join: hold back the room's frames for it.
    Join(Room, Arc<SharedSocket>),
    /// Its `welcome` has been written, with messages up to this id and presence up to this stamp, see
    /// [`super::outbox::Outbox::open`].
    Open(Id, u64),
    /// Write frames meant for this client alone, such as errors and pages of history.
    Own(Bytes),
    /// Write a page of history.
    Page {
        /// The encoded frame.
        frame: Bytes,
        /// [`super::Lanes::removals`] before the page was read.
        removals: u64,
        /// Receives whether the page is written; it is not if there were removals since.
        is_current: Sender<bool>,
    },
    /// Close it with this code.
    Close(Close),
    /// Forget it: the join was refused, or the session has ended.
    Leave,
}

/// A command to a lane.
pub enum LaneCommand {
    /// A command about one session.
    Session(SessionId, SessionCommand),
    /// An event from the backplane.
    Event(Event),
    /// Close all sessions, spread over this time.
    Drain(Duration),
    /// Ask this many sessions to reconnect.
    Rebalance(usize),
    /// Recompute the time to sleep: something is due earlier.
    LookAtClock,
}
