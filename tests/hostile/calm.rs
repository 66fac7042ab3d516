//! The clients that must not notice an attack: a room of fifty people, clients that join from other addresses, and a
//! load balancer's health checks.

use crate::common::from;
use crate::common::http::Connection;
use crate::raw;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Error, Message};

/// The number of people in the calm room, its messages per second, and the addresses it uses: 127.0.0.100 and up.
pub const PEOPLE: usize = 50;
const MESSAGES: u64 = 10;
const FIRST_ADDRESS: u8 = 100;
const NEWCOMER: u8 = 200;
const BALANCER: u8 = 220;
/// The calm room.
pub const ROOM: &str = "calm";

/// What was measured in one period.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Microseconds from sending a message to its delivery to each of the fifty.
    pub latencies: Vec<u64>,
    /// Deliveries that did not happen.
    pub missing: usize,
    /// Messages that were refused.
    pub refused: usize,
    /// How long joins took, in milliseconds; `None` if they failed.
    pub newcomers: Vec<Option<u64>>,
    /// How long health checks took, in milliseconds; `None` if there was no 200.
    pub health: Vec<Option<u64>>,
}

impl Seen {
    /// A percentile of the latencies, in milliseconds.
    pub fn latency(&mut self, percent: usize) -> f64 {
        self.latencies.sort_unstable();
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::INFINITY, |micros| *micros as f64 / 1000.0)
    }

    /// The slowest health check except for the worst hundredth, and how many failed.
    pub fn health(&self) -> (u64, usize) {
        let mut times: Vec<u64> = self.health.iter().flatten().copied().collect();
        times.sort_unstable();
        times.truncate(times.len() - times.len().div_ceil(100));
        (times.last().copied().unwrap_or(u64::MAX), self.health.iter().filter(|time| time.is_none()).count())
    }

    /// Joins that succeeded within this many milliseconds, and the total.
    pub fn got_in(&self, within: u64) -> (usize, usize) {
        (self.newcomers.iter().flatten().filter(|ms| **ms <= within).count(), self.newcomers.len())
    }
}

/// A running calm room.
pub struct Calm {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    addrs: Vec<SocketAddr>,
    start: Instant,
    seen: Mutex<Seen>,
    /// For each message sent, the clients that have received it.
    sent: Mutex<Vec<HashSet<usize>>>,
    ends: AtomicBool,
    here: AtomicUsize,
}

impl Calm {
    /// Starts it on these instances and waits until all fifty have joined.
    pub fn start(addrs: &[SocketAddr]) -> Calm {
        let shared = Arc::new(Shared {
            addrs: addrs.to_vec(),
            start: Instant::now(),
            seen: Mutex::default(),
            sent: Mutex::default(),
            ends: AtomicBool::new(false),
            here: AtomicUsize::new(0),
        });
        let spawn = |run: fn(&Shared, usize), number| {
            let shared = shared.clone();
            std::thread::Builder::new().stack_size(256 * 1024).spawn(move || run(&shared, number)).expect("a thread")
        };
        let mut threads: Vec<_> = (0..PEOPLE).map(|number| spawn(person, number)).collect();
        crate::common::poll_until("all are in the calm room", Duration::from_secs(20), || {
            shared.here.load(Relaxed) == PEOPLE
        });
        threads.push(spawn(newcomers, 0));
        threads.push(spawn(health, 0));
        Calm { shared, threads }
    }

    /// Measures during the next `span`, including late results that belong to it.
    pub fn watch(&self, span: Duration) -> Seen {
        let first = self.shared.sent.lock().expect("no panic").len();
        *self.shared.seen.lock().expect("no panic") = Seen::default();
        std::thread::sleep(span);
        let last = self.shared.sent.lock().expect("no panic").len();
        let missing = || {
            let sent = self.shared.sent.lock().expect("no panic");
            sent[first..last].iter().map(|who| PEOPLE - who.len()).sum::<usize>()
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while missing() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut seen = std::mem::take(&mut *self.shared.seen.lock().expect("no panic"));
        seen.missing = missing();
        seen
    }

    /// Stops it.
    pub fn finish(self) {
        self.shared.ends.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.ends.load(Relaxed)
    }

    fn micros(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

/// One of the fifty: reads everything, and sends when it is their turn.
fn person(shared: &Shared, number: usize) {
    let addr = shared.addrs[number % shared.addrs.len()];
    let mut socket = enter(addr, FIRST_ADDRESS + number as u8, &format!("Person {number}")).expect("a calm beginning");
    socket.get_mut().set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    shared.here.fetch_add(1, Relaxed);
    let every = Duration::from_millis(1000 * PEOPLE as u64 / MESSAGES);
    let mut next = Instant::now() + every.mul_f64(number as f64 / PEOPLE as f64);
    while shared.goes_on() {
        if Instant::now() >= next {
            next += every;
            say(shared, &mut socket);
        }
        match socket.read() {
            Ok(Message::Text(text)) => hear(shared, number, &text),
            Ok(_) => {}
            Err(Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) if shared.goes_on() => return eprintln!("person {number} lost the connection: {error}"),
            Err(_) => return,
        }
    }
}

fn say(shared: &Shared, socket: &mut WebSocket<TcpStream>) {
    let mut sent = shared.sent.lock().expect("no panic");
    let number = sent.len();
    sent.push(HashSet::new());
    drop(sent);
    let text = format!("calm {number} {}", shared.micros());
    let _ = socket.send(Message::text(json!({"type": "message", "text": text, "ref": number.to_string()}).to_string()));
}

fn hear(shared: &Shared, person: usize, text: &str) {
    let now = shared.micros();
    let frame: Value = serde_json::from_str(text).unwrap_or_default();
    if frame["type"] == "error" {
        shared.seen.lock().expect("no panic").refused += 1;
        // A refused message is not a missing one.
        if let Some(number) = frame["ref"].as_str().and_then(|number| number.parse::<usize>().ok()) {
            shared.sent.lock().expect("no panic")[number].extend(0..PEOPLE);
        }
    }
    let words: Vec<u64> =
        frame["text"].as_str().unwrap_or_default().split(' ').filter_map(|w| w.parse().ok()).collect();
    if let (true, [number, at]) = (frame["type"] == "message", &words[..])
        && shared.sent.lock().expect("no panic")[*number as usize].insert(person)
    {
        shared.seen.lock().expect("no panic").latencies.push(now - at);
    }
}

/// Upgrades, joins, and waits for the welcome.
fn enter(addr: SocketAddr, from: u8, name: &str) -> Option<WebSocket<TcpStream>> {
    let mut stream = from::try_connect(addr, raw::source(from), Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.write_all(&raw::upgrade(ROOM, from)).ok()?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
    socket.send(Message::text(json!({"type": "join", "name": name}).to_string())).ok()?;
    loop {
        match socket.read().ok()? {
            Message::Text(text) if text.contains(r#""type":"welcome""#) => return Some(socket),
            Message::Text(text) if text.contains(r#""type":"error""#) => return None,
            _ => {}
        }
    }
}

/// A client joins four times per second, from one of twenty addresses, and leaves.
fn newcomers(shared: &Shared, _: usize) {
    for number in 0_usize.. {
        if !shared.goes_on() {
            return;
        }
        let (start, addr) = (Instant::now(), shared.addrs[number % shared.addrs.len()]);
        let entered = enter(addr, NEWCOMER + (number % 20) as u8, &format!("Newcomer {number}"));
        let took = entered.is_some().then(|| start.elapsed().as_millis() as u64);
        shared.seen.lock().expect("no panic").newcomers.push(took);
        if let Some(mut socket) = entered {
            let _ = socket.close(None);
            let _ = socket.flush();
        }
        std::thread::sleep(Duration::from_millis(250).saturating_sub(start.elapsed()));
    }
}

/// A load balancer checks ten times per second, each time on a new connection.
fn health(shared: &Shared, _: usize) {
    for number in 0_usize.. {
        if !shared.goes_on() {
            return;
        }
        let (start, addr) = (Instant::now(), shared.addrs[number % shared.addrs.len()]);
        let ok = from::try_connect(addr, raw::source(BALANCER), Duration::from_secs(2)).is_ok_and(|stream| {
            let mut connection = Connection::over(stream);
            let request = b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
            connection.try_status(request).is_some_and(|status| status == 200)
        });
        let took = ok.then(|| start.elapsed().as_millis() as u64);
        shared.seen.lock().expect("no panic").health.push(took);
        std::thread::sleep(Duration::from_millis(100).saturating_sub(start.elapsed()));
    }
}
