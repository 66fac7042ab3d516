//! Startup and shutdown: wires the parts together, waits for a signal, and ends in order.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use socket2::{Domain, Protocol, Socket, Type};

use crate::app::App;
use crate::backplane::local::{DataError, Local};
use crate::backplane::redis::{LinkError, Redis, Server};
use crate::backplane::{Backplane, Event, EventSink, Limits};
use crate::fanout::{Lanes, polls::Polls};
use crate::http::accept::{HTTP_PLACES, SPARE_PLACES};
use crate::limits::{self, Accounts, Bucket, Gate, Limit, Slots};
use crate::lobby::Lobby;
use crate::metrics::Metrics;
use crate::metrics::emf::{EMF_PERIOD, Emf};
use crate::rebalance::Rebalancing;
use crate::settings::Settings;
use crate::site::Site;
use crate::threads::{self, Workers};
use crate::{http::accept, notify};

/// Connections waiting to be accepted: enough for a whole room that reconnects at once.
const BACKLOG: i32 = 4096;
/// Threads that read pages of history, as many as may read logs from Redis at a time, and the most requests that wait
/// for them; each session has at most one.
const PAGE_READERS: usize = 4;
const MAX_PAGES: usize = 1024;
/// How long a client may leave what it was sent unread, once its own buffer is full; then the system drops the connection.
/// A client that reads nothing and answers pings would otherwise hold the socket's buffer for ever.
const UNREAD: Duration = Duration::from_secs(45);
/// Sizes of socket buffers requested from the kernel, in bytes; it allocates twice as much. By default they would grow
/// to megabytes for a client that does not read, or from which the server does not read.
const SEND_BUFFER: usize = 128 * 1024;
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The most HTTP requests that wait for messages: half of the temporary stacks, on which they wait.
const MAX_POLLS: usize = limits::MAX_SPARE_STACKS / 2;
/// Interval of the maintenance work on the main thread.
const TICK: Duration = Duration::from_secs(1);
/// The share of `DRAIN_SECONDS` over which closing the sessions is spread; the rest is for the last clients to respond.
const CLOSING_SHARE: f64 = 0.75;
/// Time after `DRAIN_SECONDS` in which the remaining sessions may still end.
const DRAIN_GRACE: Duration = Duration::from_secs(6);
/// Time for the backplane to finish its queue.
const STOP_TIME: Duration = Duration::from_secs(3);
/// Timeout of each step of `--healthcheck`.
const HEALTH_TIME: Duration = Duration::from_secs(2);

/// Why the server could not start.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be bound.
    Listen(SocketAddr, io::Error),
    /// The system refused a thread or signal handlers.
    System(io::Error),
    /// The Redis URL or the certificates cannot be used.
    Redis(LinkError),
    /// The data file cannot be used.
    Data(DataError),
}

impl StartError {
    /// The process's exit code: 2, as for an invalid setting, if the data file is unsuitable, so that a retry is
    /// pointless; otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Data(DataError::Disk(_)) => 1,
            StartError::Data(_) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(address, error) => write!(f, "can't listen on {address} (BIND, PORT): {error}"),
            StartError::System(error) => write!(f, "can't start: {error}"),
            StartError::Redis(error) => write!(f, "can't use REDIS_ENDPOINT: {error}"),
            StartError::Data(error) => write!(f, "can't use DATA_FILE: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::System(error)
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// [`StartError`]. There is none once the server has started.
pub fn run(settings: Settings) -> Result<(), StartError> {
    let address = SocketAddr::new(settings.bind, settings.port);
    let listener = listen(address).map_err(|error| StartError::Listen(address, error))?;
    let address = listener.local_addr()?;
    let signals = signals()?;
    let app = build(settings)?;
    let accept_app = app.clone();
    threads::spawn_critical("accept", move || accept::accept(&listener, &accept_app))?;
    log::info!("listening on http://{address}");
    notify::ready(address);
    let signal = run_maintenance(&app, &signals);
    drain(&app, signal, &signals);
    Ok(())
}

fn build(settings: Settings) -> Result<Arc<App>, StartError> {
    let metrics = Arc::new(Metrics::default());
    let processors = available_parallelism().map_or(1, NonZero::get);
    let lanes = Arc::new(Lanes::start(processors, settings.access.typing_names, &metrics)?);
    let polls = Arc::new(Polls::new(MAX_POLLS));
    let listener = event_sink(lanes.clone(), polls.clone(), metrics.clone());
    let storage = Limits { retention: settings.retention, rooms: settings.max_rooms, storage: settings.storage };
    let backplane: Arc<dyn Backplane> = match &settings.redis {
        None => {
            metrics.backplane_up.set(1);
            Arc::new(Local::start(settings.data_file.as_deref(), storage, listener).map_err(StartError::Data)?)
        }
        Some(redis) => {
            let server = Server::new(redis).map_err(StartError::Redis)?;
            log::info!("rooms are in redis at {server}");
            Arc::new(Redis::start(server, &storage, listener)?)
        }
    };
    let (capacity, why) = limits::capacity(settings.rooms_in_memory());
    let cap = settings.max_connections.unwrap_or(capacity).min(capacity);
    match settings.max_connections {
        Some(wanted) if wanted > cap => {
            log::warn!("MAX_CONNECTIONS is lowered from {wanted} to {cap}, limited by {why}")
        }
        Some(_) => log::info!("up to {cap} connections (MAX_CONNECTIONS)"),
        None => log::info!("up to {cap} connections, limited by {why}"),
    }
    let accounts = Accounts::new(settings.access.per_address);
    let (joins_at_once, reads_at_once) = (settings.access.joins_at_once, settings.access.reads_at_once);
    let lobby_places =
        settings.access.lobby_percent.map_or(usize::MAX, |percent| (cap * percent / 100).max(HTTP_PLACES));
    metrics.cap.set(i64::try_from(cap).unwrap_or(i64::MAX));
    Ok(Arc::new(App {
        post_rates: post_rates(&settings),
        site: Site::new(&settings),
        settings,
        lanes,
        backplane,
        page_readers: Workers::start("pages", PAGE_READERS, MAX_PAGES)?,
        polls,
        metrics,
        sessions: Slots::new(cap),
        connections: Slots::new(cap + HTTP_PLACES + SPARE_PLACES),
        lobby: Lobby::new(lobby_places),
        accounts,
        joins: Gate::new(joins_at_once),
        http_reads: Gate::new(reads_at_once),
        warned_of_proxy: AtomicBool::new(false),
        draining: AtomicBool::new(false),
    }))
}

/// The receiver of the backplane's events: updates metrics, wakes waiting requests, and passes events to the lanes.
fn event_sink(lanes: Arc<Lanes>, polls: Arc<Polls>, metrics: Arc<Metrics>) -> EventSink {
    let lost = AtomicBool::new(false);
    Arc::new(move |event| {
        match &event {
            Event::Message { room, .. } => polls.wake(room),
            Event::Kept(time) => return metrics.keep.observe(time.as_secs_f64()),
            Event::Trimmed => return metrics.storage_trims.inc(),
            Event::RoomTrimmed => return metrics.limit(Limit::RoomBytes),
            Event::Status(false) => lost.store(true, Relaxed),
            Event::Status(true) if lost.swap(false, Relaxed) => metrics.reconnects.inc(),
            _ => {}
        }
        lanes.publish(event);
    })
}

/// One token bucket per script: a script may post as fast as a person.
fn post_rates(settings: &Settings) -> Vec<Mutex<Bucket>> {
    let rate = f64::from(settings.rate_limit);
    let bucket = |_| Mutex::new(Bucket::new(rate, rate * limits::BURST_SECONDS, Instant::now()));
    settings.tokens.posters.iter().map(bucket).collect()
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit these.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_tcp_user_timeout(Some(UNREAD))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Signals as values on a channel.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver) = bounded(2);
    threads::spawn_critical("signals", move || {
        for signal in signals.forever() {
            // If it is full, two signals are already queued, and the second one ends the process.
            let _ = sender.try_send(signal);
        }
    })?;
    Ok(receiver)
}

/// Does the periodic work until a signal arrives, and returns the signal.
fn run_maintenance(app: &App, signals: &Receiver<i32>) -> i32 {
    let mut emf = app.settings.emf.as_deref().and_then(Emf::new);
    let mut next_line = Instant::now() + EMF_PERIOD;
    let mut rebalancing = Rebalancing::new(app.settings.rebalance);
    loop {
        match signals.recv_timeout(TICK) {
            Ok(signal) => return signal,
            // Unreachable: the signal thread is critical, so the process ends if that thread does.
            Err(RecvTimeoutError::Disconnected) => return SIGTERM,
            Err(RecvTimeoutError::Timeout) => {}
        }
        rebalancing.tick(app);
        log::logger().flush();
        if let Some(emf) = &mut emf
            && Instant::now() >= next_line
        {
            next_line += EMF_PERIOD;
            emf.report(&app.metrics, &mut io::stdout());
        }
    }
}

/// Shuts down in order: refuses new sessions, closes the existing ones, lets their leases run out, and empties the
/// backplane's queue. SIGINT, sent from a terminal, closes sessions without spreading them over time. A second signal
/// ends the process at once.
fn drain(app: &App, signal: i32, signals: &Receiver<i32>) {
    let time = if signal == SIGINT { Duration::ZERO } else { app.settings.drain };
    let sessions = app.sessions.taken();
    log::info!("draining {sessions} sessions over {} s; a second signal ends at once", time.as_secs());
    notify::stopping(sessions, time.as_secs());
    app.draining.store(true, Relaxed);
    app.lanes.drain(time.mul_f64(CLOSING_SHARE));
    app.polls.wake_all();
    let deadline = Instant::now() + time + DRAIN_GRACE;
    while app.sessions.taken() + app.polls.waiting() > 0 && Instant::now() < deadline {
        if signals.recv_timeout(Duration::from_millis(20)).is_ok() {
            log::warn!("a second signal: ending at once");
            return;
        }
    }
    app.backplane.stop(STOP_TIME);
    log::info!("stopped in order");
}

/// Whether the server at this address answers `/healthz`; used by `--healthcheck`.
pub fn is_healthy(address: SocketAddr) -> bool {
    let request = || -> io::Result<bool> {
        let mut socket = TcpStream::connect_timeout(&address, HEALTH_TIME)?;
        socket.set_read_timeout(Some(HEALTH_TIME))?;
        socket.set_write_timeout(Some(HEALTH_TIME))?;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        socket.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    request().unwrap_or(false)
}
