//! One room on one lane: the outboxes of its sessions, and the frames gathered for them.

use std::collections::BTreeMap;

use tungstenite::Bytes;

use super::frame::{OrderKey, OutFrame};
use super::outbox::Outbox;
use crate::backplane::{Change, SessionId};
use crate::protocol::{self, Id, PRESENCE_NAMES, ServerFrame};

/// Up to this many people, notices of presence and typing are written at once; in larger rooms they are gathered.
const SMALL_ROOM: u64 = 50;
/// A lane's part of a room.
#[derive(Default)]
pub struct LaneRoom {
    /// Ordered by session number, which is mostly the order of their sockets in memory: this makes fan-out 10% faster.
    pub outboxes: BTreeMap<SessionId, Outbox>,
    messages: Vec<OutFrame>,
    message_bytes: usize,
    change: Option<Change>,
    typing: Vec<Bytes>,
    /// The newest count of people that this lane has received.
    participants: u64,
}

/// When gathered notices are to be written.
#[derive(Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// Later; the lane must set a timer.
    Later,
    /// Later; the timer is already set.
    Set,
    /// Never: enough have been gathered.
    Dropped,
}

impl LaneRoom {
    /// Gathers a message. Returns the total bytes of messages gathered.
    pub fn gather_message(&mut self, id: Id, frame: &Bytes) -> usize {
        self.message_bytes += frame.len();
        self.messages.push(OutFrame { bytes: frame.clone(), key: OrderKey::Message(id) });
        self.message_bytes
    }

    pub fn take_messages(&mut self) -> Vec<OutFrame> {
        self.message_bytes = 0;
        std::mem::take(&mut self.messages)
    }

    /// Merges a change of presence into the gathered one. Returns when to write it.
    pub fn gather_change(&mut self, news: &Change) -> When {
        let when = self.when(news.participants);
        match &mut self.change {
            Some(change) => change.add(news),
            none => *none = Some(news.clone()),
        }
        when
    }

    /// Gathers a typing notice, unless there are `most` already; with 0, none is gathered. Returns when to write them.
    pub fn gather_typing(&mut self, frame: &Bytes, most: usize) -> When {
        let when = if most == 0 { When::Now } else { self.when(self.participants) };
        if when == When::Set && self.typing.len() >= most {
            return When::Dropped;
        }
        self.typing.push(frame.clone());
        when
    }

    fn when(&mut self, participants: u64) -> When {
        self.participants = participants.max(self.outboxes.len() as u64);
        match (self.participants <= SMALL_ROOM, self.change.is_some() || !self.typing.is_empty()) {
            (true, _) => When::Now,
            (false, false) => When::Later,
            (false, true) => When::Set,
        }
    }

    /// Takes the gathered notices, encoded, and the session that already knows of the change.
    ///
    /// A small room receives all names, in several frames if necessary; a large one some names and the count.
    pub fn take_notices(&mut self) -> (Vec<OutFrame>, Option<SessionId>) {
        // Typing notices come first in the frame of presence, so that all of them cost one write per session.
        let mut bytes = std::mem::take(&mut self.typing).concat();
        let mut frames = Vec::new();
        let Some(change) = self.change.take() else {
            if !bytes.is_empty() {
                frames.push(OutFrame::unordered(bytes.into()));
            }
            return (frames, None);
        };
        let all = change.joined.len().max(change.left.len()).div_ceil(PRESENCE_NAMES).max(1);
        for number in 0..if change.participants <= SMALL_ROOM { all } else { 1 } {
            let part = |names: &[String]| -> Vec<String> {
                names.iter().skip(number * PRESENCE_NAMES).take(PRESENCE_NAMES).cloned().collect()
            };
            let (joined, left) = (part(&change.joined), part(&change.left));
            let frame = ServerFrame::Presence { joined: &joined, left: &left, participants: change.participants };
            bytes.extend_from_slice(&protocol::text_frame(protocol::json(&frame)));
            let key = OrderKey::Presence(change.stamp);
            frames.push(OutFrame { bytes: std::mem::take(&mut bytes).into(), key });
        }
        (frames, change.about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(participants: u64, stamp: u64) -> Change {
        Change { joined: vec![format!("N{stamp}")], participants, stamp, ..Change::default() }
    }

    #[test]
    fn small_rooms_get_everything_at_once_and_large_ones_later() {
        let mut room = LaneRoom::default();
        let typing = Bytes::from_static(b"typing");
        assert_eq!(room.gather_typing(&typing, 5), When::Now);
        assert_eq!(room.gather_change(&change(50, 1)), When::Now);
        assert_eq!(room.take_notices().0.len(), 1);
        assert_eq!(room.take_notices().0.len(), 0);
        assert_eq!(room.gather_change(&change(51, 2)), When::Later);
        assert_eq!(room.gather_change(&change(52, 3)), When::Set);
        for n in 0..100 {
            assert_eq!(room.gather_typing(&typing, 5), if n < 5 { When::Set } else { When::Dropped });
        }
        let (frames, _) = room.take_notices();
        let [notices] = &frames[..] else { panic!("{} frames", frames.len()) };
        assert!(notices.bytes.starts_with(&typing.repeat(5)) && notices.key == OrderKey::Presence(3), "one write");
        assert_eq!(room.gather_typing(&typing, 5), When::Later);
        assert_eq!(room.gather_typing(&typing, 0), When::Now, "gathering is off");
    }
}
