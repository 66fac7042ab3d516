//! Request bodies. A body is read only when a handler needs it, after the sender is authenticated, and under a limit
//! and a deadline. Most requests have none, so reading a head does not involve it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tungstenite::http::{HeaderMap, Request, header};

use super::pages::Answer;
use crate::fanout::socket;
use crate::start::Start;

/// The largest body, in bytes: more than twice the longest text with every byte escaped in JSON (`\u0000`).
pub const MAX_BODY: usize = 64 * 1024;
/// A body must be complete within this time after its head.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The body that may follow a request head.
pub struct Body<'a> {
    socket: &'a TcpStream,
    start: &'a Start,
    /// Bytes already read past the head: the start of the body, or of the next request.
    early: &'a mut Vec<u8>,
    read: bool,
}

impl<'a> Body<'a> {
    /// The body that follows the head just read from this socket.
    pub fn new(socket: &'a TcpStream, start: &'a Start, early: &'a mut Vec<u8>) -> Body<'a> {
        Body { socket, start, early, read: false }
    }

    /// The handler may wait, for the body or for something else: others may be started meanwhile.
    pub fn may_wait(&self) {
        self.start.end();
    }

    /// Whether the next byte on the connection starts a new request: there was no body, or it has been read.
    pub fn is_done(&self, request: &Request<()>) -> bool {
        self.read || matches!(length(request.headers()), Ok(0))
    }

    /// Whether the client has closed its side or the connection broke. Does not block.
    pub fn is_client_gone(&self) -> bool {
        socket::closes_within(self.socket, Duration::ZERO).unwrap_or(false)
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// The refusal: 400, 408, 411 or 413.
    pub fn read(&mut self, request: &Request<()>) -> Result<Vec<u8>, Answer> {
        let length = length(request.headers())?;
        let broken = |_| Answer::refusal(400, "the body is incomplete");
        let expects = request.headers().get(header::EXPECT).is_some_and(|what| what == "100-continue");
        if expects && self.early.len() < length {
            self.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(broken)?;
        }
        let deadline = Instant::now() + BODY_TIME;
        let mut chunk = [0; 4096];
        while self.early.len() < length {
            let late = || Answer::refusal(408, "the body was not complete within 10 s");
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            let wanted = chunk.len().min(length - self.early.len());
            match self.socket.set_read_timeout(Some(left)).and_then(|()| self.socket.read(&mut chunk[..wanted])) {
                Ok(0) => return Err(Answer::refusal(400, "the body is incomplete")),
                Ok(count) => self.early.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if socket::is_timeout(&error) => return Err(late()),
                Err(error) => return Err(broken(error)),
            }
        }
        self.read = true;
        Ok(self.early.drain(..length).collect())
    }
}

/// The body's length according to the head (RFC 9112, section 6.3). Chunked bodies are refused: scripts that can send
/// them can also send a length.
fn length(headers: &HeaderMap) -> Result<usize, Answer> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Answer::refusal(411, "send the body with a Content-Length, not in chunks"));
    }
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(0) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty());
    let digits = digits.ok_or_else(|| Answer::refusal(400, "Content-Length is not a number"))?;
    let length = digits.parse().ok().filter(|length| *length <= MAX_BODY);
    length.ok_or_else(|| Answer::refusal(413, "the body is over 64 KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_numbers_within_the_limit() {
        for (value, right) in
            [("0", Ok(0)), ("65536", Ok(65_536)), ("65537", Err(413)), ("99999999999999999999999", Err(413))]
                .into_iter()
                .chain(["", "-1", "+1", "1,1", "0x1"].map(|wrong| (wrong, Err(400))))
        {
            let headers = [(header::CONTENT_LENGTH, value.parse().expect("a header"))].into_iter().collect();
            assert_eq!(length(&headers).map_err(|refusal| refusal.status()), right, "{value:?}");
        }
        assert_eq!(length(&HeaderMap::new()).ok(), Some(0));
    }
}
