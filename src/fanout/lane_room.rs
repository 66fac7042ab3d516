//! One room on one lane: the outboxes of its sessions there, and what is gathered before it is written to them.

use std::collections::BTreeMap;

use tungstenite::Bytes;

use super::frame::{OrderKey, OutFrame};
use super::outbox::Outbox;
use crate::backplane::{Change, SessionId};
use crate::protocol::{self, Id, PRESENCE_NAMES, ServerFrame};

/// Up to this many people, presence and typing are written at once; in larger rooms they are gathered.
const SMALL_ROOM: u64 = 50;
/// Typists whose notices one gathering holds; the others' are dropped.
const MAX_TYPISTS: usize = 5;

/// The part of a room that a lane has.
#[derive(Default)]
pub struct LaneRoom {
    /// In the order in which they came, which mostly is that of their sockets in memory: a tenth more deliveries/s.
    pub outboxes: BTreeMap<SessionId, Outbox>,
    messages: Vec<OutFrame>,
    message_bytes: usize,
    change: Option<Change>,
    typing: Vec<Bytes>,
    /// As far as this lane knows: the newest count of presence.
    participants: u64,
}

/// Whether what was gathered is to be written now, or when the time for gathering is over.
#[derive(Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// Later; the lane has to set its clock for it.
    Later,
    /// Later; the clock is set already.
    Set,
}

impl LaneRoom {
    /// Adds a message. Returns how many bytes of messages are gathered.
    pub fn gather_message(&mut self, id: Id, frame: &Bytes) -> usize {
        self.message_bytes += frame.len();
        self.messages.push(OutFrame { bytes: frame.clone(), key: OrderKey::Message(id) });
        self.message_bytes
    }

    /// Takes the gathered messages out.
    pub fn take_messages(&mut self) -> Vec<OutFrame> {
        self.message_bytes = 0;
        std::mem::take(&mut self.messages)
    }

    /// Adds a change of presence.
    pub fn gather_change(&mut self, news: &Change) -> When {
        let when = self.when(news.participants);
        match &mut self.change {
            Some(change) => change.add(news),
            none => *none = Some(news.clone()),
        }
        when
    }

    /// Adds a notice that someone is typing.
    pub fn gather_typing(&mut self, frame: &Bytes) -> When {
        let when = self.when(self.participants);
        if self.typing.len() < MAX_TYPISTS {
            self.typing.push(frame.clone());
        }
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

    /// Takes the gathered notices out, encoded, and the session that knows of the change already.
    ///
    /// A small room gets all names, if need be in several frames; a large one gets some names and the count.
    pub fn take_notices(&mut self) -> (Vec<OutFrame>, Option<SessionId>) {
        let mut frames: Vec<OutFrame> = self.typing.drain(..).map(OutFrame::unordered).collect();
        let Some(change) = self.change.take() else { return (frames, None) };
        let all = change.joined.len().max(change.left.len()).div_ceil(PRESENCE_NAMES).max(1);
        for number in 0..if change.participants <= SMALL_ROOM { all } else { 1 } {
            let part = |names: &[String]| -> Vec<String> {
                names.iter().skip(number * PRESENCE_NAMES).take(PRESENCE_NAMES).cloned().collect()
            };
            let (joined, left) = (part(&change.joined), part(&change.left));
            let frame = ServerFrame::Presence { joined: &joined, left: &left, participants: change.participants };
            let bytes = protocol::text_frame(protocol::json(&frame));
            frames.push(OutFrame { bytes, key: OrderKey::Presence(change.stamp) });
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
        assert_eq!(room.gather_typing(&typing), When::Now);
        assert_eq!(room.gather_change(&change(50, 1)), When::Now);
        assert_eq!(room.take_notices().0.len(), 2);
        assert_eq!(room.gather_change(&change(51, 2)), When::Later);
        assert_eq!(room.gather_change(&change(52, 3)), When::Set);
        for _ in 0..100 {
            assert_eq!(room.gather_typing(&typing), When::Set);
        }
        let (frames, _) = room.take_notices();
        assert_eq!((frames.len(), frames.last().map(|f| f.key)), (MAX_TYPISTS + 1, Some(OrderKey::Presence(3))));
        assert_eq!(room.gather_typing(&typing), When::Later);
    }
}
