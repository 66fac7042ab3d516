//! A crowd of clients on one thread and one epoll. It connects, joins rooms, sends and receives, and costs little
//! enough that the measurement is of the server. Every connection is closed by a reset, so that thousands of them leave
//! no port in TIME_WAIT.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::dialect::{Dialect, Step};
use crate::ledger::{self, Ledger};
use crate::ws;

/// Source addresses, used in turn: 127.0.0.1 to 127.0.0.32.
const ADDRESSES: usize = 32;

pub struct Crowd {
    server: SocketAddr,
    dialect: Dialect,
    epoll: OwnedFd,
    clients: Vec<Client>,
    /// One read buffer shared by all clients, larger than any frame here.
    buffer: Vec<u8>,
    pub ledger: Ledger,
    pub joined: usize,
    /// Connections refused or closed by the server.
    pub gone: usize,
    /// Why the first of them ended.
    pub complaint: Option<String>,
    /// Microseconds from opening a connection to having joined.
    pub entered: Histogram<u64>,
    last_frame: Instant,
    /// Which clients are to leave, and when, in that order.
    leaving: VecDeque<(Instant, usize)>,
    /// The number of messages sent so far. Each has a reference of its own, or the server would treat it as a
    /// repetition.
    references: u64,
}

/// How a group of clients connects.
#[derive(Clone, Copy)]
pub struct Entrance {
    /// How many may be connecting at a time.
    pub window: usize,
    /// If set, the group stops reading once it has joined, and has a receive buffer of this size.
    pub stalled: Option<usize>,
    /// If set, each client leaves this long after it has joined, with a close frame.
    pub stay: Option<Duration>,
    pub deadline: Duration,
}

impl Default for Entrance {
    fn default() -> Entrance {
        Entrance { window: 256, stalled: None, stay: None, deadline: Duration::from_secs(120) }
    }
}

/// A room in which messages are sent during a run: the members take turns sending, and each message must reach `owed`
/// clients.
pub struct Room {
    pub members: Vec<usize>,
    pub owed: u32,
}

struct Client {
    socket: Option<Socket>,
    stage: Stage,
    room: Rc<str>,
    /// The beginning of a frame that is not complete yet.
    partial: Vec<u8>,
    stalled: bool,
    opened: Instant,
    stay: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Connecting,
    Upgrading,
    Joining,
    Joined,
    Gone,
}

impl Crowd {
    pub fn new(server: SocketAddr, dialect: Dialect) -> Crowd {
        Crowd {
            server,
            dialect,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll is there"),
            clients: Vec::new(),
            buffer: vec![0; 1 << 20],
            ledger: Ledger::new(),
            joined: 0,
            gone: 0,
            complaint: None,
            entered: ledger::histogram(),
            last_frame: Instant::now(),
            leaving: VecDeque::new(),
            references: 0,
        }
    }

    /// The number of clients opened so far, which is the index of the next one.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Connects a client for each room named, and returns the time until the last one has joined.
    pub fn enter(&mut self, rooms: impl IntoIterator<Item = Rc<str>>, entrance: Entrance) -> io::Result<Duration> {
        let start = Instant::now();
        let (before, first) = (self.joined + self.gone, self.clients.len());
        for room in rooms {
            while self.clients.len() - first - (self.joined + self.gone - before) >= entrance.window {
                self.turn(Duration::from_millis(100))?;
                if start.elapsed() > entrance.deadline {
                    return Ok(start.elapsed());
                }
            }
            self.open(room, entrance)?;
        }
        while self.joined + self.gone - before < self.clients.len() - first && start.elapsed() < entrance.deadline {
            self.turn(Duration::from_millis(100))?;
        }
        Ok(start.elapsed())
    }

    /// Opens a client for each room named at an even pace, however the server responds, and waits until all have
    /// joined.
    pub fn enter_paced(
        &mut self,
        rooms: impl IntoIterator<Item = Rc<str>>,
        per_second: f64,
        entrance: Entrance,
    ) -> io::Result<()> {
        let (start, first) = (Instant::now(), self.clients.len());
        let (entered, gone) = (self.entered.len(), self.gone);
        for (number, room) in rooms.into_iter().enumerate() {
            let due = Duration::from_secs_f64(number as f64 / per_second);
            // At least once, however late it is: received data must be read.
            self.turn(due.saturating_sub(start.elapsed()))?;
            while start.elapsed() < due {
                self.turn(due.saturating_sub(start.elapsed()))?;
            }
            self.open(room, entrance)?;
        }
        let through = |crowd: &Crowd| (crowd.entered.len() - entered) as usize + crowd.gone - gone;
        while through(self) < self.clients.len() - first && start.elapsed() < entrance.deadline {
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Reads until nothing has arrived for `quiet`, or `limit` has passed, so that all notices of presence have
    /// arrived.
    pub fn settle(&mut self, quiet: Duration, limit: Duration) -> io::Result<()> {
        let start = Instant::now();
        self.last_frame = start;
        while self.last_frame.elapsed() < quiet && start.elapsed() < limit {
            self.turn(quiet.saturating_sub(self.last_frame.elapsed()))?;
        }
        Ok(())
    }

    /// Reads for a time without sending.
    pub fn idle(&mut self, time: Duration) -> io::Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.turn(time.saturating_sub(start.elapsed()))?;
        }
        Ok(())
    }

    /// Sends messages at an even pace, to each room in turn. True if every delivery was made.
    pub fn paced(&mut self, rooms: &[Room], rate: f64, time: Duration, size: usize) -> io::Result<bool> {
        let start = Instant::now();
        let total = (rate * time.as_secs_f64()).round() as usize;
        for number in 0..total {
            let due = Duration::from_secs_f64(number as f64 / rate);
            while start.elapsed() < due {
                self.turn(due.saturating_sub(start.elapsed()))?;
            }
            if start.elapsed() > time * 2 {
                return Ok(false);
            }
            self.say(start + due, rooms, number, size)?;
        }
        self.finish()
    }

    /// Keeps this many messages in flight at all times. True if every delivery was made.
    pub fn saturated(&mut self, rooms: &[Room], in_flight: usize, time: Duration, size: usize) -> io::Result<bool> {
        let start = Instant::now();
        let mut number = 0;
        while start.elapsed() < time {
            while self.ledger.open() < in_flight {
                self.say(Instant::now(), rooms, number, size)?;
                number += 1;
            }
            self.turn(Duration::from_millis(10))?;
        }
        self.finish()
    }

    /// Sends messages one at a time, each after everyone has received the one before. True if every delivery was made.
    pub fn one_by_one(&mut self, rooms: &[Room], messages: usize, size: usize) -> io::Result<bool> {
        for number in 0..messages {
            self.say(Instant::now(), rooms, number, size)?;
            if !self.finish()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> io::Result<bool> {
        let start = Instant::now();
        while self.ledger.open() > 0 && start.elapsed() < Duration::from_secs(10) {
            self.turn(Duration::from_millis(100))?;
        }
        Ok(self.ledger.open() == 0 && self.ledger.surplus == 0)
    }

    fn say(&mut self, at: Instant, rooms: &[Room], number: usize, size: usize) -> io::Result<()> {
        let room = &rooms[number % rooms.len()];
        let member = room.members[number / rooms.len() % room.members.len()];
        let line = self.ledger.say(at, room.owed, size);
        self.references += 1;
        let reference = self.references << 24 | u64::from(std::process::id());
        let frame = self.dialect.say(&line, reference);
        self.send(member, &frame)
    }

    fn send(&mut self, index: usize, frame: &[u8]) -> io::Result<()> {
        let Some(socket) = &mut self.clients[index].socket else { return Ok(()) };
        match socket.write(frame) {
            Ok(written) if written == frame.len() => Ok(()),
            Ok(_) => Err(io::Error::other("a client's send buffer is full: the server does not read")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::other("a client's send buffer is full: the server does not read"))
            }
            Err(error) => {
                self.leave(index, &format!("send: {error}"));
                Ok(())
            }
        }
    }

    fn open(&mut self, room: Rc<str>, entrance: Entrance) -> io::Result<()> {
        let index = self.clients.len();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        if let Some(size) = entrance.stalled {
            socket.set_recv_buffer_size(size)?;
        }
        // Each source address has about 28,000 ports of its own.
        let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 1 + (index % ADDRESSES) as u8), 0);
        socket.bind(&source.into())?;
        match socket.connect(&SockAddr::from(self.server)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let wanted = epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index as u64), wanted)?;
        let stalled = entrance.stalled.is_some();
        let (stage, opened, stay) = (Stage::Connecting, Instant::now(), entrance.stay);
        self.clients.push(Client { socket: Some(socket), stage, room, partial: Vec::new(), stalled, opened, stay });
        Ok(())
    }

    /// Waits for the server for at most `wait`, and reads what has arrived. Clients whose time is over leave first.
    fn turn(&mut self, wait: Duration) -> io::Result<()> {
        while let Some((due, index)) = self.leaving.front().copied()
            && due <= Instant::now()
        {
            self.leaving.pop_front();
            let _ = self.send(index, &ws::from_client(ws::CLOSE, &1000u16.to_be_bytes()));
        }
        let next = self.leaving.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let wait = next.map_or(wait, |next| wait.min(next));
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 512];
        let ready = match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..ready] {
            let index = event.data.u64() as usize;
            match self.clients[index].stage {
                Stage::Connecting => self.connected(index),
                _ => self.read(index),
            }
        }
        Ok(())
    }

    fn connected(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(socket) = &client.socket else { return };
        if let Ok(Some(error)) | Err(error) = socket.take_error() {
            return self.leave(index, &format!("connect: {error}"));
        }
        let _ = epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN);
        client.stage = Stage::Upgrading;
        let request = self.dialect.upgrade_request(&client.room);
        let _ = self.send(index, request.as_bytes());
    }

    #[inline]
    fn read(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(socket) = &mut client.socket else { return };
        let kept = client.partial.len();
        self.buffer[..kept].copy_from_slice(&client.partial);
        match socket.read(&mut self.buffer[kept..]) {
            Ok(0) => self.leave(index, "the server closed the connection"),
            Ok(read) => {
                client.partial.clear();
                let end = kept + read;
                let buffer = mem::take(&mut self.buffer);
                let used = self.take(index, &buffer[..end]);
                self.clients[index].partial.extend_from_slice(&buffer[used..end]);
                self.buffer = buffer;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.leave(index, &format!("read: {error}")),
        }
    }

    /// Processes whole frames at the front of `bytes`, and returns the number of bytes consumed.
    fn take(&mut self, index: usize, bytes: &[u8]) -> usize {
        let now = Instant::now();
        self.last_frame = now;
        let mut used = 0;
        if self.clients[index].stage == Stage::Upgrading {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return 0 };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                let answer = String::from_utf8_lossy(&bytes[..end]).into_owned();
                self.leave(index, &answer);
                return bytes.len();
            }
            used = end + 4;
            self.clients[index].stage = Stage::Joining;
            if let Some(greeting) = self.dialect.greet(index) {
                let _ = self.send(index, &greeting);
            }
        }
        while let Some(frame) = ws::next(&bytes[used..]) {
            used += frame.size;
            match (frame.opcode, self.clients[index].stage) {
                (_, Stage::Gone) => return bytes.len(),
                (ws::TEXT, Stage::Joined) => {
                    if !self.ledger.delivered(frame.payload, now)
                        && let Some(reply) = self.dialect.reply(frame.payload)
                    {
                        let _ = self.send(index, &reply);
                    }
                }
                (ws::TEXT, _) => self.before_join(index, frame.payload),
                (ws::PING, _) => {
                    let _ = self.send(index, &ws::from_client(ws::PONG, frame.payload));
                }
                (ws::CLOSE, _) => {
                    let code = frame.payload.get(..2).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
                    self.leave(index, &format!("the server closed with {code}"));
                    return bytes.len();
                }
                _ => {}
            }
        }
        used
    }

    fn before_join(&mut self, index: usize, payload: &[u8]) {
        let room = self.clients[index].room.clone();
        match self.dialect.before_join(payload, &room) {
            Step::Wait => {}
            Step::Reply(frame) => {
                let _ = self.send(index, &frame);
            }
            Step::Refused(why) => self.leave(index, &why),
            Step::Joined => {
                self.joined += 1;
                self.clients[index].stage = Stage::Joined;
                let took = self.clients[index].opened.elapsed().as_micros() as u64;
                self.entered.saturating_record(took.max(1));
                if self.clients[index].stalled
                    && let Some(socket) = &self.clients[index].socket
                {
                    let _ = epoll::delete(&self.epoll, socket);
                }
                if let Some(stay) = self.clients[index].stay {
                    self.leaving.push_back((Instant::now() + stay, index));
                }
            }
        }
    }

    fn leave(&mut self, index: usize, why: &str) {
        let client = &mut self.clients[index];
        let left_as_told = client.stay.is_some() && client.stage == Stage::Joined;
        if !left_as_told && client.stage != Stage::Gone {
            if client.stage == Stage::Joined {
                self.joined -= 1;
            }
            self.gone += 1;
            self.complaint.get_or_insert_with(|| why.lines().next().unwrap_or_default().to_owned());
        }
        client.stage = Stage::Gone;
        client.partial = Vec::new();
        client.socket = None;
    }
}

/// Room names for `clients` clients, `each` of them per room.
pub fn rooms(tag: &str, clients: usize, each: usize) -> VecDeque<Rc<str>> {
    let names: Vec<Rc<str>> = (0..clients.div_ceil(each)).map(|room| format!("bench-{tag}-{room}").into()).collect();
    (0..clients).map(|client| names[client / each].clone()).collect()
}

/// All members of the rooms named by `rooms`, for clients numbered from `first` on.
pub fn talk(first: usize, clients: usize, each: usize) -> Vec<Room> {
    (0..clients.div_ceil(each))
        .map(|room| {
            let members: Vec<usize> =
                (room * each..clients.min((room + 1) * each)).map(|client| first + client).collect();
            Room { owed: members.len() as u32, members }
        })
        .collect()
}
