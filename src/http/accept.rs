//! Accepts connections and starts one thread for each that gets a slot.
//!
//! tiny_http writes the responses, but its own accept loop is not used. That loop reads request heads with no limit and
//! no deadline, starts a thread per idle connection, stops accepting at the first `EMFILE`, and returns an upgraded
//! connection as a box that cannot be read and written at the same time. Here every head has a limit and a deadline, a
//! failed accept is retried, and the connections of one address are limited before they cost a thread.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{self, Peer};
use super::pages::Answer;
use crate::app::App;
use crate::fanout::socket::SharedSocket;
use crate::limits::Limit;
use crate::threads;

/// Pause after an accept that failed because files or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections for plain HTTP beyond the cap on sessions, so that health checks and refusals still get through.
pub const HTTP_PLACES: usize = 64;
/// Further connections, because one that was shut down to make room takes a moment to close.
pub const SPARE_PLACES: usize = 32;

/// How long the accepting thread waits for the slot of a connection that it has just closed: that connection's thread has
/// to run first, and on a busy machine it does not run at once. If the slot is still taken then, its thread is waiting
/// for something else, such as Redis. No new connection then waits for a slot during [`SLOT_PAUSE`], because all others
/// would wait behind it.
const SLOT_WAIT: Duration = Duration::from_millis(200);
const SLOT_PAUSE: Duration = Duration::from_secs(1);

/// Accepts connections until the process ends.
pub fn accept(listener: &TcpListener, app: &Arc<App>) {
    let mut number = 0_u64;
    let mut failing = false;
    let mut may_wait_from = Instant::now();
    loop {
        match listener.accept() {
            Ok((socket, peer)) => {
                failing = false;
                number += 1;
                welcome(socket, peer, number, &mut may_wait_from, app);
            }
            Err(error) => {
                // Logged once, not at every retry.
                if !std::mem::replace(&mut failing, true) {
                    log::error!("accept: {error}; retrying");
                }
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn welcome(socket: TcpStream, peer: SocketAddr, number: u64, may_wait_from: &mut Instant, app: &Arc<App>) {
    let peer = peer.ip().to_canonical();
    // Many people share a trusted proxy's address, so they are counted later, by the address in the request head.
    let counted = if app.settings.access.proxies.trusts(peer) {
        None
    } else {
        let (now, cap) = (Instant::now(), app.sessions.cap());
        let free = cap.saturating_sub(app.sessions.taken());
        match app.accounts.of(peer, now).connect(free, cap, now) {
            Ok(connected) => Some(connected),
            Err(refusal) => {
                return reject(&socket, Answer::over_limit(&refusal, peer, app));
            }
        }
    };
    let is_full = app.connections.taken() >= app.sessions.cap() + HTTP_PLACES;
    let dismissed = if is_full { app.lobby.dismiss() } else { None };
    if let Some(gone) = dismissed {
        app.limited(Limit::Idle, gone);
    }
    let now = Instant::now();
    let waits = dismissed.is_some() && now >= *may_wait_from;
    let Some(slot) = app.connections.take_by(if waits { now + SLOT_WAIT } else { now }) else {
        if waits {
            *may_wait_from = Instant::now() + SLOT_PAUSE;
        }
        return reject(&socket, Answer::full("no connection is free"));
    };
    let wire = SharedSocket::new(socket);
    let (guest, gone) = app.lobby.enter(&wire, peer);
    if let Some(gone) = gone {
        app.limited(Limit::Idle, gone);
    }
    let (for_thread, its_app) = (wire.clone(), app.clone());
    let peer = Peer { address: peer, counted };
    let started = threads::spawn_connection(number, move || {
        connection::serve(for_thread, peer, guest, &its_app);
        drop(slot);
    });
    if let Err(error) = started {
        log::error!("can't start a thread for a connection: {error}");
        reject(&wire.tcp, Answer::full("no connection is free"));
    }
}

/// Refuses a connection on the accept thread, without blocking. Bytes already received are read first: closing a socket
/// with unread data sends a reset, and the client might never see the answer.
fn reject(mut socket: &TcpStream, answer: Answer) {
    let bytes = answer.closing().into_bytes(false);
    if socket.set_nonblocking(true).and_then(|()| socket.write(&bytes)).is_ok() {
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.read(&mut [0; 4096]);
    }
}
