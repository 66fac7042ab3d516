//! The pipeline: commands on their way to Redis, and who waits for their replies.
//!
//! Any thread appends its command under a short lock. Whoever finds nobody writing writes, until nothing is left; the
//! others return at once, and their commands leave with the next write (flat combining). So an idle connection costs no
//! wake-up of another thread, and a busy one gathers commands by itself. Redis replies in the order of the commands; the
//! reader (`reader.rs`) hands each reply to the oldest command that has none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use redis::Value;

use super::socket::Socket;
use crate::backplane::Unavailable;

/// Bounds of what may be under way: commands without a reply, and bytes not yet written. Past them callers wait, up to
/// [`PATIENCE`]; what keeps people in their rooms does not (see [`Priority`]).
const MAX_PENDING: usize = 1024;
const MAX_BYTES: usize = 1024 * 1024;
/// How long a caller waits, for space and for its reply.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Commands that must be carried out in the end, kept while Redis is away; past it the oldest are dropped, and the leases
/// that they would have ended expire by themselves.
const MAX_DEFERRED: usize = 10_000;

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The connection is gone, or was not there. Whether the command was carried out is unknown.
    Down,
    /// Redis answered with an error of this code (`OOM`, `WRONGTYPE`, …).
    Refused(String),
}

impl From<Failure> for Unavailable {
    fn from(_: Failure) -> Unavailable {
        Unavailable
    }
}

/// What became of a command.
pub type Reply = Result<Value, Failure>;
/// What is done with a reply. Called on the reader's thread: it must not wait.
pub type Done = Box<dyn FnOnce(Reply) + Send>;

/// Whether a command waits for space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// It does: messages, joins, typing.
    Bounded,
    /// It does not: leases, leaves, subscriptions, probes. Their number is bounded by that of sessions and rooms.
    Urgent,
}

/// A command without a reply.
pub struct Pending {
    /// When it was handed over: its delay includes the wait for space.
    pub since: Instant,
    /// The packed command, to send it again should Redis have forgotten the script. Once.
    pub command: Option<Vec<u8>>,
    /// Pushes that confirm it, for `SUBSCRIBE` and `UNSUBSCRIBE`, which have no other reply.
    acks: usize,
    /// Who waits.
    pub done: Done,
}

/// Commands on their way, shared by all threads that send some.
#[derive(Default)]
pub struct Pipeline {
    state: Mutex<State>,
    /// Signalled when there may be space again, and when the connection is lost.
    space: Condvar,
    /// How long the last command took, in microseconds.
    last_delay: AtomicU64,
    deferred: Mutex<VecDeque<Vec<u8>>>,
}

#[derive(Default)]
struct State {
    /// The connection; `None` while there is none.
    socket: Option<Arc<Socket>>,
    /// Whether sessions may append. While a new connection is prepared, only the reader may.
    open: bool,
    /// Packed commands that are not written yet.
    outgoing: Vec<u8>,
    /// A thread is writing to `socket`, and will take what is in `outgoing`.
    writing: bool,
    /// Commands in the order of their replies.
    pending: VecDeque<Pending>,
    /// Callers that wait for space.
    waiting: usize,
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

    /// Appends a command and returns without any wait; call [`Pipeline::flush`] afterwards, without a lock. For callers
    /// that hold one, so that the order of their decisions is the order of the commands.
    ///
    /// # Errors
    /// Not connected, or, if it is [`Priority::Bounded`], no space. `done` is dropped uncalled.
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

    /// Sends a command; waits up to [`PATIENCE`] for space. `done` is always called, here if it cannot be sent.
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

    /// Sends a command, and gives its reply to whoever calls [`Waiting::wait`].
    pub fn queue(&self, command: Vec<u8>) -> Waiting {
        let (to, waiting) = waiting();
        self.send(command, to);
        waiting
    }

    /// Sends a command whose result nobody needs, but which must be carried out in the end: kept while Redis is away,
    /// and sent first when it is back.
    pub fn send_reliably(self: &Arc<Pipeline>, command: Vec<u8>) {
        self.defer(command);
        self.append_deferred();
    }

    /// Appends what must be carried out in the end, if there is a connection. What fails again is kept again.
    pub fn append_deferred(self: &Arc<Pipeline>) {
        while self.is_connected()
            && let Some(command) = self.deferred().pop_front()
        {
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

    /// Writes what was appended, unless somebody is at it.
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
                // The reader sees the end of the connection and deals with it.
                return socket.shutdown();
            }
            state = self.state();
            if !state.socket.as_ref().is_some_and(|current| Arc::ptr_eq(current, &socket)) {
                // Lost meanwhile. `writing` belongs to the connection's successor.
                return;
            }
            if state.outgoing.is_empty() && batch.capacity() <= MAX_BYTES {
                state.outgoing = batch;
                state.outgoing.clear();
            }
        }
        state.writing = false;
    }

    /// Takes a new connection; only the reader may append until [`Pipeline::open`].
    pub fn connect(&self, socket: Arc<Socket>) {
        let mut state = self.state();
        let waiting = state.waiting;
        *state = State { socket: Some(socket), waiting, ..State::default() };
    }

    /// Lets sessions append.
    pub fn open(&self) {
        self.state().open = true;
    }

    /// Gives up the connection: whatever is under way has failed.
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

    /// Appends a command again whose script Redis has forgotten; a second time is an error.
    pub fn append_again(&self, pending: Pending) {
        let mut state = self.state();
        state.outgoing.extend_from_slice(pending.command.as_deref().unwrap_or_default());
        state.pending.push_back(Pending { command: None, ..pending });
    }

    /// The command that the next reply belongs to.
    pub fn take_oldest(&self) -> Option<Pending> {
        let mut state = self.state();
        let oldest = state.pending.pop_front()?;
        if state.waiting > 0 {
            self.space.notify_one();
        }
        self.last_delay.store(oldest.since.elapsed().as_micros() as u64, Relaxed);
        Some(oldest)
    }

    /// A push confirmed one channel of the oldest command.
    pub fn acknowledge(&self) {
        let mut state = self.state();
        if let Some(oldest) = state.pending.front_mut().filter(|oldest| oldest.acks > 0) {
            oldest.acks -= 1;
            if oldest.acks == 0 {
                state.pending.pop_front();
            }
        }
    }

    /// Whether no command is without its reply.
    pub fn is_idle(&self) -> bool {
        self.state().pending.is_empty()
    }

    /// How long commands take at present: the last one that was answered, or the oldest that was not.
    pub fn delay(&self) -> Duration {
        let oldest = self.state().pending.front().map(|oldest| oldest.since.elapsed());
        oldest.map_or(Duration::ZERO, |age| age.max(Duration::from_micros(self.last_delay.load(Relaxed))))
    }

    /// How many commands wait for their replies.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// For how long the oldest command has waited for its reply.
    pub fn oldest_wait(&self) -> Duration {
        self.state().pending.front().map(|oldest| oldest.since.elapsed()).unwrap_or_default()
    }
}

/// A reply to wait for.
pub struct Waiting(Receiver<Reply>);

impl Waiting {
    /// Waits for it, up to [`PATIENCE`].
    pub fn wait(&self) -> Reply {
        self.0.recv_timeout(PATIENCE).unwrap_or(Err(Failure::Down))
    }
}

/// Both ends: what is done with a reply, and who waits for it.
pub fn waiting() -> (impl FnOnce(Reply) + Send + 'static, Waiting) {
    let (to, from) = bounded(1);
    (move |reply| drop(to.send(reply)), Waiting(from))
}
