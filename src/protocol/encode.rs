//! Frames as bytes for the socket, and memory for large ones.

use std::sync::{Arc, LazyLock};

use memmap2::MmapMut;
use tungstenite::Bytes;
use tungstenite::protocol::frame::{
    Frame,
    coding::{Data, OpCode},
};

use crate::limits::{MAX_LARGE_FRAMES, Slot, Slots};

/// Frames from this size on, in bytes, are large.
const LARGE: usize = 32 * 1024;

static LARGE_FRAMES: LazyLock<Arc<Slots>> = LazyLock::new(|| Slots::new(MAX_LARGE_FRAMES));

/// A text frame as bytes for the socket: header and payload, unmasked (RFC 6455, section 5.1).
pub fn text_frame(json: String) -> Bytes {
    encode(Frame::message(json.into_bytes(), OpCode::Data(Data::Text), true))
}

/// A frame as bytes.
pub fn encode(frame: Frame) -> Bytes {
    if let Some(mut large) = LargeFrame::new(frame.len()) {
        frame.format(&mut large.as_mut()).expect("it has the frame's length");
        return Bytes::from_owner(large);
    }
    let mut bytes = Vec::with_capacity(frame.len());
    frame.format(&mut bytes).expect("a Vec takes all that is written");
    bytes.into()
}

/// Space for a frame in a memory map of its own, which returns to the system once the frame is written or dropped. In the
/// heap, a crowd of pages of history would leave holes that are never returned.
struct LargeFrame {
    map: MmapMut,
    _slot: Slot,
}

impl LargeFrame {
    /// Space for a frame of this many bytes; `None` if it is small, if there are [`MAX_LARGE_FRAMES`] already, or if the
    /// system has no memory.
    fn new(bytes: usize) -> Option<LargeFrame> {
        if bytes < LARGE {
            return None;
        }
        Some(LargeFrame { _slot: LARGE_FRAMES.take()?, map: MmapMut::map_anon(bytes).ok()? })
    }
}

impl AsRef<[u8]> for LargeFrame {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl AsMut<[u8]> for LargeFrame {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_frames_are_encoded_as_small_ones_are() {
        for length in [LARGE - 10, LARGE, 2 * LARGE] {
            let text = "x".repeat(length);
            let size = if length < 65_536 {
                vec![126, (length >> 8) as u8, length as u8]
            } else {
                vec![127, 0, 0, 0, 0, 0, 1, 0, 0]
            };
            let expected = [&[0x81], &size[..], text.as_bytes()].concat();
            let many: Vec<_> = (0..MAX_LARGE_FRAMES + 2).map(|_| text_frame(text.clone())).collect();
            assert!(many.iter().all(|bytes| *bytes == expected), "{length}");
            assert_eq!(LARGE_FRAMES.taken(), if length < LARGE { 0 } else { MAX_LARGE_FRAMES });
        }
        assert_eq!(LARGE_FRAMES.taken(), 0, "their memory is returned");
    }
}
