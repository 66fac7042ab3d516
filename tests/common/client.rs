//! One WebSocket client: blocking, with deadlines, and with a record of all frames that it prints when an expectation
//! fails.

use super::{PATIENCE, http, poll_until, unique};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::handshake::client::generate_key;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Error, Message, WebSocket};

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With the server's close frame and this code (1005 if it had none).
    Close(u16),
    /// Without a close frame.
    Cut,
}

/// One connection. Received frames that no expectation has taken yet wait in order; `expect` and its relatives take the
/// first one that matches and leave the others, so a presence frame between two messages does not matter.
pub struct Client {
    ws: WebSocket<TcpStream>,
    start: Instant,
    transcript: String,
    inbox: VecDeque<Value>,
    /// Every frame received, in order.
    pub received: Vec<Value>,
    /// The number of WebSocket pings received.
    pub pings: usize,
    /// The number of WebSocket pongs received.
    pub pongs: usize,
    /// How long each expectation waits.
    pub patience: Duration,
    /// Its secret, sent as `client`.
    pub secret: String,
    /// The answer to its last join.
    pub welcome: Value,
    /// The room it is connected to.
    pub room: String,
    end: Option<End>,
}

impl Client {
    /// Opens a connection; sends nothing yet.
    #[track_caller]
    pub fn connect(addr: SocketAddr, room: &str) -> Client {
        match Client::upgrade(addr, room, "") {
            Ok((client, _)) => client,
            Err(refusal) => panic!("refused with {}: {}", refusal.status, refusal.text()),
        }
    }

    /// Opens a connection with additional headers (each ended by `\r\n`); also returns the 101, or the refusal.
    #[track_caller]
    pub fn upgrade(addr: SocketAddr, room: &str, headers: &str) -> Result<(Client, http::Response), http::Response> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
        Client::upgrade_on(stream, room, headers)
    }

    /// The same on a TCP connection prepared by the test (for example with small buffers).
    #[track_caller]
    pub fn upgrade_on(
        stream: TcpStream,
        room: &str,
        headers: &str,
    ) -> Result<(Client, http::Response), http::Response> {
        let mut http = http::Connection::over(stream);
        let key = generate_key();
        let response = http.request(
            "GET",
            &format!("/ws/{room}"),
            &format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}"
            ),
        );
        if response.status != 101 {
            return Err(response);
        }
        let (stream, early) = http.into_parts();
        let client = Client {
            ws: WebSocket::from_partially_read(stream, early, Role::Client, None),
            start: Instant::now(),
            transcript: String::new(),
            inbox: VecDeque::new(),
            received: Vec::new(),
            pings: 0,
            pongs: 0,
            patience: PATIENCE,
            secret: unique("secret-of-a-test"),
            welcome: Value::Null,
            room: room.into(),
            end: None,
        };
        Ok((client, response))
    }

    /// Connects, joins and receives its `welcome`.
    #[track_caller]
    pub fn join(addr: SocketAddr, room: &str, name: &str) -> Client {
        let mut client = Client::connect(addr, room);
        client.enter(name, None);
        client
    }

    /// Reconnects as the client with this `secret`, with the last id it has.
    #[track_caller]
    pub fn back(addr: SocketAddr, room: &str, name: &str, secret: &str, since: Option<&str>) -> Client {
        let mut client = Client::connect(addr, room);
        client.secret = secret.into();
        client.enter(name, since);
        client
    }

    /// Connects and sends a join with these fields; returns the connection and the answer.
    pub fn join_with(addr: SocketAddr, room: &str, fields: Value) -> (Client, Value) {
        let mut client = Client::connect(addr, room);
        let mut join = json!({"type": "join"});
        for (name, value) in fields.as_object().expect("an object") {
            join[name] = value.clone();
        }
        client.send(join);
        let answer = client.next();
        (client, answer)
    }

    /// Sends a join on this connection; panics if the answer is not `welcome`.
    #[track_caller]
    pub fn enter(&mut self, name: &str, since: Option<&str>) {
        let answer = self.try_enter(name, since);
        if answer["type"] != "welcome" {
            self.fail(&format!("no welcome for {name}, but {answer}"));
        }
    }

    /// Sends a join on this connection and returns the answer, a `welcome` or an `error`.
    #[track_caller]
    pub fn try_enter(&mut self, name: &str, since: Option<&str>) -> Value {
        let mut join = json!({"type": "join", "name": name, "client": self.secret});
        if let Some(since) = since {
            join["since"] = since.into();
        }
        self.send(join);
        let answer = self.until("a welcome or an error", |f| f["type"] == "welcome" || f["type"] == "error");
        if answer["type"] == "welcome" {
            self.welcome = answer.clone();
        }
        answer
    }

    /// Sends one frame.
    #[track_caller]
    pub fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string());
    }

    /// Sends a text frame that need not be JSON.
    #[track_caller]
    pub fn send_text(&mut self, text: &str) {
        self.record("->", text);
        if let Err(e) = self.ws.send(Message::text(text)) {
            self.fail(&format!("cannot send: {e}"));
        }
    }

    /// Sends one frame; a connection that has ended meanwhile is not a failure.
    pub fn send_or_end(&mut self, frame: Value) {
        self.record("->", &frame.to_string());
        let _ = self.ws.send(Message::text(frame.to_string()));
    }

    /// Sends one data frame of any kind, with arbitrary bytes.
    pub fn send_data(&mut self, kind: Data, bytes: &[u8]) {
        self.record("->", &format!("{kind:?} frame, {} bytes", bytes.len()));
        let frame = Frame::message(bytes.to_vec(), OpCode::Data(kind), true);
        let _ = self.ws.send(Message::Frame(frame)); // the server may have cut the connection already
    }

    /// Sends a WebSocket ping.
    pub fn send_ping(&mut self) {
        let _ = self.ws.send(Message::Ping(Vec::new().into()));
    }

    /// Writes bytes below the WebSocket layer.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.record("->", &format!("{} raw bytes", bytes.len()));
        let _ = self.ws.get_mut().write_all(bytes);
    }

    /// Sends a message without waiting; returns its ref.
    #[track_caller]
    pub fn post(&mut self, text: &str) -> String {
        let key = unique("ref");
        self.send(json!({"type": "message", "text": text, "ref": key}));
        key
    }

    /// Sends a message, waits for its receipt and returns that.
    #[track_caller]
    pub fn say(&mut self, text: &str) -> Value {
        let key = self.post(text);
        let frame = self.until("the receipt, or an error, for the message", |f| f["ref"] == key.as_str());
        if frame["type"] != "message" {
            self.fail(&format!("no receipt but {frame}"));
        }
        frame
    }

    /// Sends `ping` and waits for `pong`: everything the server wrote before has then been received.
    #[track_caller]
    pub fn fence(&mut self) {
        self.send(json!({"type": "ping"}));
        self.expect("pong");
    }

    /// Takes the first waiting frame of this type, or waits for one.
    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> Value {
        self.until(&format!("a {kind:?} frame"), |f| f["type"] == kind)
    }

    /// Takes the first waiting `error` and checks its code.
    #[track_caller]
    pub fn expect_error(&mut self, code: &str) -> Value {
        let frame = self.expect("error");
        if frame["code"] != code || !frame["message"].is_string() {
            self.fail(&format!("an error {code:?} with a message was expected, not {frame}"));
        }
        frame
    }

    /// Takes the first waiting `message` with this text, or waits for it.
    #[track_caller]
    pub fn hear(&mut self, text: &str) -> Value {
        self.until(&format!("the message {text:?}"), |f| f["type"] == "message" && f["text"] == text)
    }

    /// Waits until a presence frame reports that `name` joined.
    #[track_caller]
    pub fn see_join(&mut self, name: &str) -> Value {
        self.until(&format!("{name} joins"), |f| f["type"] == "presence" && has(&f["joined"], name))
    }

    /// Waits until a presence frame reports that `name` left.
    #[track_caller]
    pub fn see_leave(&mut self, name: &str) -> Value {
        self.until(&format!("{name} leaves"), |f| f["type"] == "presence" && has(&f["left"], name))
    }

    /// Asserts that close frames of another client at this address are announced within 250 ms.
    pub fn sees_a_leave_within_250_ms(&mut self, addr: SocketAddr) {
        // On a busy machine a whole round may be slow.
        poll_until("seven leaves of which the median takes less than 250 ms", PATIENCE * 3, || {
            let mut times: [Duration; 7] = std::array::from_fn(|_| self.time_of_a_leave(addr));
            times.sort();
            println!("{times:?}");
            times[3] < Duration::from_millis(250) // single ones may be slow
        });
    }

    fn time_of_a_leave(&mut self, addr: SocketAddr) -> Duration {
        let bob = Client::join(addr, &self.room.clone(), "Bob");
        self.see_join("Bob");
        let start = Instant::now();
        bob.leave();
        self.see_leave("Bob");
        start.elapsed()
    }

    /// Takes the first waiting frame that matches, or waits for one; `what` describes it in a failure.
    #[track_caller]
    pub fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + self.patience;
        let mut looked = 0;
        loop {
            if let Some(at) = self.inbox.iter().skip(looked).position(&fits) {
                return self.inbox.remove(looked + at).expect("just found");
            }
            looked = self.inbox.len();
            if !self.pump(deadline) {
                self.fail(&format!("{what} did not come within {:?}", self.patience));
            }
        }
    }

    /// The next frame, whatever it is.
    #[track_caller]
    pub fn next(&mut self) -> Value {
        self.until("any frame", |_| true)
    }

    /// Panics if a frame received before now, and not taken, matches. Call it after [`Client::fence`], or once
    /// something later has been received.
    #[track_caller]
    pub fn never(&mut self, what: &str, fits: impl Fn(&Value) -> bool) {
        if let Some(frame) = self.inbox.iter().find(|f| fits(f)) {
            let frame = frame.clone();
            self.fail(&format!("{what} must not come, but did: {frame}"));
        }
    }

    /// Reads for the whole of `span`; panics if a matching frame arrives, or the connection ends.
    #[track_caller]
    pub fn quiet(&mut self, what: &str, span: Duration, fits: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + span;
        loop {
            self.never(what, &fits);
            if !self.pump(deadline) {
                break;
            }
        }
        if let Some(end) = self.end.clone() {
            self.fail(&format!("the connection ended: {end:?}"));
        }
    }

    /// Takes everything received within `span`.
    pub fn take(&mut self, span: Duration) -> Vec<Value> {
        let deadline = Instant::now() + span;
        while self.pump(deadline) {}
        self.inbox.drain(..).collect()
    }

    /// Waits until the connection has ended, and returns how.
    #[track_caller]
    pub fn end(&mut self) -> End {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(end) = &self.end {
                return end.clone();
            }
            if !self.pump(deadline) && self.end.is_none() {
                self.fail(&format!("the connection did not end within {:?}", self.patience));
            }
        }
    }

    /// Waits for a close frame with this code.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) {
        let end = self.end();
        if end != End::Close(code) {
            self.fail(&format!("a close with {code} was expected, not {end:?}"));
        }
    }

    /// How it ended, if it has; data that has arrived is read first.
    pub fn ended(&mut self) -> Option<End> {
        while self.pump(Instant::now() + Duration::from_millis(1)) {}
        self.end.clone()
    }

    /// Reads what has arrived, which also answers the server's pings, and asserts that the connection is open.
    #[track_caller]
    pub fn still_open(&mut self) {
        assert_eq!(self.ended(), None);
    }

    /// Leaves in order: sends a close frame and receives the server's answer.
    #[track_caller]
    pub fn leave(mut self) {
        self.record("->", "close");
        let _ = self.ws.close(None);
        if self.end() == End::Cut {
            self.fail("the close frame was not answered");
        }
    }

    /// Closes the TCP connection without a close frame. (Dropping the client does the same.)
    pub fn cut(self) {
        let _ = self.ws.get_ref().shutdown(Shutdown::Both);
    }

    /// All messages received, live or in `welcome` and `history`, in order of arrival.
    pub fn messages(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for frame in &self.received {
            match frame["type"].as_str() {
                Some("message") => all.push(frame.clone()),
                Some("welcome" | "history") => all.extend(frame["messages"].as_array().cloned().unwrap_or_default()),
                _ => {}
            }
        }
        all
    }

    /// The latest count of participants.
    pub fn participants(&self) -> u64 {
        let count = self.received.iter().rev().find_map(|f| f["participants"].as_u64());
        count.unwrap_or_default()
    }

    /// Waits until the count of participants is this.
    #[track_caller]
    pub fn see_participants(&mut self, count: u64) {
        poll_until("the count is right", PATIENCE, || {
            self.take(Duration::from_millis(50));
            self.participants() == count
        });
    }

    pub fn tcp(&self) -> &TcpStream {
        self.ws.get_ref()
    }

    /// Panics with everything sent and received.
    #[track_caller]
    pub fn fail(&self, what: &str) -> ! {
        panic!("{what}\n--- {} on {:?} ---\n{}", self.room, self.ws.get_ref().peer_addr().ok(), self.transcript);
    }

    /// Reads one frame into the inbox; false if the deadline has passed or the connection has ended.
    fn pump(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if self.end.is_some() || left.is_zero() {
            return false;
        }
        self.ws.get_ref().set_read_timeout(Some(left)).expect("a timeout above zero");
        match self.ws.read() {
            Ok(Message::Text(text)) => {
                self.record("<-", &text);
                let frame: Value = match serde_json::from_str(&text) {
                    Ok(frame) => frame,
                    Err(e) => self.fail(&format!("not JSON: {e}")),
                };
                self.received.push(frame.clone());
                self.inbox.push_back(frame);
            }
            Ok(Message::Ping(_)) => {
                self.record("<-", "ping");
                self.pings += 1;
                let _ = self.ws.flush(); // tungstenite has queued the pong
            }
            Ok(Message::Close(frame)) => {
                let code = frame.map_or(1005, |f| f.code.into());
                self.record("<-", &format!("close {code}"));
                let _ = self.ws.flush();
                self.end = Some(End::Close(code));
                return false;
            }
            Ok(Message::Pong(_)) => self.pongs += 1,
            Ok(_) => {}
            Err(Error::Io(e)) if e.kind() == ErrorKind::Interrupted => {} // by a signal; the deadline still holds
            Err(Error::Io(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(e) => {
                self.record("<-", &format!("the end: {e}"));
                self.end = Some(End::Cut);
                return false;
            }
        }
        true
    }

    fn record(&mut self, arrow: &str, text: &str) {
        let at = self.start.elapsed().as_secs_f64();
        let short: String = text.chars().take(400).collect();
        let _ = writeln!(self.transcript, "{at:8.3} {arrow} {short}");
    }
}

/// Whether a JSON list contains this string.
pub fn has(list: &Value, name: &str) -> bool {
    list.as_array().is_some_and(|l| l.iter().any(|n| n == name))
}
