//! Counts the frames that tungstenite does not report, fragments and control frames, so that they count against a
//! client's rate. Otherwise an endless stream of empty fragments would be a single endless `read`.

/// Follows frames through the bytes of a connection (RFC 6455, section 5.2).
#[derive(Debug, Default)]
pub struct FrameCounter {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// At the first byte of a frame.
    #[default]
    First,
    /// At the second byte.
    Second,
    /// In the extended length.
    Length { left: u8, length: u64, masked: bool },
    /// In the mask and the payload.
    Rest(u64),
}

impl FrameCounter {
    /// Parses the next bytes, and counts the frames starting in them that are not a whole message.
    pub fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut frames = 0;
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            self.state = match self.state {
                State::First => {
                    let whole_message = byte & 0x80 != 0 && matches!(byte & 0x0F, 1 | 2);
                    frames += usize::from(!whole_message);
                    State::Second
                }
                State::Second => {
                    let masked = byte & 0x80 != 0;
                    match byte & 0x7F {
                        126 => State::Length { left: 2, length: 0, masked },
                        127 => State::Length { left: 8, length: 0, masked },
                        short => rest_of(u64::from(short), masked),
                    }
                }
                State::Length { left, length, masked } => {
                    let length = length << 8 | u64::from(byte);
                    if left > 1 { State::Length { left: left - 1, length, masked } } else { rest_of(length, masked) }
                }
                State::Rest(left) => {
                    let more = (left - 1).min(bytes.len() as u64);
                    bytes = &bytes[more as usize..];
                    if left - 1 > more { State::Rest(left - 1 - more) } else { State::First }
                }
            };
        }
        frames
    }
}

fn rest_of(length: u64, masked: bool) -> State {
    match length.saturating_add(if masked { 4 } else { 0 }) {
        0 => State::First,
        rest => State::Rest(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_and_control_frames_are_counted_however_they_are_cut() {
        let mut bytes = vec![0x81, 0x82, 1, 2, 3, 4, b'h', b'i']; // a whole text message
        bytes.extend([0x01, 0x80, 1, 2, 3, 4]); // an empty first fragment
        bytes.extend([0x89, 0x81, 1, 2, 3, 4, 0x89]); // a ping with one byte
        bytes.extend([0x80, 0xFE, 0x01, 0x00, 1, 2, 3, 4]); // the last fragment, 256 bytes
        bytes.extend([0x89; 256]);
        bytes.extend([0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 4, 0x89, 0x89]); // a whole binary, long form
        bytes.extend([0x8A, 0x00]); // a pong, not masked
        bytes.extend([0x88, 0x80, 1, 2, 3, 4]); // a close
        for size in 1..bytes.len() {
            let mut counter = FrameCounter::default();
            let count: usize = bytes.chunks(size).map(|chunk| counter.count(chunk)).sum();
            assert_eq!(count, 5, "in pieces of {size}");
            assert!(matches!(counter.state, State::First));
        }
        let mut huge = FrameCounter::default();
        assert_eq!(huge.count(&[0x81, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0x89]), 0);
    }
}
