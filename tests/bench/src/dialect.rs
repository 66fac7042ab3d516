//! The chat protocol of each server: joining a room, sending a message, answering keep-alives.
//! Everything else in the benchmark is the same for all servers.

use crate::ws;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Dialect {
    /// `bobbin.v1`
    Bobbin,
    /// The room is in the path, the server sends `welcome`, and any text is sent to the room.
    Plain,
    /// Engine.IO 4 and socket.io 5 over a WebSocket
    SocketIo,
}

/// What a client that has not joined yet does after receiving a text.
pub enum Step {
    Wait,
    Reply(Vec<u8>),
    Joined,
    Refused(String),
}

impl Dialect {
    pub fn upgrade_request(self, room: &str) -> String {
        let path = match self {
            Dialect::Bobbin | Dialect::Plain => format!("/ws/{room}"),
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".to_owned(),
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
            ws::KEY
        )
    }

    /// What the client sends right after the upgrade.
    pub fn greet(self, client: usize) -> Option<Vec<u8>> {
        (self == Dialect::Bobbin)
            .then(|| text(&format!(r#"{{"type":"join","name":"c{client}","client":"bench-client-{client:08}"}}"#)))
    }

    pub fn before_join(self, payload: &[u8], room: &str) -> Step {
        match self {
            Dialect::Bobbin if payload.starts_with(br#"{"type":"welcome""#) => Step::Joined,
            Dialect::Plain if payload == b"welcome" => Step::Joined,
            Dialect::SocketIo => match payload {
                [b'0', ..] => Step::Reply(text("40")),
                [b'4', b'0', ..] => Step::Reply(text(&format!(r#"42["join","{room}"]"#))),
                [b'2'] => Step::Reply(text("3")),
                _ if payload.starts_with(br#"42["welcome""#) => Step::Joined,
                _ => Step::Wait,
            },
            Dialect::Bobbin if payload.starts_with(br#"{"type":"error""#) => {
                Step::Refused(String::from_utf8_lossy(payload).into_owned())
            }
            _ => Step::Wait,
        }
    }

    /// The answer to a text from the server, if it needs one: Engine.IO has pings of its own.
    pub fn reply(self, payload: &[u8]) -> Option<Vec<u8>> {
        (self == Dialect::SocketIo && payload == b"2").then(|| text("3"))
    }

    /// A frame that sends `line` to the client's room.
    pub fn say(self, line: &str, reference: u64) -> Vec<u8> {
        match self {
            Dialect::Bobbin => text(&format!(r#"{{"type":"message","text":"{line}","ref":"bench-{reference}"}}"#)),
            Dialect::Plain => text(line),
            Dialect::SocketIo => text(&format!(r#"42["message","{line}"]"#)),
        }
    }
}

fn text(payload: &str) -> Vec<u8> {
    ws::from_client(ws::TEXT, payload.as_bytes())
}
