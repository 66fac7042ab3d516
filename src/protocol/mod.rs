//! The frames of `bobbin.v1` as types, and the rules for their contents.
//!
//! Nothing here touches a socket, a thread or Redis: text goes in and values come out, or the reverse. So each rule of
//! the wire contract about names, texts and ids is implemented and tested in one place.

mod codes;
mod encode;
mod message;
mod name;

pub use codes::{Close, ErrorCode};
pub use encode::text_frame;
pub use message::{Id, is_body, message_body, message_json};
pub use name::{
    Secret, clean_name, clean_text, controls_display, fold_name, is_clean_name, is_client, is_mark, is_reference,
    is_room, mark, shown_user, stored_reference,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
#[derive(Deserialize)]
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
    /// Messages were removed through the admin API.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let join = r#"{"type":"join","name":"A","client":"s3cr3t-of-a-client","passphrase":"s3cr3t"}"#;
        let ClientFrame::Join(join) = serde_json::from_str(join).expect("a join") else { panic!("not a join") };
        let printed = format!("{join:?}");
        assert!(!printed.contains("s3cr3t") && printed.contains("(secret)"), "{printed}");
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
