//! One connection on its own thread: answers requests until it closes or becomes a WebSocket.

use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tungstenite::http::{Method, Request};

use super::body::Body;
use super::head::{HEAD_TIME, KEEP_ALIVE, keeps_alive, read_head};
use super::pages::Answer;
use super::upgrade::{self, Upgraded};
use super::{caller, routes};
use crate::app::App;
use crate::fanout::socket::{self, SharedSocket};
use crate::limits::Connected;
use crate::lobby::Guest;
use crate::session::{self, transport};
use crate::threads;

/// A client must take what the connection's thread itself writes within this time, all of it.
pub const WRITE_TIME: Duration = Duration::from_secs(10);

/// The other end of a connection.
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// That it is counted with its address; a trusted proxy's connections are not.
    pub counted: Option<Connected>,
}

/// Serves one connection to its end.
pub fn serve(wire: Arc<SharedSocket>, peer: Peer, mut guest: Guest, app: &App) {
    if let Some((upgraded, early)) = answer_requests(&wire.tcp, &peer, &mut guest, app) {
        guest.upgrade();
        let Upgraded { slot, counted, room, visitor } = upgraded;
        session::serve(session::Arrived { wire, early, room, visitor, guest }, app);
        drop(slot);
        drop(counted);
    }
    drop(peer);
}

/// What a connection does after a request.
enum Next {
    /// It waits for another one.
    Request,
    /// It is a WebSocket, and has its `101`.
    Session(Upgraded),
    /// It ends.
    End,
}

/// Answers requests until the connection closes (`None`) or is a WebSocket; the bytes are those already read past the
/// upgrade request.
#[inline(never)]
fn answer_requests(socket: &TcpStream, peer: &Peer, guest: &mut Guest, app: &App) -> Option<(Upgraded, Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut wait = HEAD_TIME;
    socket.set_write_timeout(Some(WRITE_TIME)).and_then(|()| socket.set_nodelay(true)).ok()?;
    loop {
        let request = match read_head(socket, &mut buffer, wait) {
            Ok(request) => app.site.without_base(request?),
            Err(refusal) => {
                write_last(socket, refusal, false);
                return None;
            }
        };
        guest.stir();
        match threads::on_temporary_stack(|| respond(&request, &mut buffer, socket, peer, app)) {
            Next::Request => wait = KEEP_ALIVE,
            Next::Session(upgraded) => return Some((upgraded, buffer)),
            Next::End => return None,
        }
        guest.stir();
    }
}

fn respond(request: &Request<()>, buffer: &mut Vec<u8>, socket: &TcpStream, peer: &Peer, app: &App) -> Next {
    let head_only = request.method() == Method::HEAD;
    let visitor = match caller::visitor(request, peer, app) {
        Ok(visitor) => visitor,
        Err(refusal) => {
            app.metrics.refuse_http(refusal.status());
            write_last(socket, refusal, head_only);
            return Next::End;
        }
    };
    let mut body = Body::new(socket, buffer);
    let answer = match request.uri().path().strip_prefix("/ws/") {
        Some(room) => match upgrade::open_session(request, room, socket, visitor, peer, app) {
            Ok(upgraded) => return Next::Session(upgraded),
            Err(refusal) => refusal,
        },
        None => routes::answer(request, &visitor, &mut body, app),
    };
    // Near the cap, plain connections are not kept: health checks need a place too.
    let crowded = app.connections.taken() > app.sessions.cap();
    if crowded || !keeps_alive(request) || !body.is_done(request) {
        write_last(socket, answer, head_only);
        return Next::End;
    }
    let bytes = answer.into_bytes(head_only);
    let written = transport::write_all_within(socket, &bytes, Instant::now() + WRITE_TIME);
    if written.is_ok() { Next::Request } else { Next::End }
}

/// Writes the connection's last answer and waits a little for the client to close, so that it gets to read it.
fn write_last(socket: &TcpStream, answer: Answer, head_only: bool) {
    let bytes = answer.closing().into_bytes(head_only);
    let written = transport::write_all_within(socket, &bytes, Instant::now() + WRITE_TIME);
    if written.and_then(|()| socket.shutdown(Shutdown::Write)).is_ok() {
        socket::linger(socket);
    }
}
