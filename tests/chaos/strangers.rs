//! Clients that misbehave. They are in the same rooms as the well-behaved ones, which must not notice them.

use super::clock::{self, At};
use super::fault::Fault;
use super::ledger::{Imposture, Outcome};
use super::stage::Stage;
use super::wire::{Got, Wire};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// An empty masked pong.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];
/// How many join at once: more than one welcome lists, and more than are cleared at a time.
const CROWD: usize = 150;

/// Joins and misbehaves until `until`, then breaks the connection; returns the time if the server closed it earlier.
pub fn start(
    kind: Fault,
    stage: &Arc<Stage>,
    addr: SocketAddr,
    room: String,
    name: String,
    until: At,
) -> JoinHandle<Option<At>> {
    let stage = Arc::clone(stage);
    thread::spawn(move || match kind {
        Fault::Impostor => impersonate(&stage, addr, &room, until),
        Fault::Crowd => crowd(addr, &room, &name, until),
        _ => {
            // A small window, so that unread data soon waits in the server rather than in the kernel.
            let window = (kind != Fault::SlowHalf).then_some(4096);
            // On a busy machine a join may be refused, or take long.
            let mut wire = loop {
                match enter(addr, &room, &name, window) {
                    Some(wire) => break wire,
                    None if clock::now() < until => thread::sleep(Duration::from_millis(500)),
                    None => return None,
                }
            };
            let cut = match kind {
                Fault::Greedy => ask_without_end(&mut wire, until),
                _ => misbehave(kind, &mut wire, until),
            };
            wire.cut(true);
            cut
        }
    })
}

/// Joins under a name of its own; `None` if that fails, which is not a violation here.
fn enter(addr: SocketAddr, room: &str, name: &str, window: Option<usize>) -> Option<Wire> {
    let mut wire = Wire::open(addr, room, window).ok()?;
    let join = json!({"type": "join", "name": name, "client": format!("secret-of-{name}")});
    wire.send(&join).ok()?;
    match wire.read(Duration::from_secs(3)) {
        Got::Frame(frame) if frame["type"] == "welcome" => Some(wire),
        _ => None,
    }
}

fn misbehave(kind: Fault, wire: &mut Wire, until: At) -> Option<At> {
    let tcp = wire.tcp();
    if kind == Fault::SlowHalf {
        // The head of a masked text frame of 200 bytes, and 14 of those.
        let mut half = vec![0x81, 0x80 | 126, 0, 200, 0, 0, 0, 0];
        half.extend_from_slice(b"{\"type\":\"messa");
        let _ = tcp.write_all(&half);
    }
    let _ = tcp.set_read_timeout(Some(Duration::from_millis(100)));
    while clock::now() < until {
        let mut bytes = [0; 4096];
        let moved = match kind {
            Fault::SlowHalf => tcp.read(&mut bytes),
            // An unsolicited pong now and then: a client that does not read to the end notices only by writing that it
            // was cut.
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

/// Requests as much history as allowed, and reads all of it.
fn ask_without_end(wire: &mut Wire, until: At) -> Option<At> {
    let ask = json!({"type": "history", "before": "99999999999999-0", "limit": 100});
    let mut next = 0;
    while clock::now() < until {
        if clock::now() >= next {
            next = clock::now() + 20;
            if wire.send(&ask).is_err() {
                return Some(clock::now());
            }
        }
        match wire.read(Duration::from_millis(10)) {
            Got::Close(_) | Got::Broken(_) => return Some(clock::now()),
            Got::Frame(_) | Got::Nothing { .. } => {}
        }
    }
    None
}

/// Many clients join and stay, until all their connections break at once.
fn crowd(addr: SocketAddr, room: &str, name: &str, until: At) -> Option<At> {
    let mut wires = Vec::new();
    for number in 0..CROWD {
        if clock::now() < until {
            wires.extend(enter(addr, room, &format!("{name}-{number}"), None));
        }
    }
    thread::sleep(Duration::from_millis(until.saturating_sub(clock::now())));
    wires.into_iter().for_each(|wire| wire.cut(true));
    None
}

/// Names that count as the same as this one, although their code points differ.
pub fn look_alikes(name: &str) -> Vec<String> {
    let wide = |c: char| match c {
        '!'..='~' => char::from_u32(c as u32 + 0xFEE0).expect("the full-width forms"),
        other => other,
    };
    vec![
        name.to_uppercase(),
        name.chars().map(wide).collect(),
        name.chars().flat_map(|c| [c, '\u{200d}']).collect(), // zero-width joiners
        name.chars().flat_map(|c| ['\u{ad}', c]).collect(),   // soft hyphens
        format!("{name}\u{fe0f}"),                            // a variation selector
        format!("  {name}\u{e0041} "),                        // a tag
    ]
}

/// Tries the names of those present, and records where it was accepted.
fn impersonate(stage: &Stage, addr: SocketAddr, room: &str, until: At) -> Option<At> {
    let victims: Vec<(usize, String)> = (0..stage.ledger.clients.len())
        .map(|client| (client, stage.ledger.book(client)))
        .filter(|(_, book)| book.room == room)
        .map(|(client, book)| (client, book.name.clone()))
        .collect();
    for (client, name) in victims.iter().cycle() {
        if clock::now() > until {
            return None;
        }
        let Ok(mut wire) = Wire::open(addr, room, None) else {
            thread::sleep(Duration::from_millis(200));
            continue;
        };
        for look_alike in look_alikes(name) {
            let join = json!({"type": "join", "name": look_alike, "client": "secret-of-an-impostor"});
            if wire.send(&join).is_err() {
                break;
            }
            let asked = clock::now();
            let outcome = match wire.read(Duration::from_secs(3)) {
                Got::Frame(frame) if frame["type"] == "welcome" => Outcome::Accepted,
                Got::Frame(_) => continue,
                Got::Nothing { .. } | Got::Close(_) | Got::Broken(_) => Outcome::Unknown,
            };
            let imposture = Imposture { at: asked, name: look_alike, client: *client, outcome };
            stage.ledger.impostures.lock().expect("nobody panics holding it").push(imposture);
            wire.leave();
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    None
}
