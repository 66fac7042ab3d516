//! One client, from its join to its end, on its own thread.
//!
//! The thread only reads. What it has to say itself (errors, history, pongs) it hands to its lane once the session has
//! joined, so that frames never interleave; before that, and for `welcome`, it writes to the socket itself, while the
//! lane holds everything else back.

mod end;
pub mod transport;

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Error, Message, Utf8Bytes, WebSocket, error::ProtocolError};

use self::end::End;
use self::transport::Transport;
use crate::app::App;
use crate::backplane::{JoinError, Leave, Page, Room, Seat, SessionId, Span, Unavailable};
use crate::fanout::lane::SessionCommand;
use crate::fanout::socket::{self, SharedSocket};
use crate::limits::{self, BURST_SECONDS, Bucket, Recent};
use crate::protocol::{
    self, ClientFrame, Close, ErrorCode, Id, Join, MAX_HISTORY, MAX_MESSAGE_BYTES, Secret, ServerFrame,
};
use crate::threads;

/// The first join must come within this time.
const JOIN_TIME: Duration = Duration::from_secs(10);
/// A join that was refused may be mended by a person, who has to type.
const REJOIN_TIME: Duration = Duration::from_secs(60);
/// How many joins a connection may try.
const JOIN_TRIES: u32 = 5;
/// How often a session that has not joined looks whether the process drains.
const DRAIN_LOOK: Duration = Duration::from_millis(500);
/// How often the server pings, and the whole frame of an empty ping (RFC 6455, section 5.5.2).
const PING_EVERY: Duration = Duration::from_secs(20);
const PING: &[u8] = &[0x89, 0];
/// A connection from which nothing came for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// So many refused frames within so long end the connection.
const REFUSALS: (usize, Duration) = (20, Duration::from_secs(10));
/// Typing is told at most so often.
const TYPING_EVERY: Duration = Duration::from_secs(1);
/// Frames that are no messages may come so many times as fast.
const OTHER_FRAMES: f64 = 10.0;
/// tungstenite's read buffer, in bytes: most frames fit, and it is allocated for every connection.
const READ_BUFFER: usize = 1024;

/// Serves one client, which has its `101`, until it is gone. `early` is what it sent behind its request.
#[inline(never)]
pub fn serve(socket: TcpStream, early: Vec<u8>, room: Room, app: &App) {
    let berth = app.lanes.assign(&room);
    let id = berth.session;
    let mut session = Session::new(socket, early, room, id, app);
    app.metrics.connections.inc();
    let end = session.run();
    log::debug!("session {id} in {}: {end}", session.room);
    session.finish(&end);
    app.metrics.connections.dec();
}

struct Session<'a> {
    id: SessionId,
    room: Room,
    socket: WebSocket<Transport<'a>>,
    app: &'a App,
    /// There is one from a join that was carried out until the end.
    seat: Option<Seat>,
    tries: u32,
    unauthorized: u32,
    join_by: Instant,
    next_ping: Instant,
    messages: Bucket,
    others: Bucket,
    typing_told: Option<Instant>,
    refused: Recent,
}

impl<'a> Session<'a> {
    #[inline(never)]
    fn new(socket: TcpStream, early: Vec<u8>, room: Room, id: SessionId, app: &'a App) -> Box<Session<'a>> {
        let now = Instant::now();
        let stream = Transport { wire: SharedSocket::new(socket), id, lanes: &app.lanes, joined: false, heard: now };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let rate = f64::from(app.settings.rate_limit);
        Box::new(Session {
            id,
            room,
            socket: WebSocket::from_partially_read(stream, early, Role::Server, Some(config)),
            app,
            seat: None,
            tries: 0,
            unauthorized: 0,
            join_by: now + JOIN_TIME,
            // After many joins at once the pings come spread out.
            next_ping: now + PING_EVERY.mul_f64(0.5 + limits::jitter() / 2.0),
            messages: Bucket::new(rate, rate * BURST_SECONDS, now),
            others: Bucket::new(rate * OTHER_FRAMES, rate * OTHER_FRAMES * BURST_SECONDS, now),
            typing_told: None,
            refused: Recent::default(),
        })
    }

    #[inline(never)]
    fn run(&mut self) -> End {
        loop {
            let text = self.do_duties(Instant::now()).and_then(|()| self.read_text());
            // Once the server closes, only the client's close frame counts (RFC 6455, section 5.5.1).
            let text = text.map(|text| text.filter(|_| !self.socket.get_ref().wire.is_closing()));
            if let Err(end) = text.and_then(|text| text.map_or(Ok(()), |text| self.hear(&text))) {
                return end;
            }
        }
    }

    /// What the clock asks for; and it sets the time until it asks again.
    fn do_duties(&mut self, now: Instant) -> Result<(), End> {
        if self.seat.is_none() && self.app.draining.load(Relaxed) {
            return Err(End::Refused(Close::GoingAway));
        }
        if self.seat.is_none() && now >= self.join_by {
            return Err(End::Refused(Close::Policy));
        }
        let heard = self.socket.get_ref().heard;
        if now >= heard + DEAD_AFTER {
            return Err(End::Broken("nothing came for 45 s".to_owned()));
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_EVERY;
            self.socket.get_mut().send(Bytes::from_static(PING))?;
        }
        let mut next = self.next_ping.min(heard + DEAD_AFTER);
        if self.seat.is_none() {
            // No lane knows of it yet, so it has to look by itself whether the process drains.
            next = next.min(self.join_by).min(now + DRAIN_LOOK);
        }
        let wait = next.saturating_duration_since(now).max(Duration::from_millis(1));
        Ok(self.socket.get_ref().wire.tcp.set_read_timeout(Some(wait))?)
    }

    /// Reads one frame: `None` if it was no text, or none came in time.
    #[inline(never)]
    fn read_text(&mut self) -> Result<Option<Utf8Bytes>, End> {
        match self.socket.read() {
            Ok(Message::Text(text)) => Ok(Some(text)),
            Ok(Message::Binary(_)) => Err(End::Refused(Close::Binary)),
            Ok(Message::Close(_)) => Err(End::Closed),
            Ok(_) => Ok(None),
            Err(Error::Io(error)) if socket::is_timeout(&error) => Ok(None),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Err(End::Closed),
            Err(Error::Capacity(_)) => Err(End::Refused(Close::TooBig)),
            Err(Error::Utf8(_)) => Err(End::Refused(Close::NotUtf8)),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                Err(End::Broken("it ended without a close frame".to_owned()))
            }
            Err(Error::Protocol(_)) => Err(End::Refused(Close::Protocol)),
            Err(error) => Err(End::Broken(error.to_string())),
        }
    }

    #[inline(never)]
    fn hear(&mut self, text: &str) -> Result<(), End> {
        let now = Instant::now();
        if !limits::is_shallow(text) {
            return self.refuse(ErrorCode::BadFrame, "nested too deep", None);
        }
        let frame = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => return self.refuse(ErrorCode::BadFrame, &error.to_string(), None),
        };
        if let ClientFrame::Message { text, reference } = frame {
            return self.say(&text, reference, now);
        }
        if let Err(wait) = self.others.take(now) {
            return self.refuse_rate(None, wait);
        }
        match frame {
            ClientFrame::Join(join) => threads::on_temporary_stack(|| self.join(join)),
            ClientFrame::Ping => self.send(&ServerFrame::Pong),
            ClientFrame::Typing { active } => self.typing(active, now),
            ClientFrame::History { before, limit } => {
                threads::on_temporary_stack(|| self.history(before, limit.unwrap_or(MAX_HISTORY / 2)))
            }
            ClientFrame::Message { .. } => Ok(()),
        }
    }

    fn join(&mut self, join: Join) -> Result<(), End> {
        if self.seat.is_some() {
            return self.refuse(ErrorCode::AlreadyJoined, "this connection has joined", None);
        }
        if join.client.as_ref().is_some_and(|client| !protocol::is_client(client.expose())) {
            return self.refuse(ErrorCode::BadFrame, "client: 16 to 64 characters A-Z a-z 0-9 _ -", None);
        }
        self.tries += 1;
        self.join_by = Instant::now() + REJOIN_TIME;
        if !self.app.settings.admits(join.passphrase.as_ref().map(Secret::expose)) {
            self.unauthorized += 1;
            return self.refuse_join(ErrorCode::Unauthorized, "the passphrase is not right");
        }
        let Some(name) = protocol::clean_name(join.name.as_deref().unwrap_or_default()) else {
            let why = "a name has 1 to 32 characters, without control or direction characters";
            return self.refuse_join(ErrorCode::NameInvalid, why);
        };
        if self.app.settings.tokens.is_reserved(&protocol::fold_name(&name)) {
            return self.refuse_join(ErrorCode::NameTaken, "a script has this name");
        }
        let seat = Seat {
            room: self.room.clone(),
            session: self.id,
            key: protocol::fold_name(&name).into(),
            name: name.into(),
            by: join
                .client
                .as_ref()
                .map_or_else(|| protocol::mark(&limits::random_name()), |c| protocol::mark(c.expose()))
                .into(),
        };
        let wire = self.socket.get_ref().wire.clone();
        self.app.lanes.post(self.id, SessionCommand::Join(self.room.clone(), wire));
        let arrival = match self.app.backplane.join(&seat, join.since) {
            Ok(arrival) => arrival,
            Err(error) => {
                self.app.lanes.post(self.id, SessionCommand::Leave);
                return match error {
                    JoinError::NameTaken => self.refuse_join(ErrorCode::NameTaken, "another client has this name"),
                    JoinError::Full => self.refuse_join(ErrorCode::Full, "no more rooms can be opened here"),
                    JoinError::Unavailable => self.refuse_join(ErrorCode::Unavailable, &Unavailable.to_string()),
                };
            }
        };
        let (name, by) = (seat.name.clone(), seat.by.clone());
        self.seat = Some(seat);
        self.app.metrics.joins.inc();
        self.send(&ServerFrame::Welcome {
            name: &name,
            by: &by,
            room: &self.room.clone(),
            participants: arrival.participants,
            names: &arrival.names,
            messages: &raw_messages(&arrival.page)?,
            last: arrival.last,
            more: arrival.page.more,
            gap: arrival.gap,
        })?;
        self.app.lanes.post(self.id, SessionCommand::Open(arrival.last, arrival.stamp));
        self.socket.get_mut().joined = true;
        Ok(())
    }

    fn say(&mut self, text: &str, reference: Option<String>, now: Instant) -> Result<(), End> {
        if reference.as_deref().is_some_and(|reference| !protocol::is_reference(reference)) {
            return self.refuse(ErrorCode::BadFrame, "ref: 1 to 64 characters", None);
        }
        let Some(seat) = self.seat.clone() else {
            return self.refuse(ErrorCode::NotJoined, "join first", reference.as_deref());
        };
        if let Err(wait) = self.messages.take(now) {
            return self.refuse_rate(reference.as_deref(), wait);
        }
        let Some(text) = protocol::clean_text(text) else {
            let why = "a text has 1 to 4096 bytes, its trailing white space not counted";
            return self.refuse(ErrorCode::TextInvalid, why, reference.as_deref());
        };
        self.app.metrics.messages.inc();
        let body = protocol::message_body(&seat.by, &seat.name, text, reference.as_deref());
        self.app.backplane.say(&seat, body, reference);
        Ok(())
    }

    fn typing(&mut self, active: bool, now: Instant) -> Result<(), End> {
        let Some(seat) = &self.seat else { return self.refuse(ErrorCode::NotJoined, "join first", None) };
        if self.typing_told.is_none_or(|told| now >= told + TYPING_EVERY) {
            self.typing_told = Some(now);
            self.app.backplane.typing(&seat.room, protocol::typing_json(&seat.name, active));
        }
        Ok(())
    }

    fn history(&mut self, before: Id, limit: usize) -> Result<(), End> {
        if self.seat.is_none() {
            return self.refuse(ErrorCode::NotJoined, "join first", None);
        }
        match self.app.backplane.history(&self.room, Span::Before(Some(before)), limit.clamp(1, MAX_HISTORY)) {
            Ok(page) => self.send(&ServerFrame::History { messages: &raw_messages(&page)?, more: page.more }),
            Err(Unavailable) => self.error(ErrorCode::Unavailable, &Unavailable.to_string(), None, None),
        }
    }

    /// Refuses a join; the client may try again, but not for ever.
    fn refuse_join(&mut self, code: ErrorCode, why: &str) -> Result<(), End> {
        self.refuse(code, why, None)?;
        match (self.unauthorized, self.tries) {
            (JOIN_TRIES.., _) => Err(End::Refused(Close::Unauthorized)),
            (_, JOIN_TRIES..) => Err(End::Refused(Close::Policy)),
            _ => Ok(()),
        }
    }

    fn refuse_rate(&mut self, reference: Option<&str>, wait: Duration) -> Result<(), End> {
        // Rounded up, so that whoever waits so long is let in.
        let retry_ms = wait.as_millis() as u64 + 1;
        self.error(ErrorCode::RateLimited, "too many frames a second", reference, Some(retry_ms))?;
        self.count_refusal()
    }

    fn refuse(&mut self, code: ErrorCode, why: &str, reference: Option<&str>) -> Result<(), End> {
        self.error(code, why, reference, None)?;
        // That the backplane is away is not the client's fault.
        if code == ErrorCode::Unavailable { Ok(()) } else { self.count_refusal() }
    }

    fn count_refusal(&mut self) -> Result<(), End> {
        let refused = self.refused.count(Instant::now(), REFUSALS.1);
        if refused >= REFUSALS.0 { Err(End::Refused(Close::Policy)) } else { Ok(()) }
    }

    fn error(
        &mut self,
        code: ErrorCode,
        message: &str,
        reference: Option<&str>,
        retry_ms: Option<u64>,
    ) -> Result<(), End> {
        self.app.metrics.refuse(code.as_str());
        self.send(&ServerFrame::Error { code, message, reference, retry_ms })
    }

    /// Sends a frame of its own, past tungstenite: its write buffer would keep the largest frame's size for ever.
    fn send(&mut self, frame: &ServerFrame<'_>) -> Result<(), End> {
        let bytes = protocol::text_frame(protocol::json(frame));
        Ok(self.socket.get_mut().send(bytes)?)
    }

    /// Says goodbye, gives the seat back, and lets the lane go.
    #[inline(never)]
    fn finish(&mut self, end: &End) {
        let wire = self.socket.get_ref().wire.clone();
        match end {
            End::Closed => drop(self.socket.flush()),
            End::Refused(code) if self.socket.get_ref().joined => {
                self.app.lanes.post(self.id, SessionCommand::Close(*code));
            }
            End::Refused(code) => {
                let _ = self.socket.get_mut().send(code.bytes());
                let _ = wire.tcp.shutdown(Shutdown::Write);
            }
            End::Broken(_) => {}
        }
        let goodbye = matches!(end, End::Closed) && !wire.is_closing();
        self.give_seat_back(if goodbye { Leave::Now } else { Leave::Expire });
        if matches!(end, End::Refused(_)) {
            socket::linger(&wire.tcp);
        }
        self.app.lanes.post(self.id, SessionCommand::Leave);
    }

    fn give_seat_back(&mut self, how: Leave) {
        if let Some(seat) = self.seat.take() {
            self.app.backplane.leave(&seat, how);
        }
    }
}

/// If this thread panics, its seat lapses and its lane forgets it, as if the connection had broken.
impl Drop for Session<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.app.metrics.connections.dec();
            self.give_seat_back(Leave::Expire);
            self.app.lanes.post(self.id, SessionCommand::Leave);
        }
    }
}

/// The messages of a page as they go into a frame.
fn raw_messages(page: &Page) -> Result<Vec<Box<RawValue>>, End> {
    let raw = |(id, body): &(Id, String)| RawValue::from_string(protocol::message_json(*id, body));
    page.messages.iter().map(raw).collect::<Result<_, _>>().map_err(|error| End::Broken(format!("the log: {error}")))
}
