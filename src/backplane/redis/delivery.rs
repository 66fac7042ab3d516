//! Tracks which messages of one room have been delivered on this instance. Pub/sub is for speed, the log is the truth:
//! messages in the log that the channel did not bring are read from there, in order, before anything newer is
//! delivered.
//!
//! On one connection, replies and publications arrive in the order in which Redis executed the commands. So messages
//! can be missed only if the connection is lost, or if a proxy lets the subscription go stale. Both are detected
//! through ids: that of the newest entry, which every heartbeat reads, and that of a message kept by this instance but
//! not published within [`CONFIRMATION`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tungstenite::Bytes;

use super::roster::Roster;
use crate::backplane::{Change, SessionId};
use crate::protocol::Id;

/// Time after which a kept message should have been published.
pub const CONFIRMATION: Duration = Duration::from_millis(500);

/// A session that sent a message, and the message's `ref`.
pub type Author = (SessionId, Option<String>);

/// The delivery state of one room.
#[derive(Default)]
pub struct Delivery {
    /// The newest delivered message; older ones are not delivered again. `None` before the first welcome.
    last: Option<Id>,
    /// While the log is being read: the newest id known to be in it. Publications are not delivered meanwhile, because
    /// their messages are in the log too.
    refilling: Option<Id>,
    /// A new connection is being prepared. Until it is known which messages were missed, nothing newer is delivered.
    suspended: bool,
    /// No refill was under way when the room was suspended.
    idle: bool,
    /// Frames that announce removed messages, held back while the log is being read: the messages may be among those
    /// just read, and must not follow the announcement.
    removed: Vec<Bytes>,
    /// Messages that are in the log but have not been delivered here, in order of their ids.
    unconfirmed: VecDeque<Unconfirmed>,
    /// Who is in the room, as announced to the clients.
    pub roster: Roster,
    /// When to compare the roster: once all instances have restored the seats that Redis lost.
    pub compare_at: Option<Instant>,
}

struct Unconfirmed {
    id: Id,
    since: Instant,
    author: Option<Author>,
}

/// What to do after a pass over the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Refilled {
    /// The room is up to date. These authors' messages are no longer in the log.
    Complete(Vec<Author>),
    /// There is more to read.
    More,
}

impl Delivery {
    /// The newest delivered message.
    pub fn last(&self) -> Id {
        self.last.unwrap_or_default()
    }

    /// A joining client's welcome ends at `newest`. Returns whether the clients already here have missed messages
    /// before that.
    pub fn begin(&mut self, newest: Id, now: Instant) -> bool {
        self.last.get_or_insert(newest);
        self.kept(newest, None, now)
    }

    /// A message was published. Returns whether to deliver it.
    pub fn published(&mut self, id: Id) -> bool {
        match &mut self.refilling {
            Some(newest) => {
                *newest = id.max(*newest);
                false
            }
            None => self.advance(id),
        }
    }

    /// A message was read from the log. Returns whether to deliver it.
    pub fn read(&mut self, id: Id) -> bool {
        self.advance(id)
    }

    fn advance(&mut self, id: Id) -> bool {
        if self.last.is_some_and(|last| id <= last) {
            return false;
        }
        self.last = Some(id);
        self.unconfirmed.retain(|message| message.id != id);
        true
    }

    /// A change of presence was published. Returns the part to announce. While seats are being restored that is all of
    /// it, because clients that join during that time know fewer names than the roster has.
    pub fn changed(&mut self, change: Change) -> Option<Change> {
        if self.compare_at.is_some() {
            self.roster.follow(change.clone());
            return Some(change);
        }
        self.roster.follow(change)
    }

    /// Messages were removed. Returns the frames to announce now, those held back before included: none while the log is
    /// being read.
    pub fn removed(&mut self, frames: Vec<Bytes>) -> Vec<Bytes> {
        self.removed.extend(frames);
        if self.refilling.is_none() { std::mem::take(&mut self.removed) } else { Vec::new() }
    }

    /// A message was added to the log. If this instance sent it, `author` waits for the receipt. Returns whether it is
    /// still undelivered.
    pub fn kept(&mut self, id: Id, author: Option<Author>, now: Instant) -> bool {
        if id <= self.last() {
            return false;
        }
        let place = self.unconfirmed.partition_point(|other| other.id <= id);
        self.unconfirmed.insert(place, Unconfirmed { id, since: now, author });
        true
    }

    /// Removes and returns the authors who wait for a receipt.
    pub fn take_authors(&mut self) -> impl Iterator<Item = Author> {
        self.unconfirmed.iter_mut().filter_map(|message| message.author.take())
    }

    /// Whether some kept messages are still undelivered.
    pub fn has_unconfirmed(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// Whether a message is overdue for publication and no refill is under way.
    pub fn is_overdue(&self, now: Instant) -> bool {
        let overdue = |message: &Unconfirmed| now.saturating_duration_since(message.since) >= CONFIRMATION;
        self.refilling.is_none() && self.unconfirmed.front().is_some_and(overdue)
    }

    /// Starts reading the log after [`Delivery::last`]. Returns whether no refill was under way.
    pub fn begin_refill(&mut self) -> bool {
        let newest = self.unconfirmed.back().map_or(self.last(), |message| message.id);
        let idle = self.refilling.is_none();
        self.refilling = Some(self.refilling.map_or(newest, |known| known.max(newest)));
        idle
    }

    /// Called before the room is subscribed on a new connection: publications are held back until [`Delivery::resume`].
    /// Otherwise a message published before the reply to the renewal would hide the ones missed before it.
    pub fn suspend(&mut self) {
        self.idle = self.begin_refill() || (self.suspended && self.idle);
        self.suspended = true;
    }

    /// The log ends at `newest` on the new connection; `None` if that could not be read. Returns whether to start a
    /// refill.
    pub fn resume(&mut self, newest: Option<Id>) -> bool {
        if !std::mem::take(&mut self.suspended) {
            return false;
        }
        let target = self.refilling.max(newest);
        let missed = newest.is_none() || target > self.last;
        self.refilling = if missed || !self.idle { target } else { None };
        missed && self.idle
    }

    /// The newest id known to be in the log, while it is being read.
    pub fn refill_target(&self) -> Option<Id> {
        self.refilling
    }

    /// The log has been read to its end. `target` is the newest id known when the read began: messages up to there that
    /// are still undelivered are no longer in the log, and their authors are notified.
    pub fn end_refill(&mut self, target: Id) -> Refilled {
        let newest = self.refilling.unwrap_or_default();
        if self.suspended || (newest > target && newest > self.last()) {
            return Refilled::More;
        }
        self.refilling = None;
        let lost = self.unconfirmed.iter().position(|message| message.id > target).unwrap_or(self.unconfirmed.len());
        Refilled::Complete(self.unconfirmed.drain(..lost).filter_map(|message| message.author).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> Id {
        Id { ms, seq: 0 }
    }

    #[test]
    fn each_message_is_delivered_once_and_in_order() {
        let mut room = Delivery::default();
        assert!(!room.begin(id(5), Instant::now()));
        assert!(!room.published(id(5)) && room.published(id(6)) && !room.published(id(6)));
        assert!(!room.kept(id(6), None, Instant::now()), "it is delivered already");
        assert!(room.begin(id(9), Instant::now()), "those who are here know less");
        assert_eq!(room.last(), id(6));
    }

    #[test]
    fn what_is_published_before_the_room_has_resumed_hides_nothing() {
        let mut room = Delivery::default();
        room.begin(id(5), Instant::now());
        room.suspend();
        assert!(!room.published(id(8)), "6 and 7 may have been missed");
        room.suspend();
        assert!(room.resume(Some(id(8))) && !room.resume(Some(id(8))));
        let target = room.refill_target().expect("it is read");
        assert!(room.read(id(6)) && room.read(id(8)) && room.end_refill(target) == Refilled::Complete(Vec::new()));
        assert!(room.published(id(9)));
        // Nothing was missed.
        room.suspend();
        assert!(!room.resume(Some(id(9))) && room.published(id(10)));
        // A refill is already under way, and continues until the room has resumed.
        assert!(room.begin_refill());
        room.suspend();
        assert!(!room.published(id(12)) && room.end_refill(id(10)) == Refilled::More);
        assert!(!room.resume(Some(id(12))) && room.end_refill(id(10)) == Refilled::More);
        // If the end of the log is unknown, the log must be read.
        let mut room = Delivery::default();
        room.begin(id(5), Instant::now());
        room.suspend();
        assert!(room.resume(None));
    }

    #[test]
    fn what_is_not_published_in_time_is_read_from_the_log() {
        let (mut room, now) = (Delivery::default(), Instant::now());
        assert!(room.kept(id(6), Some((1, None)), now) && room.kept(id(5), Some((2, None)), now));
        assert!(!room.is_overdue(now) && room.is_overdue(now + CONFIRMATION));
        assert!(room.published(id(5)) && room.is_overdue(now + CONFIRMATION));
        assert!(room.begin_refill() && !room.begin_refill());
        assert!(!room.published(id(7)), "it is in the log too");
        let target = id(6);
        assert!(room.read(id(6)));
        assert_eq!(room.end_refill(target), Refilled::More);
        let target = room.refill_target().expect("still at it");
        assert!(room.read(id(7)));
        assert_eq!(room.end_refill(target), Refilled::Complete(vec![]));
        assert!(room.published(id(8)) && room.unconfirmed.is_empty());
    }

    #[test]
    fn names_that_are_taken_again_are_told_to_those_who_came_meanwhile() {
        let change = || Change { joined: vec!["Ada".to_owned()], ..Change::default() };
        let mut room = Delivery::default();
        room.roster.correct(vec!["Ada".to_owned()], 1, false);
        assert_eq!(room.changed(change()), None);
        room.compare_at = Some(Instant::now());
        assert_eq!(room.changed(change()), Some(change()));
    }

    #[test]
    fn a_removal_is_announced_after_the_messages_that_are_being_read() {
        let (mut room, frames) = (Delivery::default(), vec![Bytes::from_static(b"removed")]);
        assert_eq!(room.removed(frames.clone()), frames);
        room.begin(id(5), Instant::now());
        room.suspend();
        assert!(room.removed(frames.clone()).is_empty());
        assert!(room.resume(Some(id(6))) && room.removed(vec![]).is_empty());
        let target = room.refill_target().expect("it is read");
        assert!(room.read(id(6)) && room.end_refill(target) == Refilled::Complete(Vec::new()));
        assert_eq!((room.removed(vec![]), room.removed(vec![])), (frames.clone(), vec![]));
        // Nothing was missed.
        room.suspend();
        assert!(room.removed(frames.clone()).is_empty());
        assert!(!room.resume(Some(id(6))));
        assert_eq!(room.removed(vec![]), frames);
    }

    #[test]
    fn what_the_log_has_lost_is_refused() {
        let (mut room, now) = (Delivery::default(), Instant::now());
        room.kept(id(5), Some((1, Some("r".to_owned()))), now);
        room.begin_refill();
        let target = room.refill_target().expect("at it");
        assert_eq!(room.end_refill(target), Refilled::Complete(vec![(1, Some("r".to_owned()))]));
        assert!(room.published(id(6)), "and the room goes on");
    }
}
