//! The socket as tungstenite sees it, on the session's thread: reads come from the socket; writes go to it before the
//! join, and to the session's lane afterwards.

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
use crate::fanout::command::SessionCommand;
use crate::fanout::socket::SharedSocket;
use crate::limits::{Bucket, Recent};
use crate::start::{SOON, Start};

/// The deadline for each write by a connection's own thread: an answer, or a frame before the join.
pub const WRITE_TIME: Duration = Duration::from_secs(10);

/// The size of tungstenite's read buffer, in bytes. Most frames fit, and every connection allocates one.
const READ_BUFFER: usize = 1024;

/// The stream under a session's WebSocket.
pub struct Transport<'a> {
    /// The socket.
    pub wire: Arc<SharedSocket>,
    /// Given up when it first waits for its client.
    pub start: Start,
    /// The session's number.
    pub id: SessionId,
    /// Used to reach its lane.
    pub lanes: &'a Lanes,
    /// Whether the lane writes to the socket.
    pub joined: bool,
    /// When data last arrived.
    pub last_read: Instant,
    /// When the session's timed work is due: a read of a frame that arrives in small pieces is interrupted then.
    pub due: Instant,
    /// tungstenite's pongs and close frames. They are sent together, before the next read from the socket, before a text
    /// frame is handled, and at the session's end, so a client that sends many pings at once causes one write rather than
    /// one for each.
    answers: Vec<u8>,
    /// Counts frames that are not a whole message.
    frames: FrameCounter,
    /// The rate allowed for them.
    frame_rate: Bucket,
    /// Frames that exceeded the rate recently.
    over_rate: Recent,
}

impl<'a> Transport<'a> {
    /// A WebSocket over this transport, after its `101`. `early` are bytes already read past the upgrade request,
    /// `largest` is the limit on a message in bytes, and `frame_rate` the limit on frames that are not a whole message.
    pub fn websocket(
        wire: Arc<SharedSocket>,
        start: Start,
        id: SessionId,
        lanes: &'a Lanes,
        early: Vec<u8>,
        largest: usize,
        mut frame_rate: Bucket,
    ) -> WebSocket<Transport<'a>> {
        let mut frames = FrameCounter::default();
        frame_rate.charge(frames.count(&early) as f64);
        let (joined, due, over_rate, answers) = (false, Instant::now(), Recent::default(), Vec::new());
        let last_read = due;
        let this = Transport { wire, start, id, lanes, joined, last_read, due, answers, frames, frame_rate, over_rate };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(largest))
            .max_frame_size(Some(largest));
        WebSocket::from_partially_read(this, early, Role::Server, Some(config))
    }

    /// Writes whole frames, or passes them to the lane.
    ///
    /// # Errors
    /// The connection is broken, or did not take them in time.
    pub fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.joined {
            self.lanes.post(self.id, SessionCommand::Own(bytes));
            return Ok(());
        }
        self.start.write(bytes.len());
        write_all_within(&self.wire.tcp, &bytes, Instant::now() + WRITE_TIME)
    }

    /// Sends tungstenite's answers.
    ///
    /// # Errors
    /// As for [`Transport::send`].
    pub fn send_answers(&mut self) -> io::Result<()> {
        let answers = std::mem::take(&mut self.answers);
        if answers.is_empty() { Ok(()) } else { self.send(answers.into()) }
    }

    /// Counts these frames, and returns whether too many have exceeded the rate recently.
    fn floods(&mut self, frames: usize) -> bool {
        let now = self.last_read;
        (0..frames).any(|_| self.frame_rate.take(now).is_err() && self.over_rate.count(now, REFUSALS.1) >= REFUSALS.0)
    }
}

impl Read for Transport<'_> {
    /// Fails with [`ErrorKind::QuotaExceeded`] if the client floods the server with frames that are not messages, and with
    /// [`ErrorKind::TimedOut`] if nothing arrived in time, or timed work has become due since the frame began.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A write that times out must not be taken for a read that does.
        self.send_answers().map_err(io::Error::other)?;
        if self.last_read >= self.due {
            return Err(ErrorKind::TimedOut.into());
        }
        self.start.read(&self.wire.tcp, if self.joined { Duration::ZERO } else { SOON });
        // The system does not restart reads with a timeout: suspending the process, or attaching a tracer,
        // interrupts every read.
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
        self.answers.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes everything by the deadline. A write timeout of the socket would restart with every byte that the peer takes.
///
/// # Errors
/// The connection is broken, or the deadline has passed.
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
