//! How a session ends: by its client, by the server's decision, or because the connection broke.

use std::fmt;
use std::io;
use std::net::Shutdown;

use super::Session;
use crate::backplane::{CUT_LEASE, LEASE, Leave};
use crate::fanout::command::SessionCommand;
use crate::fanout::socket::{self, CLOSE_GRACE};
use crate::protocol::{Close, MAX_MESSAGE_BYTES};

/// The most bytes that are read after the last frame, in case the client sent messages before it could read that frame.
const LINGER_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// How a session ends.
pub(super) enum End {
    /// The client sent a close frame.
    Closed,
    /// The server closes, with this code.
    Refused(Close),
    /// The connection broke, or is dead.
    Broken(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed => f.write_str("the client closed"),
            End::Refused(code) => write!(f, "closed with {}", code.number()),
            End::Broken(why) => write!(f, "broke: {why}"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Broken(error.to_string())
    }
}

impl Session<'_> {
    /// Closes the connection, releases the seat, and removes the session from its lane.
    #[inline(never)]
    pub(super) fn finish(&mut self, end: &End) {
        self.socket.get_ref().start.end();
        let wire = self.socket.get_ref().wire.clone();
        // The last pongs, and the answer to the client's close frame. It is lost if frames are still queued for the client,
        // which has then not read them.
        let _ = self.socket.flush();
        let _ = self.socket.get_mut().send_answers();
        match end {
            End::Refused(code) if self.socket.get_ref().joined => {
                self.app.lanes.post(self.id, SessionCommand::Close(*code));
            }
            End::Refused(code) => {
                let _ = self.socket.get_mut().send(code.bytes());
                let _ = wire.tcp.shutdown(Shutdown::Write);
            }
            End::Closed | End::Broken(_) => {}
        }
        let closed_by_client = matches!(end, End::Closed) && !wire.is_closing();
        self.give_seat_back(match closed_by_client {
            true => Leave::Now,
            false if wire.is_cut() => Leave::Expire(CUT_LEASE),
            false => Leave::Expire(LEASE),
        });
        if wire.is_cut() {
            log::warn!("{} was closed: it does not read what it is sent", self.visitor.address);
            // The lane is still writing; this gives the client time to read the reason.
            std::thread::sleep(CLOSE_GRACE);
        } else if matches!(end, End::Refused(_)) {
            socket::linger(&wire.tcp, LINGER_BYTES);
        }
        self.app.lanes.post(self.id, SessionCommand::Leave);
    }

    fn give_seat_back(&mut self, how: Leave) {
        if let Some(seat) = self.seat.take() {
            self.app.backplane.leave(&seat, how);
        }
    }
}

/// If this thread panics, its lease expires and its lane drops the session, as if the connection had broken.
impl Drop for Session<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.app.metrics.connections.dec();
            self.give_seat_back(Leave::Expire(LEASE));
            self.app.lanes.post(self.id, SessionCommand::Leave);
        }
    }
}
