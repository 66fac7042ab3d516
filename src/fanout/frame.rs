//! Encoded frames for clients, and the keys that order them.

use tungstenite::Bytes;

use crate::protocol::Id;

/// Encoded bytes, and the key that orders them.
#[derive(Debug, Clone)]
pub struct OutFrame {
    /// One or several whole frames.
    pub bytes: Bytes,
    /// Decides whether a client already has them.
    pub key: OrderKey,
}

impl OutFrame {
    /// A frame whose order among the others does not matter.
    pub fn unordered(bytes: Bytes) -> OutFrame {
        OutFrame { bytes, key: OrderKey::None }
    }
}

/// The key by which an outbox decides whether its client already has a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKey {
    /// A message; for several, the newest one.
    Message(Id),
    /// A change of presence, by its stamp (see [`crate::backplane::Change::stamp`]).
    Presence(u64),
    /// The frame is always written.
    None,
}

/// Messages of one room that are written together.
pub struct Batch {
    /// The individual messages.
    pub frames: Vec<OutFrame>,
    /// The oldest message's id.
    pub first: Id,
    /// All messages concatenated.
    pub whole: OutFrame,
}

impl Batch {
    /// Concatenates frames, all of them messages; `None` if there are none.
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
