//! Bulk reads: welcome pages, histories and refills go over connections of their own, so that a message or a lease never
//! waits behind somebody's page. Few are under way at a time, since Redis does one thing at a time whatever the connection.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use redis::Value;

use super::commands::Commands;
use super::connect::{Connection, LinkError, Server};
use super::pipeline::{Failure, PATIENCE, Reply};
use crate::threads;

/// Reads under way at a time, each on its connection.
const CONNECTIONS: usize = 4;
/// An unused connection is closed after this long.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// The connections, made when they are needed.
pub struct Bulk {
    server: Server,
    commands: Arc<Commands>,
    /// Holds a token per read under way; full, the next one waits.
    turns: (Sender<()>, Receiver<()>),
    /// Connections that nobody uses, and since when; the last used is used first.
    idle: Mutex<Vec<(Instant, Connection)>>,
    /// Counts the main connection's ends: a read that was begun before one may be of another server, which lags behind.
    generation: AtomicU64,
}

impl Bulk {
    /// No connection yet.
    pub fn new(server: Server, commands: Arc<Commands>) -> Bulk {
        Bulk { server, commands, turns: bounded(CONNECTIONS), idle: Mutex::default(), generation: AtomicU64::new(0) }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes connections that were not used lately.
    pub fn close_idle(&self) {
        self.idle().retain(|(since, _)| since.elapsed() < IDLE_TIME);
    }

    /// The main connection has ended, and the next one may lead to another server: these connections must not outlive it.
    pub fn forget(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.idle().clear();
    }

    /// Sends commands together and reads their replies; waits for its turn until `deadline`.
    pub fn ask(&self, commands: &[Vec<u8>], deadline: Instant) -> Result<Vec<Reply>, Failure> {
        self.turns.0.send_deadline((), deadline).map_err(|_| Failure::Down)?;
        // The parser of replies goes deep, and the caller's stack is small: a connection's, where none is to be borrowed.
        let result = threads::on_ample_stack(|| self.exchange(commands));
        let _ = self.turns.1.try_recv();
        result.map_err(|error| {
            log::debug!("redis: a bulk read failed: {error}");
            Failure::Down
        })
    }

    fn exchange(&self, commands: &[Vec<u8>]) -> Result<Vec<Reply>, LinkError> {
        let generation = self.generation.load(SeqCst);
        let idle = self.idle().pop();
        // One that was idle may have been closed meanwhile, which is not known before it is used.
        let used = idle.map(|(_, connection)| exchange(connection, commands)).and_then(Result::ok);
        let (mut connection, mut replies) = match used {
            Some(done) => done,
            None => exchange(self.connect()?, commands)?,
        };
        if replies.iter().any(|reply| *reply == Err(Failure::Refused("NOSCRIPT".to_owned()))) {
            self.load(&mut connection)?;
            (connection, replies) = exchange(connection, commands)?;
        }
        let mut idle = self.idle();
        if self.generation.load(SeqCst) != generation {
            return Err(LinkError::Unsuitable("the main connection ended meanwhile".to_owned()));
        }
        idle.push((Instant::now(), connection));
        Ok(replies)
    }

    /// One command, as soon as possible within [`PATIENCE`].
    pub fn ask_one(&self, command: Vec<u8>, deadline: Instant) -> Reply {
        self.ask(&[command], deadline)?.pop().unwrap_or(Err(Failure::Down))
    }

    fn connect(&self) -> Result<Connection, LinkError> {
        let mut connection = self.server.connect()?;
        self.load(&mut connection)?;
        Ok(connection)
    }

    fn load(&self, connection: &mut Connection) -> Result<(), LinkError> {
        connection.demand("SCRIPT LOAD", &self.commands.load_page()).map(drop)
    }
}

/// The latest moment for a call that begins now.
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn exchange(mut connection: Connection, commands: &[Vec<u8>]) -> Result<(Connection, Vec<Reply>), LinkError> {
    connection.socket.send(&commands.concat())?;
    let mut reply = |_| {
        Ok(match connection.read()? {
            Value::ServerError(error) => Err(Failure::Refused(error.code().to_owned())),
            value => Ok(value),
        })
    };
    let replies = commands.iter().map(&mut reply).collect::<Result<_, LinkError>>()?;
    Ok((connection, replies))
}
