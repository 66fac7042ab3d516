//! A client's socket, which two threads share: the session's reads, and the lane's outbox writes without waiting.
//!
//! Apart from its users, because it is all that they share.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::SockRef;

/// After a close frame, what still comes is read for so long: a socket that is closed on unread data resets, and the
/// client might lose the close frame.
const LINGER: Duration = Duration::from_secs(2);

/// A client's socket. The session's thread reads from it, the outbox writes to it; it closes when both have let go.
pub struct SharedSocket {
    /// Blocking; the outbox asks not to wait each time it sends.
    pub socket: TcpStream,
    closing: AtomicBool,
}

impl SharedSocket {
    /// Wraps a connected socket.
    pub fn new(socket: TcpStream) -> Arc<SharedSocket> {
        Arc::new(SharedSocket { socket, closing: AtomicBool::new(false) })
    }

    /// Says that it is the server that ends this connection.
    pub fn set_closing(&self) {
        self.closing.store(true, Relaxed);
    }

    /// Whether it is the server that ends this connection.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Sends without waiting: how much was taken, 0 if nothing could be.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match SockRef::from(&self.socket).send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads and forgets what still comes, until the client has closed too or some time has passed.
pub fn linger(socket: &TcpStream) {
    let end = Instant::now() + LINGER;
    let mut scrap = [0; 1024];
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        && socket.set_read_timeout(Some(left)).is_ok()
        && (&mut &*socket).read(&mut scrap).is_ok_and(|count| count > 0)
    {}
}

/// Whether a read ended because its time was up: the system says so in two ways.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
