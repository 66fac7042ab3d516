//! The pipeline of commands to Redis, and the callers that wait for replies.
//!
//! Any thread appends its command under a short lock. A thread that finds nobody writing writes until nothing is left;
//! the others return at once, and their commands leave with the next write (flat combining). So a command on an idle
//! connection wakes no other thread, and a busy connection batches commands by itself. Redis replies in the order of
//! the commands: the reader (`reader.rs`) passes each reply to the oldest command without one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use redis::Value;

use super::socket::Socket;
use crate::backplane::Unavailable;

/// The bounds on commands without a reply, and on bytes not yet written. Beyond them, callers of [`Pipeline::send`]
/// wait up to [`PATIENCE`]; commands that keep people in their rooms are never held back (see [`Priority`]).
const MAX_PENDING: usize = 1024;
const MAX_BYTES: usize = 1024 * 1024;
/// How long a caller waits for space, and then for its reply.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The most commands kept for later while Redis is away. Beyond this the oldest are dropped, and the leases that they
/// would have ended expire by themselves.
const MAX_DEFERRED: usize = 10_000;

/// A reply that takes this long either comes from far away, or has waited for other commands.
pub const SLOW: Duration = Duration::from_millis(4);
/// The length of a period of [`LeastDelay`].
const PERIOD: Duration = Duration::from_secs(10);

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The connection was lost, or there was none. The command may have been executed.
    Down,
    /// Redis replied with an error of this code (`OOM`, `WRONGTYPE`, …).
    Refused(String),
}

impl From<Failure> for Unavailable {
    fn from(_: Failure) -> Unavailable {
        Unavailable
    }
}

/// The result of a command.
pub type Reply = Result<Value, Failure>;
/// The handler of a reply. Called on the reader's thread, so it must not block.
pub type Done = Box<dyn FnOnce(Reply) + Send>;

/// Whether [`Pipeline::append`] needs space for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Refused if there is no space: typing notices, which may be lost.
    Bounded,
    /// Always appended: leases, leaves, subscriptions, probes. The numbers of sessions and rooms bound them.
    Urgent,
}

/// A command whose reply has not arrived.
pub struct Pending {
    /// When it was submitted; its delay includes the wait for space.
    pub since: Instant,
    /// The encoded command, to resend once if Redis no longer has the script.
    pub command: Option<Vec<u8>>,
    /// The number of push messages that confirm it: `SUBSCRIBE` and `UNSUBSCRIBE` have no other reply.
    acks: usize,
    /// The handler of its reply.
    pub done: Done,
}

/// The commands under way, shared by all threads that send some.
#[derive(Default)]
pub struct Pipeline {
    state: Mutex<State>,
    /// Signalled when there may be space again, and when the connection is lost.
    space: Condvar,
    /// The delay of the last reply, in microseconds.
    last_delay: AtomicU64,
    least_delay: Mutex<LeastDelay>,
    deferred: Mutex<VecDeque<Vec<u8>>>,
}

/// The smallest delay of a reply recently, which is that of an idle Redis and the network.
#[derive(Default)]
struct LeastDelay {
    /// In the current period, and in the one before.
    periods: [Option<Duration>; 2],
    /// When the current period began.
    since: Option<Instant>,
}

#[derive(Default)]
struct State {
    /// The connection, if there is one.
    socket: Option<Arc<Socket>>,
    /// Whether sessions may append. While a new connection is being prepared, only the reader may.
    open: bool,
    /// Encoded commands not yet written.
    outgoing: Vec<u8>,
    /// Whether a thread is writing to `socket`; it will also write what is appended to `outgoing`.
    writing: bool,
    /// Commands without a reply, in order.
    pending: VecDeque<Pending>,
    /// The number of callers waiting for space.
    waiting: usize,
}

impl LeastDelay {
    fn note(&mut self, delay: Duration, now: Instant) {
        let [current, before] = &mut self.periods;
        if self.since.is_none_or(|since| now - since >= PERIOD) {
            (*before, *current, self.since) = (current.take(), None, Some(now));
        }
        *current = Some(current.map_or(delay, |least| least.min(delay)));
    }
}

impl State {
    fn has_space(&self) -> bool {
        self.pending.len() < MAX_PENDING && self.outgoing.len() < MAX_BYTES
    }

    fn push(&mut self, command: Vec<u8>, acks: usize, since: Instant, done: Done) {
        self.outgoing.extend_from_slice(&command);
        self.pending.push_back(Pending { since, command: Some(command), acks, done });
    }
}

impl Pipeline {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a command without blocking. Call [`Pipeline::flush`] afterwards, without holding a lock. For callers
    /// that hold a lock of their own, so that commands are appended in the order of the decisions made under it.
    ///
    /// # Errors
    /// Not connected, or no space for a [`Priority::Bounded`] command. `done` is dropped without being called.
    pub fn append(
        &self,
        command: Vec<u8>,
        priority: Priority,
        done: impl FnOnce(Reply) + Send + 'static,
    ) -> Result<(), Unavailable> {
        let mut state = self.state();
        let admitted = match priority {
            Priority::Bounded => state.open && state.has_space(),
            Priority::Urgent => state.socket.is_some(),
        };
        if !admitted {
            return Err(Unavailable);
        }
        state.push(command, 0, Instant::now(), Box::new(done));
        Ok(())
    }

    /// Appends a `SUBSCRIBE` or `UNSUBSCRIBE` of `channels` channels, like an urgent [`Pipeline::append`].
    pub fn append_subscription(&self, command: Vec<u8>, channels: usize) -> Result<(), Unavailable> {
        let mut state = self.state();
        if state.socket.is_none() {
            return Err(Unavailable);
        }
        state.push(command, channels, Instant::now(), Box::new(drop));
        Ok(())
    }

    /// Sends a command; waits for space up to [`PATIENCE`]. `done` is always called, before this returns if the command
    /// cannot be sent.
    pub fn send(&self, command: Vec<u8>, done: impl FnOnce(Reply) + Send + 'static) {
        let since = Instant::now();
        let mut state = self.state();
        while state.open && !state.has_space() {
            let Some(left) = PATIENCE.checked_sub(since.elapsed()) else { break };
            state.waiting += 1;
            state = self.space.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        if !state.open || !state.has_space() {
            drop(state);
            return done(Err(Failure::Down));
        }
        state.push(command, 0, since, Box::new(done));
        self.write_out(state);
    }

    /// Sends a command and returns its future reply.
    pub fn queue(&self, command: Vec<u8>) -> Waiting {
        let (to, waiting) = waiting();
        self.send(command, to);
        waiting
    }

    /// Sends a command whose result nobody needs but which should be executed eventually. While Redis is away it is
    /// kept, at most [`MAX_DEFERRED`] of them, and sent before sessions may append again.
    pub fn send_reliably(self: &Arc<Pipeline>, command: Vec<u8>) {
        self.defer(command);
        self.append_deferred();
    }

    /// Appends the commands kept for later, if there is a connection. Those that fail again are kept again.
    pub fn append_deferred(self: &Arc<Pipeline>) {
        if !self.is_connected() {
            return;
        }
        // Taken out first, because the loop's body locks the queue again.
        let commands = std::mem::take(&mut *self.deferred());
        for command in commands {
            let (pipeline, copy) = (self.clone(), command.clone());
            let or_defer = move |reply| {
                if reply == Err(Failure::Down) {
                    pipeline.defer(copy);
                }
            };
            if self.append(command.clone(), Priority::Urgent, or_defer).is_err() {
                self.defer(command);
            }
        }
        self.flush();
    }

    fn defer(&self, command: Vec<u8>) {
        let mut deferred = self.deferred();
        if deferred.len() >= MAX_DEFERRED {
            deferred.pop_front();
        }
        deferred.push_back(command);
    }

    fn deferred(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_connected(&self) -> bool {
        self.state().socket.is_some()
    }

    /// Writes what has been appended, unless another thread is writing.
    pub fn flush(&self) {
        self.write_out(self.state());
    }

    #[inline(never)] // Keeps its frame off the stacks of threads that only read.
    fn write_out<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let Some(socket) = state.socket.clone().filter(|_| !state.writing) else { return };
        state.writing = true;
        while !state.outgoing.is_empty() {
            let batch = std::mem::take(&mut state.outgoing);
            drop(state);
            if socket.send(&batch).is_err() {
                // The reader notices the end of the connection and handles it.
                return socket.shutdown();
            }
            state = self.state();
            if !state.socket.as_ref().is_some_and(|current| Arc::ptr_eq(current, &socket)) {
                // The connection was replaced; `writing` now belongs to its successor.
                return;
            }
            if state.outgoing.is_empty() && batch.capacity() <= MAX_BYTES {
                state.outgoing = batch;
                state.outgoing.clear();
            }
        }
        state.writing = false;
    }

    /// Installs a new connection. Only the reader may append until [`Pipeline::open`].
    pub fn connect(&self, socket: Arc<Socket>) {
        let mut state = self.state();
        let waiting = state.waiting;
        *state = State { socket: Some(socket), waiting, ..State::default() };
    }

    /// Allows sessions to append.
    pub fn open(&self) {
        self.state().open = true;
    }

    /// Drops the connection; all commands under way fail.
    pub fn disconnect(&self) {
        let lost = {
            let mut state = self.state();
            let waiting = state.waiting;
            std::mem::replace(&mut *state, State { waiting, ..State::default() })
        };
        self.space.notify_all();
        if let Some(socket) = lost.socket {
            socket.shutdown();
        }
        lost.pending.into_iter().for_each(|pending| (pending.done)(Err(Failure::Down)));
    }

    /// Resends a command whose script Redis no longer has. If that happens twice, it is an error.
    pub fn append_again(&self, pending: Pending) {
        let mut state = self.state();
        state.outgoing.extend_from_slice(pending.command.as_deref().unwrap_or_default());
        state.pending.push_back(Pending { command: None, ..pending });
    }

    /// Removes and returns the command to which the next reply belongs.
    pub fn take_oldest(&self) -> Option<Pending> {
        let mut state = self.state();
        let oldest = state.pending.pop_front()?;
        if state.waiting > 0 {
            self.space.notify_one();
        }
        let delay = oldest.since.elapsed();
        self.last_delay.store(delay.as_micros() as u64, Relaxed);
        self.least().note(delay, Instant::now());
        Some(oldest)
    }

    /// Handles a push message that confirms one channel of the oldest command.
    pub fn acknowledge(&self) {
        let mut state = self.state();
        if let Some(oldest) = state.pending.front_mut().filter(|oldest| oldest.acks > 0) {
            oldest.acks -= 1;
            if oldest.acks == 0 {
                state.pending.pop_front();
            }
        }
    }

    /// Whether all commands have had their replies.
    pub fn is_idle(&self) -> bool {
        self.state().pending.is_empty()
    }

    /// The current delay of commands: the larger of the last reply's delay and the age of the oldest command without a
    /// reply; zero if there is no such command.
    pub fn delay(&self) -> Duration {
        let oldest = self.state().pending.front().map(|oldest| oldest.since.elapsed());
        oldest.map_or(Duration::ZERO, |age| age.max(Duration::from_micros(self.last_delay.load(Relaxed))))
    }

    /// Whether each reply of the last 10 to 20 s took at least [`SLOW`]: Redis is far away, or always that slow. Then a wait for
    /// fewer commands under way would never end.
    pub fn is_far(&self) -> bool {
        self.least().periods.into_iter().flatten().min().is_some_and(|least| least >= SLOW)
    }

    fn least(&self) -> MutexGuard<'_, LeastDelay> {
        self.least_delay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of commands without a reply.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// How long the oldest command has waited for its reply.
    pub fn oldest_wait(&self) -> Duration {
        self.state().pending.front().map(|oldest| oldest.since.elapsed()).unwrap_or_default()
    }
}

/// A reply that has yet to arrive.
pub struct Waiting(Receiver<Reply>);

impl Waiting {
    /// Waits for the reply, up to [`PATIENCE`].
    pub fn wait(&self) -> Reply {
        self.0.recv_timeout(PATIENCE).unwrap_or(Err(Failure::Down))
    }
}

/// Creates both ends: the handler that receives a reply, and the value that waits for it.
pub fn waiting() -> (impl FnOnce(Reply) + Send + 'static, Waiting) {
    let (to, from) = bounded(1);
    (move |reply| drop(to.send(reply)), Waiting(from))
}
