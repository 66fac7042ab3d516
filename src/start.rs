//! Slots for connections that are being started, see `http::accept`.

use std::cell::Cell;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::fanout::socket::is_readable_within;
use crate::limits::Slot;

/// How long a thread that has a slot waits for its client before it gives the slot up.
pub const SOON: Duration = Duration::from_micros(500);
/// The longest time that a thread keeps its slot while its client sends on.
const LONGEST: Duration = Duration::from_millis(100);
/// A socket's buffer holds at least this many bytes, even if the client reads none of them.
const UNREAD: usize = 8192;

/// The slot that a new connection's thread may hold. Slots are for threads that work, not for those that wait for a client.
pub struct Start {
    slot: Cell<Option<Slot>>,
    since: Instant,
    /// The bytes written so far.
    written: Cell<usize>,
}

impl Start {
    /// Holds this slot.
    pub fn new(slot: Option<Slot>) -> Start {
        Start { slot: Cell::new(slot), since: Instant::now(), written: Cell::new(0) }
    }

    /// Call this before reading: gives the slot up unless the client has sent something or does so within this time, and in
    /// any case after `LONGEST`.
    pub fn read(&self, socket: &TcpStream, most: Duration) {
        let Some(slot) = self.slot.take() else { return };
        if self.since.elapsed() < LONGEST && is_readable_within(socket, most).unwrap_or(false) {
            self.slot.set(Some(slot));
        }
    }

    /// Call this before writing: gives the slot up if the client may have to read before this many bytes are written.
    pub fn write(&self, bytes: usize) {
        self.written.set(self.written.get().saturating_add(bytes));
        if self.written.get() > UNREAD {
            self.end();
        }
    }

    /// Gives the slot up, because the thread may have to wait.
    pub fn end(&self) {
        self.slot.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Slots;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn who_waits_for_its_client_lets_others_start() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut server, _) = listener.accept().expect("connected");
        let starts = Slots::new(1);
        let start = Start::new(starts.take());
        client.write_all(b"G").expect("it is taken");
        server.peek(&mut [0]).expect("it has arrived");
        start.read(&server, SOON);
        start.write(UNREAD);
        assert_eq!(starts.taken(), 1, "there is work");
        server.read_exact(&mut [0]).expect("one byte");
        start.read(&server, SOON);
        assert_eq!(starts.taken(), 0, "there is nothing to read");
        let start = Start::new(starts.take());
        start.write(UNREAD);
        assert_eq!(starts.taken(), 1);
        start.write(1);
        assert_eq!(starts.taken(), 0, "the client may have to read");
    }
}
