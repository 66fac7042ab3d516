//! Upgrades a request to a WebSocket, after all the checks that precede the `101`.

use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::http::{HeaderValue, Method, Request, header};

use super::pages::{self, Answer};
use crate::app::App;
use crate::backplane::Room;
use crate::limits::{Connected, Limit, Slot};
use crate::protocol::{self, SUBPROTOCOL};
use crate::session::Visitor;
use crate::session::transport::{self, WRITE_TIME};
use crate::start::Start;

/// At the cap, how long to wait for a slot after shutting down a connection in the lobby.
const PLACE_TIME: Duration = Duration::from_millis(200);
const GOING_AWAY: &str = "this instance is shutting down; try again";
const ALL_TAKEN: &str = "all connections are in use; try again";

/// A connection whose `101` has been written.
pub struct Upgraded {
    /// Its slot among the sessions.
    pub slot: Slot,
    /// Counts it against its address.
    pub counted: Connected,
    /// The requested room.
    pub room: Room,
    /// Who sent the request.
    pub visitor: Visitor,
}

/// Checks an upgrade request, takes a slot and writes the `101`.
///
/// # Errors
/// The refusal.
pub fn open_session(
    request: &Request<()>,
    room: &str,
    socket: &TcpStream,
    visitor: Visitor,
    start: &Start,
    app: &App,
) -> Result<Upgraded, Answer> {
    if !protocol::is_room(room) {
        return Err(pages::redirect(request, app).unwrap_or_else(pages::no_such_room));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(pages::wrong_method());
    }
    let text =
        |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let wants_websocket = text(header::UPGRADE).eq_ignore_ascii_case("websocket");
    if !wants_websocket || request.method() == Method::HEAD || text(header::SEC_WEBSOCKET_VERSION) != "13" {
        let why = explain(request, &visitor, app);
        return Err(why.unwrap_or_else(|| {
            Answer::refusal(426, "this path requires a WebSocket upgrade, version 13").asking_for_websocket()
        }));
    }
    let mut response =
        create_response(request).map_err(|error| Answer::refusal(400, &format!("not a WebSocket upgrade: {error}")))?;
    let origin = request.headers().get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("that is not ASCII"));
    check_origin(origin.unwrap_or_default(), request, app)?;
    let (counted, slot) = take_places(&visitor, start, app)?;
    if text(header::SEC_WEBSOCKET_PROTOCOL).split(',').any(|offered| offered.trim() == SUBPROTOCOL) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    for (name, value) in pages::SECURITY {
        response.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    let mut bytes = Vec::with_capacity(512);
    let written = write_response(&mut bytes, &response).is_ok()
        && transport::write_all_within(socket, &bytes, Instant::now() + WRITE_TIME).is_ok();
    // The client never receives this, because the connection is broken.
    let broken = || Answer::refusal(400, "the connection broke");
    if written { Ok(Upgraded { slot, counted, room: room.into(), visitor }) } else { Err(broken()) }
}

/// Why an upgrade from this page would be refused; `None` if it would succeed. Browsers do not show scripts the body of
/// a refused upgrade, so the page sends a plain request to the same address, with its origin in the query.
fn explain(request: &Request<()>, visitor: &Visitor, app: &App) -> Option<Answer> {
    let origin = request.uri().query()?.strip_prefix("origin=")?;
    if app.draining.load(Relaxed) {
        return Some(Answer::full(GOING_AWAY));
    }
    let (taken, cap) = (app.sessions.taken(), app.sessions.cap());
    if let Err(refusal) = visitor.account.may_connect(cap.saturating_sub(taken), cap, Instant::now()) {
        return Some(Answer::too_much(&refusal));
    }
    if taken >= cap {
        return Some(Answer::full(ALL_TAKEN));
    }
    check_origin(origin, request, app).err()
}

fn check_origin(origin: &str, request: &Request<()>, app: &App) -> Result<(), Answer> {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if same_origin(origin, host) || is_allowed(origin, &app.settings.access.origins) {
        return Ok(());
    }
    let why = format!("Origin {origin} does not match Host {host}; forward the Host header, or set ALLOWED_ORIGINS");
    Err(Answer::refusal(403, &why))
}

/// Counts the connection against its address and takes a session slot.
fn take_places(visitor: &Visitor, start: &Start, app: &App) -> Result<(Connected, Slot), Answer> {
    let rejected = |reason, why| {
        app.metrics.reject(reason);
        Answer::full(why)
    };
    if app.draining.load(Relaxed) {
        return Err(rejected("draining", GOING_AWAY));
    }
    let (now, cap) = (Instant::now(), app.sessions.cap());
    let counted = visitor.account.connect(cap.saturating_sub(app.sessions.taken()), cap, now);
    let counted = counted.map_err(|refusal| Answer::over_limit(&refusal, visitor.address, app))?;
    let slot = take_slot(now + PLACE_TIME, start, app).ok_or_else(|| {
        app.limited(Limit::Sessions, visitor.address);
        rejected("full", ALL_TAKEN)
    })?;
    Ok((counted, slot))
}

/// Takes a session slot; at the cap, one from a WebSocket that has not joined.
fn take_slot(deadline: Instant, start: &Start, app: &App) -> Option<Slot> {
    if let Some(slot) = app.sessions.take() {
        return Some(slot);
    }
    // Others may be started while this thread waits.
    start.end();
    app.limited(Limit::Idle, app.lobby.dismiss_session()?);
    app.sessions.take_by(deadline)
}

/// Whether the page that opens the connection was served by this server. Programs send no `Origin`; browsers always do
/// (RFC 6455, section 10.2).
fn same_origin(origin: &str, host: &str) -> bool {
    if origin.is_empty() {
        return true;
    }
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |name: &str| name.strip_suffix(default_port).unwrap_or(name).to_ascii_lowercase();
    bare(authority) == bare(host)
}

/// Whether the settings allow this origin.
fn is_allowed(origin: &str, allowed: &[String]) -> bool {
    allowed.iter().any(|one| one == "*" || one.eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_without_default_ports() {
        for (origin, host, same) in [
            ("", "chat.example", true),
            ("https://chat.example", "chat.example", true),
            ("https://chat.example", "Chat.Example:443", true),
            ("http://localhost:3000", "localhost:3000", true),
            ("http://localhost:3001", "localhost:3000", false),
            ("https://evil.example", "chat.example", false),
            ("https://chat.example.evil.example", "chat.example", false),
            ("null", "chat.example", false),
        ] {
            assert_eq!(same_origin(origin, host), same, "{origin} {host}");
        }
    }

    #[test]
    fn further_origins_are_those_of_the_settings() {
        let allowed = ["https://blog.example".to_owned()];
        assert!(is_allowed("https://Blog.example", &allowed) && !is_allowed("http://blog.example", &allowed));
        assert!(!is_allowed("null", &allowed) && is_allowed("null", &["*".to_owned()]));
    }
}
