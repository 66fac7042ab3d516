//! One client's write side: what is on its way to the socket, and when a client that does not read is cut.
//!
//! An outbox is owned by its lane (see `lanes.rs`) and never waits: it writes what the socket takes and keeps the rest.
//! It also is the last gate for the order of messages: nothing at or below the newest id that its client has seen
//! passes, whatever led to its being delivered again.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tungstenite::Bytes;

use crate::fanout::socket::SharedSocket;
use crate::protocol::{Close, Id};

/// A backlog over this many bytes is too slow. One piece may exceed it: an answer that the client itself asked for.
const MAX_BACKLOG: usize = 256 * 1024;
/// A backlog that did not move for so long is too slow.
const MAX_STALL: Duration = Duration::from_secs(10);
/// How long a client has to answer a close frame before its connection is shut.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Bytes to write, and what they are.
#[derive(Debug, Clone)]
pub struct OutFrame {
    /// One frame or several, whole.
    pub bytes: Bytes,
    /// What they are.
    pub mark: OrderKey,
}

/// What a piece is, as far as its order matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKey {
    /// A message, or several, the newest being this one.
    Message(Id),
    /// A change of presence of that moment (see [`crate::backplane::Change::stamp`]).
    Presence(u64),
    /// Anything else.
    Other,
}

/// Messages of one room that are written together.
pub struct Batch {
    /// One by one.
    pub pieces: Vec<OutFrame>,
    /// The oldest one's id.
    pub first: Id,
    /// All in one.
    pub whole: OutFrame,
}

impl Batch {
    /// Joins pieces; there is at least one, and all are messages.
    pub fn new(pieces: Vec<OutFrame>) -> Option<Batch> {
        let OrderKey::Message(first) = pieces.first()?.mark else { return None };
        let mark = pieces.last()?.mark;
        let bytes = match pieces.as_slice() {
            [one] => one.bytes.clone(),
            many => many.iter().flat_map(|piece| &piece.bytes[..]).copied().collect(),
        };
        Some(Batch { pieces, first, whole: OutFrame { bytes, mark } })
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is left to do.
    Done,
    /// Something waits: come back with [`Outbox::retry`].
    Waiting,
    /// The client does not read; it should be closed with [`Close::TooSlow`].
    TooSlow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The session's thread is writing `welcome`; all else waits. If it is to be closed, that waits too.
    Joining {
        then: Option<Close>,
    },
    Open,
    /// A close frame is the last thing in the queue; the connection is shut at the deadline at the latest.
    Closing {
        deadline: Instant,
        said: bool,
    },
    /// Nothing can be written any more.
    Dead,
}

/// See the module.
pub struct Outbox {
    wire: Arc<SharedSocket>,
    phase: Phase,
    /// The newest message written or queued.
    last: Id,
    /// Presence was told since `welcome`.
    told_presence: bool,
    queue: VecDeque<OutFrame>,
    /// Bytes in the queue.
    backlog: usize,
    /// The front of the queue is the rest of a piece.
    cut_piece: bool,
    /// When the socket last took something, or the queue began.
    moved: Instant,
}

impl Outbox {
    /// An outbox that holds everything back until [`Outbox::open`].
    pub fn new(wire: Arc<SharedSocket>, now: Instant) -> Outbox {
        Outbox {
            wire,
            phase: Phase::Joining { then: None },
            last: Id::default(),
            told_presence: false,
            queue: VecDeque::new(),
            backlog: 0,
            cut_piece: false,
            moved: now,
        }
    }

    /// `welcome` is written: it held all messages up to `last` and all presence up to `stamp`.
    pub fn open(&mut self, last: Id, stamp: u64, now: Instant) -> Outcome {
        let Phase::Joining { then } = self.phase else { return Outcome::Done };
        self.phase = Phase::Open;
        self.last = last;
        self.backlog = 0;
        for piece in std::mem::take(&mut self.queue) {
            let news = match piece.mark {
                OrderKey::Message(id) => id > last,
                OrderKey::Presence(at) => at > stamp,
                OrderKey::Other => true,
            };
            if news {
                self.backlog += piece.bytes.len();
                self.queue.push_back(piece);
            }
        }
        self.told_presence = self.queue.iter().any(|piece| matches!(piece.mark, OrderKey::Presence(_)));
        for piece in &self.queue {
            if let OrderKey::Message(id) = piece.mark {
                self.last = self.last.max(id);
            }
        }
        self.moved = now;
        if let Some(code) = then {
            self.close(code, now);
        }
        self.retry(now)
    }

    /// Whether the client was told of presence since `welcome`; if not, its own arrival is no news to it.
    pub fn told_presence(&self) -> bool {
        self.told_presence
    }

    /// The newest message that this client has seen.
    pub fn last(&self) -> Id {
        self.last
    }

    /// Whether it is open, and not on its way to close.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Writes a room's messages: the way of nearly every byte. One `send`, and no copy, lock or allocation, while the
    /// client keeps up.
    pub fn put_batch(&mut self, batch: &Batch, now: Instant) -> Outcome {
        if self.phase == Phase::Open && batch.first > self.last {
            return self.put(&batch.whole, now);
        }
        batch.pieces.iter().map(|piece| self.put(piece, now)).fold(Outcome::Done, worse)
    }

    /// Writes one piece, or queues it.
    pub fn put(&mut self, piece: &OutFrame, now: Instant) -> Outcome {
        match (self.phase, piece.mark) {
            (Phase::Closing { .. } | Phase::Dead, _) => return Outcome::Done,
            (Phase::Joining { .. }, _) => return self.push(piece.clone(), now),
            (Phase::Open, OrderKey::Message(id)) if id <= self.last => return Outcome::Done,
            (Phase::Open, OrderKey::Message(id)) => self.last = id,
            (Phase::Open, OrderKey::Presence(_)) => self.told_presence = true,
            (Phase::Open, OrderKey::Other) => {}
        }
        if !self.queue.is_empty() {
            return self.push(piece.clone(), now);
        }
        match self.wire.send_now(&piece.bytes) {
            Ok(sent) if sent == piece.bytes.len() => Outcome::Done,
            Ok(sent) => {
                self.cut_piece = sent > 0;
                self.push(OutFrame { bytes: piece.bytes.slice(sent..), mark: OrderKey::Other }, now)
            }
            Err(_) => self.die(),
        }
    }

    /// Says goodbye. What is queued goes out first, unless the client is cut for not reading it.
    pub fn close(&mut self, code: Close, now: Instant) {
        match &mut self.phase {
            Phase::Joining { then } => *then = then.or(Some(code)),
            Phase::Open => {
                if code == Close::TooSlow {
                    self.queue.truncate(usize::from(self.cut_piece));
                }
                self.queue.push_back(OutFrame { bytes: code.bytes(), mark: OrderKey::Other });
                self.phase = Phase::Closing { deadline: now + CLOSE_GRACE, said: false };
            }
            Phase::Closing { .. } | Phase::Dead => {}
        }
        self.wire.set_closing();
    }

    /// Writes what the socket takes by now.
    pub fn retry(&mut self, now: Instant) -> Outcome {
        if let Phase::Closing { deadline, .. } = self.phase
            && now >= deadline
        {
            return self.die();
        }
        if matches!(self.phase, Phase::Joining { .. } | Phase::Dead) {
            return Outcome::Done;
        }
        while let Some(piece) = self.queue.front_mut() {
            match self.wire.send_now(&piece.bytes) {
                Ok(0) => return self.stalled(now),
                Ok(sent) => {
                    self.moved = now;
                    self.backlog = self.backlog.saturating_sub(sent);
                    self.cut_piece = sent < piece.bytes.len();
                    if self.cut_piece {
                        piece.bytes = piece.bytes.slice(sent..);
                    } else {
                        self.queue.pop_front();
                    }
                }
                Err(_) => return self.die(),
            }
        }
        self.backlog = 0;
        // A client that keeps up, and nearly all do, holds no memory for a queue.
        self.queue = VecDeque::new();
        match &mut self.phase {
            // It is looked at again, until its session is gone or its deadline has come.
            Phase::Closing { said, .. } => {
                if !std::mem::replace(said, true) {
                    // The server is the first to close (RFC 6455, section 7.1.1); the session's thread reads on.
                    let _ = self.wire.socket.shutdown(Shutdown::Write);
                }
                Outcome::Waiting
            }
            _ => Outcome::Done,
        }
    }

    fn stalled(&self, now: Instant) -> Outcome {
        let stalled = self.phase == Phase::Open && now.saturating_duration_since(self.moved) > MAX_STALL;
        if stalled { Outcome::TooSlow } else { Outcome::Waiting }
    }

    fn push(&mut self, piece: OutFrame, now: Instant) -> Outcome {
        if self.queue.is_empty() {
            self.moved = now;
        }
        if self.backlog > MAX_BACKLOG {
            return Outcome::TooSlow;
        }
        self.backlog += piece.bytes.len();
        self.queue.push_back(piece);
        Outcome::Waiting
    }

    /// The connection is of no use any more: the session's thread, which may be reading from it, hears of it.
    fn die(&mut self) -> Outcome {
        self.phase = Phase::Dead;
        self.queue = VecDeque::new();
        // It may be shut already; that is as good.
        let _ = self.wire.socket.shutdown(Shutdown::Both);
        Outcome::Done
    }
}

fn worse(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::TooSlow, _) | (_, Outcome::TooSlow) => Outcome::TooSlow,
        (Outcome::Waiting, _) | (_, Outcome::Waiting) => Outcome::Waiting,
        _ => Outcome::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (Outbox, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (server, _) = listener.accept().expect("connected");
        (Outbox::new(SharedSocket::new(server), Instant::now()), client)
    }

    fn message(ms: u64, text: &str) -> OutFrame {
        OutFrame { bytes: text.to_owned().into(), mark: OrderKey::Message(Id { ms, seq: 0 }) }
    }

    fn heard(client: &mut TcpStream, bytes: usize) -> String {
        let mut buffer = vec![0; bytes];
        client.read_exact(&mut buffer).expect("all arrives");
        String::from_utf8(buffer).expect("text")
    }

    #[test]
    fn what_welcome_held_is_not_said_again() {
        let (mut outbox, mut client) = pair();
        let now = Instant::now();
        let presence = |at, text: &str| OutFrame { bytes: text.to_owned().into(), mark: OrderKey::Presence(at) };
        for piece in [message(1, "a"), message(2, "b"), presence(5, "old"), presence(6, "new"), message(3, "c")] {
            assert_eq!(outbox.put(&piece, now), Outcome::Waiting);
        }
        outbox.open(Id { ms: 2, seq: 0 }, 5, now);
        assert_eq!(heard(&mut client, 4), "newc");
        let batch = Batch::new(vec![message(3, "c"), message(4, "d"), message(5, "e")]).expect("messages");
        assert_eq!(outbox.put_batch(&batch, now), Outcome::Done);
        assert_eq!(outbox.put_batch(&batch, now), Outcome::Done);
        let batch = Batch::new(vec![message(6, "f"), message(7, "g")]).expect("messages");
        assert_eq!(outbox.put_batch(&batch, now), Outcome::Done);
        assert_eq!(heard(&mut client, 4), "defg");
    }

    #[test]
    fn who_does_not_read_is_cut_at_the_bound_and_then_hears_why() {
        let (mut outbox, mut client) = pair();
        let now = Instant::now();
        outbox.open(Id::default(), 0, now);
        let text = "x".repeat(10_000);
        let mut outcome = Outcome::Done;
        let mut ms = 0;
        while outcome != Outcome::TooSlow {
            ms += 1;
            outcome = outbox.put(&message(ms, &text), now);
            assert!(outbox.backlog <= MAX_BACKLOG + text.len());
        }
        outbox.close(Close::TooSlow, now);
        assert!(outbox.wire.is_closing() && outbox.queue.len() <= 2);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).map(|_| all)
        });
        while !outbox.queue.is_empty() {
            outbox.retry(now);
        }
        assert_eq!(outbox.retry(now + CLOSE_GRACE), Outcome::Done);
        let all = reader.join().expect("no panic").expect("read to the end");
        assert!(all.ends_with(&Close::TooSlow.bytes()));
        assert_eq!((all.len() - Close::TooSlow.bytes().len()) % text.len(), 0, "no piece is cut in the middle");
    }

    #[test]
    fn a_backlog_that_does_not_move_is_too_slow() {
        let (mut outbox, _client) = pair();
        let now = Instant::now();
        outbox.open(Id::default(), 0, now);
        let mut ms = 0;
        while outbox.queue.is_empty() {
            ms += 1;
            outbox.put(&message(ms, &"x".repeat(100_000)), now);
        }
        assert_eq!(outbox.retry(now + MAX_STALL), Outcome::Waiting);
        assert_eq!(outbox.retry(now + MAX_STALL + Duration::from_millis(1)), Outcome::TooSlow);
    }
}
