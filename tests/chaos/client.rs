//! A faithful client of `bobbin.v1`: what a good program would do, and a book of all that it does and sees.
//!
//! It sends again, with the same ref, what has no receipt; comes back on another instance with `since` and its own
//! `client` secret; pages back when a welcome could not hold all it missed; pings every 10 s and takes a connection for
//! dead on which nothing came for 30 s; waits as the close code says. What it can judge alone (ids that do not grow, a
//! code that makes no sense) it writes down as a broken promise at once; what takes all books together is `checker`'s.

use super::arena::INSTANCES;
use super::clock::{self, At};
use super::ledger::{Answer, Attempt, Broken, Connection, Facts, Id, Message, Seen};
use super::rng::Rng;
use super::session::Session;
use super::stage::{Order, Role, Stage};
use super::wire::{Got, Wire};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A client's life over all its connections.
pub struct Client {
    pub role: Role,
    pub stage: Arc<Stage>,
    pub rng: Rng,
    pub secret: String,
    /// What it sends as `since`: it has everything up to here.
    pub cursor: Option<Id>,
    /// Messages without receipt, and when each may be sent again.
    pub pending: Vec<(usize, At)>,
    /// Sends again after a while even where the connection lives. The others wait for ever, and so notice if an
    /// answer never comes.
    pub impatient: bool,
    pub allowance: f64,
    pub refilled: At,
}

/// How a connection ended, and so what to do next.
pub enum End {
    Broken(String),
    Close(u16),
    Away(At),
    Over,
}

impl Client {
    pub fn start(role: Role, stage: Arc<Stage>, seed: u64) -> JoinHandle<()> {
        let mut rng = Rng::new(seed, role.index as u64);
        let client = Client {
            secret: format!("secret-{:016x}-{:016x}", rng.next(), rng.next()),
            cursor: None,
            pending: Vec::new(),
            impatient: rng.chance(50),
            allowance: role.most,
            refilled: 0,
            role,
            stage,
            rng,
        };
        thread::Builder::new()
            .name(client.role.name.clone())
            .stack_size(512 * 1024)
            .spawn(move || client.live())
            .expect("a thread")
    }

    fn live(mut self) {
        {
            let mut book = self.stage.ledger.book(self.role.index);
            book.name = self.role.name.clone();
            book.room = self.role.room.clone();
        }
        let mut instance = self.role.home.unwrap_or(self.rng.range(0, INSTANCES as u64) as usize);
        let mut back_off = 100;
        while !self.stage.ending.load(SeqCst) {
            let (end, joined) = self.connect(instance);
            back_off = if joined { 100 } else { (back_off * 2).min(3000) };
            let wait = match end {
                End::Over => return,
                End::Away(time) => time,
                End::Close(1012) => self.rng.range(0, 3000),
                End::Close(code) => {
                    self.judge_close(code);
                    self.rng.range(50, back_off + 50)
                }
                End::Broken(_) => self.rng.range(50, back_off + 50),
            };
            self.sleep(wait);
            let step = self.rng.range(1, INSTANCES as u64) as usize;
            instance = self.role.home.unwrap_or((instance + step) % INSTANCES);
        }
    }

    /// One connection from the first SYN to its end; and whether it had joined.
    fn connect(&mut self, instance: usize) -> (End, bool) {
        let connection = {
            let mut book = self.stage.ledger.book(self.role.index);
            book.connections.push(Connection {
                instance,
                opened: clock::now(),
                since: self.cursor,
                welcome: None,
                gap: false,
                hole: None,
                ended: None,
            });
            book.connections.len() - 1
        };
        let addr = self.stage.instances.lock().expect("nobody panics holding it")[instance];
        let (end, joined) = match Wire::open(addr, &self.role.room, None) {
            Err(e) => (End::Broken(e), false),
            Ok(mut wire) => match self.join(&mut wire) {
                Err(end) => {
                    wire.cut(false);
                    (end, false)
                }
                Ok(welcome) => (Session::new(self, wire, connection, instance).run(&welcome), true),
            },
        };
        let how = match &end {
            End::Broken(how) => how.clone(),
            End::Close(code) => format!("closed with {code}"),
            End::Away(_) | End::Over => "left or was cut by the test".into(),
        };
        let mut book = self.stage.ledger.book(self.role.index);
        book.connections[connection].ended = Some((clock::now(), how));
        (end, joined)
    }

    fn join(&mut self, wire: &mut Wire) -> Result<serde_json::Value, End> {
        let mut join = json!({"type": "join", "name": self.role.name, "client": self.secret});
        if let Some(since) = self.cursor {
            join["since"] = since.to_string().into();
        }
        wire.send(&join).map_err(End::Broken)?;
        let deadline = clock::now() + 10_000;
        while clock::now() < deadline {
            match wire.read(Duration::from_millis(100)) {
                Got::Frame(frame) if frame["type"] == "welcome" => return Ok(frame),
                Got::Frame(frame) if frame["type"] == "error" => {
                    let code = frame["code"].as_str().unwrap_or("none").to_string();
                    if code != "unavailable" {
                        self.broken("join refused for no good reason", frame.to_string());
                    }
                    self.count(&format!("join: {code}"));
                    return Err(End::Broken(format!("join refused: {code}")));
                }
                Got::Frame(frame) if frame["type"] == "status" => {}
                Got::Frame(frame) => {
                    self.broken("welcome is not the first frame", frame.to_string());
                }
                Got::Close(code) => return Err(End::Close(code)),
                Got::Broken(how) => return Err(End::Broken(how)),
                Got::Nothing { .. } => {}
            }
        }
        Err(End::Broken("no answer to join within 10 s".into()))
    }

    /// Says something new: writes it down as pending; the session sends it.
    pub fn compose(&mut self) {
        let mut book = self.stage.ledger.book(self.role.index);
        let number = book.messages.len();
        let key = format!("c{:02}-{number:05}-{:08x}", self.role.index, self.rng.next() as u32);
        book.messages.push(Message { key: key.into(), first_sent: clock::now(), receipt: None, given_up: false });
        self.pending.push((number, 0));
    }

    /// The text of a message: it names its ref, and its length is as random as the ref.
    pub fn text(key: &str) -> String {
        let dice = key.bytes().fold(0u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let length = if dice % 20 == 0 { 3000 } else { 10 + dice as usize % 120 };
        format!("{key} {}", "la ".repeat(length / 3).trim_end())
    }

    /// A message frame was seen: writes it down for all and for itself. Gives its id.
    pub fn note(&mut self, frame: &serde_json::Value, connection: usize) -> Option<Id> {
        let parts = (frame["id"].as_str().and_then(Id::parse), frame["name"].as_str(), frame["text"].as_str());
        let (Some(id), Some(name), Some(text)) = parts else {
            self.broken("not a message as the contract has it", frame.to_string());
            return None;
        };
        let key = frame["ref"].as_str().map(Into::into);
        let facts = Facts { name: name.into(), key, text: text.into() };
        if let Some(key) = &facts.key
            && facts.text != Client::text(key)
        {
            self.broken("text and ref do not belong together", frame.to_string());
        }
        if let Err(other) = self.stage.ledger.learn(&self.role.room, id, facts) {
            self.broken("one id, two messages", format!("{frame} and {other:?}"));
        }
        let at = clock::now();
        let mut book = self.stage.ledger.book(self.role.index);
        book.seen.entry(id).or_insert(Seen { at, connection });
        Some(id)
    }

    /// Its own message came back: the receipt.
    pub fn receipt(&mut self, key: &str, id: Id, connection: usize, instance: usize) {
        let at = clock::now();
        let mut book = self.stage.ledger.book(self.role.index);
        let Some(message) = number_of(key).filter(|&n| book.messages.get(n).is_some_and(|m| &*m.key == key)) else {
            drop(book);
            return self.broken("a message under my name that I did not send", format!("{key} {id}"));
        };
        book.messages[message].receipt.get_or_insert((at, id, instance));
        answer(&mut book.attempts, message, connection, (at, Answer::Receipt));
        self.pending.retain(|(pending, _)| *pending != message);
    }

    /// An error named one of its messages.
    pub fn refused(&mut self, key: &str, code: &str, retry_ms: Option<u64>, connection: usize) {
        let give_up = code == "unavailable" && self.rng.chance(4);
        let wait = retry_ms.unwrap_or(0).max(self.rng.range(200, 1200));
        let at = clock::now();
        let mut book = self.stage.ledger.book(self.role.index);
        let Some(message) = number_of(key).filter(|&n| n < book.messages.len()) else {
            drop(book);
            return self.broken("an error for a message that I did not send", key.into());
        };
        answer(&mut book.attempts, message, connection, (at, Answer::Refused));
        book.messages[message].given_up |= give_up && book.messages[message].receipt.is_none();
        let given_up = book.messages[message].given_up;
        drop(book);
        self.pending.retain(|(pending, _)| !(given_up && *pending == message));
        for (_, due) in self.pending.iter_mut().filter(|(pending, _)| *pending == message) {
            *due = at + wait;
        }
    }

    /// Writes down that a message is being sent, and gives the frame.
    pub fn attempt(&mut self, message: usize, connection: usize) -> serde_json::Value {
        let at = clock::now();
        let mut book = self.stage.ledger.book(self.role.index);
        book.attempts.push(Attempt { message, connection, at, answer: None });
        let key = &book.messages[message].key;
        json!({"type": "message", "ref": &**key, "text": Client::text(key)})
    }

    /// A bucket of its own below the server's, so that many resends at once are not refused.
    pub fn may_send(&mut self) -> bool {
        let (now, most) = (clock::now(), self.role.most);
        let refill = (now - self.refilled) as f64 / 1000.0 * most;
        self.allowance = (self.allowance + refill).min(most * 3.5);
        self.refilled = now;
        let may = self.allowance >= 1.0;
        self.allowance -= if may { 1.0 } else { 0.0 };
        may
    }

    pub fn broken(&self, what: &'static str, story: String) {
        let story = format!("{} at {}: {story}", self.role.name, clock::show(clock::now()));
        self.stage.ledger.book(self.role.index).broken.push(Broken { what, story });
    }

    pub fn count(&self, what: &str) {
        let mut book = self.stage.ledger.book(self.role.index);
        *book.errors.entry(what.into()).or_default() += 1;
    }

    pub fn order(&self) -> Option<Order> {
        self.stage.orders[self.role.index].lock().expect("nobody panics holding it").take()
    }

    /// A faithful client has done nothing that would end its connection with any other code.
    fn judge_close(&self, code: u16) {
        self.count(&format!("close {code}"));
        if !matches!(code, 1012 | 1013) {
            self.broken("closed with a code for no good reason", code.to_string());
        }
    }

    fn sleep(&self, millis: At) {
        let until = clock::now() + millis;
        while clock::now() < until && !self.stage.ending.load(SeqCst) {
            thread::sleep(Duration::from_millis((until - clock::now().min(until)).clamp(1, 50)));
        }
    }
}

/// A ref carries the number of its message.
fn number_of(key: &str) -> Option<usize> {
    key.split('-').nth(1)?.parse().ok()
}

/// An answer is for all attempts at this message on this connection that had none.
fn answer(attempts: &mut [Attempt], message: usize, connection: usize, answer: (At, Answer)) {
    // The attempts of a connection are the newest ones: no need to look further back than its first.
    for attempt in attempts.iter_mut().rev().take_while(|a| a.connection == connection) {
        if attempt.message == message && attempt.answer.is_none() {
            attempt.answer = Some(answer);
        }
    }
}
