//! One WebSocket connection as used by a client's thread: frames out, frames in with a time limit, and how it ended.
//! Unlike the client of the other tests it never panics, because here broken connections are normal.

use serde_json::Value;
use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use tungstenite::{Error, Message, WebSocket};

pub struct Wire {
    ws: WebSocket<TcpStream>,
}

/// The result of a read.
pub enum Got {
    Frame(Value),
    /// Nothing to handle within the time. (A WebSocket ping, already answered, counts as a sign of life.)
    Nothing {
        heard: bool,
    },
    /// The server's close frame.
    Close(u16),
    Broken(String),
}

impl Wire {
    /// Connects and upgrades; the error describes what arrived instead.
    pub fn open(addr: SocketAddr, room: &str, receive_buffer: Option<usize>) -> Result<Wire, String> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .map_err(|e| format!("no socket: {e}"))?;
        if let Some(size) = receive_buffer {
            let _ = socket.set_recv_buffer_size(size);
        }
        let patience = Duration::from_secs(3);
        socket.connect_timeout(&addr.into(), patience).map_err(|e| format!("no connection: {e}"))?;
        let stream = TcpStream::from(socket);
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(patience));
        let _ = stream.set_write_timeout(Some(patience));
        match tungstenite::client(format!("ws://{addr}/ws/{room}"), stream) {
            Ok((ws, _)) => Ok(Wire { ws }),
            Err(tungstenite::HandshakeError::Interrupted(_)) => Err("no answer to the upgrade".into()),
            Err(tungstenite::HandshakeError::Failure(Error::Http(answer))) => {
                Err(format!("refused with {}", answer.status()))
            }
            Err(e) => Err(format!("no upgrade: {e}")),
        }
    }

    pub fn send(&mut self, frame: &Value) -> Result<(), String> {
        self.ws.send(Message::text(frame.to_string())).map_err(|e| format!("cannot send: {e}"))
    }

    /// The next frame, if it arrives within `limit`.
    pub fn read(&mut self, limit: Duration) -> Got {
        let limit = limit.max(Duration::from_millis(1));
        let _ = self.ws.get_ref().set_read_timeout(Some(limit));
        match self.ws.read() {
            Ok(Message::Text(text)) => match serde_json::from_str(&text) {
                Ok(frame) => Got::Frame(frame),
                Err(e) => Got::Broken(format!("not JSON ({e}): {text}")),
            },
            Ok(Message::Close(frame)) => {
                let _ = self.ws.flush(); // answers it
                Got::Close(frame.map_or(1005, |f| f.code.into()))
            }
            Ok(_) => {
                let _ = self.ws.flush(); // the pong that tungstenite has made
                Got::Nothing { heard: true }
            }
            Err(Error::Io(e))
                if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                Got::Nothing { heard: false }
            }
            Err(e) => Got::Broken(format!("broken: {e}")),
        }
    }

    /// Leaves in order: sends a close frame, then waits up to two seconds for the answer.
    pub fn leave(mut self) {
        let _ = self.ws.close(None);
        for _ in 0..200 {
            match self.read(Duration::from_millis(10)) {
                Got::Close(_) | Got::Broken(_) => return,
                _ => {}
            }
        }
    }

    /// Ends the connection without a close frame: with a reset, or else with an end of file.
    pub fn cut(self, reset: bool) {
        let stream = self.ws.get_ref();
        if reset {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        } else {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The TCP connection, for clients that misbehave.
    pub fn tcp(&mut self) -> &mut TcpStream {
        self.ws.get_mut()
    }
}
