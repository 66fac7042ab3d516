//! A well-behaved client of `bobbin.v1` that records everything it sends and receives.
//!
//! It resends messages without a receipt under the same ref; reconnects to another instance with `since` and its own
//! `client` secret; pages back when a welcome could not hold everything it missed; pings every 10 s and considers a
//! connection dead after 30 s of silence; and waits as the close code demands. It accepts a frame as its receipt only
//! if `by` and `ref` are its own: half of the clients use counters as refs, which collide. Violations that it can detect
//! alone (ids that do not grow, a meaningless code) are recorded at once; those that need the whole ledger are left to
//! `checker`.

use super::clock::{self, At};
use super::ledger::{Answer, Attempt, Broken, Connection, Facts, Id, Message, Seen};
use super::rng::Rng;
use super::session::Session;
use super::stage::{Order, Role, Stage};
use super::story;
use super::wire::{Got, Wire};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A busy server refuses after 2 s; one that refuses everything does so at once.
const LATE: At = 1500;

/// A client, over all its connections.
pub struct Client {
    pub role: Role,
    pub stage: Arc<Stage>,
    pub rng: Rng,
    pub secret: String,
    /// Its mark: the `by` of its first welcome.
    pub by: Option<String>,
    /// Whether its refs are 0, 1, 2 and so on, rather than unique words.
    pub counts_refs: bool,
    /// The id it sends as `since`: it has all messages up to here.
    pub cursor: Option<Id>,
    /// Messages without a receipt, and when each may be sent again.
    pub pending: Vec<(usize, At)>,
    /// Whether it resends after a while even if the connection is alive. The other clients wait forever, so a missing
    /// answer is detected.
    pub impatient: bool,
    pub allowance: f64,
    pub refilled: At,
}

/// How a connection ended, which determines what to do next.
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
            by: None,
            counts_refs: rng.chance(50),
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
        let instances = self.stage.backplane.instances();
        let mut instance = self.role.home.unwrap_or(self.rng.range(0, instances as u64) as usize);
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
            let step = self.rng.range(1, instances as u64) as usize;
            instance = self.role.home.unwrap_or((instance + step) % instances);
        }
    }

    /// One connection from its first SYN to its end; returns how it ended, and whether the client had joined.
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
        let sent = clock::now();
        let deadline = sent + 10_000;
        while clock::now() < deadline {
            match wire.read(Duration::from_millis(100)) {
                Got::Frame(frame) if frame["type"] == "welcome" => return Ok(frame),
                Got::Frame(frame) if frame["type"] == "error" => {
                    let code = frame["code"].as_str().unwrap_or("none").to_string();
                    // A busy server tells the client when to try again.
                    let is_busy = code == "rate_limited" && frame["retry_ms"].is_u64();
                    if code != "unavailable"
                        && !is_busy
                        && !(code == "name_taken" && self.stage.ledger.was_impersonated(self.role.index))
                    {
                        self.broken("join refused for no good reason", frame.to_string());
                    }
                    let when = if clock::now() - sent < LATE { "join" } else { "late join" };
                    self.count(&format!("{when}: {code}"));
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

    /// Adds a new message to those pending; the session sends it.
    pub fn compose(&mut self) {
        let mut book = self.stage.ledger.book(self.role.index);
        let number = book.messages.len();
        let token: Arc<str> = format!("{}-{number:05}-{:08x}", self.role.name, self.rng.next() as u32).into();
        let key = if self.counts_refs { number.to_string().into() } else { Arc::clone(&token) };
        let first_sent = clock::now();
        book.messages.push(Message { key, token, first_sent, receipt: None, given_up: false });
        self.pending.push((number, 0));
    }

    /// The text of a message: its token, followed by a random number of characters derived from the token.
    pub fn text(token: &str) -> String {
        let dice = token.bytes().fold(0u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let length = if dice % 20 == 0 { 3000 } else { 10 + dice as usize % 120 };
        format!("{token} {}", "la ".repeat(length / 3).trim_end())
    }

    /// Records a received message frame, in the shared facts and in the client's own book. Returns its id.
    pub fn record(&mut self, frame: &serde_json::Value, connection: usize) -> Option<Id> {
        let Some((id, facts)) = parse(frame) else {
            self.broken("not a message as the contract has it", frame.to_string());
            return None;
        };
        if !belongs_together(&facts) {
            self.broken("name, text and ref do not belong together", frame.to_string());
        }
        if let Err(other) = self.stage.ledger.learn(&self.role.room, id, facts) {
            self.broken("one id, two messages", format!("{frame} and {other:?}"));
        }
        let at = clock::now();
        let mut book = self.stage.ledger.book(self.role.index);
        book.seen.entry(id).or_insert(Seen { at, connection });
        Some(id)
    }

    /// Whether a message frame is one of the client's own.
    pub fn is_mine(&self, frame: &serde_json::Value) -> bool {
        self.by.as_deref().is_some_and(|by| frame["by"] == by)
    }

    /// Handles a frame with the client's own `by`: the receipt.
    pub fn receipt(&mut self, frame: &serde_json::Value, id: Id, connection: usize, instance: usize) {
        let at = clock::now();
        let mut book = self.stage.ledger.book(self.role.index);
        let key = frame["ref"].as_str().unwrap_or_default();
        let own = |n: &usize| {
            book.messages.get(*n).is_some_and(|m| &*m.key == key && frame["text"] == Client::text(&m.token))
        };
        let Some(message) = number_of(key).filter(own) else {
            drop(book);
            return self.broken("a message under my mark that I did not send", frame.to_string());
        };
        book.messages[message].receipt.get_or_insert((at, id, instance));
        answer(&mut book.attempts, message, connection, (at, Answer::Receipt));
        self.pending.retain(|(pending, _)| *pending != message);
    }

    /// Handles an error about one of its messages.
    pub fn refused(&mut self, key: &str, code: &str, retry_ms: Option<u64>, connection: usize) {
        let give_up = code == "unavailable" && self.rng.chance(4);
        let wait = retry_ms.unwrap_or(0).max(self.rng.range(200, 1200));
        let at = clock::now();
        if code == "rate_limited" {
            // The server's bucket may be emptier: delayed frames arrived together.
            (self.allowance, self.refilled) = (0.0, at);
        }
        let mut book = self.stage.ledger.book(self.role.index);
        let own = |n: &usize| book.messages.get(*n).is_some_and(|m| &*m.key == key);
        let Some(message) = number_of(key).filter(own) else {
            drop(book);
            return self.broken("an error for a message that I did not send", key.into());
        };
        let sent = answer(&mut book.attempts, message, connection, (at, Answer::Refused));
        book.messages[message].given_up |= give_up && book.messages[message].receipt.is_none();
        let given_up = book.messages[message].given_up;
        drop(book);
        let when = if sent.is_some_and(|sent| at - sent >= LATE) { "late message: " } else { "" };
        self.count(&format!("{when}{code}"));
        self.pending.retain(|(pending, _)| !(given_up && *pending == message));
        for (_, due) in self.pending.iter_mut().filter(|(pending, _)| *pending == message) {
            *due = at + wait;
        }
    }

    /// Records an attempt to send a message, and returns its frame.
    pub fn attempt(&mut self, message: usize, connection: usize) -> serde_json::Value {
        let at = clock::now();
        let mut book = self.stage.ledger.book(self.role.index);
        book.attempts.push(Attempt { message, connection, at, answer: None });
        let Message { key, token, .. } = &book.messages[message];
        json!({"type": "message", "ref": &**key, "text": Client::text(token)})
    }

    /// Uses a bucket smaller than the server's, so that many resends at once are not refused.
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

    /// A faithful client does nothing that would end its connection with any other code.
    fn judge_close(&self, code: u16) {
        self.count(&format!("close {code}"));
        if !matches!(code, 1012 | 1013) {
            let story = story::closed(&self.stage.ledger.book(self.role.index), code);
            self.broken("closed with a code for no good reason", story);
        }
    }

    fn sleep(&self, millis: At) {
        let until = clock::now() + millis;
        while clock::now() < until && !self.stage.ending.load(SeqCst) {
            thread::sleep(Duration::from_millis((until - clock::now().min(until)).clamp(1, 50)));
        }
    }
}

/// A ref contains the number of its message, or is that number.
fn number_of(key: &str) -> Option<usize> {
    key.split('-').nth(1).unwrap_or(key).parse().ok()
}

/// Parses a message frame of the contract, ignoring unknown fields.
pub fn parse(frame: &serde_json::Value) -> Option<(Id, Facts)> {
    let by = frame["by"].as_str().filter(|by| is_mark(by))?;
    let (name, text) = (frame["name"].as_str()?, frame["text"].as_str()?);
    frame["at"].as_u64()?;
    let key = frame["ref"].as_str().map(Into::into);
    let facts = Facts { by: by.into(), name: name.into(), key, text: text.into() };
    Some((Id::parse(frame["id"].as_str()?)?, facts))
}

/// Whether this is a mark: sixteen characters of base32.
pub fn is_mark(by: &str) -> bool {
    by.len() == 16 && by.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
}

/// Whether the token in the text names the sender and the number in the ref.
fn belongs_together(facts: &Facts) -> bool {
    let token = facts.text.split(' ').next().unwrap_or_default();
    let Some(key) = facts.key.as_deref() else { return false };
    facts.text == Client::text(token)
        && token.starts_with(&format!("{}-", facts.name))
        && number_of(token).is_some()
        && number_of(token) == number_of(key)
}

/// Records the answer for all attempts at this message on this connection without one. Returns when the first of them was
/// sent.
fn answer(attempts: &mut [Attempt], message: usize, connection: usize, answer: (At, Answer)) -> Option<At> {
    let mut sent = None;
    // The attempts of a connection are the newest, so the search can stop before its first one.
    for attempt in attempts.iter_mut().rev().take_while(|a| a.connection == connection) {
        if attempt.message == message && attempt.answer.is_none() {
            attempt.answer = Some(answer);
            sent = Some(attempt.at);
        }
    }
    sent
}
