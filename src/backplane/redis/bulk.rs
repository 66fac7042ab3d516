//! Bulk reads: of the logs, for welcomes, histories and refills, and for the admin API. They use connections of their
//! own, so that messages and leases never wait behind a large page. Few run at a time, because Redis executes one
//! command at a time whatever the connection.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::Value;

use super::commands::Commands;
use super::connect::{Connection, LinkError, Server};
use super::pipeline::{Failure, PATIENCE, Pipeline, Reply, SLOW};
use crate::limits::{Gate, Slots};
use crate::threads;

/// The most concurrent reads, each on its own connection.
const CONNECTIONS: usize = 4;
/// While messages are slow although Redis is near, there is only one read at a time: Redis takes 16 KiB of commands from each
/// connection in turn, so messages would wait behind many reads. If Redis is far away, a read takes long and Redis little of it.
/// Checked at this interval.
const LOOK: Duration = Duration::from_millis(1);
/// The most bytes of replies that a read accepts: almost twice those of a refill with the longest texts. Other programs may write to
/// our keys.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// An idle connection is closed after this time.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// All reads wait as if for one address: in order.
const ALL: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A pool of connections, opened on demand.
pub struct Bulk {
    server: Server,
    commands: Arc<Commands>,
    /// The main connection.
    pipeline: Arc<Pipeline>,
    /// Bounds the reads under way.
    turns: Gate,
    /// Held by the one read that need not wait while messages do.
    first: Arc<Slots>,
    /// Idle connections, and since when; the most recently used one is used first.
    idle: Mutex<Vec<(Instant, Connection)>>,
    /// Incremented when the main connection ends and when there is a new one. A read that began before may come from
    /// another server, which lags behind.
    generation: AtomicU64,
}

impl Bulk {
    /// An empty pool.
    pub fn new(server: Server, commands: Arc<Commands>, pipeline: Arc<Pipeline>) -> Bulk {
        Bulk {
            server,
            commands,
            pipeline,
            turns: Gate::new(CONNECTIONS),
            first: Slots::new(1),
            idle: Mutex::default(),
            generation: AtomicU64::new(0),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections that have been idle for too long.
    pub fn close_idle(&self) {
        self.idle().retain(|(since, _)| since.elapsed() < IDLE_TIME);
    }

    /// Called when the main connection has ended, and when there is a new one. The new one may lead to another server,
    /// so no pooled connection may outlive the old main connection or predate the new one.
    pub fn forget(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.idle().clear();
    }

    /// Sends commands and reads their replies, all by `deadline`.
    pub fn ask(&self, commands: &[Vec<u8>], deadline: Instant) -> Result<Vec<Reply>, Failure> {
        let mut first = None;
        let may_read = || {
            first = self.first.take();
            first.is_some() || self.pipeline.delay() < SLOW || self.pipeline.is_far()
        };
        let turn = self.turns.enter_when(ALL, deadline, LOOK, may_read).ok_or(Failure::Down)?;
        // Parsing replies takes a deep stack. A connection thread's own is too small for it, and there may be no free
        // temporary stack.
        let result = threads::on_ample_stack(|| self.exchange(commands, deadline));
        drop((first, turn));
        result.map_err(|error| {
            log::debug!("redis: a bulk read failed: {error}");
            Failure::Down
        })
    }

    fn exchange(&self, commands: &[Vec<u8>], deadline: Instant) -> Result<Vec<Reply>, LinkError> {
        let generation = self.generation.load(SeqCst);
        let idle = self.idle().pop();
        // The server may have closed an idle connection, which shows only when it is used; then a new one is opened.
        let used = idle.map(|(_, connection)| exchange(connection, commands, deadline)).and_then(Result::ok);
        let (mut connection, mut replies) = match used {
            Some(done) => done,
            None => exchange(self.connect(deadline)?, commands, deadline)?,
        };
        if replies.iter().any(|reply| *reply == Err(Failure::Refused("NOSCRIPT".to_owned()))) {
            self.load(&mut connection)?;
            (connection, replies) = exchange(connection, commands, deadline)?;
        }
        let mut idle = self.idle();
        if self.generation.load(SeqCst) != generation {
            return Err(LinkError::Unsuitable("the main connection ended meanwhile".to_owned()));
        }
        idle.push((Instant::now(), connection));
        Ok(replies)
    }

    /// Sends one command and reads its reply, both by `deadline`.
    pub fn ask_one(&self, command: Vec<u8>, deadline: Instant) -> Reply {
        self.ask(&[command], deadline)?.pop().unwrap_or(Err(Failure::Down))
    }

    fn connect(&self, deadline: Instant) -> Result<Connection, LinkError> {
        if Instant::now() >= deadline {
            return Err(LinkError::NoAnswer);
        }
        self.server.connect(&[self.commands.load_welcome()], Some(deadline))
    }

    fn load(&self, connection: &mut Connection) -> Result<(), LinkError> {
        connection.demand("SCRIPT LOAD", &self.commands.load_welcome()).map(drop)
    }
}

/// The deadline of a call that begins now.
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn exchange(
    mut connection: Connection,
    commands: &[Vec<u8>],
    deadline: Instant,
) -> Result<(Connection, Vec<Reply>), LinkError> {
    connection.deadline = Some(deadline);
    connection.most_bytes = MOST_BYTES;
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

#[cfg(test)]
mod tests {
    use super::super::pipeline::Priority;
    use super::super::socket::Socket;
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use crossbeam_channel::bounded;

    use crate::settings::{RedisSettings, Retention};

    /// A server that answers the handshake, and each read after a call of `wait`.
    fn start(pipeline: Arc<Pipeline>, wait: impl Fn() + Send + Sync + 'static) -> Bulk {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("redis://{}", listener.local_addr().expect("bound"));
        let settings = RedisSettings { url, password: None, authorities: None };
        let retention = Retention { messages: 9, bytes: 9, life: Duration::from_secs(9) };
        let commands = Arc::new(Commands::new("i1".to_owned(), 0, &retention));
        let wait = Arc::new(wait);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let wait = wait.clone();
                thread::spawn(move || serve(stream.expect("a connection"), &*wait));
            }
        });
        Bulk::new(Server::new(&settings).expect("an address"), commands, pipeline)
    }

    fn serve(mut stream: TcpStream, wait: &impl Fn()) {
        let (mut buffer, hello) = ([0; 16 * 1024], "%2\r\n+role\r\n+master\r\n+version\r\n+7.0.15\r\n");
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let command = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if command.contains("PAGE") {
                wait();
            }
            // With the greeting, the probe and the script arrive.
            let reply = if command.contains("HELLO") { &format!("{hello}+OK\r\n+OK\r\n") } else { "+OK\r\n" };
            if stream.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn read(bulk: &Bulk) -> Reply {
        bulk.ask_one(redis::cmd("PAGE").get_packed_command(), Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn a_read_that_began_before_the_main_connection_ended_is_not_believed() {
        let ((to_asked, asked), (to_go, go)) = (bounded(0), bounded(0));
        let bulk = start(Arc::default(), move || {
            // At the end of the test nobody listens any more.
            let _ = to_asked.send(());
            let _ = go.recv();
        });
        for ended in [false, true, false] {
            let reply = thread::scope(|scope| {
                let read = scope.spawn(|| read(&bulk));
                asked.recv().expect("the read arrives");
                if ended {
                    bulk.forget();
                }
                to_go.send(()).expect("it waits");
                read.join().expect("no panic")
            });
            assert_eq!(reply.is_err(), ended, "{reply:?}");
        }
    }

    #[test]
    fn while_messages_wait_there_is_one_read_at_a_time() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let connection = TcpStream::connect(silent.local_addr().expect("bound")).expect("it listens");
        let pipeline = Arc::new(Pipeline::default());
        pipeline.connect(Arc::new(Socket::Plain(connection)));
        let append = || pipeline.append(Vec::new(), Priority::Urgent, drop).expect("it is connected");
        append();
        pipeline.take_oldest();
        while pipeline.is_far() {
            append();
            pipeline.take_oldest();
        }
        append();
        thread::sleep(SLOW); // at least
        let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let (at_once, expected) = (most.clone(), Arc::new(AtomicUsize::new(1)));
        let enough = expected.clone();
        let bulk = start(pipeline.clone(), move || {
            at_once.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            thread::sleep(Duration::from_millis(1)); // so that others may come, wrongly or rightly
            let until = Instant::now() + Duration::from_secs(30);
            while at_once.load(SeqCst) < enough.load(SeqCst) && Instant::now() < until {
                thread::yield_now();
            }
            now.fetch_sub(1, SeqCst);
        });
        let read_all = || {
            thread::scope(|scope| {
                for _ in 0..4 * CONNECTIONS {
                    scope.spawn(|| assert!(read(&bulk).is_ok()));
                }
            });
            most.swap(0, SeqCst)
        };
        assert_eq!(read_all(), 1);
        pipeline.take_oldest();
        expected.store(CONNECTIONS, SeqCst);
        assert_eq!(read_all(), CONNECTIONS, "none waits");
    }
}
