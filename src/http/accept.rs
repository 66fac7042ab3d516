//! The front door: accepts connections and starts a thread for each that has a place.
//!
//! tiny_http writes the responses, but its own accept loop is not used: it reads heads with no limit and no deadline,
//! starts a thread for each idle connection, ends for good at the first `EMFILE`, and hands an upgraded connection
//! over as a box that can't be read and written at once. Here every head has a limit and a deadline, an accept that
//! fails is tried again, and what one address may open is bounded before it costs a thread.

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

/// The wait after an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Places for plain HTTP beyond the cap on sessions: health checks and refusals.
pub const HTTP_PLACES: usize = 64;
/// Places beyond those, for connections whose predecessors were asked to go and are not quite gone.
pub const SPARE_PLACES: usize = 32;

/// Accepts connections for ever.
pub fn accept(listener: &TcpListener, app: &Arc<App>) {
    let mut number = 0_u64;
    let mut failing = false;
    loop {
        match listener.accept() {
            Ok((socket, peer)) => {
                failing = false;
                number += 1;
                welcome(socket, peer, number, app);
            }
            Err(error) => {
                // Logged once, not at each try.
                if !std::mem::replace(&mut failing, true) {
                    log::error!("accept: {error}; trying again");
                }
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn welcome(socket: TcpStream, peer: SocketAddr, number: u64, app: &Arc<App>) {
    let peer = peer.ip().to_canonical();
    // Behind a trusted proxy are many people: they are counted by the head.
    let counted = if app.settings.access.proxies.trusts(peer) {
        None
    } else {
        let (now, cap) = (Instant::now(), app.sessions.cap());
        let free = cap.saturating_sub(app.sessions.taken());
        match app.accounts.of(peer, now).connect(free, cap, now) {
            Ok(connected) => Some(connected),
            Err(refusal) => {
                app.limited(refusal.limit, peer);
                return reject(&socket, Answer::too_much(&refusal));
            }
        }
    };
    if app.connections.taken() >= app.sessions.cap() + HTTP_PLACES
        && let Some(gone) = app.lobby.dismiss()
    {
        app.limited(Limit::Idle, gone);
    }
    let Some(slot) = app.connections.take() else { return reject(&socket, Answer::full("no free connection")) };
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
        log::error!("no thread for a connection: {error}");
        reject(&wire.tcp, Answer::full("no free connection"));
    }
}

/// Refuses a connection on the accept thread, so without waiting for it. What it has sent already is read, because a
/// socket that is closed on unread data resets, and the client might lose the answer.
fn reject(mut socket: &TcpStream, answer: Answer) {
    let bytes = answer.closing().into_bytes(false);
    if socket.set_nonblocking(true).and_then(|()| socket.write(&bytes)).is_ok() {
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.read(&mut [0; 4096]);
    }
}
