//! One client, from its join to its end, on its own thread.
//!
//! The thread only reads. Once the session has joined, frames of its own (errors, history, pongs) go through its lane,
//! so that frames never interleave. Before that, and for `welcome`, it writes to the socket itself, while the lane
//! holds everything else back.

mod answers;
mod end;
mod frames;
mod history;
mod join;
mod rates;
pub mod transport;
mod visitor;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tungstenite::{Bytes, Error, Message, Utf8Bytes, WebSocket, error::ProtocolError};

use self::end::End;
use self::history::UnderWay;
use self::transport::Transport;
pub use self::visitor::Visitor;
use crate::app::App;
use crate::backplane::{Room, Seat, SessionId};
use crate::fanout::socket::{self, SharedSocket};
use crate::limits::{self, BURST_SECONDS, Bucket, Limit, Recent, Refusal};
use crate::lobby::Guest;
use crate::protocol::{self, ClientFrame, Close, ErrorCode, MAX_HISTORY, MAX_MESSAGE_BYTES, Secret, ServerFrame};
use crate::start::Start;
use crate::threads;

/// Time from the upgrade to the first `join` frame.
const JOIN_TIME: Duration = Duration::from_secs(10);
/// How often a session checks whether a request that waits can be handled.
const LATER_LOOK: Duration = Duration::from_millis(20);
/// How often a session that has not joined checks whether the process is draining.
const DRAIN_LOOK: Duration = Duration::from_millis(500);
/// Interval of the server's pings, and an encoded empty ping frame (RFC 6455, section 5.5.2).
const PING_EVERY: Duration = Duration::from_secs(20);
const PING: &[u8] = &[0x89, 0];
/// How late the timed work of a joined session may be. The socket's read timeout is not updated while it is within this
/// time of the exact one, which saves a system call per frame.
const LATENESS: Duration = Duration::from_secs(1);
/// Idle time after which a peer is considered dead.
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// The number of refused frames within a period that ends the connection.
const REFUSALS: (usize, Duration) = (20, Duration::from_secs(10));
/// The shortest interval between typing notices of one client.
const TYPING_EVERY: Duration = Duration::from_secs(1);
/// Frames other than messages may arrive at this multiple of the message rate.
const OTHER_FRAMES: f64 = 10.0;
/// Burst of text bytes, as seconds of their rate.
const TEXT_BURST: f64 = 16.0;

/// A client whose `101` has been written.
pub struct NewClient {
    /// The client's socket.
    pub wire: Arc<SharedSocket>,
    /// Bytes already read past the upgrade request.
    pub early: Vec<u8>,
    /// The requested room.
    pub room: Room,
    /// Who connected.
    pub visitor: Visitor,
    /// Its place in the lobby.
    pub guest: Guest,
    /// The slot that its thread may hold.
    pub start: Start,
}

/// Serves one client until it is gone.
#[inline(never)]
pub fn serve(client: NewClient, app: &App) {
    let berth = app.lanes.assign(&client.room);
    let id = berth.session;
    let mut session = Session::new(client, id, app);
    app.metrics.connections.inc();
    let end = session.run();
    log::debug!("session {id} in {} from {}: {end}", session.room, session.visitor.address);
    session.finish(&end);
    app.metrics.connections.dec();
}

struct Session<'a> {
    id: SessionId,
    room: Room,
    socket: WebSocket<Transport<'a>>,
    app: &'a App,
    visitor: Visitor,
    /// Its place in the lobby, given up when it joins.
    guest: Option<Guest>,
    /// Set from a successful join until the end.
    seat: Option<Seat>,
    /// Generated for a client that sends no secret.
    own_secret: Option<Secret>,
    tries: u32,
    unauthorized: u32,
    join_by: Instant,
    next_ping: Instant,
    /// The read timeout last set on the socket.
    read_timeout: Duration,
    message_rate: Bucket,
    /// The rate of all other frames.
    other_rate: Bucket,
    /// The rate of bytes in text frames.
    text_rate: Bucket,
    /// Whether a page of history is still being read or written.
    page_waits: Arc<AtomicBool>,
    /// The last request for a page of history, if it may still be under way.
    last_page: Option<UnderWay>,
    /// Requests that have to wait for it, with the sizes of their frames.
    later: VecDeque<(ClientFrame, usize)>,
    typing_published: Option<Instant>,
    refused: Recent,
    /// How long to stop reading now, because the address exceeds its share.
    pause: Duration,
    /// When the last such pause ended.
    rested: Option<Instant>,
    /// Whether the client disconnected during one.
    is_gone: bool,
}

impl<'a> Session<'a> {
    #[inline(never)]
    fn new(client: NewClient, id: SessionId, app: &'a App) -> Box<Session<'a>> {
        let NewClient { wire, early, room, visitor, guest, start } = client;
        let now = Instant::now();
        let rate = f64::from(app.settings.rate_limit);
        let other_rate = Bucket::new(rate * OTHER_FRAMES, rate * OTHER_FRAMES * BURST_SECONDS, now);
        // Without a limit on messages, their bytes are unlimited too.
        let bytes = if rate == 0.0 { 0.0 } else { f64::from(app.settings.access.text_rate) };
        let socket = Transport::websocket(wire, start, id, &app.lanes, early, MAX_MESSAGE_BYTES, other_rate.clone());
        Box::new(Session {
            id,
            room,
            socket,
            app,
            visitor,
            guest: Some(guest),
            seat: None,
            own_secret: None,
            tries: 0,
            unauthorized: 0,
            join_by: now + JOIN_TIME,
            // Jitter: after many simultaneous joins, the pings are spread out.
            next_ping: now + PING_EVERY.mul_f64(0.5 + limits::jitter() / 2.0),
            read_timeout: Duration::ZERO,
            message_rate: Bucket::new(rate, rate * BURST_SECONDS, now),
            other_rate,
            text_rate: Bucket::new(bytes, bytes * TEXT_BURST, now),
            page_waits: Arc::default(),
            last_page: None,
            later: VecDeque::new(),
            typing_published: None,
            refused: Recent::default(),
            pause: Duration::ZERO,
            rested: None,
            is_gone: false,
        })
    }

    #[inline(never)]
    fn run(&mut self) -> End {
        loop {
            let duties = self.handle_later().and_then(|()| self.do_duties(Instant::now()));
            let text = duties.and_then(|()| self.read_text());
            let handled = text.and_then(|text| match text {
                // Once the server is closing, only the client's close frame is handled (RFC 6455, section 5.5.1).
                Some(_) if self.socket.get_ref().wire.is_closing() => self.count_refusal(),
                Some(text) => self.handle_text(&text),
                None => Ok(()),
            });
            if let Err(end) = handled {
                return end;
            }
            self.rest();
        }
    }

    /// Does the timed work, and sets the read timeout to when more is due.
    fn do_duties(&mut self, now: Instant) -> Result<(), End> {
        if self.seat.is_none() && self.app.draining.load(Relaxed) {
            return Err(End::Refused(Close::GoingAway));
        }
        if self.seat.is_none() && now >= self.join_by {
            return Err(End::Refused(Close::Policy));
        }
        let last_read = self.socket.get_ref().last_read;
        if now >= last_read + DEAD_AFTER {
            return Err(End::Broken("silent for 45 s".to_owned()));
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_EVERY;
            self.socket.get_mut().send(Bytes::from_static(PING))?;
        }
        let mut next = self.next_ping.min(last_read + DEAD_AFTER);
        if self.seat.is_none() {
            // No lane knows the session yet, so it must check itself whether the process is draining.
            next = next.min(self.join_by).min(now + DRAIN_LOOK);
        }
        if !self.later.is_empty() {
            next = next.min(now + LATER_LOOK);
        }
        let wait = next.saturating_duration_since(now).max(Duration::from_millis(1));
        self.socket.get_mut().due = now + wait + LATENESS;
        if self.seat.is_none() || !self.later.is_empty() || !(wait..=wait + LATENESS).contains(&self.read_timeout) {
            self.read_timeout = wait;
            self.socket.get_ref().wire.tcp.set_read_timeout(Some(wait))?;
        }
        Ok(())
    }

    /// Reads one frame; `None` if it was not text, or none arrived in time.
    #[inline(never)]
    fn read_text(&mut self) -> Result<Option<Utf8Bytes>, End> {
        match self.socket.read() {
            Ok(Message::Text(text)) => Ok(self.socket.get_mut().send_answers().map(|()| Some(text))?),
            Ok(Message::Binary(_)) => Err(End::Refused(Close::Binary)),
            Ok(Message::Close(_)) => Err(End::Closed),
            Ok(_) => Ok(None),
            Err(Error::Io(error)) if socket::is_timeout(&error) => Ok(None),
            Err(Error::Io(error)) if error.kind() == ErrorKind::QuotaExceeded => Err(self.flooded(Limit::Frames)),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Err(End::Closed),
            Err(Error::Capacity(_)) => Err(End::Refused(Close::TooBig)),
            Err(Error::Utf8(_)) => Err(End::Refused(Close::NotUtf8)),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                Err(End::Broken("no close frame".to_owned()))
            }
            Err(Error::Protocol(_)) => Err(End::Refused(Close::Protocol)),
            Err(error) => Err(End::Broken(error.to_string())),
        }
    }

    #[inline(never)]
    fn handle_text(&mut self, text: &str) -> Result<(), End> {
        let now = Instant::now();
        if !limits::is_shallow(text) {
            return self.refuse(ErrorCode::BadFrame, "nested too deeply", None);
        }
        let frame = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => return self.refuse(ErrorCode::BadFrame, &error.to_string(), None),
        };
        if let ClientFrame::Message { text: said, reference } = frame {
            return self.say(&said, reference, text.len(), now);
        }
        // A pong means that everything before it has been answered.
        if matches!(frame, ClientFrame::History { .. } | ClientFrame::Ping) && !self.is_next()? {
            self.later.push_back((frame, text.len()));
            return Ok(());
        }
        self.handle_frame(frame, text.len(), now)
    }

    /// Handles a frame other than a message, of this size.
    fn handle_frame(&mut self, frame: ClientFrame, bytes: usize, now: Instant) -> Result<(), End> {
        let rate = self.other_rate.take(now).map_err(|wait| Refusal { limit: Limit::Frames, wait });
        if let Err(refusal) = rate.and_then(|()| self.pay_for(bytes, now)) {
            return self.refuse_limit(refusal, None);
        }
        match frame {
            ClientFrame::Join(join) => threads::on_temporary_stack(|| self.join(join)),
            ClientFrame::Ping => self.send(&ServerFrame::Pong),
            ClientFrame::Typing { active } => self.typing(active, now),
            ClientFrame::History { before, limit } => self.history(before, limit.unwrap_or(MAX_HISTORY / 2)),
            ClientFrame::Message { .. } => Ok(()),
        }
    }

    /// Submits a message to the backplane; `bytes` is the size of its frame.
    fn say(&mut self, text: &str, reference: Option<String>, bytes: usize, now: Instant) -> Result<(), End> {
        if reference.as_deref().is_some_and(|reference| !protocol::is_reference(reference)) {
            return self.refuse(ErrorCode::BadFrame, "ref: 1 to 64 characters", None);
        }
        let Some(seat) = self.seat.clone() else {
            return self.refuse(ErrorCode::NotJoined, "join first", reference.as_deref());
        };
        let rate = self.message_rate.take(now).map_err(|wait| Refusal { limit: Limit::Frames, wait });
        let pause = match rate.and_then(|()| self.pay_for_message(bytes, now)) {
            Ok(pause) => pause,
            Err(refusal) => return self.refuse_limit(refusal, reference.as_deref()),
        };
        let Some(text) = protocol::clean_text(text) else {
            let why = "a text must have 1 to 4096 bytes, not counting trailing white space";
            return self.refuse(ErrorCode::TextInvalid, why, reference.as_deref());
        };
        if !self.is_passed_on(pause, bytes, now) {
            return Ok(());
        }
        self.app.metrics.messages.inc();
        let body = protocol::message_body(&seat.by, &seat.name, text, reference.as_deref());
        self.app.backplane.say(&seat, body, reference);
        Ok(())
    }

    fn typing(&mut self, active: bool, now: Instant) -> Result<(), End> {
        let Some(seat) = &self.seat else { return self.refuse(ErrorCode::NotJoined, "join first", None) };
        if self.typing_published.is_none_or(|at| now >= at + TYPING_EVERY) {
            self.typing_published = Some(now);
            self.app.backplane.typing(&seat.room, protocol::typing_json(&seat.name, active));
        }
        Ok(())
    }
}
