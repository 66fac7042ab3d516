//! One joined connection of a [`Client`]: sends what is due and handles what arrives, until something ends it.

use super::client::{Client, End, is_mark};
use super::clock::{self, At};
use super::ledger::{Change, Id};
use super::stage::Order;
use super::wire::{Got, Wire};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const PING_EVERY: At = 10_000;
const DEAD_AFTER: At = 30_000;
const IMPATIENT_AFTER: At = 4000;
const SILENT_AFTER: At = 3000;
/// A refusal may take 2 s.
const READ_FIRST: At = 2500;

pub struct Session<'a> {
    client: &'a mut Client,
    wire: Wire,
    connection: usize,
    instance: usize,
    /// The newest id received on this connection, or its `since`: the next one must be greater.
    last: Id,
    /// What the welcome left out and is not fetched yet, see [`super::ledger::Connection::hole`].
    hole: Option<(Id, Id)>,
    /// History requests in order: whether it is for the hole, `before`, and when it was sent.
    asked: VecDeque<(bool, Id, At)>,
    ask_again: At,
    heard: At,
    pinged: At,
    talk: At,
}

impl<'a> Session<'a> {
    pub fn new(client: &'a mut Client, wire: Wire, connection: usize, instance: usize) -> Session<'a> {
        let now = clock::now();
        let talk = now + client.rng.range(0, client.role.pace);
        let last = client.cursor.unwrap_or_default();
        Session {
            client,
            wire,
            connection,
            instance,
            last,
            hole: None,
            asked: VecDeque::new(),
            ask_again: 0,
            heard: now,
            pinged: now,
            talk,
        }
    }

    pub fn run(mut self, welcome: &Value) -> End {
        self.welcome(welcome);
        // What was sent on an earlier connection may not have arrived: send it again now.
        self.client.pending.iter_mut().for_each(|(_, due)| *due = 0);
        loop {
            if let Some(end) = self.obey() {
                match end {
                    (End::Over, _) | (_, true) => self.wire.leave(),
                    _ => {
                        let reset = self.client.rng.chance(50);
                        self.wire.cut(reset);
                    }
                }
                return end.0;
            }
            if let Err(how) = self.send_what_is_due() {
                return End::Broken(how);
            }
            match self.wire.read(Duration::from_millis(40)) {
                Got::Frame(frame) => {
                    self.frame_arrived();
                    self.frame(&frame);
                }
                Got::Nothing { heard: true } => self.frame_arrived(),
                Got::Nothing { heard: false } if clock::now() > self.heard + DEAD_AFTER => {
                    self.wire.cut(false);
                    return End::Broken("dead: nothing came for 30 s".into());
                }
                Got::Nothing { heard: false } => {}
                Got::Close(code) => return End::Close(code),
                Got::Broken(how) => return End::Broken(how),
            }
        }
    }

    /// The director's order, if any, and whether it demands a close frame.
    fn obey(&mut self) -> Option<(End, bool)> {
        if self.client.stage.ending.load(SeqCst) {
            self.client.stage.ledger.book(self.client.role.index).departures.push(clock::now());
            return Some((End::Over, true));
        }
        match self.client.order()? {
            Order::Cut => {
                // In the middle of sending; the message is sent again to another instance, perhaps while this one still
                // receives it.
                if self.client.stage.talking.load(SeqCst) {
                    self.client.compose();
                    let _ = self.send_what_is_due();
                }
                let wait = if self.client.rng.chance(50) { 0 } else { 300 };
                Some((End::Away(wait), false))
            }
            Order::Away(until) => Some((End::Away(until.saturating_sub(clock::now())), false)),
            Order::Leave(until) => {
                self.client.stage.ledger.book(self.client.role.index).departures.push(clock::now());
                Some((End::Away(until.saturating_sub(clock::now())), true))
            }
        }
    }

    fn send_what_is_due(&mut self) -> Result<(), String> {
        let now = clock::now();
        if now > self.pinged + PING_EVERY {
            self.pinged = now;
            self.wire.send(&json!({"type": "ping"}))?;
        }
        if now > self.talk && self.client.stage.talking.load(SeqCst) {
            let pace = self.client.role.pace;
            self.talk = now + self.client.rng.range(pace / 2, pace * 3 / 2);
            self.talk()?;
        }
        // If nothing at all arrives, resending would only lengthen the queue.
        let silent = self.is_silent();
        for i in 0..self.client.pending.len() {
            let (message, due) = self.client.pending[i];
            if now >= due && !(silent && due > 0) && self.client.may_send() {
                // Without an answer it is resent later, or only after a reconnect.
                let again = if self.client.impatient { now + IMPATIENT_AFTER } else { At::MAX };
                self.client.pending[i].1 = again;
                // Occasionally it is impatient and sends twice at once.
                for _ in 0..if self.client.rng.chance(5) { 2 } else { 1 } {
                    let frame = self.client.attempt(message, self.connection);
                    self.wire.send(&frame)?;
                }
            }
        }
        self.page_back(now)
    }

    /// A frame arrived. After a silence, the answers to frames sent during it arrive first. Resending those frames
    /// before the answers are read could cause the twenty refused frames that end a connection.
    fn frame_arrived(&mut self) {
        if self.is_silent() {
            let later = clock::now() + READ_FIRST;
            self.client.pending.iter_mut().for_each(|(_, due)| *due = later.max(*due));
        }
        self.heard = clock::now();
    }

    fn is_silent(&self) -> bool {
        clock::now() > self.heard + SILENT_AFTER
    }

    fn talk(&mut self) -> Result<(), String> {
        let dice = self.client.rng.range(0, 100);
        if dice < 8 {
            return self.wire.send(&json!({"type": "typing", "active": dice < 4}));
        }
        if dice < 11 {
            return self.ask(false, self.last);
        }
        let burst = if dice == 99 { 8 } else { 1 };
        for _ in 0..burst {
            if self.client.pending.len() < if self.is_silent() { 10 } else { 25 } {
                self.client.compose();
            }
        }
        Ok(())
    }

    /// Fetches the messages missing from the welcome, page by page.
    fn page_back(&mut self, now: At) -> Result<(), String> {
        let Some((_, before)) = self.hole else {
            return Ok(());
        };
        let waiting = self.asked.iter().any(|(for_hole, _, at)| *for_hole && now < at + 10_000);
        if waiting || now < self.ask_again {
            return Ok(());
        }
        self.ask(true, before)
    }

    fn ask(&mut self, for_hole: bool, before: Id) -> Result<(), String> {
        self.asked.push_back((for_hole, before, clock::now()));
        self.wire.send(&json!({"type": "history", "before": before.to_string(), "limit": 100}))
    }

    fn frame(&mut self, frame: &Value) {
        let book = || self.client.stage.ledger.book(self.client.role.index);
        match frame["type"].as_str() {
            Some("message") => self.message(frame),
            Some("presence") => {
                let change = Change { at: clock::now(), joined: names(&frame["joined"]), left: names(&frame["left"]) };
                let most = change.joined.len().max(change.left.len());
                if most > 20 {
                    self.client.broken("more than 20 names in a notice", frame.to_string());
                }
                let mut book = book();
                // There may have been more names than the frame lists.
                book.all_named &= most < 20;
                book.names.extend(change.joined.iter().cloned());
                change.left.iter().for_each(|name| {
                    book.names.remove(name);
                });
                book.participants = frame["participants"].as_u64().unwrap_or_default();
                book.presence_frames += 1;
                book.changes.push(change);
            }
            Some("history") => self.history(frame),
            Some("status") => {
                let mut book = book();
                book.backplane_down = frame["backplane"] == "down";
                book.statuses += 1;
            }
            Some("error") => self.error(frame),
            Some("pong" | "typing") => {}
            _ => self.client.broken("a frame that the contract does not know", frame.to_string()),
        }
    }

    fn welcome(&mut self, frame: &Value) {
        let since = self.client.cursor;
        let last = frame["last"].as_str().and_then(Id::parse);
        let Some(last) = last else {
            return self.client.broken("no `last` in welcome", frame.to_string());
        };
        let gap = frame["gap"] == true;
        self.judge_welcome(frame);
        {
            let mut book = self.client.stage.ledger.book(self.client.role.index);
            let connection = &mut book.connections[self.connection];
            (connection.welcome, connection.gap) = (Some(clock::now()), gap);
            book.names = names(&frame["names"]).into_iter().collect();
            book.participants = frame["participants"].as_u64().unwrap_or_default();
            book.all_named = book.participants == book.names.len() as u64;
            book.by = self.client.by.clone().unwrap_or_default();
            book.backplane_down = false;
            if since.is_none() {
                book.began = last;
            }
        }
        let messages = frame["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let id = |message: &Value| message["id"].as_str().and_then(Id::parse);
        // More than fits into a welcome: the cursor stays where it is until the rest has been fetched.
        let older = (frame["more"] == true).then(|| messages.first().and_then(id)).flatten();
        self.hole = since.zip(older);
        self.write_down_hole();
        for message in messages {
            self.message(message);
        }
        if let Some(newest) = messages.last().and_then(id)
            && newest != last
        {
            let story = format!("last {last}, newest message {newest}");
            self.client.broken("`last` is not the newest message of the welcome", story);
        }
        if self.hole.is_none() {
            self.client.cursor = Some(last);
        }
        self.last = self.last.max(last);
    }

    /// Checks what every welcome must satisfy: the same mark each time, and no more than fits.
    fn judge_welcome(&mut self, frame: &Value) {
        let by = frame["by"].as_str().unwrap_or_default();
        let known = self.client.by.get_or_insert(by.into());
        if known != by || !is_mark(by) {
            self.client.broken("`by` is no mark, or another one than before", frame["by"].to_string());
        }
        let names = names(&frame["names"]);
        let distinct: BTreeSet<&String> = names.iter().collect();
        if names.len() > 100
            || distinct.len() < names.len()
            || !names.contains(&self.client.role.name) && names.len() < 100
        {
            self.client.broken("the names in a welcome are wrong", frame["names"].to_string());
        }
        let most = if self.client.cursor.is_some() { 500 } else { 50 };
        self.judge_page("welcome", frame, most);
    }

    fn judge_page(&self, what: &'static str, frame: &Value, most: usize) {
        let messages = frame["messages"].as_array().map_or(0, Vec::len);
        let bytes = frame["messages"].to_string().len();
        if messages > most || bytes > 256 * 1024 {
            self.client.broken("more than fits into a page", format!("{what}: {messages} messages, {bytes} bytes"));
        }
    }

    /// Handles a message, live or in the welcome.
    fn message(&mut self, frame: &Value) {
        let Some(id) = self.client.record(frame, self.connection) else {
            return;
        };
        let key = frame["ref"].as_str().unwrap_or_default();
        let mine = self.client.is_mine(frame);
        // A resent message is answered with the first one's frame, so only the sender may see an old one again.
        if id > self.last {
            self.last = id;
        } else if !(mine && self.sent_again(key)) {
            let story = format!("{id} (ref {key}) after {} on instance {}", self.last, self.instance);
            self.client.broken("doubled, or out of order", story);
        }
        if mine {
            self.client.receipt(frame, id, self.connection, self.instance);
        }
        if self.hole.is_none() {
            self.client.cursor = self.client.cursor.max(Some(id));
        }
    }

    fn sent_again(&self, key: &str) -> bool {
        let book = self.client.stage.ledger.book(self.client.role.index);
        let attempts = book.attempts.iter().rev().filter(|a| &*book.messages[a.message].key == key);
        attempts.take(2).count() == 2
    }

    fn history(&mut self, frame: &Value) {
        let Some((for_hole, before, _)) = self.asked.pop_front() else {
            return self.client.broken("history without a question", frame.to_string());
        };
        self.judge_page("history", frame, 100);
        let messages = frame["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let ids: Vec<Id> = messages.iter().filter_map(|m| m["id"].as_str().and_then(Id::parse)).collect();
        if !ids.is_sorted() || ids.last().is_some_and(|last| *last >= before) {
            self.client.broken("a page of history out of order", format!("before {before}: {ids:?}"));
        }
        let Some((since, _)) = self.hole.filter(|(_, oldest)| for_hole && *oldest == before) else {
            return; // a random request, whose page must not count as a delivery
        };
        for (message, id) in messages.iter().zip(&ids) {
            if *id > since && self.client.record(message, self.connection).is_some() && self.client.is_mine(message) {
                self.client.receipt(message, *id, self.connection, self.instance);
            }
        }
        let done = frame["more"] != true || ids.first().is_none_or(|first| *first <= since);
        self.hole = if done { None } else { Some((since, ids[0])) };
        self.write_down_hole();
        self.client.stage.ledger.book(self.client.role.index).pages += 1;
        if done {
            self.client.cursor = Some(self.last);
        }
    }

    fn write_down_hole(&self) {
        let mut book = self.client.stage.ledger.book(self.client.role.index);
        book.connections[self.connection].hole = self.hole;
    }

    fn error(&mut self, frame: &Value) {
        let code = frame["code"].as_str().unwrap_or_default();
        if !matches!(code, "unavailable" | "rate_limited") {
            self.client.broken("an error for no good reason", frame.to_string());
        }
        match frame["ref"].as_str() {
            Some(key) => self.client.refused(key, code, frame["retry_ms"].as_u64(), self.connection),
            // Only a history request can have caused it.
            None => {
                self.client.count(code);
                self.asked.pop_front();
                self.ask_again = clock::now() + 1000;
            }
        }
    }
}

fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|name| name.as_str().map(Into::into)).collect()
}
