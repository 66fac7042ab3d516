//! Serves one connection on its own thread: answers requests until the connection closes or becomes a WebSocket.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use tungstenite::http::{Method, Request};

use super::body::{Body, MAX_BODY};
use super::caller::{self, Peer};
use super::head::{HEAD_TIME, KEEP_ALIVE, keeps_alive, read_head};
use super::pages::Answer;
use super::routes;
use super::upgrade::{self, Upgraded};
use crate::app::App;
use crate::fanout::socket::{self, SharedSocket};
use crate::lobby::Guest;
use crate::session;
use crate::session::transport::{self, WRITE_TIME};
use crate::start::Start;

/// The most bytes that are read after the last answer, so that the sender of a body that is too large can read why.
const LINGER_BYTES: usize = 4 * MAX_BODY;

/// Serves one connection until it ends.
pub fn serve(wire: Arc<SharedSocket>, mut peer: Peer, mut guest: Guest, start: Start, app: &App) {
    if let Some((upgraded, early)) = answer_requests(&wire.tcp, &peer, &mut guest, &start, app) {
        guest.upgrade();
        peer.counted = None;
        let Upgraded { slot, counted, room, visitor } = upgraded;
        session::serve(session::NewClient { wire, early, room, visitor, guest, start }, app);
        drop(slot);
        drop(counted);
    }
}

/// What a connection does after answering a request.
enum Next {
    /// It waits for the next request.
    Request,
    /// It became a WebSocket: its `101` has been written.
    Session(Upgraded),
    /// It closes.
    End,
}

/// Answers requests until the connection closes (`None`) or becomes a WebSocket. The bytes returned are those already
/// read past the upgrade request.
#[inline(never)]
fn answer_requests(
    socket: &TcpStream,
    peer: &Peer,
    guest: &mut Guest,
    start: &Start,
    app: &App,
) -> Option<(Upgraded, Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut wait = HEAD_TIME;
    socket.set_write_timeout(Some(WRITE_TIME)).and_then(|()| socket.set_nodelay(true)).ok()?;
    loop {
        let next = read_head(socket, start, &mut buffer, wait, |request, buffer| {
            guest.touch();
            respond(&app.site.without_base(request), buffer, socket, peer, start, app)
        });
        match next {
            Ok(Some(Next::Request)) => wait = KEEP_ALIVE,
            Ok(Some(Next::Session(upgraded))) => return Some((upgraded, buffer)),
            Ok(Some(Next::End) | None) => return None,
            Err(refusal) => {
                app.metrics.answer(refusal.status());
                write_last(socket, refusal, false, start);
                return None;
            }
        }
        guest.touch();
        // A client may send hundreds of requests together. Answering them in one go would take a whole time slice of the
        // scheduler, for which other threads would wait.
        std::thread::yield_now();
    }
}

fn respond(
    request: &Request<()>,
    buffer: &mut Vec<u8>,
    socket: &TcpStream,
    peer: &Peer,
    start: &Start,
    app: &App,
) -> Next {
    let head_only = request.method() == Method::HEAD;
    let visitor = match caller::visitor(request, peer, app) {
        Ok(visitor) => visitor,
        Err(refusal) => {
            app.metrics.answer(refusal.status());
            write_last(socket, refusal.logged(peer.address), head_only, start);
            return Next::End;
        }
    };
    let (account, address) = (visitor.account.clone(), visitor.address);
    let mut body = Body::new(socket, start, buffer);
    let answer = match request.uri().path().strip_prefix("/ws/") {
        Some(room) => {
            match upgrade::open_session(request, room, socket, visitor, start, app) {
                Ok(upgraded) => return Next::Session(upgraded),
                // A refused upgrade is not counted as a connection, so it counts as a plain request.
                Err(refusal) => match account.request(Instant::now()) {
                    Ok(()) => refusal,
                    Err(over) => Answer::over_limit(&over, address, app),
                },
            }
        }
        None => routes::answer(request, &visitor, &mut body, app),
    };
    app.metrics.answer(answer.status());
    let answer = answer.logged(address);
    // Near the cap, plain connections are closed after one request so that health checks still get a slot.
    let crowded = app.connections.taken() > app.sessions.cap();
    // Health checks are never refused, but past the rate of requests each takes a connection of its own, of which an
    // address may open fewer.
    let hurried = caller::is_probe(request.uri().path()) && account.request(Instant::now()).is_err();
    if crowded || hurried || !keeps_alive(request) || !body.is_done(request) {
        write_last(socket, answer, head_only, start);
        return Next::End;
    }
    let written = write(socket, &answer.into_bytes(head_only), start);
    if written.is_ok() { Next::Request } else { Next::End }
}

/// Writes the last answer and waits briefly for the client to close, because a reset could discard the answer before
/// the client reads it.
fn write_last(socket: &TcpStream, answer: Answer, head_only: bool, start: &Start) {
    let written = write(socket, &answer.closing().into_bytes(head_only), start);
    start.end();
    if written.and_then(|()| socket.shutdown(Shutdown::Write)).is_ok() {
        socket::linger(socket, LINGER_BYTES);
    }
}

fn write(socket: &TcpStream, bytes: &[u8], start: &Start) -> io::Result<()> {
    start.write(bytes.len());
    transport::write_all_within(socket, bytes, Instant::now() + WRITE_TIME)
}
