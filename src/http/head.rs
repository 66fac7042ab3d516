//! Reads request heads, under a limit and a deadline, and parses them.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use tungstenite::http::{HeaderName, HeaderValue, Request, Uri, Version, header};

use super::pages::Answer;
use crate::fanout::socket;
use crate::start::{SOON, Start};
use crate::threads;

/// The longest request head, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// The largest number of header lines; a browser behind two proxies sends about thirty.
const MAX_HEADERS: usize = 64;
/// A head must be complete within this time after its first byte, or after the connection's thread started.
pub const HEAD_TIME: Duration = Duration::from_secs(5);
/// Idle time after which a connection is closed. Longer than a load balancer's idle timeout (typically 60 s), so that
/// the server does not close a connection on which a request is under way.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Reads a complete head, removes it from the buffer, and calls `answer` on the temporary stack on which the head was
/// parsed. `None` if the client closed or sent nothing in time.
///
/// # Errors
/// The refusal: 400, 408 or 431.
#[inline(never)]
pub fn read_head<R>(
    socket: &TcpStream,
    start: &Start,
    buffer: &mut Vec<u8>,
    wait: Duration,
    mut answer: impl FnMut(Request<()>, &mut Vec<u8>) -> R,
) -> Result<Option<R>, Answer> {
    let mut deadline = Instant::now() + if buffer.is_empty() { wait } else { HEAD_TIME };
    let mut chunk = [0; 512];
    loop {
        let mut parse_and_answer = |buffer: &mut Vec<u8>| match parse(buffer)? {
            Some((_, length)) if length > MAX_HEAD => Err(too_long()),
            Some((request, length)) => {
                buffer.drain(..length);
                Ok(Some(answer(request, buffer)))
            }
            None => Ok(None),
        };
        if !buffer.is_empty()
            && let Some(answered) = threads::on_temporary_stack(|| parse_and_answer(buffer))?
        {
            return Ok(Some(answered));
        }
        if buffer.len() > MAX_HEAD {
            return Err(too_long());
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        start.read(socket, SOON);
        let kept_and_silent = wait == KEEP_ALIVE && buffer.is_empty();
        match socket.set_read_timeout(Some(left)).and_then(|()| (&mut &*socket).read(&mut chunk)) {
            Ok(0) => return Ok(None),
            Ok(count) => {
                if kept_and_silent {
                    deadline = Instant::now() + HEAD_TIME;
                }
                buffer.extend_from_slice(&chunk[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if socket::is_timeout(&error) && kept_and_silent => return Ok(None),
            Err(error) if socket::is_timeout(&error) => {
                return Err(Answer::refusal(408, "the head was not complete within 5 s"));
            }
            Err(_) => return Ok(None),
        }
        if Instant::now() >= deadline {
            return Err(Answer::refusal(408, "the head was not complete within 5 s"));
        }
    }
}

/// The head that has arrived, which remains to be read; `None` if it is incomplete.
///
/// # Errors
/// The refusal: 400 or 431.
pub fn peek_head(socket: &TcpStream) -> Result<Option<Request<()>>, Answer> {
    let mut buffer = [0; MAX_HEAD];
    let received = recv(socket, &mut buffer[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    let bytes = received.map_or(0, |(bytes, _)| bytes);
    match parse(&buffer[..bytes])? {
        None if bytes == MAX_HEAD => Err(too_long()),
        head => Ok(head.map(|(request, _)| request)),
    }
}

fn too_long() -> Answer {
    Answer::refusal(431, "the head is over 8 KiB")
}

/// Parses a head and returns it with its length; `None` if it is incomplete.
fn parse(buffer: &[u8]) -> Result<Option<(Request<()>, usize)>, Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Answer::refusal(431, "more than 64 header lines")),
        Err(error) => {
            let known = as_version_1_1(buffer).filter(|_| error == httparse::Error::Version);
            let refusal = || Err(Answer::refusal(400, &format!("not an HTTP/1.1 request: {error}")));
            return known.map_or_else(refusal, |known| parse(&known));
        }
    };
    let bad = |_| Answer::refusal(400, "not an HTTP/1.1 request");
    let mut request = Request::new(());
    *request.method_mut() = head.method.unwrap_or_default().parse().map_err(|_| bad(()))?;
    *request.uri_mut() = head.path.unwrap_or_default().parse::<Uri>().map_err(|_| bad(()))?;
    *request.version_mut() = if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    for line in head.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| bad(()))?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| bad(()))?;
        request.headers_mut().append(name, value);
    }
    check_lines(&request)?;
    Ok(Some((request, length)))
}

/// Refuses heads with duplicate headers, of which a proxy and this server could each use a different one.
fn check_lines(request: &Request<()>) -> Result<(), Answer> {
    let refused = |why| Err(Answer::refusal(400, why));
    let count = |name| request.headers().get_all(name).iter().count();
    // RFC 9112, section 3.2.
    match count(header::HOST) {
        0 if request.version() == Version::HTTP_11 => return refused("no Host header"),
        0 | 1 => {}
        _ => return refused("more than one Host header"),
    }
    if count(header::ORIGIN) > 1 {
        return refused("more than one Origin header");
    }
    // With two lengths, proxy and server could disagree on where the body ends (RFC 9112, section 6.3).
    let mut lengths = request.headers().get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next();
    if lengths.any(|other| Some(other) != first) {
        return refused("two different Content-Length headers");
    }
    Ok(())
}

/// The same head as version 1.1, if its version is a later 1.x: recipients treat those as the latest version they know
/// (RFC 9110, section 2.5).
fn as_version_1_1(buffer: &[u8]) -> Option<Vec<u8>> {
    let start = buffer.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let line = buffer[start..].split(|byte| *byte == b'\n').next()?.trim_ascii_end();
    let (digit, before) = line.split_last()?;
    let is_later = (b'2'..=b'9').contains(digit) && before.ends_with(b" HTTP/1.");
    let mut known = buffer.to_vec();
    known[start + before.len()] = b'1';
    is_later.then_some(known)
}

/// Whether the client allows the connection to stay open after the answer.
pub fn keeps_alive(request: &Request<()>) -> bool {
    let values = request.headers().get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let closes = values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("close"));
    request.version() == Version::HTTP_11 && !closes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parsed_when_they_are_complete() {
        let head = b"GET /r/a?b=c HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\nrest";
        for end in 0..head.len() - 4 {
            assert!(matches!(parse(&head[..end]), Ok(None)), "{end}");
        }
        let Ok(Some((request, length))) = parse(head) else { panic!("complete") };
        assert_eq!((request.uri().path(), length), ("/r/a", head.len() - 4));
        assert!(!keeps_alive(&request));
        for wrong in [&b"PRI * HTTP/2.0\r\n\r\n"[..], b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nA b: c\r\n\r\n"] {
            assert!(parse(wrong).is_err());
        }
    }

    #[test]
    fn lengths_that_differ_are_refused() {
        let head = |lines: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n").into_bytes();
        assert!(parse(&head("Content-Length: 3\r\nContent-Length: 3\r\n")).is_ok());
        for wrong in ["Content-Length: 3\r\nContent-Length: 4\r\n", "Content-Length: 0\r\ncontent-length: 00\r\n"] {
            assert!(parse(&head(wrong)).is_err_and(|refusal| refusal.status() == 400), "{wrong}");
        }
    }

    #[test]
    fn a_later_1_x_is_read_as_1_1() {
        for (version, is_taken) in
            [("1.0", true), ("1.1", true), ("1.2", true), ("1.9", true), ("2.1", false), ("1.10", false)]
        {
            let head = format!("\r\nGET /a HTTP/{version}\r\nHost: x\r\n\r\nrest");
            let parsed = parse(head.as_bytes()).map(|whole| whole.map(|(request, length)| (request.version(), length)));
            let known = if version == "1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
            assert_eq!(parsed.ok(), is_taken.then_some(Some((known, head.len() - 4))), "{version}");
            for end in 0..if is_taken { head.len() - 4 } else { 0 } {
                assert!(matches!(parse(&head.as_bytes()[..end]), Ok(None)), "{version}: {end}");
            }
        }
    }
}
