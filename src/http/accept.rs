//! Accepts connections and starts one thread for each that gets a slot.
//!
//! tiny_http writes the responses, but its own accept loop is not used. That loop reads request heads with no limit and
//! no deadline, starts a thread per idle connection, stops accepting at the first `EMFILE`, and returns an upgraded
//! connection as a box that cannot be read and written at the same time. Here every head has a limit and a deadline, a
//! failed accept is retried, and the connections of one address are limited before they cost a thread.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::connection::{self, Peer};
use super::pages::Answer;
use crate::app::App;
use crate::fanout::socket::{self, SharedSocket};
use crate::limits::{Limit, Slot, Slots, counted_as};
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

/// At most as many connections as there are processors, and at least this many, have a thread but have not yet joined or
/// sent a plain request; the others wait for a thread. So a burst of connections is served as fast as the processors
/// allow, but does not fill the scheduler's queue, in which the threads that deliver messages would wait too.
const STARTING: usize = 2;
/// If all of these stay silent, or wait for a slow Redis, another one is started at this interval.
const START_WAIT: Duration = Duration::from_millis(2);
/// How often the accepting thread checks whether a connection may start, if no other one arrives.
const START_LOOK: Duration = Duration::from_millis(1);

/// Accepts connections until the process ends.
pub fn accept(listener: &TcpListener, app: &Arc<App>) {
    let mut door = Door {
        app,
        arrivals: Arrivals::new(),
        starting: Slots::new(available_parallelism().map_or(1, NonZero::get).max(STARTING)),
        started: Instant::now(),
        number: 0,
        may_wait_from: Instant::now(),
    };
    let mut failing = false;
    loop {
        if door.arrivals.is_empty() || socket::is_readable_within(listener, START_LOOK).unwrap_or(false) {
            match listener.accept() {
                Ok((socket, peer)) => {
                    failing = false;
                    door.admit(socket, peer);
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
        door.start_some();
    }
}

/// The state of the accepting thread.
struct Door<'a> {
    app: &'a Arc<App>,
    arrivals: Arrivals<Arrival>,
    /// Taken by connections that have just been started, see `Guest::starting`.
    starting: Arc<Slots>,
    /// When the last connection was started.
    started: Instant,
    /// How many were started.
    number: u64,
    /// No connection waits for a slot before this, see [`SLOT_PAUSE`].
    may_wait_from: Instant,
}

/// A connection that waits for a thread.
struct Arrival {
    socket: TcpStream,
    peer: Peer,
    slot: Slot,
}

impl Door<'_> {
    /// Has a connection wait for a thread, unless it exceeds a limit.
    fn admit(&mut self, socket: TcpStream, peer: SocketAddr) {
        let app = self.app;
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
        let Some(slot) = self.take_slot() else { return reject(&socket, Answer::full("no connection is free")) };
        let peer = Peer { address: peer, counted };
        self.arrivals.push(counted_as(peer.address), Arrival { socket, peer, slot });
    }

    /// Takes a slot for a connection; at the cap, that of one that waits for a thread, or of one in the lobby.
    fn take_slot(&mut self) -> Option<Slot> {
        let app = self.app;
        let is_full = app.connections.taken() >= app.sessions.cap() + HTTP_PLACES;
        if is_full && let Some(excess) = self.arrivals.pop_excess() {
            reject(&excess.socket, Answer::full("no connection is free"));
            return Some(excess.slot);
        }
        let dismissed = if is_full { app.lobby.dismiss() } else { None };
        if let Some(gone) = dismissed {
            app.limited(Limit::Idle, gone);
        }
        let now = Instant::now();
        let waits = dismissed.is_some() && now >= self.may_wait_from;
        let slot = app.connections.take_by(if waits { now + SLOT_WAIT } else { now });
        if waits && slot.is_none() {
            self.may_wait_from = Instant::now() + SLOT_PAUSE;
        }
        slot
    }

    /// Starts threads for connections that wait, as many as may start now.
    fn start_some(&mut self) {
        while !self.arrivals.is_empty() {
            let starting = self.starting.take();
            if starting.is_none() && self.started.elapsed() < START_WAIT {
                return;
            }
            let Some(arrival) = self.arrivals.pop() else { return };
            self.started = Instant::now();
            self.start(arrival, starting);
        }
    }

    fn start(&mut self, Arrival { socket, peer, slot }: Arrival, starting: Option<Slot>) {
        let wire = SharedSocket::new(socket);
        let (mut guest, gone) = self.app.lobby.enter(&wire, peer.address);
        guest.starting = starting;
        if let Some(gone) = gone {
            self.app.limited(Limit::Idle, gone);
        }
        self.number += 1;
        let (for_thread, its_app) = (wire.clone(), self.app.clone());
        let started = threads::spawn_connection(self.number, move || {
            connection::serve(for_thread, peer, guest, &its_app);
            drop(slot);
        });
        if let Err(error) = started {
            log::error!("can't start a thread for a connection: {error}");
            reject(&wire.tcp, Answer::full("no connection is free"));
        }
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
