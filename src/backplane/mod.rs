//! The backplane: where the rooms' messages and people are kept, and how instances reach each other.
//!
//! A trait with two implementations, [`local`] for one process alone and [`redis`] for any number of them. The rest
//! of the code does not know which it has: it calls the trait, and receives what happens as [`Event`]s.

pub mod admin;
pub mod local;
pub mod redis;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tungstenite::Bytes;

use self::admin::Admin;
use crate::protocol::Id;

/// A room's name, app by all that speak of it.
pub type Room = Arc<str>;

/// A session's number within its instance. Between instances it is known as `instance/number`.
pub type SessionId = u64;

/// How long a name is kept for a client whose connection broke: its *lease*. A client that comes back within it was
/// never seen leaving. Renewed by the instance every [`HEARTBEAT`] while the connection lives.
pub const LEASE: Duration = Duration::from_secs(15);

/// How often leases are renewed and expired ones are cleared away. A lease, one heartbeat and the second that notices
/// are gathered make less than the 20 s in which a count must be right.
pub const HEARTBEAT: Duration = Duration::from_secs(3);

/// How long a message's `ref` is remembered.
pub const REF_LIFE: Duration = Duration::from_secs(600);

/// One client's place in a room: who it is and which session speaks for it.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The room.
    pub room: Room,
    /// The session that holds this seat on this instance.
    pub session: SessionId,
    /// The name as shown.
    pub name: Arc<str>,
    /// The name folded: what must be unique in the room.
    pub key: Arc<str>,
    /// The client's public mark (see [`crate::protocol::mark`]): a client with the same one may take the name over.
    pub by: Arc<str>,
    /// The address that the client connects from, for the host's tools.
    pub address: IpAddr,
}

/// What a newcomer receives.
#[derive(Debug)]
pub struct Arrival {
    /// How many are in the room, the newcomer included.
    pub participants: u64,
    /// At most [`crate::protocol::WELCOME_NAMES`] shown names, sorted.
    pub names: Vec<String>,
    /// The log's end, or what came after `since`.
    pub page: Page,
    /// The newest id in the log.
    pub last: Id,
    /// Whether some after `since` are no longer kept.
    pub gap: bool,
    /// When the seat was taken, in microseconds of the backplane's clock: presence up to here is in the count.
    pub stamp: u64,
}

/// Which part of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The newest messages older than this one, or the newest of all.
    Before(Option<Id>),
    /// The oldest messages newer than `after` and, if it is given, older than `before`.
    After {
        /// Excluded.
        after: Id,
        /// Excluded.
        before: Option<Id>,
    },
}

/// Messages out of the log, oldest first.
#[derive(Debug, Default)]
pub struct Page {
    /// Id and body (see [`crate::protocol::message_body`]).
    pub messages: Vec<(Id, String)>,
    /// Whether the log has more of them: older ones, or newer ones for [`Span::After`].
    pub more: bool,
}

/// Why a join was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// Another client has this name in this room.
    NameTaken,
    /// The host keeps this client out, for this long.
    Banned(Duration),
    /// There are as many rooms as there may be.
    Full,
    /// See [`Unavailable`].
    Unavailable,
}

/// The backplane did not answer in time, or refused.
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

/// How a session gives its seat back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The client closed: at once, and the room is notified.
    Now,
    /// The connection ended otherwise: the lease runs out by itself, unless the client comes back before.
    Expire,
}

/// What happens in the rooms that this instance has sessions in, in the room's order.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message was kept.
    Message {
        /// Where.
        room: Room,
        /// Its place in the room's order.
        id: Id,
        /// The whole frame, encoded.
        frame: Bytes,
    },
    /// The host removed messages.
    Removed {
        /// Where.
        room: Room,
        /// The whole frame, encoded.
        frame: Bytes,
    },
    /// Someone is typing.
    Typing {
        /// Where.
        room: Room,
        /// The whole frame, encoded.
        frame: Bytes,
    },
    /// People came or went.
    Presence {
        /// Where.
        room: Room,
        /// Who came and who went.
        change: Change,
    },
    /// The message's `ref` was known: the message is kept already, and this is its frame.
    Receipt {
        /// Who sent it again.
        session: SessionId,
        /// The id of the first.
        id: Id,
        /// The whole frame, encoded.
        frame: Bytes,
    },
    /// A message could not be kept.
    Refused {
        /// Who sent it.
        session: SessionId,
        /// Its `ref`.
        reference: Option<String>,
    },
    /// The session's client came back elsewhere.
    TakenOver(SessionId),
    /// The host sent the session's client away.
    SentAway(SessionId),
    /// The session's lease expired unnoticed; its client has to join again.
    Evicted(SessionId),
    /// A message that a session or a script of this instance sent was kept, this long after it was handed over. It is
    /// for the metrics alone.
    Kept(Duration),
    /// This instance lost the backplane (`false`) or has it again.
    Status(bool),
}

/// A change of who is in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Shown names.
    pub joined: Vec<String>,
    /// Shown names.
    pub left: Vec<String>,
    /// How many are in the room after it.
    pub participants: u64,
    /// When, in microseconds of the backplane's clock.
    pub stamp: u64,
    /// The session of this instance that the change is about, if it is about one alone: it knows already.
    pub about: Option<SessionId>,
}

impl Change {
    /// Adds a later change. Who came and went again, or the other way round, is in neither list.
    pub fn add(&mut self, later: &Change) {
        move_names(&later.left, &mut self.joined, &mut self.left);
        move_names(&later.joined, &mut self.left, &mut self.joined);
        self.participants = later.participants;
        self.stamp = later.stamp;
        self.about = None;
    }
}

/// Takes each name out of `from`, or puts it into `to` if it is not there.
fn move_names(names: &[String], from: &mut Vec<String>, to: &mut Vec<String>) {
    for name in names {
        match from.iter().position(|other| other == name) {
            Some(place) => drop(from.swap_remove(place)),
            None => to.push(name.clone()),
        }
    }
}

/// Where events go: called on the backplane's own threads, so it must not wait for any client.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// Whether the backplane answers, and if not, why.
pub type Health = Result<(), String>;

/// What both implementations do. Calls are made on sessions' threads and end within 2 s.
pub trait Backplane: Admin + Send + Sync {
    /// Takes a seat and reads the log. The caller must be ready for the room's events before it calls.
    ///
    /// # Errors
    /// [`JoinError`]; the seat is then not taken.
    fn join(&self, seat: &Seat, since: Option<Id>) -> Result<Arrival, JoinError>;

    /// Gives a seat back.
    fn leave(&self, seat: &Seat, how: Leave);

    /// Keeps a message: the room gets [`Event::Message`], a repeated `ref` gets [`Event::Receipt`], and what can't be
    /// kept [`Event::Refused`]. Calls of one session are carried out in their order.
    fn say(&self, seat: &Seat, body: String, reference: Option<String>);

    /// Publishes that someone is typing; lost without harm.
    fn typing(&self, room: &Room, json: String);

    /// Reads the log.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn history(&self, room: &Room, span: Span, limit: usize) -> Result<Page, Unavailable>;

    /// Keeps a message that no session sent, and waits for it. Returns its id and its body, or those of the first one
    /// if this `by` has used this `ref` before.
    ///
    /// # Errors
    /// [`Unavailable`]; whether the message was kept is then unknown.
    fn post(&self, room: &Room, by: &str, body: String, reference: Option<String>)
    -> Result<(Id, String), Unavailable>;

    /// Reports how many sessions this instance holds, and reads the totals: (instances, sessions), this one included.
    fn load_report(&self, sessions: u64) -> Option<(u64, u64)>;

    /// Whether it answers.
    fn health(&self) -> Health;

    /// How long a command takes at present. Whoever lets newcomers in does so only while this is below 250 ms: they can
    /// wait, a message of those who are in cannot. Cheap enough to be called for each of them.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }

    /// What waits to be carried out, and for how long the oldest of it has waited: for the metrics.
    fn queue(&self) -> (usize, Duration);

    /// Carries out what is under way, gives every lease its full length, and ends; waits for at most `deadline`.
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
