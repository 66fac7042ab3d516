//! The frames of `bobbin.v1` as types, and the rules for what is in them.
//!
//! Nothing here touches a socket, a thread or Redis: text goes in, values come out, and the other way round. So every
//! rule of the wire contract about names, texts and ids is decided, and tested, in this one place.

mod message;
mod name;

pub use message::{Id, is_body, message_body, message_json};
pub use name::{
    Secret, clean_name, clean_text, fold_name, is_clean_name, is_client, is_mark, is_reference, is_room, mark,
    shown_user,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tungstenite::Bytes;
use tungstenite::protocol::frame::{
    CloseFrame, Frame,
    coding::{CloseCode, Data, OpCode},
};

/// The sub-protocol's name in `Sec-WebSocket-Protocol` (RFC 6455, section 1.9).
pub const SUBPROTOCOL: &str = "bobbin.v1";
/// The largest WebSocket message that a client may send, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// The largest text of a chat message, in bytes after its end is trimmed.
pub const MAX_TEXT_BYTES: usize = 4096;
/// The most messages that one `history` frame carries.
pub const MAX_HISTORY: usize = 100;
/// The most bytes of messages that one `welcome` or `history` frame carries.
pub const PAGE_BYTES: usize = 256 * 1024;
/// How many messages `welcome` carries when the client gave no `since`.
pub const WELCOME_MESSAGES: usize = 50;
/// The most messages that `welcome` carries after a `since`; older ones are available through `history`.
pub const RESUME_MESSAGES: usize = 500;
/// The most names that a `welcome` lists.
pub const WELCOME_NAMES: usize = 100;
/// The most names in each list of a `presence` frame.
pub const PRESENCE_NAMES: usize = 20;

/// What a client sends: one JSON object per text frame, distinguished by its `type`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ClientFrame {
    /// Enter the room; the first frame.
    Join(Join),
    /// Send a message.
    Message {
        /// The text, see [`clean_text`].
        text: String,
        /// The client's own key for this message.
        #[serde(rename = "ref")]
        reference: Option<String>,
    },
    /// Started or stopped typing.
    Typing {
        /// True at the start.
        active: bool,
    },
    /// CliAction for older messages.
    History {
        /// Messages older than this one.
        before: Id,
        /// How many, 1 to [`MAX_HISTORY`].
        limit: Option<usize>,
    },
    /// A sign of life that a browser can send.
    Ping,
}

/// The `join` frame's fields.
#[derive(Debug, Deserialize)]
pub struct Join {
    /// As typed, see [`clean_name`]; left out where a proxy names the user.
    pub name: Option<String>,
    /// The client's secret, by which it is recognized when it comes back; see [`mark`].
    pub client: Option<Secret>,
    /// The newest message that the client has seen.
    pub since: Option<Id>,
    /// Required from everyone if the settings name one.
    pub passphrase: Option<Secret>,
}

/// What the server sends. Messages and typing are not here: they are built once per room, by [`message_json`] and
/// [`typing_json`], before they are fanned out.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame<'a> {
    /// The answer to `join`.
    Welcome {
        /// The name as others see it.
        name: &'a str,
        /// This client's own [`mark`].
        by: &'a str,
        /// The room.
        room: &'a str,
        /// How many are in the room, the newcomer included.
        participants: u64,
        /// At most [`WELCOME_NAMES`] of them, sorted.
        names: &'a [String],
        /// Oldest first.
        messages: &'a [Box<RawValue>],
        /// The newest id in the log, `0-0` when there is none.
        last: Id,
        /// Whether there are older ones.
        more: bool,
        /// Whether some after `since` are no longer kept.
        gap: bool,
    },
    /// Who came and went.
    Presence {
        /// At most [`PRESENCE_NAMES`].
        joined: &'a [String],
        /// At most [`PRESENCE_NAMES`].
        left: &'a [String],
        /// The truth, also when the lists were cut short.
        participants: u64,
    },
    /// The answer to `history`, oldest first.
    History {
        /// Oldest first.
        messages: &'a [Box<RawValue>],
        /// Whether there are older ones.
        more: bool,
    },
    /// The host removed messages.
    Removed {
        /// These.
        #[serde(skip_serializing_if = "Option::is_none")]
        ids: Option<&'a [Id]>,
        /// All up to this one.
        #[serde(skip_serializing_if = "Option::is_none")]
        upto: Option<Id>,
    },
    /// This instance lost or regained its backplane.
    Status {
        /// `up` or `down`.
        backplane: &'a str,
    },
    /// A frame was not carried out.
    Error {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        message: &'a str,
        /// The refused message's own key.
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
        /// When to try again, in milliseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u64>,
    },
    /// The answer to `ping`.
    Pong,
}

/// The `code` of an `error` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it all; the contract lists them.
pub enum ErrorCode {
    BadFrame,
    NotJoined,
    AlreadyJoined,
    NameInvalid,
    NameTaken,
    TextInvalid,
    RateLimited,
    Unauthorized,
    Unavailable,
    Full,
    Banned,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [ErrorCode; 11] = {
        use ErrorCode::*;
        [
            BadFrame,
            NotJoined,
            AlreadyJoined,
            NameInvalid,
            NameTaken,
            TextInvalid,
            RateLimited,
            Unauthorized,
            Unavailable,
            Full,
            Banned,
        ]
    };

    /// As it is written in a frame.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadFrame => "bad_frame",
            ErrorCode::NotJoined => "not_joined",
            ErrorCode::AlreadyJoined => "already_joined",
            ErrorCode::NameInvalid => "name_invalid",
            ErrorCode::NameTaken => "name_taken",
            ErrorCode::TextInvalid => "text_invalid",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Full => "full",
            ErrorCode::Banned => "banned",
        }
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Why the server ends a connection; the number is the WebSocket close code (RFC 6455, section 7.4, and the
/// contract's own 4001 and 4003).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// 1002: the client broke RFC 6455.
    Protocol,
    /// 1003: a binary frame.
    Binary,
    /// 1007: text that is not UTF-8.
    NotUtf8,
    /// 1008: no join in time, too many tries, too many refused frames.
    Policy,
    /// 1009: a message over [`MAX_MESSAGE_BYTES`].
    TooBig,
    /// 1012: this instance is going away, or gives load away; reconnect.
    GoingAway,
    /// 1013: the client's backlog overflowed.
    TooSlow,
    /// 4001: the same client came back elsewhere.
    TakenOver,
    /// 4003: unauthorized too often.
    Unauthorized,
    /// 4004: the host sent this client away.
    SentAway,
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
            Close::TakenOver => (4001, "the same client came back elsewhere"),
            Close::Unauthorized => (4003, "unauthorized too often"),
            Close::SentAway => (4004, "sent away by the host"),
        }
    }

    /// The close code.
    pub fn number(self) -> u16 {
        self.parts().0
    }

    /// The close frame, ready for the socket.
    pub fn bytes(self) -> Bytes {
        let (code, reason) = self.parts();
        encode(Frame::close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() })))
    }
}

/// A whole `typing` frame.
pub fn typing_json(name: &str, active: bool) -> String {
    #[derive(Serialize)]
    struct Typing<'a> {
        r#type: &'static str,
        name: &'a str,
        active: bool,
    }
    json(&Typing { r#type: "typing", name, active })
}

/// Serialises one of our own types.
pub fn json(value: &impl Serialize) -> String {
    // Strings, numbers and lists of them: there is no key that is not a string, and no writer that could fail.
    serde_json::to_string(value).expect("our own frames serialise")
}

/// A text frame, ready for the socket: header and payload in one piece, never masked (RFC 6455, section 5.1).
pub fn text_frame(json: String) -> Bytes {
    encode(Frame::message(json.into_bytes(), OpCode::Data(Data::Text), true))
}

fn encode(frame: Frame) -> Bytes {
    let mut bytes = Vec::with_capacity(frame.len());
    frame.format(&mut bytes).expect("a Vec takes all that is written");
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_frames_ignore_what_they_do_not_know() {
        assert!(matches!(serde_json::from_str(r#"{"type":"ping","x":1}"#), Ok(ClientFrame::Ping)));
        assert!(matches!(serde_json::from_str(r#"{"type":"join","name":"A","x":[]}"#), Ok(ClientFrame::Join(_))));
        for wrong in ["", "[]", "{}", r#"{"type":"jump"}"#, r#"{"type":"message"}"#, r#"{"type":"typing","active":1}"#]
        {
            assert!(serde_json::from_str::<ClientFrame>(wrong).is_err(), "{wrong:?}");
        }
    }
}
