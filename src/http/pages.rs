//! What is answered over plain HTTP: the page and its files, health, metrics, and refusals.
//!
//! An [`Answer`] is a value; `door.rs` decides when to ask for one and writes it to the socket.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Cursor;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;

use tiny_http::{HTTPVersion, Header, Response};
use tungstenite::http::{Method, Request, header};

use crate::app::App;
use crate::limits::Refusal;
use crate::metrics::Sample;
use crate::protocol;

/// The page's own rules for what a browser may load: this server, and small pictures that the page draws itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The kind of what programs read.
pub const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// A file of `static/`, as it was when the binary was built.
struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    etag: String,
}

macro_rules! files {
    ($($path:literal $name:literal $kind:expr),+ $(,)?) => {
        static FILES: LazyLock<Vec<File>> = LazyLock::new(|| vec![
            $(File::new($path, $kind, include_bytes!(concat!("../../static/", $name)))),+
        ]);
    };
}

files! {
    "/" "index.html" HTML,
    "/app.js" "app.js" SCRIPT,
    "/actions.js" "actions.js" SCRIPT,
    "/alerts.js" "alerts.js" SCRIPT,
    "/base.js" "base.js" SCRIPT,
    "/chat.js" "chat.js" SCRIPT,
    "/composer.js" "composer.js" SCRIPT,
    "/connection.js" "connection.js" SCRIPT,
    "/courier.js" "courier.js" SCRIPT,
    "/log.js" "log.js" SCRIPT,
    "/outbox.js" "outbox.js" SCRIPT,
    "/questions.js" "questions.js" SCRIPT,
    "/rows.js" "rows.js" SCRIPT,
    "/sidebar.js" "sidebar.js" SCRIPT,
    "/text.js" "text.js" SCRIPT,
    "/timeline.js" "timeline.js" SCRIPT,
    "/style.css" "style.css" "text/css; charset=utf-8",
    "/favicon.svg" "favicon.svg" "image/svg+xml",
}

impl File {
    fn new(path: &'static str, kind: &'static str, bytes: &'static [u8]) -> File {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        File { path, kind, bytes, etag: format!("\"{:016x}\"", hasher.finish()) }
    }
}

/// An HTTP response.
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// `Connection` and `Upgrade` lines, which tiny_http keeps to itself.
    connection: &'static str,
}

impl Answer {
    /// A refusal: its body is one line that says why.
    pub fn refusal(status: u16, why: &str) -> Answer {
        Answer::new(status, TEXT, format!("{why}\n").into_bytes())
    }

    /// An answer with a body of this kind.
    pub fn new(status: u16, kind: &str, body: Vec<u8>) -> Answer {
        let headers = vec![("Content-Type", kind.to_owned()), ("X-Content-Type-Options", "nosniff".to_owned())];
        Answer { status, headers, body, connection: "" }
    }

    /// The refusal of what is over a limit of its address.
    pub fn too_much(refusal: &Refusal) -> Answer {
        let seconds = refusal.wait.as_secs_f64().ceil().max(1.0);
        Answer::refusal(429, refusal.limit.reason()).with("Retry-After", seconds.to_string())
    }

    /// The refusal of a connection for which there is no place.
    pub fn full(why: &str) -> Answer {
        Answer::refusal(503, why).with("Retry-After", "3")
    }

    /// Adds a header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Says what the client should speak instead (RFC 9110, section 15.5.22).
    pub fn asking_for_websocket(mut self) -> Answer {
        self.connection = "Connection: upgrade, close\r\nUpgrade: websocket\r\n";
        self.with("Sec-WebSocket-Version", "13")
    }

    /// Says that the connection ends after it.
    pub fn closing(mut self) -> Answer {
        if self.connection.is_empty() {
            self.connection = "Connection: close\r\n";
        }
        self
    }

    /// The whole response, by tiny_http; without its body for `HEAD`.
    pub fn into_bytes(self, head_only: bool) -> Vec<u8> {
        let header = |(name, value): &(&str, String)| Header::from_bytes(*name, value.as_bytes()).ok();
        let length = self.body.len();
        let headers = std::iter::once(("Server", "bobbin".to_owned())).chain(self.headers);
        let response = Response::new(
            self.status.into(),
            headers.filter_map(|pair| header(&pair)).collect(),
            Cursor::new(self.body),
            Some(length),
            None,
        );
        let mut bytes = Vec::with_capacity(length + 512);
        // Chunks are for bodies of unknown length; writing to a Vec can't fail.
        let _ =
            response.with_chunked_threshold(usize::MAX).raw_print(&mut bytes, HTTPVersion(1, 1), &[], head_only, None);
        let first_line = bytes.windows(2).position(|pair| pair == b"\r\n").map_or(0, |at| at + 2);
        bytes.splice(first_line..first_line, self.connection.bytes());
        bytes
    }
}

/// Answers a request that is not for `/ws/`.
#[inline(never)]
pub fn answer(request: &Request<()>, app: &App) -> Answer {
    let path = request.uri().path();
    let room = path.strip_prefix("/r/");
    if room.is_some_and(|room| !protocol::is_room(room)) {
        return no_such_room();
    }
    let file = FILES.iter().find(|file| file.path == if room.is_some() { "/" } else { path });
    match path {
        _ if file.is_none() && !matches!(path, "/healthz" | "/readyz" | "/metrics") => nothing_here(),
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => wrong_method(),
        "/healthz" => Answer::new(200, TEXT, b"alive\n".to_vec()),
        "/readyz" => ready(app),
        "/metrics" => metrics(app),
        _ => file.map_or_else(no_such_room, |file| serve_file(file, request)),
    }
}

/// The refusal of an unknown path.
pub fn nothing_here() -> Answer {
    Answer::refusal(404, "there is nothing at this path")
}

/// The refusal of a room's name that can't be one.
pub fn no_such_room() -> Answer {
    Answer::refusal(404, "a room's name is 1 to 48 characters a-z 0-9 _ -, the first a letter or a digit")
}

/// The refusal of any method but `GET` and `HEAD`.
pub fn wrong_method() -> Answer {
    Answer::refusal(405, "only GET and HEAD").with("Allow", "GET, HEAD")
}

fn metrics(app: &App) -> Answer {
    let sample = Sample { polls: app.polls.waiting(), lanes: app.lanes.queued(), ..Sample::default() };
    Answer::new(200, "text/plain; version=0.0.4; charset=utf-8", app.metrics.prometheus(&sample))
}

fn ready(app: &App) -> Answer {
    let health = if app.draining.load(Relaxed) { Err("draining".to_owned()) } else { app.backplane.health() };
    let (status, body) = match health {
        Ok(()) => (200, serde_json::json!({ "ready": true })),
        Err(why) => (503, serde_json::json!({ "ready": false, "reason": why })),
    };
    Answer::new(status, JSON, format!("{body}\n").into_bytes()).with("Cache-Control", "no-store")
}

fn serve_file(file: &File, request: &Request<()>) -> Answer {
    let (status, body) = if is_known(request, &file.etag) { (304, Vec::new()) } else { (200, file.bytes.to_vec()) };
    Answer::new(status, file.kind, body)
        .with("ETag", file.etag.clone())
        .with("Cache-Control", "no-cache")
        .with("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        .with("Referrer-Policy", "no-referrer")
}

/// Whether the client has this version already (`If-None-Match`).
pub fn is_known(request: &Request<()>, etag: &str) -> bool {
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    known.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == etag || tag == "*")
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
}
