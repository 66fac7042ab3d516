//! The admin operations that every backplane implements: listing rooms and people, removing messages, and bans.
//!
//! They have a trait of their own because they are rare, may read a lot, and cannot be reached by any client frame.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use tungstenite::Bytes;

use super::{Room, Unavailable};
use crate::limits;
use crate::protocol::{self, Id, ServerFrame};

/// A room that has people or messages.
#[derive(Debug, Serialize)]
pub struct RoomSummary {
    /// Its name.
    pub room: String,
    /// The number of people in it.
    pub people: u64,
    /// The number of messages in its log.
    pub messages: u64,
    /// The time of its newest message, in Unix milliseconds.
    pub last_activity: Option<u64>,
}

/// A person in a room.
#[derive(Debug, Serialize)]
pub struct Occupant {
    /// The name as shown.
    pub name: String,
    /// The client's mark.
    pub by: String,
    /// When the person joined, in Unix milliseconds.
    pub since: u64,
    /// The client's address, or "" if unknown.
    pub address: String,
}

/// Which messages of a room to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// The message with this id.
    One(Id),
    /// All messages of the client with this mark.
    By(String),
    /// All messages currently in the log.
    All,
}

/// The client or address that a ban applies to. Its text form is also the ban's id: a second ban of the same target
/// replaces the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The client with this mark.
    By(String),
    /// All clients at this address; for IPv6, in the same /64 network.
    Address(IpAddr),
}

impl Target {
    /// A target for this address, or for its /64 network if it is an IPv6 one.
    pub fn address(address: IpAddr) -> Target {
        Target::Address(limits::counted_as(address))
    }

    /// Whether the ban applies to a client with this mark and address.
    pub fn is(&self, by: &str, address: IpAddr) -> bool {
        match self {
            Target::By(mark) => mark == by,
            Target::Address(_) => *self == Target::address(address),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::By(mark) => f.write_str(mark),
            Target::Address(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Target {
    type Err = ();

    fn from_str(text: &str) -> Result<Target, ()> {
        if protocol::is_mark(text) {
            return Ok(Target::By(text.to_owned()));
        }
        text.parse().map(Target::address).map_err(|_| ())
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A ban.
#[derive(Debug, Clone, Serialize)]
pub struct Ban {
    /// The client or address.
    #[serde(rename = "id")]
    pub target: Target,
    /// When it ends, in Unix milliseconds by the backplane's clock.
    pub until: u64,
    /// The time until then.
    #[serde(skip)]
    pub left: Duration,
}

/// The operations behind the admin API. Calls return within a few seconds.
pub trait Admin {
    /// All rooms, most recently active first.
    ///
    /// # Errors
    /// [`Unavailable`], as for all operations here.
    fn rooms(&self) -> Result<Vec<RoomSummary>, Unavailable>;

    /// The people in a room, sorted by name.
    fn people(&self, room: &Room) -> Result<Vec<Occupant>, Unavailable>;

    /// Deletes messages, announces that to the room ([`super::Event::Removed`]), and returns how many there were.
    fn remove(&self, room: &Room, removal: &Removal) -> Result<u64, Unavailable>;

    /// Bans a target: ends its sessions in all rooms on all instances ([`super::Event::Banned`]), and refuses its
    /// joins for this time.
    fn ban(&self, target: &Target, time: Duration) -> Result<Ban, Unavailable>;

    /// The bans in force.
    fn bans(&self) -> Result<Vec<Ban>, Unavailable>;

    /// Lifts a ban; returns whether there was one.
    fn lift(&self, target: &Target) -> Result<bool, Unavailable>;

    /// How much longer a client with this mark, or "", and this address is banned, as known to this instance.
    fn banned(&self, by: &str, address: IpAddr) -> Option<Duration>;
}

/// The most ids in one `removed` frame.
const IDS_PER_FRAME: usize = 500;
/// The number of removed messages, the newest, that a client is told of when it resumes.
pub const REMOVED_TOLD: usize = IDS_PER_FRAME;

/// The frames that announce these removed messages.
pub fn removed_ids(ids: &[Id]) -> Vec<Bytes> {
    ids.chunks(IDS_PER_FRAME).map(|ids| removed_frame(Some(ids), None)).collect()
}

/// The frame that announces that all messages up to this one were removed.
pub fn removed_upto(newest: Id) -> Bytes {
    removed_frame(None, Some(newest))
}

fn removed_frame(ids: Option<&[Id]>, upto: Option<Id>) -> Bytes {
    protocol::text_frame(protocol::json(&ServerFrame::Removed { ids, upto }))
}

/// The bans in force, as known to this instance.
#[derive(Default)]
pub struct Bans(Mutex<HashMap<Target, Instant>>);

impl Bans {
    /// Replaces all bans; returns whether any of them is new.
    pub fn set(&self, bans: &[Ban]) -> bool {
        let now = Instant::now();
        let mut known = self.locked();
        let is_new = bans.iter().any(|ban| known.get(&ban.target).is_none_or(|end| *end <= now));
        *known = bans.iter().map(|ban| (ban.target.clone(), now + ban.left)).collect();
        is_new
    }

    /// How much longer a client with this mark and address is banned, if it is.
    pub fn left(&self, by: &str, address: IpAddr) -> Option<Duration> {
        let bans = self.locked();
        if bans.is_empty() {
            return None;
        }
        let ends = [Target::By(by.to_owned()), Target::address(address)];
        let end = ends.iter().filter_map(|target| bans.get(target)).max()?;
        end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Target, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
