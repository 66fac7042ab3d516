//! The host's tools, as each backplane carries them out: who is where, removing messages, and keeping people out.
//!
//! They are apart from the chat's own calls: these are rare, may read a lot, and none of a client's frames leads here.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use tungstenite::Bytes;

use super::{Room, Seat, Unavailable};
use crate::limits;
use crate::protocol::{self, Id, ServerFrame};

/// A room that has people or messages.
#[derive(Debug, Serialize)]
pub struct RoomSummary {
    /// Its name.
    pub room: String,
    /// How many are in it.
    pub people: u64,
    /// How many messages its log has.
    pub messages: u64,
    /// The time of the newest one, in Unix milliseconds.
    pub last_activity: Option<u64>,
}

/// Somebody who is in a room.
#[derive(Debug, Serialize)]
pub struct Occupant {
    /// The name as shown.
    pub name: String,
    /// The client's mark.
    pub by: String,
    /// When the seat was taken, in Unix milliseconds.
    pub since: u64,
    /// Where the client is, as far as that is known.
    pub address: String,
}

/// Which messages of a room are to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// This one.
    One(Id),
    /// All by the client with this mark.
    By(String),
    /// All that are there now.
    All,
}

/// Whom a ban is about. Its text form is also the ban's id: a second ban of the same target replaces the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The client with this mark.
    By(String),
    /// Everybody at this address; of an IPv6 one, everybody in its first 64 bits.
    Address(IpAddr),
}

impl Target {
    /// Everybody at this address, or in its network, if it is an IPv6 one.
    pub fn address(address: IpAddr) -> Target {
        Target::Address(limits::counted_as(address))
    }

    /// Whether this is about whoever has such a seat.
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

/// Somebody is kept out.
#[derive(Debug, Clone, Serialize)]
pub struct Ban {
    /// Whom it is about.
    #[serde(rename = "id")]
    pub target: Target,
    /// When it ends, in Unix milliseconds of the backplane's clock.
    pub until: u64,
    /// In how long that is.
    #[serde(skip)]
    pub left: Duration,
}

/// What the host's tools do. Calls end within some seconds.
pub trait Admin {
    /// All rooms, the one with the latest activity first.
    ///
    /// # Errors
    /// [`Unavailable`], as for all that follow.
    fn rooms(&self) -> Result<Vec<RoomSummary>, Unavailable>;

    /// Who is in a room, sorted by name.
    fn people(&self, room: &Room) -> Result<Vec<Occupant>, Unavailable>;

    /// Removes messages, for good and from everybody's page ([`super::Event::Removed`]); how many there were.
    fn remove(&self, room: &Room, removal: &Removal) -> Result<u64, Unavailable>;

    /// Sends whom it is about away, from all rooms and instances ([`super::Event::SentAway`]), and refuses further
    /// joins until the time is over.
    fn ban(&self, target: &Target, time: Duration) -> Result<Ban, Unavailable>;

    /// Those that are in force.
    fn bans(&self) -> Result<Vec<Ban>, Unavailable>;

    /// Lifts a ban; whether there was one.
    fn lift(&self, target: &Target) -> Result<bool, Unavailable>;
}

/// Ids that one `removed` frame holds.
const IDS_PER_FRAME: usize = 500;

/// The frames that announce what was removed from a room: by id, or all up to the newest.
pub fn removed_frames(removal: &Removal, removed: &[Id]) -> Vec<Bytes> {
    let frame = |ids, upto| protocol::text_frame(protocol::json(&ServerFrame::Removed { ids, upto }));
    match (removal, removed.iter().max()) {
        (Removal::All, Some(newest)) => vec![frame(None, Some(*newest))],
        _ => removed.chunks(IDS_PER_FRAME).map(|ids| frame(Some(ids), None)).collect(),
    }
}

/// The bans in force, as an instance knows them.
#[derive(Default)]
pub struct Bans(Mutex<HashMap<Target, Instant>>);

impl Bans {
    /// Replaces all. Whether there are some whom it did not have.
    pub fn set(&self, bans: &[Ban]) -> bool {
        let now = Instant::now();
        let mut known = self.locked();
        let is_new = bans.iter().any(|ban| known.get(&ban.target).is_none_or(|end| *end <= now));
        *known = bans.iter().map(|ban| (ban.target.clone(), now + ban.left)).collect();
        is_new
    }

    /// For how much longer this client is kept out.
    pub fn left(&self, seat: &Seat) -> Option<Duration> {
        let bans = self.locked();
        if bans.is_empty() {
            return None;
        }
        let ends = [Target::By(seat.by.to_string()), Target::address(seat.address)];
        let end = ends.iter().filter_map(|target| bans.get(target)).max()?;
        end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Target, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
