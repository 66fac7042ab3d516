//! The front door: accepts connections, reads their request heads, and passes each on to where it belongs.
//!
//! tiny_http writes the responses, but its own accept loop is not used: it reads heads with no limit and no deadline,
//! starts a thread for each idle connection, ends for good at the first `EMFILE`, and hands an upgraded connection
//! over as a box that can't be read and written at once. Here every head has a limit and a deadline, and an accept
//! that fails is tried again.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use super::body::Body;
use super::pages::{self, Answer};
use super::routes;
use crate::app::App;
use crate::backplane::Room;
use crate::fanout::socket;
use crate::limits::Slot;
use crate::protocol::{self, SUBPROTOCOL};
use crate::session;
use crate::threads;

/// The longest request head, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// The most header lines; browsers behind two proxies send some thirty.
const MAX_HEADERS: usize = 64;
/// A head must be complete so long after its first byte, or after the connection was made.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a connection is kept without a request: longer than a load balancer keeps its own (60 s), so that it is
/// not the server that closes under a request on its way.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// A client must take something of what the connection's thread itself writes within this time.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// The wait after an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for ever.
pub fn accept(listener: &TcpListener, app: &Arc<App>) {
    let mut number = 0_u64;
    let mut failing = false;
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                failing = false;
                number += 1;
                welcome(socket, number, app);
            }
            Err(error) => {
                // Said once, not at each try.
                if !std::mem::replace(&mut failing, true) {
                    log::error!("accept: {error}; trying again");
                }
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn welcome(socket: TcpStream, number: u64, app: &Arc<App>) {
    let Some(slot) = app.connections.take() else { return reject(&socket) };
    let spare = socket.try_clone();
    let thread_shared = app.clone();
    let started = threads::spawn_connection(number, move || {
        serve(socket, &thread_shared);
        drop(slot);
    });
    if let Err(error) = started {
        log::error!("no thread for a connection: {error}");
        if let Ok(socket) = spare {
            reject(&socket);
        }
    }
}

/// Refuses a connection on the accept thread, so without waiting for it.
fn reject(socket: &TcpStream) {
    let bytes = full("no free connection").closing().into_bytes(false);
    let _ = socket.set_nonblocking(true).and_then(|()| (&mut &*socket).write(&bytes));
}

fn full(why: &str) -> Answer {
    Answer::refusal(503, why).with("Retry-After", "3")
}

/// One connection: answers requests until it closes or becomes a WebSocket.
fn serve(socket: TcpStream, app: &App) {
    if let Some((slot, room, early)) = answer_requests(&socket, app) {
        session::serve(socket, early, room, app);
        drop(slot);
    }
}

/// What a connection does after a request.
enum Next {
    /// It waits for another one.
    Request,
    /// It is a WebSocket in this room, and has its `101`.
    Session(Slot, Room),
    /// It ends.
    End,
}

/// Answers requests until the connection closes (`None`) or is a WebSocket, and says what came early for that.
#[inline(never)]
fn answer_requests(socket: &TcpStream, app: &App) -> Option<(Slot, Room, Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut wait = HEAD_TIME;
    socket.set_write_timeout(Some(WRITE_TIME)).and_then(|()| socket.set_nodelay(true)).ok()?;
    loop {
        let request = match read_head(socket, &mut buffer, wait) {
            Ok(request) => request?,
            Err(refusal) => {
                say_last(socket, refusal, false);
                return None;
            }
        };
        match threads::on_temporary_stack(|| respond(&request, &mut buffer, socket, app)) {
            Next::Request => wait = KEEP_ALIVE,
            Next::Session(slot, room) => return Some((slot, room, buffer)),
            Next::End => return None,
        }
    }
}

fn respond(request: &Request<()>, buffer: &mut Vec<u8>, mut socket: &TcpStream, app: &App) -> Next {
    let head_only = request.method() == Method::HEAD;
    let mut body = Body::new(socket, buffer);
    let answer = match request.uri().path().strip_prefix("/ws/") {
        Some(room) => match open_session(request, room, socket, app) {
            Ok((slot, room)) => return Next::Session(slot, room),
            Err(refusal) => refusal,
        },
        None => routes::answer(request, &mut body, app),
    };
    // Near the cap, plain connections are not kept: health checks need a place too.
    let crowded = app.connections.taken() > app.sessions.cap();
    if crowded || !keeps_alive(request) || !body.is_done(request) {
        say_last(socket, answer, head_only);
        return Next::End;
    }
    if socket.write_all(&answer.into_bytes(head_only)).is_ok() { Next::Request } else { Next::End }
}

/// Writes the connection's last answer and waits a little for the client to close, so that it gets to read it.
fn say_last(socket: &TcpStream, answer: Answer, head_only: bool) {
    let bytes = answer.closing().into_bytes(head_only);
    if (&mut &*socket).write_all(&bytes).and_then(|()| socket.shutdown(Shutdown::Write)).is_ok() {
        socket::linger(socket);
    }
}

/// Reads until a head is complete, and takes it off the buffer. `None`: the client closed or fell silent.
#[inline(never)]
fn read_head(socket: &TcpStream, buffer: &mut Vec<u8>, wait: Duration) -> Result<Option<Request<()>>, Answer> {
    let mut deadline = Instant::now() + if buffer.is_empty() { wait } else { HEAD_TIME };
    let mut chunk = [0; 512];
    loop {
        if let Some((request, length)) = threads::on_temporary_stack(|| parse(buffer))? {
            if length > MAX_HEAD {
                return Err(Answer::refusal(431, "the head is over 8 KiB"));
            }
            buffer.drain(..length);
            return Ok(Some(request));
        }
        if buffer.len() > MAX_HEAD {
            return Err(Answer::refusal(431, "the head is over 8 KiB"));
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let kept_and_silent = wait == KEEP_ALIVE && buffer.is_empty();
        match socket.set_read_timeout(Some(left)).and_then(|()| (&mut &*socket).read(&mut chunk)) {
            Ok(0) => return Ok(None),
            Ok(count) => {
                if kept_and_silent {
                    deadline = Instant::now() + HEAD_TIME;
                }
                buffer.extend_from_slice(&chunk[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if socket::is_timeout(&error) && kept_and_silent => return Ok(None),
            Err(error) if socket::is_timeout(&error) => {
                return Err(Answer::refusal(408, "the head was not complete within 5 s"));
            }
            Err(_) => return Ok(None),
        }
        if Instant::now() >= deadline {
            return Err(Answer::refusal(408, "the head was not complete within 5 s"));
        }
    }
}

/// Parses a head and says how long it is; `None` while it is not complete.
fn parse(buffer: &[u8]) -> Result<Option<(Request<()>, usize)>, Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Answer::refusal(431, "over 64 header lines")),
        Err(error) => return Err(Answer::refusal(400, &format!("this is no HTTP/1.1 request: {error}"))),
    };
    let bad = |_| Answer::refusal(400, "this is no HTTP/1.1 request");
    let mut request = Request::new(());
    *request.method_mut() = head.method.unwrap_or_default().parse().map_err(|_| bad(()))?;
    *request.uri_mut() = head.path.unwrap_or_default().parse::<Uri>().map_err(|_| bad(()))?;
    *request.version_mut() = if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    for line in head.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| bad(()))?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| bad(()))?;
        request.headers_mut().append(name, value);
    }
    Ok(Some((request, length)))
}

/// Whether the client lets the connection stay after the answer.
fn keeps_alive(request: &Request<()>) -> bool {
    let values = request.headers().get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let closes = values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("close"));
    request.version() == Version::HTTP_11 && !closes
}

/// Checks an upgrade and says `101`; the session has its slot from here on.
fn open_session(request: &Request<()>, room: &str, mut socket: &TcpStream, app: &App) -> Result<(Slot, Room), Answer> {
    if !protocol::is_room(room) {
        return Err(pages::no_such_room());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(pages::wrong_method());
    }
    let said =
        |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let wants_websocket = said(header::UPGRADE).eq_ignore_ascii_case("websocket");
    if !wants_websocket || request.method() == Method::HEAD || said(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(Answer::refusal(426, "this path speaks WebSocket, version 13").asking_for_websocket());
    }
    let mut response =
        create_response(request).map_err(|error| Answer::refusal(400, &format!("not a WebSocket upgrade: {error}")))?;
    if !same_origin(said(header::ORIGIN), said(header::HOST)) {
        return Err(Answer::refusal(403, "the page is from another origin than the chat"));
    }
    let rejected = |reason, why| {
        app.metrics.reject(reason);
        full(why)
    };
    if app.draining.load(Relaxed) {
        return Err(rejected("draining", "this instance is going away; try again"));
    }
    let slot = app.sessions.take().ok_or_else(|| rejected("full", "all connections are taken; try again"))?;
    if said(header::SEC_WEBSOCKET_PROTOCOL).split(',').any(|offered| offered.trim() == SUBPROTOCOL) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let mut bytes = Vec::with_capacity(256);
    let written = write_response(&mut bytes, &response).is_ok() && socket.write_all(&bytes).is_ok();
    // Nobody reads this one: the connection is broken.
    if written { Ok((slot, room.into())) } else { Err(Answer::refusal(400, "the connection broke")) }
}

/// Whether a page from this origin may speak for its user here: programs send no `Origin`, browsers always do (RFC
/// 6455, section 10.2).
fn same_origin(origin: &str, host: &str) -> bool {
    if origin.is_empty() {
        return true;
    }
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |name: &str| name.strip_suffix(default_port).unwrap_or(name).to_ascii_lowercase();
    bare(authority) == bare(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_without_default_ports() {
        for (origin, host, same) in [
            ("", "chat.example", true),
            ("https://chat.example", "chat.example", true),
            ("https://chat.example", "Chat.Example:443", true),
            ("http://localhost:3000", "localhost:3000", true),
            ("http://localhost:3001", "localhost:3000", false),
            ("https://evil.example", "chat.example", false),
            ("https://chat.example.evil.example", "chat.example", false),
            ("null", "chat.example", false),
        ] {
            assert_eq!(same_origin(origin, host), same, "{origin} {host}");
        }
    }

    #[test]
    fn heads_are_parsed_when_they_are_complete() {
        let head = b"GET /r/a?b=c HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\nrest";
        for end in 0..head.len() - 4 {
            assert!(matches!(parse(&head[..end]), Ok(None)), "{end}");
        }
        let Ok(Some((request, length))) = parse(head) else { panic!("complete") };
        assert_eq!((request.uri().path(), length), ("/r/a", head.len() - 4));
        assert!(!keeps_alive(&request));
        for wrong in [&b"PRI * HTTP/2.0\r\n\r\n"[..], b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nA b: c\r\n\r\n"] {
            assert!(parse(wrong).is_err());
        }
    }
}
