//! What a client sends, as bytes: for tests that write several things at once, or parts of them.

/// The header lines of an upgrade.
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A text frame masked with zeros.
pub fn text_frame(json: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match json.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(json.as_bytes());
    frame
}
