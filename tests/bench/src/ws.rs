//! The part of WebSocket (RFC 6455) that a load generator needs: sending text frames and receiving whole frames. A
//! library would validate what a benchmark can trust, and would cost more than the server being measured.

/// The client's handshake key, and the matching answer: the pair from the RFC's own example.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const TEXT: u8 = 0x1;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// A frame at the front of a buffer: its opcode, its payload, and its length in bytes.
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
    pub size: usize,
}

/// The first frame in `bytes`, if complete. Servers do not mask, so the payload is used in place.
#[inline]
pub fn next(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, head) = match second & 0x7f {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize, 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        short => (short as usize, 2),
    };
    let payload = bytes.get(head..head + length)?;
    Some(Frame { opcode: first & 0x0f, payload, size: head + length })
}

/// A whole frame from a client. The mask is present, as the RFC demands, and zero; the server unmasks anyway.
pub fn from_client(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(opcode, payload.len(), 0x80);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A whole frame from a server, for the floor.
pub fn from_server(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(opcode, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

/// The first frame of a client with a zero mask, and its length in bytes; used by the floor.
pub fn next_from_client(bytes: &[u8]) -> Option<Frame<'_>> {
    let second = *bytes.get(1)?;
    let (length, head) = match second & 0x7f {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize, 8),
        short => (short as usize, 6),
    };
    let payload = bytes.get(head..head + length)?;
    Some(Frame { opcode: bytes[0] & 0x0f, payload, size: head + length })
}

fn head(opcode: u8, length: usize, mask: u8) -> Vec<u8> {
    let mut head = Vec::with_capacity(length + 14);
    head.push(0x80 | opcode);
    match length {
        0..126 => head.push(mask | length as u8),
        126..65536 => {
            head.push(mask | 126);
            head.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head.push(mask | 127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}
