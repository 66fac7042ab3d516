//! Clients that do not play along. They sit in the same rooms as the faithful ones, who must not notice them.

use super::clock::{self, At};
use super::schedule::Fault;
use super::wire::{Got, Wire};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// An empty masked pong.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// Joins and misbehaves until `until`, then breaks the connection; gives when the server had had enough before.
pub fn start(kind: Fault, addr: SocketAddr, room: String, name: String, until: At) -> JoinHandle<Option<At>> {
    thread::spawn(move || {
        // A small window, so that what it does not read soon waits in the server and not in the kernel.
        let window = (kind != Fault::SlowHalf).then_some(4096);
        let mut wire = Wire::open(addr, &room, window).ok()?;
        let secret = format!("secret-of-the-slow-{name}");
        wire.send(&json!({"type": "join", "name": name, "client": secret})).ok()?;
        let Got::Frame(_) = wire.read(Duration::from_secs(3)) else {
            return None;
        };
        let cut = misbehave(kind, &mut wire, until);
        wire.cut(true);
        cut
    })
}

fn misbehave(kind: Fault, wire: &mut Wire, until: At) -> Option<At> {
    let tcp = wire.tcp();
    if kind == Fault::SlowHalf {
        // The head of a masked text frame of 200 bytes, and 14 of them.
        let mut half = vec![0x81, 0x80 | 126, 0, 200, 0, 0, 0, 0];
        half.extend_from_slice(b"{\"type\":\"messa");
        let _ = tcp.write_all(&half);
    }
    let _ = tcp.set_read_timeout(Some(Duration::from_millis(100)));
    while clock::now() < until {
        let mut bytes = [0; 4096];
        let moved = match kind {
            Fault::SlowHalf => tcp.read(&mut bytes),
            // An unasked pong now and then: who does not read to the end can only notice so that it was cut.
            Fault::SlowSip => tcp.write(&PONG).and_then(|_| tcp.read(&mut bytes[..1])),
            _ => tcp.write(&PONG),
        };
        match moved {
            Ok(0) => return Some(clock::now()),
            Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Some(clock::now());
            }
            _ => {}
        }
        if kind != Fault::SlowHalf {
            thread::sleep(Duration::from_secs(1));
        }
    }
    None
}
