//! A client's socket, shared by two threads: the session's reads, and the lane writes without blocking.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

/// How long a client may take to close after the session's last frame, or after an HTTP answer.
const LINGER: Duration = Duration::from_secs(2);
/// The interval at which what it sends meanwhile is read. Until then the receive buffer of the socket holds it.
const LINGER_LOOK: Duration = Duration::from_millis(200);

/// How long the system keeps trying to deliver what was written before the end. A client that does not read could otherwise
/// leave its data in the system's memory for minutes, and one after the other.
const DELIVERY: Duration = Duration::from_secs(10);

/// How long a client has to answer a close frame that its lane has sent, before its connection is shut down.
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

impl Drop for SharedSocket {
    fn drop(&mut self) {
        // If the connection is broken, nothing is kept.
        let _ = SockRef::from(&self.tcp).set_tcp_user_timeout(Some(DELIVERY));
    }
}

/// Waits until the client closes or `LINGER` has passed, and reads and drops at most `most` bytes: closing a socket with
/// unread data resets the connection, and the client might lose what was written last. A client that sends more than
/// `most` bytes before it reads may lose that last write. The bound is there so that a client that never stops sending
/// cannot keep this thread busy; and once something arrives it is read at intervals, so that not each packet wakes the
/// thread.
pub fn linger(socket: &TcpStream, most: usize) {
    let end = Instant::now() + LINGER;
    let left = || end.saturating_duration_since(Instant::now());
    let (mut more, mut is_silent) = (most, true);
    while !left().is_zero() {
        if is_silent && !happens_within(socket, PollFlags::IN | PollFlags::RDHUP, left()).unwrap_or(true) {
            return;
        }
        let wait = if more == 0 { left() } else { LINGER_LOOK.min(left()) };
        let has_closed = closes_within(socket, wait).unwrap_or(false);
        let dropped = drop_received(socket, more);
        if has_closed {
            return;
        }
        is_silent = more > 0 && dropped == 0;
        more -= dropped;
    }
}

/// Reads and drops what has been received, at most this many bytes, and returns how many there were.
fn drop_received(socket: &TcpStream, most: usize) -> usize {
    let mut scrap = [MaybeUninit::uninit(); 4096];
    let mut dropped = 0;
    while dropped < most {
        let some = scrap.len().min(most - dropped);
        match SockRef::from(socket).recv_with_flags(&mut scrap[..some], libc::MSG_DONTWAIT) {
            Ok(count) if count > 0 => dropped += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    dropped
}

/// Waits until the client has closed its side or the connection is broken, at most this long. Returns whether that has
/// happened. Does not read, and unread data makes no difference.
///
/// # Errors
/// A signal interrupted the wait.
pub fn closes_within(socket: &TcpStream, most: Duration) -> io::Result<bool> {
    happens_within(socket, PollFlags::RDHUP, most)
}

/// Waits until a socket can be read, or a listener can accept, at most this long. Returns whether it can.
///
/// # Errors
/// A signal interrupted the wait.
pub fn is_readable_within(socket: &impl AsFd, most: Duration) -> io::Result<bool> {
    happens_within(socket, PollFlags::IN, most)
}

fn happens_within(socket: &impl AsFd, what: PollFlags, most: Duration) -> io::Result<bool> {
    let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() };
    Ok(poll(&mut [PollFd::new(socket, what)], Some(&most))? > 0)
}

/// Whether a read failed because its timeout passed, which the system reports as either of two kinds.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
