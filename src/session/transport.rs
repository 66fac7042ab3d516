//! The socket as tungstenite sees it, on the session's thread: what is read comes from it, and what is written goes
//! to it or to the lane, whichever writes at the time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, WebSocket};

use super::REFUSALS;
use super::frames::FrameCounter;
use crate::backplane::SessionId;
use crate::fanout::Lanes;
use crate::fanout::lane::SessionCommand;
use crate::fanout::socket::SharedSocket;
use crate::limits::{Bucket, Recent};

/// A client must take what the session's thread itself writes within this time, all of it.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// tungstenite's read buffer, in bytes: most frames fit, and it is allocated for every connection.
const READ_BUFFER: usize = 1024;

/// The socket as tungstenite sees it: reads come from it, writes go where they have to.
pub struct Transport<'a> {
    /// The socket.
    pub wire: Arc<SharedSocket>,
    /// Whose it is.
    pub id: SessionId,
    /// For its lane.
    pub lanes: &'a Lanes,
    /// The lane writes to the socket now.
    pub joined: bool,
    /// When something last came.
    pub last_read: Instant,
    /// Follows frames that are no whole message.
    frames: FrameCounter,
    /// Tokens for them.
    frame_rate: Bucket,
    /// Those that came without a token.
    over_rate: Recent,
}

impl<'a> Transport<'a> {
    /// A WebSocket over this transport, which has its `101`. `early` are bytes already read past the upgrade request,
    /// `largest` is the limit of a message in bytes, and `frame_rate` that of frames that are no whole message.
    pub fn websocket(
        wire: Arc<SharedSocket>,
        id: SessionId,
        lanes: &'a Lanes,
        early: Vec<u8>,
        largest: usize,
        frame_rate: Bucket,
    ) -> WebSocket<Transport<'a>> {
        let mut frames = FrameCounter::default();
        frames.count(&early);
        let (joined, last_read, over_rate) = (false, Instant::now(), Recent::default());
        let stream = Transport { wire, id, lanes, joined, last_read, frames, frame_rate, over_rate };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(largest))
            .max_frame_size(Some(largest));
        WebSocket::from_partially_read(stream, early, Role::Server, Some(config))
    }

    /// Writes whole frames, or has them written.
    ///
    /// # Errors
    /// The connection is broken, or did not take all within its time.
    pub fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.joined {
            self.lanes.post(self.id, SessionCommand::Own(bytes));
            return Ok(());
        }
        write_all_within(&self.wire.tcp, &bytes, Instant::now() + WRITE_TIME)
    }

    /// Whether there are too many frames over the rate, with this many more.
    fn floods(&mut self, frames: usize) -> bool {
        let now = self.last_read;
        (0..frames).any(|_| self.frame_rate.take(now).is_err() && self.over_rate.count(now, REFUSALS.1) >= REFUSALS.0)
    }
}

impl Read for Transport<'_> {
    /// Fails with [`ErrorKind::QuotaExceeded`] where a client floods the server with frames that are no messages.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A socket with a read timeout is not restarted by the system: a stopped process that continues, or a tracer
        // that attaches, interrupts every read.
        let count = loop {
            match (&self.wire.tcp).read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.last_read = Instant::now();
        let frames = self.frames.count(&buffer[..count]);
        if frames > 0 && self.floods(frames) {
            return Err(ErrorKind::QuotaExceeded.into());
        }
        Ok(count)
    }
}

impl Write for Transport<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // tungstenite hands over whole frames: its pongs and its answers to close frames.
        self.send(Bytes::copy_from_slice(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all to a socket by the deadline: a timeout of the socket's own would begin anew with each byte that the peer
/// takes.
///
/// # Errors
/// The connection is broken, or the time is over.
pub fn write_all_within(mut socket: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_write_timeout(Some(left))?;
        match socket.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_client_that_takes_little_at_a_time_has_no_more_time() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (server, _) = listener.accept().expect("connected");
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let reader = std::thread::spawn(move || {
            let mut some = vec![0; 64 * 1024];
            while stopped.recv_timeout(Duration::from_millis(20)).is_err() && client.read(&mut some).is_ok() {}
        });
        let start = Instant::now();
        let bytes = vec![0; 256 * 1024 * 1024];
        let error = write_all_within(&server, &bytes, start + Duration::from_millis(500)).expect_err("too slow");
        assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        drop(server);
        let _ = stop.send(());
        reader.join().expect("no panic");
    }
}
