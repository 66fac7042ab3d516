//! The backplane: where messages and presence are kept, and how instances reach each other.
//!
//! A trait with two implementations: [`local`] for a single process, and [`redis`] for any number of instances. The
//! rest of the code does not depend on which one is in use: it calls the trait and receives [`Event`]s.

pub mod admin;
pub mod local;
pub mod redis;
mod storage;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tungstenite::Bytes;

use self::admin::Admin;
use crate::protocol::Id;
use crate::settings::Retention;

/// A room's name, shared by everything that refers to the room.
pub type Room = Arc<str>;

/// A session's number within its instance. Across instances a session is identified by `instance/number`.
pub type SessionId = u64;

/// How long a name is reserved for a client whose connection broke: its *lease*. A client that returns within it was
/// never shown leaving. While the connection is open, the instance renews the lease every [`HEARTBEAT`].
pub const LEASE: Duration = Duration::from_secs(15);

/// The lease of a client that was cut because it does not read. Together with the preceding 10 s without progress, one
/// heartbeat and one second in which notices are gathered, it is less than the 25 s within which the room must be
/// notified that the client left.
pub const CUT_LEASE: Duration = Duration::from_secs(10);

/// Interval at which leases are renewed and expired ones cleared. One lease, one heartbeat and one second in which
/// notices are gathered add up to less than the 20 s within which the count must be right.
pub const HEARTBEAT: Duration = Duration::from_secs(3);

/// How long a message's `ref` is remembered.
pub const REF_LIFE: Duration = Duration::from_secs(600);

/// A client's place in a room: who the client is, and which session holds the place.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The room.
    pub room: Room,
    /// The session on this instance that holds the seat.
    pub session: SessionId,
    /// The name as shown.
    pub name: Arc<str>,
    /// The folded name, which is unique in the room.
    pub key: Arc<str>,
    /// The client's public mark (see [`crate::protocol::mark`]). Only a client with the same mark may take the seat
    /// over.
    pub by: Arc<str>,
    /// The client's address, for the admin API.
    pub address: IpAddr,
}

/// How much a backplane keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The limits on each room's log.
    pub retention: Retention,
    /// The most rooms: without Redis those with messages or people, with Redis those with people on this instance.
    pub rooms: usize,
    /// The most bytes that all rooms may take together; `None` for a share of what there is, 0 is unlimited.
    pub storage: Option<u64>,
}

/// What a join may do. Checked before the seat is taken; a client that returns to its own seat is exempt.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The most people in the room; 0 is unlimited.
    pub people: u64,
    /// Whether the room may be a new one: without people and without messages.
    pub may_open: bool,
    /// How many rooms must remain if it is a new one. Without Redis only: with it, a room counts only while it has people.
    pub spare_rooms: usize,
}

/// What a client receives when it joins.
#[derive(Debug)]
pub struct Arrival {
    /// The number of people in the room, this client included.
    pub participants: u64,
    /// Whether this join opened the room, see [`Terms::may_open`].
    pub is_new_room: bool,
    /// Up to [`crate::protocol::WELCOME_NAMES`] shown names, sorted.
    pub names: Vec<String>,
    /// The end of the log, or the messages after `since`.
    pub page: Page,
    /// Frames that announce removed messages: a client that resumes may still show them.
    pub removed: Vec<Bytes>,
    /// The newest id in the log.
    pub last: Id,
    /// Whether messages after `since` are no longer kept.
    pub gap: bool,
    /// The stamp of the newest change of presence that the count includes, see [`Change::stamp`]. With Redis, it is
    /// also when the seat was taken.
    pub stamp: u64,
}

/// Which part of a log to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The newest messages older than this id, or the newest of all.
    Before(Option<Id>),
    /// The oldest messages newer than `after` and older than `before`, if given.
    After {
        /// Exclusive.
        after: Id,
        /// Exclusive.
        before: Option<Id>,
    },
}

/// Messages from the log, oldest first.
#[derive(Debug, Default)]
pub struct Page {
    /// Ids and bodies (see [`crate::protocol::message_body`]).
    pub messages: Vec<(Id, String)>,
    /// Whether the log has further messages: older ones, or newer ones for [`Span::After`].
    pub more: bool,
}

/// Why a join failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// Another client has this name in this room.
    NameTaken,
    /// This client is banned for this time.
    Banned(Duration),
    /// The maximum number of rooms exists already.
    Full,
    /// The room has [`Terms::people`] already.
    RoomFull,
    /// The room is new, and [`Terms::may_open`] is false.
    MayNotOpen,
    /// The backplane is unavailable, see [`Unavailable`].
    Unavailable,
}

/// The backplane did not answer in time, or refused the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the backplane does not answer; try again")
    }
}

impl From<Unavailable> for JoinError {
    fn from(_: Unavailable) -> JoinError {
        JoinError::Unavailable
    }
}

/// How a session releases its seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The client closed: the seat is released at once, and the room is notified.
    Now,
    /// The connection broke: a lease of this length runs out, unless the client returns before.
    Expire(Duration),
}

/// Something that happened in a room with sessions on this instance. Events of a room are in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message was kept.
    Message {
        /// The room.
        room: Room,
        /// Its id.
        id: Id,
        /// The whole encoded frame.
        frame: Bytes,
    },
    /// Messages were removed through the admin API.
    Removed {
        /// The room.
        room: Room,
        /// The whole encoded frame.
        frame: Bytes,
    },
    /// Someone is typing.
    Typing {
        /// The room.
        room: Room,
        /// The whole encoded frame.
        frame: Bytes,
    },
    /// People joined or left.
    Presence {
        /// The room.
        room: Room,
        /// Who joined and who left.
        change: Change,
    },
    /// A message's `ref` was known, so the message is in the log already.
    Receipt {
        /// The session that sent it again.
        session: SessionId,
        /// The id of the first message.
        id: Id,
        /// The first message's whole encoded frame.
        frame: Bytes,
    },
    /// A message could not be kept.
    Refused {
        /// The session that sent it.
        session: SessionId,
        /// Its `ref`.
        reference: Option<String>,
    },
    /// This session's client joined elsewhere and took its seat over.
    TakenOver(SessionId),
    /// This session's client was banned.
    Banned(SessionId),
    /// This session's lease expired before the session noticed; its client has to rejoin.
    Evicted(SessionId),
    /// A message from this instance was kept, this long after it was submitted. For the metrics only.
    Kept(Duration),
    /// The largest logs were trimmed, because all rooms together took too many bytes. For the metrics only.
    Trimmed,
    /// A room's log was trimmed, because it took too many bytes. For the metrics only.
    RoomTrimmed,
    /// This instance lost the backplane (`false`) or regained it.
    Status(bool),
}

/// A change in who is in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Shown names of those who joined.
    pub joined: Vec<String>,
    /// Shown names of those who left.
    pub left: Vec<String>,
    /// The number of people afterwards.
    pub participants: u64,
    /// Orders the change: microseconds of Redis's clock, or without Redis the number of changes so far.
    pub stamp: u64,
    /// If the change concerns a single session and that is on this instance: the session, which need not be notified.
    pub about: Option<SessionId>,
}

impl Change {
    /// Merges a later change into this one. People who both joined and left are in neither list.
    pub fn add(&mut self, later: &Change) {
        move_names(&later.left, &mut self.joined, &mut self.left);
        move_names(&later.joined, &mut self.left, &mut self.joined);
        self.participants = later.participants;
        self.stamp = later.stamp;
        self.about = None;
    }
}

/// Removes each name from `from`, or adds it to `to` if it is not there.
fn move_names(names: &[String], from: &mut Vec<String>, to: &mut Vec<String>) {
    for name in names {
        match from.iter().position(|other| other == name) {
            Some(place) => drop(from.swap_remove(place)),
            None => to.push(name.clone()),
        }
    }
}

/// The receiver of events. It is called on the backplane's own threads, so it must not block on a client.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// Whether the backplane works, and if not, why.
pub type Health = Result<(), String>;

/// The operations of both implementations. They block the calling thread: a connection's, one that reads pages, or the
/// main thread. Those whose result a client waits for give up after about 2 s.
pub trait Backplane: Admin + Send + Sync {
    /// Takes a seat and reads the log. The caller must already be able to receive the room's events.
    ///
    /// # Errors
    /// [`JoinError`]; the seat is not taken then.
    fn join(&self, seat: &Seat, since: Option<Id>, terms: Terms) -> Result<Arrival, JoinError>;

    /// Releases a seat.
    fn leave(&self, seat: &Seat, how: Leave);

    /// Keeps a message. The room receives [`Event::Message`]; the sender of a known `ref` receives [`Event::Receipt`],
    /// and [`Event::Refused`] if the message cannot be kept. Messages of one session are kept in the order of the
    /// calls.
    fn say(&self, seat: &Seat, body: String, reference: Option<String>);

    /// Publishes that someone is typing. Best effort.
    fn typing(&self, room: &Room, json: String);

    /// Reads messages from the log.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn history(&self, room: &Room, span: Span, limit: usize) -> Result<Page, Unavailable>;

    /// Keeps a message that does not come from a session, and waits until it is kept. Returns its id and body, or those
    /// of the first message if this `by` has already used this `ref`.
    ///
    /// # Errors
    /// [`Unavailable`]; the message may have been kept nevertheless.
    fn post(&self, room: &Room, by: &str, body: String, reference: Option<String>)
    -> Result<(Id, String), Unavailable>;

    /// Reports this instance's session count. Returns the totals (instances, sessions), this instance included.
    fn load_report(&self, sessions: u64) -> Option<(u64, u64)>;

    /// Whether the backplane works, and if not, why.
    fn health(&self) -> Health;

    /// How long a command currently takes. New joins are held back while this is 250 ms or more, because the messages
    /// of those who have joined take precedence. Cheap enough to call for every join.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }

    /// The length of the command queue, and how long its oldest command has waited, for the metrics.
    fn queue(&self) -> (usize, Duration);

    /// Finishes commands under way, renews all leases to their full length, and stops. Takes about `deadline` at most.
    fn stop(&self, deadline: Duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_are_added_cancel_out() {
        let change = |joined: &[&str], left: &[&str], participants| Change {
            joined: joined.iter().map(|&name| name.to_owned()).collect(),
            left: left.iter().map(|&name| name.to_owned()).collect(),
            participants,
            ..Change::default()
        };
        let mut gathered = change(&["Ada"], &[], 60);
        gathered.add(&change(&["Bob"], &["Cleo"], 60));
        gathered.add(&change(&[], &["Ada"], 59));
        gathered.add(&change(&["Cleo"], &[], 60));
        assert_eq!(gathered, change(&["Bob"], &[], 60));
    }
}
