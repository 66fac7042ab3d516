//! A room's messages over HTTP, for scripts: `POST` adds one, `GET` reads the log and can wait for new ones.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tungstenite::http::{Method, Request, header};

use super::auth;
use super::body::Body;
use super::pages::{Answer, JSON};
use crate::app::App;
use crate::backplane::{Page, Room, Span, Unavailable};
use crate::fanout::polls::Poll;
use crate::limits::{self, Limit, Pass, Polling};
use crate::protocol::{self, Id, RESUME_MESSAGES};
use crate::session::Visitor;
use crate::settings::tokens::{Poster, UNNAMED};

/// Messages per answer, if the request gives no limit.
const DEFAULT_LIMIT: usize = 100;
/// The longest wait, in seconds. Load balancers typically close connections that have been silent for 60 s.
const MAX_WAIT: u64 = 55;
/// How often a waiting request reads the log again; a new message in the room triggers a read sooner.
const REREAD: Duration = Duration::from_millis(500);
/// How long a request waits for its turn to read.
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// `Retry-After`, in seconds, when the message could not be kept.
const RETRY_AFTER: &str = "3";

/// Answers a request for `/r/{room}/messages`.
pub fn answer(request: &Request<()>, room: &Room, visitor: &Visitor, body: &mut Body<'_>, app: &App) -> Answer {
    let answer = match *request.method() {
        Method::POST => post(request, room, body, app),
        Method::GET | Method::HEAD => read(request, room, visitor, body, app),
        _ => return Answer::refusal(405, "only GET, HEAD and POST").with("Allow", "GET, HEAD, POST"),
    };
    answer.unwrap_or_else(|refusal| refusal).with("Cache-Control", "private, no-cache")
}

fn unavailable(why: &str) -> Answer {
    Answer::refusal(503, why).with("Retry-After", RETRY_AFTER)
}

/// A message as posted.
#[derive(Deserialize)]
pub(super) struct Posted {
    /// The text as sent, not yet checked by [`protocol::clean_text`].
    pub text: String,
    /// The sender's name, if given.
    pub name: Option<String>,
}

fn post(request: &Request<()>, room: &Room, body: &mut Body<'_>, app: &App) -> Result<Answer, Answer> {
    let poster = admit(request, room, app)?;
    let reference = reference(request)?;
    let posted = parse(request, &body.read(request)?)?;
    keep(poster, room, posted, reference, app)
}

/// Authenticates the posting script and checks that it may post in this room and at this rate.
pub(super) fn admit<'a>(request: &Request<()>, room: &str, app: &'a App) -> Result<&'a Poster, Answer> {
    if app.settings.tokens.posters.is_empty() {
        return Err(Answer::refusal(404, "posting is off: neither POST_TOKEN nor POST_TOKENS_FILE is set"));
    }
    let (number, poster) = auth::poster(request, app)?;
    if !poster.may_post_in(room) {
        return Err(Answer::refusal(403, "this token is not valid for this room"));
    }
    if app.draining.load(Relaxed) {
        return Err(unavailable("this instance is shutting down; try again"));
    }
    let mut rate = app.post_rates[number].lock().unwrap_or_else(PoisonError::into_inner);
    rate.take(Instant::now()).map_err(|wait| {
        app.metrics.limit(Limit::Frames);
        let name = poster.name.as_deref().unwrap_or("with POST_TOKEN");
        log::warn!(target: Limit::Frames.log_target(), "script {name} was refused: too many messages per second (RATE_LIMIT)");
        let seconds = wait.as_secs() + 1;
        Answer::refusal(429, "too many messages per second").with("Retry-After", seconds.to_string())
    })?;
    Ok(poster)
}

/// Adds the message to the log and answers with its id.
pub(super) fn keep(
    poster: &Poster,
    room: &Room,
    posted: Posted,
    reference: Option<String>,
    app: &App,
) -> Result<Answer, Answer> {
    let bad = |why: &str| Answer::refusal(400, why);
    let name = sender(poster, posted.name, app)?;
    let text = protocol::clean_text(&posted.text).ok_or_else(|| bad("a text must have 1 to 4096 bytes"))?;
    let body = protocol::message_body(&poster.by, &name, text, reference.as_deref());
    let kept = app.backplane.post(room, &poster.by, body, reference);
    let (id, _) = kept.map_err(|Unavailable| unavailable("the message could not be kept; try again"))?;
    app.metrics.messages.inc();
    // An instance with no session in the room receives no events for it, so waiting requests are woken here.
    app.polls.wake(room);
    let answer = serde_json::json!({ "id": id, "by": &*poster.by });
    Ok(Answer::new(201, JSON, format!("{answer}\n").into_bytes()))
}

/// The sender's name: the token's own, or with `POST_TOKEN` the one given in the message.
fn sender(poster: &Poster, named: Option<String>, app: &App) -> Result<String, Answer> {
    let bad = |why: &str| Answer::refusal(400, why);
    let named =
        named.map(|raw| protocol::clean_name(&raw).ok_or_else(|| bad("the name must have 1 to 32 visible characters")));
    let named = named.transpose()?;
    match (&poster.name, named) {
        (Some(own), Some(named)) if protocol::fold_name(own) != protocol::fold_name(&named) => {
            Err(bad("this token has a name of its own; omit the name"))
        }
        (Some(own), _) => Ok(own.to_string()),
        (None, None) => Ok(UNNAMED.to_owned()),
        (None, Some(named)) => {
            let key = protocol::fold_name(&named);
            let others = app.settings.tokens.posters.iter().filter(|other| other.name.is_some());
            let taken = others.map(|other| &other.key).any(|other| *other == key);
            if taken { Err(bad("this name belongs to another token")) } else { Ok(named) }
        }
    }
}

/// The `Idempotency-Key`, with or without quotes.
fn reference(request: &Request<()>) -> Result<Option<String>, Answer> {
    let Some(value) = request.headers().get("Idempotency-Key") else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default().trim();
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if protocol::is_reference(bare) {
        return Ok(Some(bare.to_owned()));
    }
    Err(Answer::refusal(400, "Idempotency-Key: 1 to 64 characters"))
}

/// Parses the body as JSON or text, by its content type. With any other type (curl declares a form by default), an
/// object that has a `text` is parsed as JSON.
fn parse(request: &Request<()>, body: &[u8]) -> Result<Posted, Answer> {
    let bad = |why: &str| Answer::refusal(400, why);
    let text = std::str::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = || {
        if !limits::is_shallow(text) {
            return Err(bad("nested too deeply"));
        }
        serde_json::from_str::<Posted>(text)
            .map_err(|error| bad(&format!("the body is not a message in JSON: {error}")))
    };
    if kind == "application/json" || kind.ends_with("+json") {
        return json();
    }
    let plain = Posted { text: text.to_owned(), name: None };
    if kind == "text/plain" || !text.trim_start().starts_with('{') { Ok(plain) } else { Ok(json().unwrap_or(plain)) }
}

/// The parameters of a `GET`.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    after: Option<Id>,
    before: Option<Id>,
    limit: usize,
    wait: Duration,
}

impl Query {
    fn parse(query: &str) -> Result<Query, String> {
        let mut parsed = Query { after: None, before: None, limit: DEFAULT_LIMIT, wait: Duration::ZERO };
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let number = || value.parse::<u64>().map_err(|_| format!("{key} must be a number"));
            match key {
                "after" => parsed.after = Some(value.parse().map_err(|why| format!("after: {why}"))?),
                "before" => parsed.before = Some(value.parse().map_err(|why| format!("before: {why}"))?),
                "limit" => parsed.limit = number()?.clamp(1, RESUME_MESSAGES as u64) as usize,
                "wait" => parsed.wait = Duration::from_secs(number()?.min(MAX_WAIT)),
                _ => {}
            }
        }
        Ok(parsed)
    }

    fn span(&self) -> Span {
        match self.after {
            None => Span::Before(self.before),
            Some(after) => Span::After { after, before: self.before },
        }
    }
}

fn read(request: &Request<()>, room: &Room, visitor: &Visitor, body: &Body<'_>, app: &App) -> Result<Answer, Answer> {
    auth::check_reader(request, visitor, app)?;
    let is_limited = !auth::is_admin(request, app);
    let query = Query::parse(request.uri().query().unwrap_or_default()).map_err(|why| Answer::refusal(400, &why))?;
    // Registered before the log is first read, so that no message in between is missed.
    let mut poll = if query.wait.is_zero() { None } else { Some(start_waiting(room, visitor, app)?) };
    let deadline = Instant::now() + query.wait;
    let mut woken = false;
    loop {
        let (page, lines) = read_page(room, &query, visitor, is_limited, app)?;
        let etag = etag(&page, query.after, &lines);
        let known = super::pages::is_known(request, &etag);
        let now = Instant::now();
        let nothing_new = known || (query.after.is_some() && page.messages.is_empty());
        let waits = poll.is_some()
            && nothing_new
            && now < deadline
            && (!is_limited || visitor.account.may_read(now).is_ok())
            && !app.draining.load(Relaxed)
            && !body.is_client_gone();
        // A request that finds nothing and keeps waiting is charged only for its last look.
        if !waits && lines.is_empty() {
            visitor.account.charge_read(0, now);
        }
        if waits && let Some((poll, _)) = &mut poll {
            if woken {
                // In vain: the request waits for an id that is far ahead, and could be woken as often as messages are sent.
                std::thread::sleep(REREAD.min(deadline - now));
            }
            woken = poll.wait(deadline.min(Instant::now() + REREAD));
            if is_limited {
                auth::check_ban(visitor, app)?;
            }
            continue;
        }
        let (status, lines) = if known { (304, String::new()) } else { (200, lines) };
        return Ok(Answer::new(status, "application/x-ndjson", lines.into_bytes()).with("ETag", etag));
    }
}

/// Reads a page of the log, and formats it. It is charged unless it is empty, even if it is read again while the request waits.
fn read_page(
    room: &Room,
    query: &Query,
    visitor: &Visitor,
    is_limited: bool,
    app: &App,
) -> Result<(Page, String), Answer> {
    // Checked and charged in the same turn: of many requests sent together, only as many pass as are read at a time.
    let turn = if is_limited { Some(turn_to_read(visitor, app)?) } else { None };
    let page = app.backplane.history(room, query.span(), query.limit);
    let lines = page.as_ref().map(lines).unwrap_or_default();
    if page.is_err() || !lines.is_empty() {
        visitor.account.charge_read(lines.len(), Instant::now());
    }
    drop(turn);
    page.map(|page| (page, lines)).map_err(|why: Unavailable| unavailable(&why.to_string()))
}

/// Waits until it is this address's turn to read, and checks that it has not read too much.
fn turn_to_read<'a>(visitor: &Visitor, app: &'a App) -> Result<Pass<'a>, Answer> {
    let turn = app.http_reads.enter(visitor.turn, Instant::now() + READ_PATIENCE);
    let turn = turn.ok_or_else(|| {
        app.limited(Limit::Reads, visitor.address);
        unavailable("too many requests are reading; try again")
    })?;
    let may_read = visitor.account.may_read(Instant::now());
    may_read.map(|()| turn).map_err(|refusal| Answer::over_limit(&refusal, visitor.address, app))
}

/// Takes a place among all waiting requests, and one in the share of the address.
fn start_waiting<'a>(room: &Room, visitor: &Visitor, app: &'a App) -> Result<(Poll<'a>, Polling), Answer> {
    let (places, waiting) = (app.polls.places(), app.polls.waiting());
    let share = visitor.account.poll(places.saturating_sub(waiting), places).ok_or_else(|| {
        app.limited(Limit::Polls, visitor.address);
        Answer::refusal(429, Limit::Polls.reason()).with("Retry-After", RETRY_AFTER)
    })?;
    let poll = app.polls.enter(room).ok_or_else(|| unavailable("too many requests are waiting; try again"))?;
    Ok((poll, share))
}

fn lines(page: &Page) -> String {
    let mut text = String::new();
    for (id, body) in &page.messages {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{}", protocol::message_json(*id, body));
    }
    text
}

/// The newest id that the client has after this answer, and a hash of the messages, because removing a message also
/// changes the answer.
fn etag(page: &Page, after: Option<Id>, lines: &str) -> String {
    let newest = page.messages.last().map(|(id, _)| *id).or(after).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    lines.hash(&mut hasher);
    format!("\"{newest}.{:08x}\"", hasher.finish() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_have_defaults_and_bounds() {
        let query = Query::parse("after=5-1&before=9-0&limit=100000&wait=3600&x=y").expect("right");
        let (after, before) = (Id { ms: 5, seq: 1 }, Some(Id { ms: 9, seq: 0 }));
        assert_eq!(query.span(), Span::After { after, before });
        assert_eq!((query.limit, query.wait), (RESUME_MESSAGES, Duration::from_secs(MAX_WAIT)));
        let query = Query::parse("").expect("right");
        assert_eq!((query.span(), query.limit, query.wait), (Span::Before(None), DEFAULT_LIMIT, Duration::ZERO));
        for wrong in ["after=x", "before=1", "limit=-1", "limit=many", "wait=1.5"] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bodies_are_json_or_text() {
        let parse_as = |kind: &str, body: &str| {
            let request = Request::builder().header("Content-Type", kind).body(()).expect("a request");
            parse(&request, body.as_bytes()).map(|posted| (posted.text, posted.name)).map_err(|error| error.status())
        };
        let message = r#"{"text":"hi","name":"CI","x":1}"#;
        let hi = || Ok(("hi".to_owned(), Some("CI".to_owned())));
        assert_eq!(parse_as("application/json; charset=utf-8", message), hi());
        assert_eq!(parse_as("application/x-www-form-urlencoded", message), hi());
        assert_eq!(parse_as("text/plain", message), Ok((message.to_owned(), None)));
        assert_eq!(parse_as("application/x-www-form-urlencoded", "{hi"), Ok(("{hi".to_owned(), None)));
        for wrong in ["hi", "{}", "[]", r#"{"text":7}"#, &format!("{{\"text\":\"hi\",\"x\":{}", "[".repeat(9))] {
            assert_eq!(parse_as("application/json", wrong), Err(400), "{wrong}");
        }
    }
}
