//! The frames of `bobbin.v1` as types, and the rules for their contents.
//!
//! Nothing here touches a socket, a thread or Redis: text goes in and values come out, or the reverse. So each rule of
//! the wire contract about names, texts and ids is implemented and tested in one place.

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
/// Messages in a `welcome` whose client sent no `since`.
pub const WELCOME_MESSAGES: usize = 50;
/// The most messages in a `welcome` that resumes after `since`; `history` returns older ones.
pub const RESUME_MESSAGES: usize = 500;
/// The most names in a `welcome`.
pub const WELCOME_NAMES: usize = 100;
/// The most names in each list of a `presence` frame.
pub const PRESENCE_NAMES: usize = 20;

/// A frame from a client: one JSON object per text frame, with its `type` as the tag.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ClientFrame {
    /// Enters the room; must be the first frame.
    Join(Join),
    /// Sends a message.
    Message {
        /// The text, not yet checked by [`clean_text`].
        text: String,
        /// The client's own key for this message.
        #[serde(rename = "ref")]
        reference: Option<String>,
    },
    /// The client started or stopped typing.
    Typing {
        /// True if it started.
        active: bool,
    },
    /// Requests older messages.
    History {
        /// Messages older than this one.
        before: Id,
        /// How many messages, 1 to [`MAX_HISTORY`].
        limit: Option<usize>,
    },
    /// A keep-alive for browsers, which cannot send WebSocket pings.
    Ping,
}

/// The `join` frame's fields.
#[derive(Debug, Deserialize)]
pub struct Join {
    /// The name as typed, not yet checked by [`clean_name`]; absent if a proxy names the user.
    pub name: Option<String>,
    /// The client's secret, which identifies it when it reconnects; see [`mark`].
    pub client: Option<Secret>,
    /// The id of the newest message the client has.
    pub since: Option<Id>,
    /// Required if the settings define one.
    pub passphrase: Option<Secret>,
}

/// A frame from the server to one client. Messages and typing are not here: [`message_json`] and [`typing_json`] build
/// those once per room, before they are fanned out.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame<'a> {
    /// The answer to `join`.
    Welcome {
        /// The client's name as others see it.
        name: &'a str,
        /// The client's [`mark`].
        by: &'a str,
        /// The room's name.
        room: &'a str,
        /// The number of people in the room, this client included.
        participants: u64,
        /// At most [`WELCOME_NAMES`] of them, sorted.
        names: &'a [String],
        /// The newest messages, oldest first.
        messages: &'a [Box<RawValue>],
        /// The newest id in the log, `0-0` when there is none.
        last: Id,
        /// Whether there are older messages.
        more: bool,
        /// Whether messages after `since` are no longer kept.
        gap: bool,
    },
    /// People joined or left.
    Presence {
        /// At most [`PRESENCE_NAMES`] names.
        joined: &'a [String],
        /// At most [`PRESENCE_NAMES`] names.
        left: &'a [String],
        /// The exact number of people, even if the lists are incomplete.
        participants: u64,
    },
    /// The answer to `history`, oldest first.
    History {
        /// The messages, oldest first.
        messages: &'a [Box<RawValue>],
        /// Whether there are older messages.
        more: bool,
    },
    /// The host removed messages.
    Removed {
        /// The ids of these messages.
        #[serde(skip_serializing_if = "Option::is_none")]
        ids: Option<&'a [Id]>,
        /// The last of a range from the beginning of the log.
        #[serde(skip_serializing_if = "Option::is_none")]
        upto: Option<Id>,
    },
    /// This instance lost or regained its backplane.
    Status {
        /// `up` or `down`.
        backplane: &'a str,
    },
    /// The server refused a frame.
    Error {
        /// The reason, for programs.
        code: ErrorCode,
        /// The reason, for people.
        message: &'a str,
        /// The `ref` of the refused message.
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
        /// Milliseconds after which a retry may succeed.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u64>,
    },
    /// The answer to `ping`.
    Pong,
}

/// The `code` of an `error` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Documented in the contract.
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
    /// All codes.
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

    /// The code as written in a frame.
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
    /// 1008: no join in time, too many tries, too many refused frames.
    Policy,
    /// 1009: a message over [`MAX_MESSAGE_BYTES`].
    TooBig,
    /// 1012: this instance is shutting down or moving load to others; the client should reconnect.
    GoingAway,
    /// 1013: the client's backlog overflowed.
    TooSlow,
    /// 4001: the same client came back elsewhere.
    TakenOver,
    /// 4003: unauthorized too often.
    Unauthorized,
    /// 4004: the host removed this client.
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

    /// The close frame as bytes for the socket.
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
    // Our frames have only string keys, and a String can always be written to.
    serde_json::to_string(value).expect("our own frames serialise")
}

/// A text frame as bytes for the socket: header and payload, unmasked (RFC 6455, section 5.1).
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
