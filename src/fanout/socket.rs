//! A client's socket, shared by two threads: the session's reads, and the lane writes without blocking.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::SockRef;

/// How long incoming data is read and dropped after the last write, a close frame or an HTTP answer. Closing a socket
/// with unread data resets the connection, and the client might lose what was written last.
const LINGER: Duration = Duration::from_secs(2);

/// How long a client has to answer a close frame before its connection is shut down.
pub const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// A client's socket. The session's thread reads from it and the outbox writes to it; it closes when both have dropped
/// it.
pub struct SharedSocket {
    /// In blocking mode; the outbox sends with `MSG_DONTWAIT`.
    pub tcp: TcpStream,
    closing: AtomicBool,
    cut: AtomicBool,
    congested: AtomicBool,
}

impl SharedSocket {
    /// Wraps a connected socket.
    pub fn new(tcp: TcpStream) -> Arc<SharedSocket> {
        let (closing, cut, congested) = Default::default();
        Arc::new(SharedSocket { tcp, closing, cut, congested })
    }

    /// Marks the connection as being closed by the server.
    pub fn set_closing(&self) {
        self.closing.store(true, Relaxed);
    }

    /// Whether the server is closing this connection.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Marks the client as cut because it does not read, and ends the read in which the session's thread is blocked, so
    /// that the seat is released at once.
    pub fn cut(&self) {
        self.cut.store(true, Relaxed);
        let _ = self.tcp.shutdown(Shutdown::Read);
    }

    /// Whether the client was cut because it does not read.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// Records whether frames are queued because the client does not read.
    pub fn set_congested(&self, congested: bool) {
        self.congested.store(congested, Relaxed);
    }

    /// Whether frames are queued because the client does not read.
    pub fn is_congested(&self) -> bool {
        self.congested.load(Relaxed)
    }

    /// Sends without blocking; returns how many bytes the socket took, 0 if none.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match SockRef::from(&self.tcp).send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads and drops incoming data until the client closes or `LINGER` has passed.
pub fn linger(socket: &TcpStream) {
    let end = Instant::now() + LINGER;
    let mut scrap = [0; 1024];
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        && socket.set_read_timeout(Some(left)).is_ok()
        && (&mut &*socket).read(&mut scrap).is_ok_and(|count| count > 0)
    {}
}

/// Whether a read failed because its timeout passed, which the system reports as either of two kinds.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
