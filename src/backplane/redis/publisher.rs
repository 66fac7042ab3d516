//! The publisher: the one connection on which this task asks Redis for things, and the thread that owns it.
//!
//! Sessions hand their commands over ready packed; the thread sends what has piled up as one pipeline and passes each
//! answer on. While Redis is away, commands are refused at once: a client hears `unavailable`, it does not wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use redis::{Client, Connection, RedisResult, ServerErrorKind, Value};

use super::health::{self, Backoff, Link, Part, REDIS_TIMEOUT, connect};
use crate::backplane::Unavailable;
use crate::threads;

/// Commands that may wait to be sent. Full means that Redis is slower than its callers: they wait, up to [`PATIENCE`].
const QUEUE: usize = 1024;
/// Commands that go into one pipeline: few enough that its last answer comes soon.
const PIPELINE: usize = 128;
/// How long a caller waits for its answer at the most.
const PATIENCE: Duration = Duration::from_secs(2);
/// Notes that must not get lost (see [`Publisher::note`]) while Redis is away; the oldest are dropped past it, and the
/// leases they would have ended then lapse by themselves.
const MAX_NOTES: usize = 10_000;

/// What becomes of an answer. Called on the publisher's thread: it must not wait.
type Done = Box<dyn FnOnce(Result<Value, Unavailable>) + Send>;

struct Request {
    packed: Vec<u8>,
    done: Done,
}

/// A command on its way, see [`Publisher::queue`].
pub struct Queued(Receiver<Result<Value, Unavailable>>);

impl Queued {
    /// Waits for the answer.
    pub fn wait(&self) -> Result<Value, Unavailable> {
        self.0.recv_timeout(PATIENCE).unwrap_or(Err(Unavailable))
    }
}

/// The handle. When the last one is dropped, what is queued is still sent, and the thread ends.
#[derive(Clone)]
pub struct Publisher {
    queue: Sender<Request>,
    notes: Arc<Mutex<Vec<Vec<u8>>>>,
    link: Arc<Link>,
}

impl Publisher {
    /// Starts the thread. `scripts` are loaded on each new connection.
    pub fn start(client: Client, scripts: Vec<&'static str>, link: Arc<Link>) -> std::io::Result<Publisher> {
        let (queue, inbox) = bounded(QUEUE);
        let publisher = Publisher { queue, notes: Arc::default(), link: link.clone() };
        let worker = Worker { client, scripts, inbox, notes: publisher.notes.clone(), link };
        threads::spawn_critical("publisher", move || worker.run())?;
        Ok(publisher)
    }

    /// Sends a packed command; `done` gets the answer, or hears at once that there will be none.
    pub fn send(&self, packed: Vec<u8>, done: impl FnOnce(Result<Value, Unavailable>) + Send + 'static) {
        if !self.link.is_up() {
            return done(Err(Unavailable));
        }
        let request = Request { packed, done: Box::new(done) };
        if let Err(error) = self.queue.send_timeout(request, PATIENCE) {
            (error.into_inner().done)(Err(Unavailable));
        }
    }

    /// Sends a packed command and waits for its answer.
    pub fn ask(&self, packed: Vec<u8>) -> Result<Value, Unavailable> {
        self.queue(packed)?.wait()
    }

    /// Queues a packed command; all that is queued later is carried out later.
    pub fn queue(&self, packed: Vec<u8>) -> Result<Queued, Unavailable> {
        // The subscriber asks too, and it must be able to before the link counts as up.
        if !self.link.stands(Part::Publisher) {
            return Err(Unavailable);
        }
        let (reply, answer) = bounded(1);
        let request = Request { packed, done: Box::new(move |result| drop(reply.send(result))) };
        self.queue.send_timeout(request, PATIENCE).map_err(|_| Unavailable)?;
        Ok(Queued(answer))
    }

    /// Sends a packed command whose answer nobody needs, but which must be carried out in the end: kept while Redis
    /// is away, and sent first when it is back.
    pub fn note(&self, packed: Vec<u8>) {
        let (notes, copy) = (self.notes.clone(), packed.clone());
        self.send(packed, move |result| {
            if result.is_err() {
                let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
                if notes.len() >= MAX_NOTES {
                    notes.remove(0);
                }
                notes.push(copy);
            }
        });
    }
}

struct Worker {
    client: Client,
    scripts: Vec<&'static str>,
    inbox: Receiver<Request>,
    notes: Arc<Mutex<Vec<Vec<u8>>>>,
    link: Arc<Link>,
}

impl Worker {
    fn run(&self) {
        let mut backoff = Backoff::new();
        loop {
            let lost = match self.connect() {
                Ok(connection) => {
                    backoff = Backoff::new();
                    self.link.set(Part::Publisher, Ok(()));
                    match self.serve(connection) {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.link.set(Part::Publisher, Err(health::why(&lost)));
            if self.refuse_for(backoff.next()).is_err() {
                return;
            }
        }
    }

    fn connect(&self) -> RedisResult<Connection> {
        let mut connection = connect(&self.client, REDIS_TIMEOUT)?;
        self.load(&mut connection)?;
        Ok(connection)
    }

    fn load(&self, connection: &mut Connection) -> RedisResult<()> {
        self.scripts.iter().try_for_each(|text| redis::cmd("SCRIPT").arg("LOAD").arg(*text).exec(connection))
    }

    /// Sends what comes until the handles are gone (`Ok`) or the connection is (`Err`).
    fn serve(&self, mut connection: Connection) -> RedisResult<()> {
        let notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        for packed in notes {
            connection.send_packed_command(&packed)?;
            connection.recv_response()?;
        }
        while let Ok(first) = self.inbox.recv() {
            let mut batch = vec![first];
            // Sessions that are about to speak go into the same pipeline; see `Lane::run`.
            std::thread::yield_now();
            batch.extend(self.inbox.try_iter().take(PIPELINE - 1));
            self.exchange(&mut connection, batch)?;
        }
        Ok(())
    }

    /// One pipeline: all commands out, then all answers in. `redis`'s own pipeline would go on to wait for each
    /// answer after the first that timed out.
    fn exchange(&self, connection: &mut Connection, batch: Vec<Request>) -> RedisResult<()> {
        let bytes: Vec<u8> = batch.iter().flat_map(|request| request.packed.iter().copied()).collect();
        let mut lost = connection.send_packed_command(&bytes).err();
        let mut unloaded = Vec::new();
        let deadline = Instant::now() + REDIS_TIMEOUT;
        for request in batch {
            if lost.is_none() && Instant::now() > deadline {
                lost = Some(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            }
            if lost.is_some() {
                (request.done)(Err(Unavailable));
                continue;
            }
            match connection.recv_response() {
                Err(error) => {
                    lost = Some(error);
                    (request.done)(Err(Unavailable));
                }
                Ok(Value::ServerError(error)) if error.kind() == Some(ServerErrorKind::NoScript) => {
                    unloaded.push(request);
                }
                Ok(Value::ServerError(error)) => {
                    log::warn!("redis refused a command: {error:?}");
                    lost = end_of_use(error.kind()).then(|| error.into());
                    (request.done)(Err(Unavailable));
                }
                Ok(value) => (request.done)(Ok(value)),
            }
        }
        match lost {
            Some(error) => {
                unloaded.into_iter().for_each(|request| (request.done)(Err(Unavailable)));
                Err(error)
            }
            None if unloaded.is_empty() => Ok(()),
            None => self.reload(connection, unloaded),
        }
    }

    /// Someone flushed the scripts: load them, and carry out what could not be. A second time is an error.
    fn reload(&self, connection: &mut Connection, requests: Vec<Request>) -> RedisResult<()> {
        let mut lost = self.load(connection).err();
        for request in requests {
            let answer = match &lost {
                Some(_) => Err(Unavailable),
                None => match connection.send_packed_command(&request.packed).and_then(|()| connection.recv_response())
                {
                    Ok(Value::ServerError(error)) => {
                        lost = Some(error.into());
                        Err(Unavailable)
                    }
                    Ok(value) => Ok(value),
                    Err(error) => {
                        lost = Some(error);
                        Err(Unavailable)
                    }
                },
            };
            (request.done)(answer);
        }
        lost.map_or(Ok(()), Err)
    }

    /// Refuses what comes, for a while. An error means that the handles are gone.
    fn refuse_for(&self, wait: Duration) -> Result<(), RecvTimeoutError> {
        let end = Instant::now() + wait;
        loop {
            match self.inbox.recv_deadline(end) {
                Ok(request) => (request.done)(Err(Unavailable)),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(gone) => return Err(gone),
            }
        }
    }
}

/// Whether a server that says this is no longer the one to talk to: a primary that became a replica, say.
fn end_of_use(kind: Option<ServerErrorKind>) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
    matches!(kind, Some(ReadOnly | BusyLoading | MasterDown | ClusterDown))
}
