//! Plain HTTP answers: the page, its files, and refusals.
//!
//! An [`Answer`] is a value; `connection.rs` writes it to the socket.

use std::io::Cursor;
use std::net::IpAddr;

use tiny_http::{HTTPVersion, Header, Response};
use tungstenite::http::{Method, Request, header};

use crate::app::App;
use crate::limits::Refusal;
use crate::site::{self, Content, Found};

/// Headers of every answer, also of a `101`. Only the page may load resources or be embedded; it has its own policy.
pub const SECURITY: &[(&str, &str)] = &[
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
];
const NO_CONTENT: &str = "default-src 'none'; frame-ancestors 'none'";

/// Content type of answers for programs.
pub const JSON: &str = "application/json";
/// Content type of answers for people.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// An HTTP response.
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The `Connection` and `Upgrade` header lines, which tiny_http does not let callers set.
    connection: &'static str,
}

impl Answer {
    /// A refusal, with the reason as its one-line body.
    pub fn refusal(status: u16, why: &str) -> Answer {
        Answer::new(status, TEXT, format!("{why}\n").into_bytes())
    }

    /// An answer with the given status, content type and body.
    pub fn new(status: u16, kind: &str, body: Vec<u8>) -> Answer {
        Answer { status, headers: vec![("Content-Type", kind.to_owned())], body, connection: "" }
    }

    /// Counts and logs that an address exceeds a limit, and returns the answer.
    pub fn over_limit(refusal: &Refusal, address: IpAddr, app: &App) -> Answer {
        app.limited(refusal.limit, address);
        Answer::too_much(refusal)
    }

    /// The answer when an address exceeds a limit.
    pub fn too_much(refusal: &Refusal) -> Answer {
        let seconds = refusal.wait.as_secs_f64().ceil().max(1.0);
        Answer::refusal(429, refusal.limit.reason()).with("Retry-After", seconds.to_string())
    }

    /// The answer when no slot is free.
    pub fn full(why: &str) -> Answer {
        Answer::refusal(503, why).with("Retry-After", "3")
    }

    /// Adds a header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    /// Logs it if it says that somebody may not come in.
    pub fn logged(self, address: IpAddr) -> Answer {
        if matches!(self.status, 401 | 403) {
            // Limited apart: foreign origins must not hide guessed tokens.
            let target = if self.status == 401 { "bobbin::http::unauthorized" } else { "bobbin::http::forbidden" };
            log::warn!(target: target, "{address} was refused: {}", String::from_utf8_lossy(&self.body).trim_end());
        }
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Names the protocol that the client should use instead (RFC 9110, section 15.5.22).
    pub fn asking_for_websocket(mut self) -> Answer {
        self.connection = "Connection: upgrade, close\r\nUpgrade: websocket\r\n";
        self.with("Sec-WebSocket-Version", "13")
    }

    /// Adds `Connection: close`.
    pub fn closing(mut self) -> Answer {
        if self.connection.is_empty() {
            self.connection = "Connection: close\r\n";
        }
        self
    }

    /// The whole response as bytes, made by tiny_http; without the body if it answers a `HEAD`.
    pub fn into_bytes(self, head_only: bool) -> Vec<u8> {
        let header = |(name, value): &(&str, String)| Header::from_bytes(*name, value.as_bytes()).ok();
        let length = self.body.len();
        let has_policy = self.headers.iter().any(|(name, _)| *name == "Content-Security-Policy");
        let policy = (!has_policy).then(|| ("Content-Security-Policy", NO_CONTENT.to_owned()));
        let security = SECURITY.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let headers =
            std::iter::once(("Server", "bobbin".to_owned())).chain(self.headers).chain(policy).chain(security);
        let response = Response::new(
            self.status.into(),
            headers.filter_map(|pair| header(&pair)).collect(),
            Cursor::new(self.body),
            Some(length),
            None,
        );
        let mut bytes = Vec::with_capacity(length + 512);
        // Chunked encoding is for bodies of unknown length. Writing to a Vec can't fail.
        let _ =
            response.with_chunked_threshold(usize::MAX).raw_print(&mut bytes, HTTPVersion(1, 1), &[], head_only, None);
        let first_line = bytes.windows(2).position(|pair| pair == b"\r\n").map_or(0, |at| at + 2);
        bytes.splice(first_line..first_line, self.connection.bytes());
        if self.status == 304 {
            // For a `304`, tiny_http would give the length of the empty body as that of the file.
            remove_line(&mut bytes, b"\r\nContent-Length: ");
        }
        bytes
    }
}

/// Removes the header line that starts with these bytes.
fn remove_line(head: &mut Vec<u8>, start: &[u8]) {
    let find = |from: usize, what: &[u8]| head[from..].windows(what.len()).position(|w| w == what).map(|at| from + at);
    if let Some(at) = find(0, start)
        && let Some(end) = find(at + 2, b"\r\n")
    {
        head.drain(at..end);
    }
}

/// Answers a request for the page or one of its files.
#[inline(never)]
pub fn answer(request: &Request<()>, app: &App) -> Answer {
    let answer = match app.site.find(request.uri().path()) {
        Found::Page(room) => page(request, room, app),
        Found::File(file) => content(request, file.content(takes_gzip(request)), app),
        Found::NoRoom => return not_found_for(request, NO_SUCH_ROOM, app),
        Found::NotFound => return not_found_for(request, NOT_FOUND, app),
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) { answer } else { wrong_method() }
}

/// The redirect to a path's canonical address, with the query.
pub fn redirect(request: &Request<()>, app: &App) -> Option<Answer> {
    let path = app.site.canonical_address(request.uri().path())?;
    let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
    Some(Answer::refusal(308, &format!("the address is {path}")).with("Location", path + &query))
}

/// The answer for an unknown path.
pub fn not_found() -> Answer {
    Answer::refusal(404, NOT_FOUND)
}

fn page(request: &Request<()>, room: &str, app: &App) -> Answer {
    let answer = content(request, app.site.page(room, takes_gzip(request)), app);
    if room.starts_with(site::PRIVATE) { answer.with("X-Robots-Tag", "noindex, nofollow") } else { answer }
}

/// An answer that browsers cache and revalidate every time.
fn content(request: &Request<()>, content: Content<'_>, app: &App) -> Answer {
    let known = is_known(request, &content.etag);
    let (status, body) = if known { (304, Vec::new()) } else { (200, content.body.into_owned()) };
    let answer = Answer::new(status, content.kind, body)
        .with("ETag", content.etag)
        .with("Cache-Control", "no-cache")
        .with("Vary", "Accept-Encoding")
        .with("Content-Security-Policy", app.site.policy.clone());
    if content.gzip { answer.with("Content-Encoding", "gzip") } else { answer }
}

/// The 404 answer: a page with a link to the lobby for browsers, one line of text for programs.
fn not_found_for(request: &Request<()>, why: &str, app: &App) -> Answer {
    if !value(request, header::ACCEPT).contains("text/html") {
        return Answer::refusal(404, why);
    }
    Answer::new(404, "text/html; charset=utf-8", app.site.not_found_page(why))
        .with("Content-Security-Policy", app.site.policy.clone())
}

const NOT_FOUND: &str = "nothing here";
const NO_SUCH_ROOM: &str = "a room's name is 1 to 48 characters a-z 0-9 _ -, the first a letter or a digit";

/// The answer for an invalid room name.
pub fn no_such_room() -> Answer {
    Answer::refusal(404, NO_SUCH_ROOM)
}

/// The answer for any method but `GET` and `HEAD`.
pub fn wrong_method() -> Answer {
    Answer::refusal(405, "only GET and HEAD").with("Allow", "GET, HEAD")
}

/// Whether the client already has this version, by its `If-None-Match`.
pub fn is_known(request: &Request<()>, etag: &str) -> bool {
    let known = value(request, header::IF_NONE_MATCH);
    known.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == etag || tag == "*")
}

fn takes_gzip(request: &Request<()>) -> bool {
    value(request, header::ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip")
            && !parts.any(|quality| quality.replace(' ', "").trim_end_matches(['0', '.']) == "q=")
    })
}

fn value(request: &Request<()>, name: header::HeaderName) -> &str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_well_formed_response() {
        let text = |answer: Answer, head| String::from_utf8(answer.into_bytes(head)).expect("text");
        let whole = text(Answer::refusal(404, "no").with("X-One", "1").closing(), false);
        assert!(whole.starts_with("HTTP/1.1 404 Not Found\r\nConnection: close\r\n"), "{whole}");
        assert!(whole.contains("Content-Length: 3\r\n") && whole.ends_with("\r\n\r\nno\n"), "{whole}");
        let head = text(Answer::refusal(404, "no"), true);
        assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn an_encoding_is_taken_unless_it_is_refused() {
        for (accepted, takes) in [
            ("gzip, deflate, br", true),
            ("br;q=1, gzip;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("", false),
        ] {
            let request = Request::builder().header("accept-encoding", accepted).body(()).expect("a request");
            assert_eq!(takes_gzip(&request), takes, "{accepted}");
        }
    }
}
