//! Proves promise 1 on a data file through repeated `kill -9` under full load: every message with a receipt is there
//! once and in order, a resent message does not appear twice, and nobody is seen leaving.

mod common;

use common::*;
use std::error::Error;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

const ROOMS: [&str; 2] = ["tea", "coffee"];
const TALKERS: usize = 8;

/// How often the process is killed; `KILLS=200` makes it longer.
fn kills() -> usize {
    std::env::var("KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

/// A client that follows the contract: it reconnects with its last id, and resends what has no receipt.
struct Talker {
    name: String,
    secret: String,
    room: &'static str,
    /// The newest id it has seen.
    since: String,
    /// Every message received, in order.
    seen: Vec<Value>,
    /// The ref without a receipt, if any.
    pending: Option<String>,
    /// Each ref with the id of its receipt.
    receipts: Vec<(String, String)>,
    sessions: usize,
    wrong: Vec<String>,
}

impl Talker {
    fn new(number: usize) -> Talker {
        Talker {
            name: format!("Talker {number}"),
            secret: unique("secret-of-a-talker"),
            room: ROOMS[number % ROOMS.len()],
            since: "0-0".to_owned(),
            seen: Vec::new(),
            pending: None,
            receipts: Vec::new(),
            sessions: 0,
            wrong: Vec::new(),
        }
    }

    /// Sends until it is over and the last message has its receipt.
    fn run(&mut self, address: &Mutex<SocketAddr>, is_over: &AtomicBool) {
        let (start, most) = (Instant::now(), Duration::from_secs(60 + 2 * kills() as u64));
        while !(is_over.load(Relaxed) && self.pending.is_none()) && start.elapsed() < most {
            let now = *address.lock().expect("nobody panics holding it");
            // However the session ends, a new one is started.
            let _ = self.session(now, is_over);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn session(&mut self, address: SocketAddr, is_over: &AtomicBool) -> Result<(), Box<dyn Error>> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let (mut ws, _) = tungstenite::client(format!("ws://{address}/ws/{}", self.room), stream)?;
        let join = json!({"type": "join", "name": self.name, "client": self.secret, "since": self.since});
        ws.send(Message::text(join.to_string()))?;
        // A message without a receipt is resent before the welcome can show that it was kept.
        if self.pending.is_some() {
            self.say(&mut ws)?;
        }
        let mut joined = false;
        while !(joined && is_over.load(Relaxed) && self.pending.is_none()) {
            let frame: Value = serde_json::from_str(ws.read()?.to_text()?)?;
            match frame["type"].as_str() {
                Some("welcome") => {
                    joined = true;
                    self.sessions += 1;
                    if frame["gap"] != false
                        || frame["participants"] != json!(TALKERS / ROOMS.len()) && self.sessions > 1
                    {
                        self.wrong.push(format!("welcome: {frame}"));
                    }
                    let was_said = self.pending.is_some();
                    frame["messages"].as_array().into_iter().flatten().for_each(|message| self.see(message));
                    if !was_said || self.pending.is_none() {
                        self.say(&mut ws)?;
                    }
                }
                Some("message") => {
                    self.see(&frame);
                    if self.pending.is_none() && !is_over.load(Relaxed) {
                        self.say(&mut ws)?;
                    }
                }
                Some("presence") if frame["left"] != json!([]) => self.wrong.push(format!("seen leaving: {frame}")),
                Some("error") => self.wrong.push(format!("refused: {frame}")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends the pending message again, or a new one.
    fn say(&mut self, ws: &mut WebSocket<TcpStream>) -> Result<(), tungstenite::Error> {
        let key = self.pending.get_or_insert_with(|| unique("ref"));
        let frame = json!({"type": "message", "text": format!("about {key}"), "ref": key}).to_string();
        // Some are sent twice at once.
        if self.receipts.len().is_multiple_of(5) {
            ws.send(Message::text(frame.clone()))?;
        }
        ws.send(Message::text(frame))
    }

    fn see(&mut self, message: &Value) {
        let (id, key) = (text(message, "id"), text(message, "ref"));
        if rank(&id) > rank(&self.since) {
            self.since.clone_from(&id);
            self.seen.push(message.clone());
        } else if self.pending.as_ref() != Some(&key) && !self.receipts.contains(&(key.clone(), id.clone())) {
            // Only a receipt for a resent message may be older.
            self.wrong.push(format!("{id} after {}: {message}", self.since));
        }
        if self.pending.as_ref() == Some(&key) {
            self.pending = None;
            self.receipts.push((key, id));
        }
    }
}

fn text(message: &Value, field: &str) -> String {
    message[field].as_str().unwrap_or_default().to_owned()
}

fn rank(id: &str) -> (u64, u64) {
    let (ms, seq) = id.split_once('-').expect("milliseconds-number");
    (ms.parse().expect("a number"), seq.parse().expect("a number"))
}

#[test]
fn what_has_a_receipt_survives_kill_9_again_and_again() {
    let file = DataFile::new();
    // No other server gets the port while this one restarts.
    let port = common::redis::free_port().to_string();
    let settings = [
        ("PORT", port.as_str()),
        ("RATE_LIMIT", "0"),
        ("HISTORY_MESSAGES", "100000"),
        ("ADDRESS_CONNECTION_RATE", "0"),
        ("ADDRESS_JOINS", "0"),
        ("ADDRESS_TEXT_RATE", "0"),
        ("ADDRESS_HISTORY_RATE", "0"),
    ];
    let mut instance = file.start(&settings);
    let (address, is_over) = (Mutex::new(instance.addr), AtomicBool::new(false));
    let mut talkers: Vec<Talker> = (0..TALKERS).map(Talker::new).collect();
    std::thread::scope(|scope| {
        for talker in &mut talkers {
            scope.spawn(|| talker.run(&address, &is_over));
        }
        // All have joined before the first kill, so that they are all counted from then on.
        poll_until("all have joined", PATIENCE, || {
            let seats = file.sql("SELECT count(*) FROM seats");
            seats == TALKERS.to_string()
        });
        for kill in 0..kills() {
            let count = || file.sql("SELECT count(*) FROM messages");
            let before = count();
            poll_until("somebody talks", PATIENCE, || count() != before);
            std::thread::sleep(Duration::from_millis((kill as u64 * 7919) % 200));
            instance.kill();
            instance = file.start(&settings);
            *address.lock().expect("nobody panics holding it") = instance.addr;
        }
        std::thread::sleep(Duration::from_millis(300));
        is_over.store(true, Relaxed);
    });

    let mut all = 0;
    for room in ROOMS {
        let in_room: Vec<&Talker> = talkers.iter().filter(|talker| talker.room == room).collect();
        let newest = in_room.iter().map(|talker| talker.seen.len()).max().expect("talkers");
        let fullest = in_room.iter().find(|talker| talker.seen.len() == newest).expect("just found");
        let keys: std::collections::HashSet<String> = fullest.seen.iter().map(|message| text(message, "ref")).collect();
        assert_eq!(keys.len(), fullest.seen.len(), "nothing is said twice");
        for talker in &in_room {
            assert!(talker.wrong.is_empty(), "{}: {:#?}", talker.name, talker.wrong);
            assert!(talker.pending.is_none(), "{}: no receipt for {:?}", talker.name, talker.pending);
            // The first session ended with the first kill. How many followed depends on how long a start takes.
            assert!(talker.sessions > 1, "{}: only {} sessions", talker.name, talker.sessions);
            assert_eq!(talker.seen, fullest.seen[..talker.seen.len()], "{} saw what the others saw", talker.name);
            for (key, id) in &talker.receipts {
                let found = fullest.seen.iter().find(|message| text(message, "ref") == *key);
                assert_eq!(
                    found.map(|message| text(message, "id")).as_ref(),
                    Some(id),
                    "{}: receipt for {key}",
                    talker.name
                );
            }
        }
        all += newest;
    }
    let receipts: usize = talkers.iter().map(|talker| talker.receipts.len()).sum();
    assert_eq!(receipts, all, "every message has its receipt, and nothing else is in the logs");
    assert_eq!(file.sql("SELECT count(*) FROM messages"), all.to_string());
    assert_eq!(file.sql("PRAGMA integrity_check"), "ok");
    println!("{} kills, {all} messages", kills());
}
