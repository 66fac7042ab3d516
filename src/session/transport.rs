//! The socket as tungstenite sees it, on the session's thread: what is read comes from it, and what is written goes
//! to it or to the lane, whichever writes at the time.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use tungstenite::Bytes;

use crate::backplane::SessionId;
use crate::fanout::Lanes;
use crate::fanout::lane::SessionCommand;
use crate::fanout::socket::SharedSocket;

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
    pub heard: Instant,
}

impl Transport<'_> {
    /// Writes whole frames, or has them written.
    ///
    /// # Errors
    /// The connection is broken, or took nothing within its time.
    pub fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.joined {
            self.lanes.post(self.id, SessionCommand::Own(bytes));
            return Ok(());
        }
        (&self.wire.tcp).write_all(&bytes)
    }
}

impl Read for Transport<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A socket with a read timeout is not restarted by the system: a stopped process that continues, or a tracer
        // that attaches, interrupts every read.
        let count = loop {
            match (&self.wire.tcp).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.heard = Instant::now();
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
