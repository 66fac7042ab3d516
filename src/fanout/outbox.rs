//! The write side of one client: the frames on their way to its socket, and when a client that does not read is cut.
//!
//! An outbox is owned by its lane and never blocks: it writes what the socket takes and queues the rest. It also
//! enforces the order of messages: nothing at or below the newest id sent to its client passes again, whatever caused
//! the second delivery. The work left to do follows from its state alone, see [`Outbox::attention`].

use std::collections::VecDeque;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::{Batch, OrderKey, OutFrame};
use super::socket::{CLOSE_GRACE, SharedSocket};
use crate::protocol::{Close, Id};

/// The largest backlog, in bytes. One frame may exceed it: an answer that the client requested.
const MAX_BACKLOG: usize = 256 * 1024;
/// How long a backlog may make no progress: the socket takes none of its bytes.
const MAX_STALL: Duration = Duration::from_secs(10);

/// What an outbox needs from its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Nothing.
    None,
    /// A later call of [`Outbox::retry`].
    Retry,
    /// Closing with [`Close::TooSlow`]: the client does not read.
    TooSlow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The session's thread is writing `welcome`, and everything else waits, including a close.
    Joining {
        then: Option<Close>,
    },
    Open,
    /// A close frame is last in the queue; the connection is shut down by the deadline.
    Closing {
        deadline: Instant,
    },
    /// Nothing can be written any more.
    Dead,
}

/// A client's queue, and the state that decides what may enter it.
pub struct Outbox {
    socket: Arc<SharedSocket>,
    phase: Phase,
    /// The newest message written or queued.
    last: Id,
    /// Whether presence has been written since `welcome`.
    knows_presence: bool,
    queue: VecDeque<OutFrame>,
    /// The bytes in the queue.
    backlog: usize,
    /// Whether a frame arrived while the backlog exceeded its limit.
    overflowed: bool,
    /// Whether the front of the queue is the rest of a partly written frame.
    partly_written: bool,
    /// When the socket last took something, or the queue began.
    moved: Instant,
}

impl Outbox {
    /// An outbox that holds everything back until [`Outbox::open`].
    pub fn new(socket: Arc<SharedSocket>, now: Instant) -> Outbox {
        Outbox {
            socket,
            phase: Phase::Joining { then: None },
            last: Id::default(),
            knows_presence: false,
            queue: VecDeque::new(),
            backlog: 0,
            overflowed: false,
            partly_written: false,
            moved: now,
        }
    }

    /// `welcome` has been written, with all messages up to `last` and all presence up to `stamp`. Returns how many held
    /// back messages follow it.
    pub fn open(&mut self, last: Id, stamp: u64, now: Instant) -> usize {
        let Phase::Joining { then } = self.phase else { return 0 };
        self.phase = Phase::Open;
        self.last = last;
        self.queue.retain(|frame| match frame.key {
            OrderKey::Message(id) => id > last,
            OrderKey::Presence(at) => at > stamp,
            OrderKey::None => true,
        });
        self.backlog = self.queue.iter().map(|frame| frame.bytes.len()).sum();
        self.knows_presence = self.queue.iter().any(|frame| matches!(frame.key, OrderKey::Presence(_)));
        let ids =
            self.queue.iter().filter_map(|frame| if let OrderKey::Message(id) = frame.key { Some(id) } else { None });
        let (count, newest) = ids.fold((0, last), |(count, newest), id| (count + 1, newest.max(id)));
        self.last = newest;
        self.moved = now;
        if let Some(code) = then {
            self.close(code, now);
        }
        self.retry(now);
        // One that is cut does not receive them.
        if then == Some(Close::TooSlow) { 0 } else { count }
    }

    /// The work left to do, derived from the state.
    pub fn attention(&self, now: Instant) -> Attention {
        match self.phase {
            Phase::Joining { then: None } if self.overflowed => Attention::TooSlow,
            Phase::Joining { .. } | Phase::Dead => Attention::None,
            Phase::Open if self.queue.is_empty() => Attention::None,
            Phase::Open if self.overflowed || now.saturating_duration_since(self.moved) > MAX_STALL => {
                Attention::TooSlow
            }
            Phase::Open | Phase::Closing { .. } => Attention::Retry,
        }
    }

    /// Whether presence has been sent since `welcome`; if not, the client need not be notified of its own arrival.
    pub fn knows_presence(&self) -> bool {
        self.knows_presence
    }

    /// The newest message sent to this client.
    pub fn last(&self) -> Id {
        self.last
    }

    /// When the socket last took something, or the queue began.
    pub fn moved(&self) -> Instant {
        self.moved
    }

    /// Whether it is open and not closing.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Writes a room's messages, and returns how many were new to this client. This is the path of nearly every byte:
    /// one `send`, without a copy, lock or allocation while the client keeps up.
    pub fn put_batch(&mut self, batch: &Batch, now: Instant) -> usize {
        if self.phase == Phase::Open && batch.first > self.last {
            self.put(&batch.whole, now);
            return batch.frames.len();
        }
        batch.frames.iter().filter(|frame| self.put(frame, now)).count()
    }

    /// Writes or queues one frame. Returns whether the client receives it now: one that has not been opened, or already
    /// has the message, does not.
    pub fn put(&mut self, frame: &OutFrame, now: Instant) -> bool {
        match (self.phase, frame.key) {
            (Phase::Closing { .. } | Phase::Dead, _) => return false,
            (Phase::Joining { .. }, _) => {
                self.push(frame.clone(), now);
                return false;
            }
            (Phase::Open, OrderKey::Message(id)) if id <= self.last => return false,
            (Phase::Open, OrderKey::Message(id)) => self.last = id,
            (Phase::Open, OrderKey::Presence(_)) => self.knows_presence = true,
            (Phase::Open, OrderKey::None) => {}
        }
        if !self.queue.is_empty() {
            self.push(frame.clone(), now);
            return true;
        }
        match self.socket.send_now(&frame.bytes) {
            Ok(sent) if sent == frame.bytes.len() => {}
            Ok(sent) => {
                self.partly_written = sent > 0;
                self.push(OutFrame::unordered(frame.bytes.slice(sent..)), now);
            }
            Err(_) => self.die(),
        }
        true
    }

    /// Starts to close; returns false if closing had already begun. Queued frames are sent first, unless the client is
    /// cut for not reading them.
    pub fn close(&mut self, code: Close, now: Instant) -> bool {
        self.socket.set_closing();
        match &mut self.phase {
            Phase::Joining { then: then @ None } => *then = Some(code),
            Phase::Open => {
                if code == Close::TooSlow {
                    self.socket.cut();
                    self.queue.truncate(usize::from(self.partly_written));
                }
                self.queue.push_back(OutFrame::unordered(code.bytes()));
                self.phase = Phase::Closing { deadline: now + CLOSE_GRACE };
                self.retry(now);
            }
            Phase::Joining { .. } | Phase::Closing { .. } | Phase::Dead => return false,
        }
        true
    }

    /// Writes as much as the socket takes now.
    pub fn retry(&mut self, now: Instant) {
        match self.phase {
            Phase::Joining { .. } | Phase::Dead => return,
            Phase::Closing { deadline } if now >= deadline => return self.die(),
            Phase::Open | Phase::Closing { .. } => {}
        }
        while let Some(frame) = self.queue.front_mut() {
            match self.socket.send_now(&frame.bytes) {
                Ok(0) => return,
                Ok(sent) => {
                    self.moved = now;
                    self.backlog = self.backlog.saturating_sub(sent);
                    self.partly_written = sent < frame.bytes.len();
                    if self.partly_written {
                        frame.bytes = frame.bytes.slice(sent..);
                        continue;
                    }
                    self.queue.pop_front();
                    if self.queue.is_empty() && matches!(self.phase, Phase::Closing { .. }) {
                        // The server closes its side first (RFC 6455, section 7.1.1). The session's thread reads on,
                        // and the outbox waits for its deadline.
                        let _ = self.socket.tcp.shutdown(Shutdown::Write);
                    }
                }
                Err(_) => return self.die(),
            }
        }
        (self.backlog, self.overflowed) = (0, false);
        self.socket.set_congested(false);
        // Frees its memory: nearly all clients keep up and need no queue.
        self.queue = VecDeque::new();
    }

    fn push(&mut self, frame: OutFrame, now: Instant) {
        if self.queue.is_empty() {
            self.moved = now;
            self.socket.set_congested(true);
        }
        self.overflowed |= self.backlog > MAX_BACKLOG;
        if !self.overflowed {
            self.backlog += frame.bytes.len();
            self.queue.push_back(frame);
        }
    }

    /// Ends the connection; a read in which the session's thread may be blocked returns.
    fn die(&mut self) {
        self.phase = Phase::Dead;
        self.queue = VecDeque::new();
        // An error means that it is already shut down.
        let _ = self.socket.tcp.shutdown(Shutdown::Both);
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
        OutFrame { bytes: text.to_owned().into(), key: OrderKey::Message(Id { ms, seq: 0 }) }
    }

    fn received(client: &mut TcpStream, bytes: usize) -> String {
        let mut buffer = vec![0; bytes];
        client.read_exact(&mut buffer).expect("all arrives");
        String::from_utf8(buffer).expect("text")
    }

    /// An open outbox whose client reads nothing, with `bytes` more than its socket takes.
    fn stuck(bytes: usize, now: Instant) -> (Outbox, TcpStream) {
        let (mut outbox, client) = pair();
        outbox.open(Id::default(), 0, now);
        let mut ms = 0;
        while outbox.queue.is_empty() {
            ms += 1;
            outbox.put(&message(ms, &"x".repeat(10_000)), now);
        }
        outbox.put(&message(ms + 1, &"x".repeat(bytes)), now);
        (outbox, client)
    }

    #[test]
    fn what_welcome_held_is_not_sent_again() {
        let (mut outbox, mut client) = pair();
        let now = Instant::now();
        let presence = |at, text: &str| OutFrame { bytes: text.to_owned().into(), key: OrderKey::Presence(at) };
        for frame in [message(1, "a"), message(2, "b"), presence(5, "old"), presence(6, "new"), message(3, "c")] {
            assert!(!outbox.put(&frame, now));
        }
        assert_eq!(outbox.attention(now), Attention::None, "its thread writes now");
        assert_eq!(outbox.open(Id { ms: 2, seq: 0 }, 5, now), 1);
        assert_eq!(received(&mut client, 4), "newc");
        let batch = Batch::new(vec![message(3, "c"), message(4, "d"), message(5, "e")]).expect("messages");
        assert_eq!((outbox.put_batch(&batch, now), outbox.put_batch(&batch, now)), (2, 0));
        let batch = Batch::new(vec![message(6, "f"), message(7, "g")]).expect("messages");
        assert_eq!(outbox.put_batch(&batch, now), 2);
        assert_eq!(received(&mut client, 4), "defg");
        assert_eq!(outbox.attention(now), Attention::None);
    }

    #[test]
    fn who_does_not_read_is_cut_at_the_bound_and_then_gets_the_reason() {
        let now = Instant::now();
        let (mut outbox, mut client) = stuck(0, now);
        let text = "x".repeat(10_000);
        let mut ms = 1_000_000;
        while outbox.attention(now) != Attention::TooSlow {
            ms += 1;
            outbox.put(&message(ms, &text), now);
            assert!(outbox.backlog <= MAX_BACKLOG + text.len());
        }
        assert!(outbox.close(Close::TooSlow, now) && !outbox.close(Close::TooSlow, now), "it is cut once");
        assert!(outbox.socket.is_closing() && outbox.queue.len() <= 2);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).map(|_| all)
        });
        while !outbox.queue.is_empty() {
            outbox.retry(now);
        }
        outbox.retry(now + CLOSE_GRACE);
        assert_eq!(outbox.attention(now), Attention::None);
        let all = reader.join().expect("no panic").expect("read to the end");
        assert!(all.ends_with(&Close::TooSlow.bytes()));
        assert_eq!((all.len() - Close::TooSlow.bytes().len()) % text.len(), 0, "no frame is cut in the middle");
    }

    #[test]
    fn who_is_cut_while_joining_is_cut_once_and_counts_no_deliveries() {
        let (mut outbox, mut client) = pair();
        let (now, text) = (Instant::now(), "x".repeat(10_000));
        let cuts = (1..100).filter(|ms| {
            outbox.put(&message(*ms, &text), now);
            outbox.attention(now) == Attention::TooSlow && outbox.close(Close::TooSlow, now)
        });
        assert_eq!(cuts.count(), 1);
        assert_eq!(outbox.open(Id::default(), 0, now), 0);
        let (reason, mut got) = (Close::TooSlow.bytes(), Vec::new());
        outbox.retry(now + CLOSE_GRACE);
        client.read_to_end(&mut got).expect("read to the end");
        assert_eq!(got, reason, "the reason is all it gets");
    }

    #[test]
    fn a_closing_outbox_keeps_its_deadline_whatever_comes_in_between() {
        let now = Instant::now();
        let (mut outbox, _client) = stuck(1, now);
        outbox.close(Close::TooSlow, now);
        for frame in [message(u64::MAX, "more"), OutFrame::unordered("ping".into())] {
            outbox.put(&frame, now);
            outbox.close(Close::GoingAway, now);
            assert_eq!(outbox.attention(now), Attention::Retry);
        }
        outbox.retry(now + CLOSE_GRACE);
        assert_eq!((outbox.phase, outbox.attention(now)), (Phase::Dead, Attention::None));
    }

    #[test]
    fn a_backlog_that_does_not_move_is_too_slow() {
        let now = Instant::now();
        let (mut outbox, _client) = stuck(100_000, now);
        outbox.retry(now + MAX_STALL);
        assert_eq!(outbox.attention(now + MAX_STALL), Attention::Retry);
        assert!(outbox.socket.is_congested());
        assert_eq!(outbox.attention(now + MAX_STALL + Duration::from_millis(1)), Attention::TooSlow);
    }
}
