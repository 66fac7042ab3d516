//! The frames of `bobbin.v1` as types, and the rules for what is in them.
//!
//! Nothing here touches a socket, a thread or Redis: text goes in, values come out, and the other way round. So all
//! that the wire contract says about names, texts and ids is decided, and tested, in this one place.

use std::fmt;
use std::str::FromStr;

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
/// How many messages `welcome` carries when the client gave no `since`.
pub const WELCOME_MESSAGES: usize = 50;
/// How many messages `welcome` carries at the most after a `since`; older ones are to be had by `history`.
pub const RESUME_MESSAGES: usize = 500;
/// How many names a `welcome` lists at the most.
pub const WELCOME_NAMES: usize = 100;
/// How many names each list of a `presence` frame holds at the most.
pub const PRESENCE_NAMES: usize = 20;

/// What a client says, one JSON object a text frame, told apart by its `type`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ClientFrame {
    /// Enter the room; the first frame.
    Join(Join),
    /// Say something.
    Message {
        /// What is said.
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
    /// As typed; see [`clean_name`].
    pub name: String,
    /// The client's secret, by which it is known when it comes back.
    pub client: Option<String>,
    /// The newest message that the client has seen.
    pub since: Option<Id>,
    /// What the settings ask of everyone, if they do.
    pub passphrase: Option<String>,
}

/// What the server says. Messages and typing are not here: they are built once a room, by [`message_json`] and
/// [`typing_json`], before they are fanned out.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame<'a> {
    /// The answer to `join`.
    Welcome {
        /// The name as others see it.
        name: &'a str,
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
    /// This task lost or regained Redis.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // Each says itself; the contract lists them.
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
    /// 1012: this task is going away, or sheds load; reconnect.
    GoingAway,
    /// 1013: the client's backlog overflowed.
    TooSlow,
    /// 4001: the same client came back elsewhere.
    TakenOver,
    /// 4003: unauthorized too often.
    Unauthorized,
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

/// A message's id: a Redis stream's entry id (`XADD`), milliseconds and a sequence number. Its order is the order of
/// the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Id {
    /// Unix time in milliseconds, by Redis's clock.
    pub ms: u64,
    /// Tells apart what was said within one millisecond.
    pub seq: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Id, String> {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        let id = text.split_once('-').and_then(|(ms, seq)| Some(Id { ms: digits(ms)?, seq: digits(seq)? }));
        id.ok_or_else(|| "an id looks like 1732412345678-0".to_owned())
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The part of a message that its sender decides: the JSON object that the log keeps. The rest of the frame follows
/// from the entry's id, see [`message_json`].
pub fn message_body(name: &str, text: &str, reference: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        name: &'a str,
        text: &'a str,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
    }
    json(&Body { name, text, reference })
}

/// A whole `message` frame: the id, the time that is in it, and the body as [`message_body`] made it.
pub fn message_json(id: Id, body: &str) -> String {
    let fields = body.strip_prefix('{').unwrap_or("}");
    format!(r#"{{"type":"message","id":"{id}","at":{},{fields}"#, id.ms)
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

/// A name as it is shown: trimmed, inner white space folded to one space, 1 to 32 characters, none of them a control
/// or a bidirectional override. `None` if it can't be made so.
pub fn clean_name(raw: &str) -> Option<String> {
    let name = raw.split_whitespace().collect::<Vec<_>>().join(" ");
    let fits = (1..=32).contains(&name.chars().count());
    (fits && !name.chars().any(forbidden_in_names)).then_some(name)
}

/// Controls, and the characters that reorder or hide their neighbours (Unicode Standard Annex 9, section 2, and the
/// zero-width ones, by which one person could look like another).
fn forbidden_in_names(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{061C}' | '\u{2028}' | '\u{2029}' | '\u{FEFF}')
        || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}')
}

/// What makes two names one: `Ada` and `ADA` are the same person.
pub fn fold_name(name: &str) -> String {
    name.to_lowercase()
}

/// A text as it is kept: its end trimmed, 1 to [`MAX_TEXT_BYTES`] bytes. `None` if it is not.
pub fn clean_text(raw: &str) -> Option<&str> {
    let text = raw.trim_end();
    (1..=MAX_TEXT_BYTES).contains(&text.len()).then_some(text)
}

/// Whether this can be a room's name: `[a-z0-9][a-z0-9_-]{0,47}`.
pub fn is_room(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=48).contains(&name.len())
        && plain(name.as_bytes()[0])
        && name.bytes().all(|b| plain(b) || b == b'_' || b == b'-')
}

/// Whether this can be a client's secret: 16 to 64 characters `[A-Za-z0-9_-]`.
pub fn is_client(secret: &str) -> bool {
    (16..=64).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether this can be a message's own key: 1 to 64 characters.
pub fn is_reference(reference: &str) -> bool {
    (1..=64).contains(&reference.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_folded_and_bounded() {
        let long = "x".repeat(33);
        for (raw, clean) in [
            (" Ada ", Some("Ada")),
            ("Ada \t  Lovelace", Some("Ada Lovelace")),
            ("", None),
            ("   ", None),
            ("a\u{7}b", None),
            ("a\u{202E}b", None),
            ("\u{200B}", None),
            ("Ærøskøbing", Some("Ærøskøbing")),
            (&long, None),
            (&long[1..], Some(&long[1..])),
        ] {
            assert_eq!(clean_name(raw).as_deref(), clean, "{raw:?}");
        }
    }

    #[test]
    fn texts_lose_their_end_and_have_a_limit() {
        assert_eq!(clean_text("  hi \n"), Some("  hi"));
        assert_eq!(clean_text(" \n "), None);
        assert!(clean_text(&"é".repeat(2048)).is_some());
        assert!(clean_text(&"é".repeat(2049)).is_none());
    }

    #[test]
    fn rooms_and_ids_are_what_the_contract_says() {
        for (room, right) in [("lobby", true), ("a", true), ("-a", false), ("A", false), ("", false), ("a_b-9", true)] {
            assert_eq!(is_room(room), right, "{room:?}");
        }
        assert!(is_room(&"a".repeat(48)) && !is_room(&"a".repeat(49)));
        assert_eq!("12-3".parse(), Ok(Id { ms: 12, seq: 3 }));
        for wrong in ["", "12", "12-", "-3", "+1-0", "a-b", "99999999999999999999-0", "1-2-3"] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong:?}");
        }
        assert!(Id { ms: 9, seq: 10 } > Id { ms: 9, seq: 9 } && Id { ms: 10, seq: 0 } > Id { ms: 9, seq: 10 });
    }

    #[test]
    fn a_message_is_its_body_and_its_id() {
        let body = message_body("Ada", "a \"b\"", Some("r1"));
        assert_eq!(
            message_json(Id { ms: 5, seq: 1 }, &body),
            r#"{"type":"message","id":"5-1","at":5,"name":"Ada","text":"a \"b\"","ref":"r1"}"#
        );
        assert_eq!(message_body("Ada", "hi", None), r#"{"name":"Ada","text":"hi"}"#);
        assert_eq!(typing_json("Ada", true), r#"{"type":"typing","name":"Ada","active":true}"#);
    }

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
