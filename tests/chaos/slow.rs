//! Clients that do not play along. They sit in the same rooms as the faithful ones, who must not notice them.

use super::clock::{self, At};
use super::schedule::Fault;
use super::wire::{Got, Wire};
use serde_json::json;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// Joins and misbehaves until `until`, or until the server has had enough; then its connection breaks.
pub fn start(kind: Fault, addr: SocketAddr, room: String, name: String, until: At) {
    thread::spawn(move || {
        // A small window, so that what it does not read soon waits in the server and not in the kernel.
        let Ok(mut wire) = Wire::open(addr, &room, Some(4096)) else {
            return;
        };
        let secret = format!("secret-of-the-slow-{name}");
        let join = json!({"type": "join", "name": name, "client": secret});
        if wire.send(&join).is_err() || !matches!(wire.read(Duration::from_secs(3)), Got::Frame(_))
        {
            return;
        }
        misbehave(kind, &mut wire, until);
        wire.cut(true);
    });
}

fn misbehave(kind: Fault, wire: &mut Wire, until: At) {
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
        let read = match kind {
            Fault::SlowHalf => tcp.read(&mut bytes),
            Fault::SlowSip => tcp.read(&mut bytes[..1]),
            _ => Ok(1),
        };
        if matches!(read, Ok(0)) {
            return; // cut by the server
        }
        let pause = if kind == Fault::SlowSip { 1000 } else { 50 };
        thread::sleep(Duration::from_millis(pause));
    }
}
