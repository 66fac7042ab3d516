//! The codes by which programs recognize refusals: those of `error` frames, and those of close frames.

use serde::Serialize;
use tungstenite::Bytes;
use tungstenite::protocol::frame::{CloseFrame, Frame, coding::CloseCode};

use super::encode::encode;

macro_rules! error_codes {
    ($($name:ident: $code:literal,)*) => {
        /// The `code` of an `error` frame. `docs/protocol.md` defines when each is sent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[allow(missing_docs)] // the names are self-explanatory
        pub enum ErrorCode {
            $(#[serde(rename = $code)] $name,)*
        }

        impl ErrorCode {
            /// All codes as written in frames.
            pub const ALL: &[&str] = &[$($code,)*];

            /// The code as written in a frame.
            pub fn as_str(self) -> &'static str {
                Self::ALL[self as usize]
            }
        }
    };
}

error_codes! {
    BadFrame: "bad_frame",
    NotJoined: "not_joined",
    AlreadyJoined: "already_joined",
    NameInvalid: "name_invalid",
    NameTaken: "name_taken",
    TextInvalid: "text_invalid",
    RateLimited: "rate_limited",
    Unauthorized: "unauthorized",
    Unavailable: "unavailable",
    Full: "full",
    Banned: "banned",
}

/// Why the server closes a connection; the number is the WebSocket close code (RFC 6455, section 7.4; 4001 to 4004 are
/// the contract's own).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// 1002: the client broke RFC 6455.
    Protocol,
    /// 1003: a binary frame.
    Binary,
    /// 1007: text that is not UTF-8.
    NotUtf8,
    /// 1008: no join in time, too many attempts to join, or too many refused frames.
    Policy,
    /// 1009: a message over [`super::MAX_MESSAGE_BYTES`].
    TooBig,
    /// 1012: this instance is shutting down or moving load to others; the client should reconnect.
    GoingAway,
    /// 1013: the client's backlog overflowed.
    TooSlow,
    /// 4001: the same client joined elsewhere.
    TakenOver,
    /// 4003: too many wrong passphrases.
    Unauthorized,
    /// 4004: the client was banned.
    Banned,
}

impl Close {
    fn parts(self) -> (u16, &'static str) {
        match self {
            Close::Protocol => (1002, "not a WebSocket frame"),
            Close::Binary => (1003, "text frames only"),
            Close::NotUtf8 => (1007, "text that is not UTF-8"),
            Close::Policy => (1008, "no join in time, or too many refused frames"),
            Close::TooBig => (1009, "over 16 KiB"),
            Close::GoingAway => (1012, "reconnect after a random wait of up to 3 s"),
            Close::TooSlow => (1013, "too slow"),
            Close::TakenOver => (4001, "the same client joined elsewhere"),
            Close::Unauthorized => (4003, "unauthorized too often"),
            Close::Banned => (4004, "banned"),
        }
    }

    /// The close code.
    pub fn number(self) -> u16 {
        self.parts().0
    }

    /// The close frame as bytes for the socket.
    pub fn bytes(self) -> Bytes {
        let (code, reason) = self.parts();
        encode(Frame::close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() })))
    }
}
