//! Accepts connections and starts one thread for each that gets a slot. In a burst, the addresses take turns.
//!
//! tiny_http writes the responses, but its own accept loop is not used. That loop reads request heads with no limit and
//! no deadline, starts a thread per idle connection, stops accepting at the first `EMFILE`, and returns an upgraded
//! connection as a box that cannot be read and written at the same time. Here every head has a limit and a deadline, a
//! failed accept is retried, and the connections of one address are limited before they cost a thread.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::connection::{self, Peer};
use super::pages::Answer;
use super::{caller, head};
use crate::app::App;
use crate::fanout::socket::{self, SharedSocket};
use crate::limits::{Bucket, Limit, Slot, Slots, Turns};
use crate::start::Start;
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

/// The most connections that wait for a thread, and no more than could get a slot now.
const MAX_WAITING: usize = 1024;
/// The most that are accepted before any of them is started: first all are accepted, so that the addresses can take turns.
const ACCEPTS_AT_ONCE: usize = 64;
const NO_CONNECTION: &str = "no connection is free";

/// How many threads per processor may work for new connections at a time, and the minimum for the whole server; the other
/// connections wait. A burst is then served as fast as the processors and Redis allow, but does not fill the scheduler's
/// queue, in which the threads that deliver messages would wait too. A thread counts until it first waits for its client, so
/// the work includes everything that a client sends together with its join.
const STARTS_PER_PROCESSOR: usize = 2;
const LEAST_STARTS: usize = 4;
/// Further connections are started at this rate per second whatever the others do, with this burst: their threads may wait
/// for a slow Redis, or the machine may be so busy that this thread seldom runs, and somebody new waits.
const START_RATE: f64 = 250.0;
const START_BURST: f64 = 4.0;
/// If others wait, a proxy's connection gets this long for its head, which names the client, to arrive. Without it, all who come
/// through the proxy take turns as one.
const HEAD_SOON: Duration = Duration::from_millis(5);
/// How often the accepting thread checks whether a connection may start, if no other one arrives.
const START_LOOK: Duration = Duration::from_micros(500);

/// Accepts connections until the process ends.
pub fn accept(listener: &TcpListener, app: &Arc<App>) {
    let processors = available_parallelism().map_or(1, NonZero::get);
    let mut door = Door {
        app,
        unnamed: Vec::new(),
        waiting: Turns::default(),
        starts: Slots::new((STARTS_PER_PROCESSOR * processors).max(LEAST_STARTS)),
        more_starts: Bucket::new(START_RATE, START_BURST, Instant::now()),
        number: 0,
        may_wait_from: Instant::now(),
        failing: false,
    };
    loop {
        for round in 0..ACCEPTS_AT_ONCE {
            let wait = if round == 0 { START_LOOK } else { Duration::ZERO };
            if door.len() > 0 && !socket::is_readable_within(listener, wait).unwrap_or(false) {
                break;
            }
            if !door.accept_one(listener) {
                break;
            }
        }
        door.name_clients();
        door.start_some();
    }
}

/// The state of the accepting thread.
struct Door<'a> {
    app: &'a Arc<App>,
    /// Proxies' connections whose heads have not been looked at, or not arrived.
    unnamed: Vec<Accepted>,
    /// Connections that wait for a thread.
    waiting: Turns<Accepted>,
    /// Held by connections that have just been started, see [`Start`].
    starts: Arc<Slots>,
    more_starts: Bucket,
    /// How many were started.
    number: u64,
    /// No connection waits for a slot before this, see [`SLOT_PAUSE`].
    may_wait_from: Instant,
    /// Whether the last accept failed.
    failing: bool,
}

/// A connection that waits for a thread.
struct Accepted {
    socket: TcpStream,
    peer: Peer,
    since: Instant,
    /// The client's address; `None` if the peer is a proxy that has not named it.
    client: Option<IpAddr>,
}

impl Door<'_> {
    /// How many connections wait.
    fn len(&self) -> usize {
        self.waiting.len() + self.unnamed.len()
    }

    /// Accepts one connection, if another one may wait. Returns whether it did; if not, after a pause.
    fn accept_one(&mut self, listener: &TcpListener) -> bool {
        if !self.make_room() {
            // The kernel keeps it.
            std::thread::sleep(START_LOOK);
            return false;
        }
        match listener.accept() {
            Ok((socket, peer)) => {
                self.failing = false;
                self.admit(socket, peer);
                true
            }
            Err(error) => {
                // Logged once, not at every retry.
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!("accept: {error}; retrying");
                }
                std::thread::sleep(if self.len() == 0 { ACCEPT_PAUSE } else { START_LOOK });
                false
            }
        }
    }

    /// Returns whether another connection may wait. If too many wait already, the address with the most loses one.
    fn make_room(&mut self) -> bool {
        let app = self.app;
        let places = app.connections.cap().saturating_sub(app.connections.taken()).clamp(1, MAX_WAITING);
        if self.len() < places {
            return true;
        }
        let Some(excess) = self.waiting.pop_excess(|accepted| accepted.client.is_none()) else { return false };
        app.limited(Limit::Idle, excess.client.unwrap_or(excess.peer.address));
        reject(&excess.socket, Answer::full(NO_CONNECTION));
        true
    }

    /// Has a connection wait for a thread, unless it exceeds a limit.
    fn admit(&mut self, socket: TcpStream, peer: SocketAddr) {
        let (app, now, address) = (self.app, Instant::now(), peer.ip().to_canonical());
        // Many people share a trusted proxy's address, so they are counted later, by the address in the request head.
        if app.settings.access.proxies.trusts(address) {
            let peer = Peer { address, counted: None };
            return self.unnamed.push(Accepted { socket, peer, since: now, client: None });
        }
        match app.accounts.of(address, now).accept(app.sessions.cap(), now) {
            Ok(connected) => {
                let peer = Peer { address, counted: Some(connected) };
                self.waiting.push(address, Accepted { socket, peer, since: now, client: Some(address) });
            }
            Err(refusal) => reject(&socket, Answer::over_limit(&refusal, address, app)),
        }
    }

    /// Gives proxies' connections their places in the line, by the client's address if the head names it.
    fn name_clients(&mut self) {
        for mut accepted in std::mem::take(&mut self.unnamed) {
            let (peer, head) = (accepted.peer.address, head::peek_head(&accepted.socket));
            if head.is_none() && !self.waiting.is_empty() && accepted.since.elapsed() < HEAD_SOON {
                self.unnamed.push(accepted);
                continue;
            }
            accepted.client = head.and_then(|request| caller::named_by_proxy(&request, peer, self.app));
            self.waiting.push(accepted.client.unwrap_or(peer), accepted);
        }
    }

    /// Takes a slot for a connection; at the cap, that of one in the lobby.
    fn take_slot(&mut self) -> Option<Slot> {
        let app = self.app;
        let is_full = app.connections.taken() >= app.sessions.cap() + HTTP_PLACES;
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
        while !self.waiting.is_empty() {
            let start = self.starts.take();
            if start.is_none() && self.more_starts.take(Instant::now()).is_err() {
                return;
            }
            let Some(accepted) = self.waiting.pop() else { return };
            self.start(accepted, start);
        }
    }

    fn start(&mut self, Accepted { socket, peer, .. }: Accepted, start: Option<Slot>) {
        let Some(slot) = self.take_slot() else {
            self.app.limited(Limit::Sessions, peer.address);
            return reject(&socket, Answer::full(NO_CONNECTION));
        };
        let wire = SharedSocket::new(socket);
        let (guest, gone) = self.app.lobby.enter(&wire, peer.address);
        if let Some(gone) = gone {
            self.app.limited(Limit::Idle, gone);
        }
        self.number += 1;
        let (for_thread, its_app) = (wire.clone(), self.app.clone());
        let spawned = threads::spawn_connection(self.number, move || {
            connection::serve(for_thread, peer, guest, Start::new(start), &its_app);
            drop(slot);
        });
        if let Err(error) = spawned {
            log::error!("can't start a thread for a connection: {error}");
            reject(&wire.tcp, Answer::full(NO_CONNECTION));
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
