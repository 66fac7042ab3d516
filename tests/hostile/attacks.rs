//! The attacks: each runs for a while, from one address or from many.

use crate::calm::ROOM;
use crate::common::wire::text_frame;
use crate::raw;
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Threads that attack.
const THREADS: usize = 8;
/// CPU time after which an attacking thread sleeps, for [`THREADS`] times as long: all threads together use less than one
/// processor. Otherwise the scheduler considers their processor busy, despite their low priority, and leaves the server's
/// threads queued on the other one.
const WORK: Duration = Duration::from_millis(1);
/// New connections per second, whatever the attack: more would measure the attacker, which shares the processors.
const CONNECTIONS: usize = 2000;
/// Empty frames masked with zeros.
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
const PONG: &[u8] = &[0x8A, 0x80, 0, 0, 0, 0];
const FRAGMENT: &[u8] = &[0x00, 0x80, 0, 0, 0, 0];
const FIRST_FRAGMENT: &[u8] = &[0x01, 0x80, 0, 0, 0, 0];
const CLOSE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

/// The CPU time that this thread had used when it last slept.
struct Rested(Duration);

impl Rested {
    fn now() -> Rested {
        Rested(clock_gettime(ClockId::ThreadCPUTime).try_into().expect("a positive time"))
    }

    /// Sleeps if the thread has used [`WORK`] since.
    fn rest(&mut self) {
        let worked = Rested::now().0 - self.0;
        if worked >= WORK {
            std::thread::sleep(worked * THREADS as u32);
            *self = Rested::now();
        }
    }
}

/// Whom to attack, from which addresses, and until when.
pub struct Target {
    /// The instances.
    pub addrs: Vec<SocketAddr>,
    /// The highest source address: 127.0.0.1 up to 127.0.0.this.
    pub addresses: u8,
    /// When to stop.
    pub until: Instant,
    /// The number of connections opened.
    pub opened: AtomicUsize,
}

impl Target {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// A new number, and the instance and source address derived from it.
    fn next(&self) -> (usize, SocketAddr, u8) {
        let number = self.opened.fetch_add(1, Relaxed);
        (number, self.addrs[number % self.addrs.len()], 1 + (number % usize::from(self.addresses)) as u8)
    }

    fn connect(&self) -> Option<TcpStream> {
        let (_, addr, from) = self.next();
        raw::connect(addr, from).ok()
    }

    fn join(&self, room: &str, more: &str) -> Option<TcpStream> {
        let (number, addr, from) = self.next();
        raw::join(addr, from, room, &format!("x{number}"), more).ok()
    }

    /// Calls `act` this many times per second, shared by all threads. Its result is dropped half a second later.
    fn paced<T: Send>(&self, per_second: usize, act: impl Fn(usize) -> Option<T> + Sync) {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let act = &act;
                scope.spawn(move || {
                    let every = Duration::from_secs_f64(THREADS as f64 / per_second as f64);
                    let mut next = Instant::now();
                    let (mut held, mut rested) = (VecDeque::new(), Rested::now());
                    while self.goes_on() {
                        held.push_back((Instant::now(), act(thread)));
                        rested.rest();
                        while held.front().is_some_and(|(at, _)| at.elapsed() > Duration::from_millis(500)) {
                            held.pop_front();
                        }
                        next = (next + every).max(Instant::now() - Duration::from_millis(200));
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                });
            }
        });
    }

    /// Holds this many connections, reopens those that end ([`CONNECTIONS`] per second in all), and does something with
    /// each this many times per second (0: without a pause). Both are given the number of the connection's place.
    fn held(
        &self,
        count: usize,
        per_second: usize,
        make: impl Fn(usize) -> Option<TcpStream> + Sync,
        act: impl Fn(&TcpStream, usize) -> bool + Sync,
    ) {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (make, act) = (&make, &act);
                scope.spawn(move || {
                    let mut streams: Vec<Option<TcpStream>> = (0..count.div_ceil(THREADS)).map(|_| None).collect();
                    let every = Duration::from_secs(1) * THREADS as u32 / CONNECTIONS as u32;
                    let (mut next, mut rested) = (Instant::now(), Rested::now());
                    while self.goes_on() {
                        let round = Instant::now();
                        for (number, place) in streams.iter_mut().enumerate() {
                            rested.rest();
                            let number = number * THREADS + thread;
                            if place.as_ref().is_some_and(|stream| act(stream, number)) {
                                continue;
                            }
                            *place = None;
                            if Instant::now() >= next {
                                next = (next + every).max(Instant::now() - Duration::from_millis(20));
                                *place = make(number);
                            }
                            if !self.goes_on() {
                                break;
                            }
                        }
                        if let Some(rate) = std::num::NonZero::new(per_second) {
                            let span = Duration::from_secs(1) / rate.get() as u32;
                            std::thread::sleep(span.saturating_sub(round.elapsed()).min(self.until - round));
                        } else {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
            }
        });
    }
}

/// A kind of attack.
pub struct Attack {
    /// What it does.
    pub name: &'static str,
    /// Does it.
    pub run: fn(&Target),
}

/// All of them.
pub const ATTACKS: &[Attack] = &[
    Attack { name: "2,000 joins/s into another room", run: |t| t.paced(CONNECTIONS, |_| join_and_leave(t, "other")) },
    Attack { name: "2,000 joins/s into another room, cut", run: |t| t.paced(CONNECTIONS, |_| t.join("other", "")) },
    Attack { name: "2,000 joins/s into the calm room", run: |t| t.paced(CONNECTIONS, |_| join_and_leave(t, ROOM)) },
    Attack { name: "2,000 joins/s into new rooms, cut", run: |t| t.paced(CONNECTIONS, |_| new_room(t)) },
    Attack { name: "2,000 clients, rooms, 5 texts of 4 kB/s", run: texts },
    Attack { name: "20 clients read history, never the answer", run: |t| pages(t, 20, false) },
    Attack { name: "20 clients read history and the answer", run: |t| pages(t, 20, true) },
    Attack { name: "200 clients read history, never the answer", run: |t| pages(t, 200, false) },
    Attack { name: "200 clients read history and the answer", run: |t| pages(t, 200, true) },
    Attack { name: "200 clients join since=1-1, again and again", run: resume },
    Attack { name: "500 in the calm room type 20 times/s", run: typing },
    // Not an attack, but a larger room: to compare with the one above.
    Attack { name: "500 in the calm room are silent", run: silence },
    Attack { name: "500 ping without end, never read", run: |t| frames(t, 500, PING) },
    Attack { name: "20 ping without end", run: |t| frames(t, 20, PING) },
    Attack { name: "20 pong without end", run: |t| frames(t, 20, PONG) },
    Attack { name: "20 send empty fragments without end", run: |t| frames(t, 20, FRAGMENT) },
    Attack { name: "20 request /healthz without end", run: health },
    Attack { name: "bad heads and junk", run: |t| t.paced(CONNECTIONS, |_| junk(t)) },
    Attack { name: "1,500 join and close at once, repeatedly", run: crowd },
    Attack { name: "fills the cap: silent, upgraded, joined", run: fill },
    Attack { name: "a mix, 20,000 connections per minute", run: mix },
];

fn join_and_leave(target: &Target, room: &str) -> Option<TcpStream> {
    let mut stream = target.join(room, "")?;
    stream.write_all(CLOSE).ok()?;
    Some(stream)
}

fn new_room(target: &Target) -> Option<TcpStream> {
    target.join(&format!("new-{}", target.opened.load(Relaxed)), "")
}

fn resume(target: &Target) {
    fill_log(target);
    target.paced(CONNECTIONS, |_| since(target));
}

fn since(target: &Target) -> Option<TcpStream> {
    target.join("full", r#","since":"1-1""#)
}

fn texts(target: &Target) {
    let message = text_frame(&format!(r#"{{"type":"message","text":"{}"}}"#, "y".repeat(4000)));
    let make = |_| target.join(&format!("room-{}", target.opened.load(Relaxed) % 2000), "");
    target.held(2000, 5, make, |stream, _| raw::drain(stream) && raw::push(stream, &message));
}

fn pages(target: &Target, count: usize, reads: bool) {
    fill_log(target);
    let ask = text_frame(r#"{"type":"history","before":"99999999999999-0","limit":100}"#);
    let make = |_| target.join("full", "");
    target.held(count, 0, make, |stream, _| (!reads || raw::drain(stream)) && raw::push(stream, &ask));
}

/// Fills a room's log, so that reading it is expensive.
fn fill_log(target: &Target) {
    let message = text_frame(&format!(r#"{{"type":"message","text":"{}"}}"#, "z".repeat(4000)));
    for _ in 0..8 {
        let Some(stream) = target.join("full", "") else { continue };
        for _ in 0..15 {
            raw::push(&stream, &message);
        }
        std::thread::sleep(Duration::from_millis(100));
        raw::drain(&stream);
    }
}

fn typing(target: &Target) {
    let typing = text_frame(r#"{"type":"typing","active":true}"#);
    target.held(500, 20, |_| target.join(ROOM, ""), |stream, _| raw::drain(stream) && raw::push(stream, &typing));
}

fn silence(target: &Target) {
    target.held(500, 20, |_| target.join(ROOM, ""), |stream, _| raw::drain(stream));
}

/// Sends many small frames at once, repeatedly.
fn frames(target: &Target, count: usize, frame: &[u8]) {
    let many = frame.repeat(200);
    let make = |_| {
        let mut stream = target.join("other", "")?;
        if frame == FRAGMENT {
            stream.write_all(FIRST_FRAGMENT).ok()?;
        }
        Some(stream)
    };
    target.held(count, 0, make, |stream, _| raw::push(stream, &many));
}

/// Many requests at once, repeatedly, on connections that stay open as long as the server lets them.
fn health(target: &Target) {
    let many = |place: usize| raw::get("/healthz", 1 + (place % usize::from(target.addresses)) as u8, "").repeat(50);
    target.held(20, 0, |_| target.connect(), |stream, place| raw::drain(stream) && raw::push(stream, &many(place)));
}

fn junk(target: &Target) -> Option<TcpStream> {
    let (number, addr, from) = target.next();
    let mut stream = raw::connect(addr, from).ok()?;
    let bytes: &[u8] = match number % 4 {
        0 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        1 => b"GET / HTTP/9.9\r\n\r\n",
        2 => b"GET /ws/other HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\n\r\n",
        _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    };
    stream.write_all(bytes).ok()?;
    Some(stream)
}

/// A crowd that joins a hundred rooms and leaves them at once, three times.
fn crowd(target: &Target) {
    let (all_are_in, share) = (Barrier::new(THREADS), 1500 / THREADS);
    let round = target.until.saturating_duration_since(Instant::now()) / 3;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..3 {
                    let begin = Instant::now();
                    let join = |_| {
                        std::thread::sleep(Duration::from_secs(1) * THREADS as u32 / CONNECTIONS as u32);
                        target.join(&format!("room-{}", target.opened.load(Relaxed) % 100), "")
                    };
                    let streams: Vec<_> = (0..share).map(join).collect();
                    std::thread::sleep(round.saturating_sub(begin.elapsed() + Duration::from_millis(500)));
                    all_are_in.wait();
                    drop(streams);
                    std::thread::sleep(Duration::from_millis(500));
                }
            });
        }
    });
}

/// Holds more connections than there are places: silent ones, upgraded and joined ones, and some that send an empty fragment
/// or a join that is refused once per second.
fn fill(target: &Target) {
    let refused = text_frame(r#"{"type":"join","name":""}"#);
    let alive = [&b""[..], b"", b"", FRAGMENT, &refused];
    let upgraded = |first: &[u8]| {
        let (_, addr, from) = target.next();
        let mut stream = raw::connect(addr, from).ok()?;
        stream.write_all(&[&raw::upgrade("other", from), first].concat()).ok()?;
        Some(stream)
    };
    let make = |place: usize| match place % alive.len() {
        0 => target.connect(),
        1 => target.join("other", ""),
        2 => upgraded(b""),
        3 => upgraded(FIRST_FRAGMENT),
        _ => upgraded(&refused),
    };
    target.held(4000, 1, make, |stream, place| raw::drain(stream) && raw::push(stream, alive[place % alive.len()]));
}

/// All attacks, one after the other on each thread.
fn mix(target: &Target) {
    let message = text_frame(&format!(r#"{{"type":"message","text":"{}"}}"#, "y".repeat(4000)));
    let ask = text_frame(r#"{"type":"history","before":"99999999999999-0","limit":100}"#);
    let then = |stream: Option<TcpStream>, bytes: &[u8]| stream.filter(|stream| raw::push(stream, bytes));
    target.paced(334, |_| match target.opened.load(Relaxed) % 10 {
        0 => join_and_leave(target, "other"),
        1 => join_and_leave(target, ROOM),
        2 => new_room(target),
        3 => since(target),
        4 => then(target.join("full", ""), &message.repeat(20)),
        5 => then(target.join("full", ""), &ask.repeat(50)),
        6 => then(target.join("other", ""), &PING.repeat(2000)),
        7 => then(target.join("other", ""), &[FIRST_FRAGMENT, &FRAGMENT.repeat(2000)].concat()),
        8 => junk(target),
        _ => target.connect(),
    });
}
