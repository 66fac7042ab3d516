//! Accepts connections and starts one thread for each that gets a slot. In a burst, the addresses take turns.
//!
//! tiny_http writes the responses, but its own accept loop is not used. That loop reads request heads with no limit and
//! no deadline, starts a thread per idle connection, stops accepting at the first `EMFILE`, and returns an upgraded
//! connection as a box that cannot be read and written at the same time. Here every head has a limit and a deadline, a
//! failed accept is retried, and the connections of one address are limited before they cost a thread.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::caller::Peer;
use super::connection;
use super::pages::Answer;
use super::{caller, head};
use crate::app::App;
use crate::fanout::socket::{self, SharedSocket};
use crate::limits::{Bucket, FORWARDED_FOR, Limit, PER_PAGE, Slot, Slots, Turns};
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
/// If too many wait, those of addresses that open many give way first, as long as they are more than one in this many.
const MANY_PART: usize = 2;
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
/// Connections of addresses that open many are started at this rate, and one per processor at a time: a few addresses can open
/// thousands.
const START_RATE_OF_MANY: f64 = 100.0;
/// If others wait, a proxy's connection gets this long for its head, which names the client, to arrive. Those that are late take
/// turns as one address. Whether it has arrived is checked at this interval.
const HEAD_SOON: Duration = Duration::from_millis(100);
const HEAD_LOOK: Duration = Duration::from_millis(5);
const LATE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// How often the accepting thread checks whether a connection may start, if no other one arrives.
const START_LOOK: Duration = Duration::from_micros(500);

/// Accepts connections until the process ends.
pub fn accept(listener: &TcpListener, app: &Arc<App>) {
    let processors = available_parallelism().map_or(1, NonZero::get);
    let mut door = Door {
        app,
        unnamed: Vec::new(),
        named: Instant::now(),
        few: Queue::new((STARTS_PER_PROCESSOR * processors).max(LEAST_STARTS), START_RATE),
        many: Queue::new(processors, START_RATE_OF_MANY),
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
        door.find_turns();
        door.start_some();
    }
}

/// The state of the accepting thread.
struct Door<'a> {
    app: &'a Arc<App>,
    /// Proxies' connections whose heads have not arrived, and when that was last checked.
    unnamed: Vec<Accepted>,
    named: Instant,
    /// Connections that wait for a thread: those of addresses that have opened few recently, and the others.
    few: Queue,
    many: Queue,
    /// How many were started.
    number: u64,
    /// No connection waits for a slot before this, see [`SLOT_PAUSE`].
    may_wait_from: Instant,
    /// Whether the last accept failed.
    failing: bool,
}

/// Connections that wait for a thread.
struct Queue {
    waiting: Turns<Accepted>,
    /// Held by connections that have just been started, see [`Start`].
    starts: Arc<Slots>,
    more_starts: Bucket,
}

impl Queue {
    fn new(starts: usize, rate: f64) -> Queue {
        let more_starts = Bucket::new(rate, START_BURST, Instant::now());
        Queue { waiting: Turns::default(), starts: Slots::new(starts), more_starts }
    }

    /// Takes a connection that may be started now.
    fn next(&mut self) -> Option<(Accepted, Option<Slot>)> {
        if self.waiting.is_empty() {
            return None;
        }
        let start = self.starts.take();
        if start.is_none() {
            self.more_starts.take(Instant::now()).ok()?;
        }
        Some((self.waiting.pop()?, start))
    }
}

/// A connection that waits for a thread.
struct Accepted {
    socket: TcpStream,
    peer: Peer,
    since: Instant,
    /// The address as which it takes turns.
    turn: IpAddr,
    /// Whether many people may have this address, because it is a proxy's.
    is_shared: bool,
}

impl Accepted {
    /// The address for the log.
    fn address(&self) -> IpAddr {
        if self.turn == LATE { self.peer.address } else { self.turn }
    }
}

impl Door<'_> {
    /// How many connections wait.
    fn len(&self) -> usize {
        self.few.waiting.len() + self.many.waiting.len() + self.unnamed.len()
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

    /// Returns whether another connection may wait. If too many wait already, one gives way: of the address with the most.
    fn make_room(&mut self) -> bool {
        let app = self.app;
        let places = app.connections.cap().saturating_sub(app.connections.taken()).clamp(1, MAX_WAITING);
        if self.len() < places {
            return true;
        }
        let excess = if self.many.waiting.len() > places / MANY_PART {
            self.many.waiting.pop_excess(0, |_| false)
        } else {
            self.few.waiting.pop_excess(PER_PAGE, |accepted| accepted.is_shared)
        };
        let Some(excess) = excess else { return false };
        app.limited(Limit::ConnectionRate, excess.address());
        reject(&excess.socket, Answer::full(NO_CONNECTION));
        true
    }

    /// Has a connection wait for a thread, unless it exceeds a limit.
    fn admit(&mut self, socket: TcpStream, peer: SocketAddr) {
        let (app, now, turn) = (self.app, Instant::now(), peer.ip().to_canonical());
        let proxies = &app.settings.access.proxies;
        // Many people share a trusted proxy's address, so they are counted later, by the address in the request head.
        let is_shared = proxies.trusts(turn);
        let peer = if is_shared {
            Peer { address: turn, counted: None }
        } else {
            match app.accounts.of(turn, now).accept(app.sessions.cap(), now) {
                Ok(connected) => Peer { address: turn, counted: Some(connected) },
                Err(refusal) => return reject(&socket, Answer::over_limit(&refusal, turn, app)),
            }
        };
        let accepted = Accepted { socket, peer, since: now, turn, is_shared };
        if is_shared {
            self.find_turn(accepted);
        } else {
            self.enqueue(accepted, true);
        }
    }

    /// Adds a connection to its queue. `is_own`: whether its address is its client's, not a proxy's.
    fn enqueue(&mut self, accepted: Accepted, is_own: bool) {
        let (turn, now) = (accepted.turn, Instant::now());
        let opens_many = is_own && self.app.accounts.of(turn, now).opens_many(now);
        let queue = if opens_many { &mut self.many } else { &mut self.few };
        queue.waiting.push(turn, accepted);
    }

    /// Whether no connection waits whose turn is known.
    fn are_idle(&self) -> bool {
        self.few.waiting.is_empty() && self.many.waiting.is_empty()
    }

    /// Gives a connection that may be a proxy's its place in the queue, by the client's address in the head.
    fn find_turn(&mut self, mut accepted: Accepted) {
        let peer = accepted.peer.address;
        let is_named = self.app.settings.access.proxies.names(peer);
        let mut is_own = false;
        // What a stranger sends must not end this thread, and with it the process.
        let head = catch_unwind(|| head::peek_head(&accepted.socket)).unwrap_or(Ok(None));
        match head {
            Ok(Some(request)) => {
                accepted.turn = caller::addresses(&request, peer, self.app).1;
                accepted.is_shared = accepted.turn == peer;
                // Who forwards nothing and is trusted only by default need not be a proxy.
                let forwards = request.headers().contains_key(FORWARDED_FOR);
                is_own = if is_named { !accepted.is_shared } else { !forwards };
            }
            Ok(None) if !self.are_idle() && accepted.since.elapsed() < HEAD_SOON => {
                return self.unnamed.push(accepted);
            }
            Ok(None) if is_named => (accepted.turn, accepted.is_shared) = (LATE, false),
            Ok(None) => {}
            Err(refusal) => return reject(&accepted.socket, refusal),
        }
        self.enqueue(accepted, is_own);
    }

    /// Gives those whose heads have arrived meanwhile their places.
    fn find_turns(&mut self) {
        if self.are_idle() || self.named.elapsed() >= HEAD_LOOK {
            std::mem::take(&mut self.unnamed).into_iter().for_each(|accepted| self.find_turn(accepted));
            self.named = Instant::now();
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
        while let Some((accepted, start)) = self.few.next().or_else(|| self.many.next()) {
            self.start(accepted, start);
        }
    }

    fn start(&mut self, accepted: Accepted, start: Option<Slot>) {
        let address = accepted.address();
        let Accepted { socket, peer, .. } = accepted;
        let Some(slot) = self.take_slot() else {
            self.app.limited(Limit::Sessions, address);
            return reject(&socket, Answer::full(NO_CONNECTION));
        };
        let wire = SharedSocket::new(socket);
        let (guest, gone) = self.app.lobby.enter(&wire, address);
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
        let _ = socket.read(&mut [0; 16 * 1024]);
    }
}
