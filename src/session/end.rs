//! How a session ends: by its client, by the server's decision, or because the connection broke.

use std::fmt;
use std::io;

use crate::protocol::Close;

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
