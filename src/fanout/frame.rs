//! Encoded frames on their way to clients, and what orders them.

use tungstenite::Bytes;

use crate::protocol::Id;

/// Bytes to write, and what they are.
#[derive(Debug, Clone)]
pub struct OutFrame {
    /// One frame or several, whole.
    pub bytes: Bytes,
    /// What they are.
    pub key: OrderKey,
}

impl OutFrame {
    /// A frame whose place among the others does not matter.
    pub fn unordered(bytes: Bytes) -> OutFrame {
        OutFrame { bytes, key: OrderKey::None }
    }
}

/// By what an outbox decides whether its client has this already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKey {
    /// A message, or several, of which this is the newest.
    Message(Id),
    /// A change of presence at this moment (see [`crate::backplane::Change::stamp`]).
    Presence(u64),
    /// Always written.
    None,
}

/// Messages of one room that are written together.
pub struct Batch {
    /// One by one.
    pub frames: Vec<OutFrame>,
    /// The oldest one's id.
    pub first: Id,
    /// All in one.
    pub whole: OutFrame,
}

impl Batch {
    /// Joins frames; there is at least one, and all are messages.
    pub fn new(frames: Vec<OutFrame>) -> Option<Batch> {
        let OrderKey::Message(first) = frames.first()?.key else { return None };
        let key = frames.last()?.key;
        let bytes = match frames.as_slice() {
            [one] => one.bytes.clone(),
            many => many.iter().flat_map(|frame| &frame.bytes[..]).copied().collect(),
        };
        Some(Batch { frames, first, whole: OutFrame { bytes, key } })
    }
}
