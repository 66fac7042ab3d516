//! The admin API, `/admin/…`, for requests that carry `ADMIN_TOKEN`. Answers are JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tungstenite::http::{Method, Request};

use super::auth;
use super::body::Body;
use super::pages::{self, Answer, JSON};
use crate::app::App;
use crate::backplane::Unavailable;
use crate::backplane::admin::{Ban, Occupant, Removal, Target};
use crate::protocol::{self, Id};
use crate::threads;

/// Length of a ban if the request gives none, and the maximum: one year.
const DEFAULT_MINUTES: u64 = 60;
const MAX_MINUTES: u64 = 365 * 24 * 60;

/// Answers a request below `/admin/`; `path` is the rest of its path.
pub fn answer(request: &Request<()>, path: &str, body: &mut Body<'_>, app: &App) -> Answer {
    if app.settings.tokens.admin.is_none() {
        return pages::not_found();
    }
    if !auth::is_admin(request, app) {
        return auth::unauthorized("send ADMIN_TOKEN as Bearer authorization");
    }
    let answer = threads::on_ample_stack(|| route(request, path, body, app));
    answer.unwrap_or_else(|refusal| refusal).with("Cache-Control", "no-store")
}

fn route(request: &Request<()>, path: &str, body: &mut Body<'_>, app: &App) -> Result<Answer, Answer> {
    let parts: Vec<&str> = path.split('/').collect();
    if let ["rooms", room, ..] = parts.as_slice()
        && !protocol::is_room(room)
    {
        return Err(pages::no_such_room());
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let (posts, deletes) = (request.method() == Method::POST, request.method() == Method::DELETE);
    match parts.as_slice() {
        ["rooms"] if reads => json(200, &app.backplane.rooms().map_err(unavailable)?),
        ["rooms", room] if reads => people(room, app),
        ["rooms", room, "messages"] if deletes => {
            let query = request.uri().query().unwrap_or_default();
            remove(room, &removal(query)?, app)
        }
        ["rooms", room, "messages", id] if deletes => {
            let id: Id = id.parse().map_err(|why: String| Answer::refusal(400, &why))?;
            remove(room, &Removal::One(id), app)
        }
        ["bans"] if reads => json(200, &app.backplane.bans().map_err(unavailable)?),
        ["bans"] if posts => ban(&body.read(request)?, app),
        ["bans", id] if deletes => lift(id, app),
        ["rooms"] | ["rooms", _] => Err(not_allowed("GET, HEAD")),
        ["rooms", _, "messages"] | ["rooms", _, "messages", _] | ["bans", _] => Err(not_allowed("DELETE")),
        ["bans"] => Err(not_allowed("GET, HEAD, POST")),
        _ => Err(pages::not_found()),
    }
}

fn not_allowed(methods: &str) -> Answer {
    Answer::refusal(405, &format!("only {methods}")).with("Allow", methods)
}

fn unavailable(why: Unavailable) -> Answer {
    Answer::refusal(503, &why.to_string()).with("Retry-After", "3")
}

fn json(status: u16, value: &impl Serialize) -> Result<Answer, Answer> {
    Ok(Answer::new(status, JSON, (protocol::json(value) + "\n").into_bytes()))
}

fn people(room: &str, app: &App) -> Result<Answer, Answer> {
    #[derive(Serialize)]
    struct Here<'a> {
        room: &'a str,
        people: Vec<Occupant>,
    }
    let people = app.backplane.people(&room.into()).map_err(unavailable)?;
    json(200, &Here { room, people })
}

/// The messages to remove: all of them, or those of one mark. A misspelt query is an error, or it would empty the room.
fn removal(query: &str) -> Result<Removal, Answer> {
    let bad = || Answer::refusal(400, "by: expected the sixteen characters in a client's messages");
    match query.split_once('=') {
        None if query.is_empty() => Ok(Removal::All),
        Some(("by", mark)) if protocol::is_mark(mark) => Ok(Removal::By(mark.to_owned())),
        _ => Err(bad()),
    }
}

fn remove(room: &str, removal: &Removal, app: &App) -> Result<Answer, Answer> {
    let removed = app.backplane.remove(&room.into(), removal).map_err(unavailable)?;
    if removed == 0 && matches!(removal, Removal::One(_)) {
        return Err(Answer::refusal(404, "no such message"));
    }
    log::info!("admin: removed {removed} messages in {room}");
    json(200, &serde_json::json!({ "removed": removed }))
}

/// The client or address to ban, and for how long.
#[derive(Deserialize)]
struct Banned {
    by: Option<String>,
    address: Option<String>,
    minutes: Option<u64>,
}

fn ban(body: &[u8], app: &App) -> Result<Answer, Answer> {
    let bad = |why: &str| Answer::refusal(400, why);
    let banned: Banned =
        serde_json::from_slice(body).map_err(|error| bad(&format!("the body is not a ban in JSON: {error}")))?;
    let target = match (&banned.by, &banned.address) {
        (Some(by), None) if protocol::is_mark(by) => Target::By(by.clone()),
        (None, Some(address)) => Target::address(address.parse().map_err(|_| bad("address: expected an IP address"))?),
        _ => return Err(bad("expected either by, the sixteen characters in a client's messages, or address")),
    };
    let minutes = banned.minutes.unwrap_or(DEFAULT_MINUTES);
    if !(1..=MAX_MINUTES).contains(&minutes) {
        return Err(bad(&format!("minutes: 1 to {MAX_MINUTES}")));
    }
    let ban: Ban = app.backplane.ban(&target, Duration::from_secs(60 * minutes)).map_err(unavailable)?;
    log::info!("admin: banned {target} for {minutes} minutes");
    json(201, &ban)
}

fn lift(id: &str, app: &App) -> Result<Answer, Answer> {
    let unknown = || Answer::refusal(404, "no such ban");
    let target: Target = decoded(id).and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
    if !app.backplane.lift(&target).map_err(unavailable)? {
        return Err(unknown());
    }
    log::info!("admin: lifted the ban of {target}");
    json(200, &serde_json::json!({ "lifted": target }))
}

/// Decodes percent-encoding in a part of a path (RFC 3986, section 2.1), because scripts encode the colons of an IPv6
/// address.
fn decoded(part: &str) -> Option<String> {
    let mut pieces = part.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_query_empties_a_room() {
        assert!(matches!(removal(""), Ok(Removal::All)));
        assert!(matches!(removal("by=abcdefgh234567ab"), Ok(Removal::By(_))));
        for wrong in ["by=", "by", "by=x", "By=abcdefgh234567ab", "id=1-0", "&", "by=abcdefgh234567ab&x=1"] {
            assert!(removal(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_of_paths_are_decoded() {
        for (part, whole) in [("", ""), ("a-1", "a-1"), ("2001%3Adb8%3a%3A", "2001:db8::"), ("%c3%b6", "\u{f6}")] {
            assert_eq!(decoded(part).as_deref(), Some(whole), "{part}");
        }
        for wrong in ["%", "%3", "%3x", "a%%3A", "%ff", "%\u{f6}"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }
}
