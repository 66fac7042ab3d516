//! Parses Redis's replies and publications. Other programs may write to our keys and publish on our channels, so their
//! form is checked, and anything that is not exactly Bobbin's is never sent to a client.

use std::collections::BTreeMap;

use redis::{FromRedisValue, Value};
use serde::Deserialize;

use tungstenite::Bytes;

use super::commands::Commands;
use crate::backplane::admin::{removed_ids, removed_upto};
use crate::backplane::{Change, JoinError, Unavailable};
use crate::protocol::{self, Id, is_body, is_clean_name};

/// Converts a reply to a Rust value.
pub fn from_value<T: FromRedisValue>(value: Value) -> Result<T, Unavailable> {
    T::from_redis_value(value).map_err(not_understood)
}

/// Logs an unexpected reply, but not the reply itself, which may contain texts.
pub fn not_understood<T>(_reply: T) -> Unavailable {
    log::warn!("redis: unexpected reply; another program may have written to Bobbin's keys");
    Unavailable
}

/// A string reply, if it is valid UTF-8.
pub fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The reply of `join.lua`.
#[derive(Debug)]
pub struct Seated {
    /// See [`crate::backplane::Arrival`].
    pub stamp: u64,
    /// The number of people in the room.
    pub participants: u64,
    /// The newest id in the log.
    pub newest: Id,
    /// Shown names, at most 100.
    pub names: Vec<String>,
    /// Whether the client took the seat over from its older session.
    pub came_back: bool,
    /// Whether this join opened the room.
    pub is_new_room: bool,
}

/// Parses the reply of `join.lua`.
pub fn seated(value: Value) -> Result<Seated, JoinError> {
    let parts = match value {
        Value::Array(parts) if parts.is_empty() => return Err(JoinError::NameTaken),
        Value::Array(parts) => parts,
        refusal => {
            return Err(match text(refusal).as_deref() {
                Some("full") => JoinError::RoomFull,
                Some("new") => JoinError::MayNotOpen,
                _ => JoinError::Unavailable, // "late"
            });
        }
    };
    let [stamp, participants, newest, people, came_back, is_new_room] =
        <[Value; 6]>::try_from(parts).map_err(not_understood)?;
    let stamp: String = from_value(stamp)?;
    let newest: String = from_value(newest)?;
    Ok(Seated {
        stamp: stamp.parse().map_err(not_understood)?,
        participants: from_value(participants)?,
        newest: newest.parse().map_err(not_understood)?,
        names: text(people).unwrap_or_default().split('\n').filter_map(shown_name).collect(),
        came_back: from_value(came_back)?,
        is_new_room: from_value(is_new_room)?,
    })
}

/// The stamp of the newest change, and the shown names of all people in a room, from the values of the hash `who`.
pub fn roster(value: Value) -> Result<(u64, Vec<String>), Unavailable> {
    let Value::Array(values) = value else { return Err(not_understood(value)) };
    let (mut stamp, mut names) = (0, Vec::with_capacity(values.len()));
    for value in values.into_iter().filter_map(text) {
        match value.parse() {
            Ok(newest) => stamp = newest,
            Err(_) => names.extend(shown_name(&value)),
        }
    }
    Ok((stamp, names))
}

/// The shown name in a value of the hash `who`.
fn shown_name(value: &str) -> Option<String> {
    value.splitn(5, ' ').nth(4).filter(|name| is_clean_name(name)).map(str::to_owned)
}

/// The reply of `renew.lua`.
#[derive(Debug, Default)]
pub struct Renewed {
    /// The newest id in the log.
    pub newest: Id,
    /// The number of seats restored.
    pub taken_again: u64,
    /// Whether more expired leases are to be cleared.
    pub more: bool,
    /// Whether the log was trimmed because it took too many bytes.
    pub trimmed: bool,
    /// Sessions that have lost their seats: their number in the list, and whether their own client has the name now.
    pub lost: Vec<(usize, bool)>,
}

/// Parses the reply of `renew.lua`.
pub fn renewed(value: Value) -> Result<Renewed, Unavailable> {
    let reply: Vec<String> = from_value(value)?;
    let [newest, taken_again, more, was_large, lost @ ..] = reply.as_slice() else {
        return Err(not_understood(&reply));
    };
    let lost = lost.chunks_exact(2).map(|pair| Ok((pair[0].parse().map_err(not_understood)?, pair[1] == "1")));
    Ok(Renewed {
        newest: newest.parse().map_err(not_understood)?,
        taken_again: taken_again.parse().map_err(not_understood)?,
        more: more == "1",
        trimmed: was_large == "1",
        lost: lost.collect::<Result<_, Unavailable>>()?,
    })
}

/// The reply of `say.lua`.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was kept with this id.
    Now(Id),
    /// The ref is known: id and body of the first message with it.
    Before(Id, String),
}

/// Parses the reply of `say.lua`.
pub fn kept(value: Value) -> Result<Kept, Unavailable> {
    let id = |value| text(value).unwrap_or_default().parse::<Id>().map_err(not_understood);
    let Value::Array(parts) = value else { return Ok(Kept::Now(id(value)?)) };
    let [first, body] = <[Value; 2]>::try_from(parts).map_err(not_understood)?;
    let body = text(body).filter(|body| is_body(body)).ok_or_else(|| not_understood("a body that is not ours"))?;
    Ok(Kept::Before(id(first)?, body))
}

/// Something published in a room.
#[derive(Debug, PartialEq)]
pub enum Published<'a> {
    /// A message: id and body.
    Message(Id, &'a str),
    /// Who joined and who left.
    Change(Change),
    /// Someone is typing: the frame's JSON.
    Typing(&'a str),
    /// Messages were removed: the frames that announce it.
    Removed(Vec<Bytes>),
    /// This session's client joined elsewhere.
    TakenOver(&'a str),
}

/// Parses a published payload, which our scripts write. `None` if it is not exactly Bobbin's.
pub fn published<'a>(payload: &'a str, commands: &Commands) -> Option<Published<'a>> {
    let rest = payload.get(1..)?;
    match payload.as_bytes()[0] {
        b'm' => {
            let (id, body) = rest.split_once('\n')?;
            is_body(body).then_some(Published::Message(id.parse().ok()?, body))
        }
        b'p' => change(rest, commands).map(Published::Change),
        b't' => is_typing(rest).then_some(Published::Typing(rest)),
        b'r' => removed(rest).map(Published::Removed),
        b'k' => Some(Published::TakenOver(rest)),
        _ => None,
    }
}

/// Parses which messages were removed: `u` and the newest id if all were, or `i` and the ids.
fn removed(text: &str) -> Option<Vec<Bytes>> {
    let (what, ids) = text.split_once(' ')?;
    let ids: Vec<Id> = ids.split(' ').map(|id| id.parse().ok()).collect::<Option<_>>()?;
    match (what, ids.as_slice()) {
        ("u", [newest]) => Some(vec![removed_upto(*newest)]),
        ("i", ids) => Some(removed_ids(ids)),
        _ => None,
    }
}

/// Parses the removals in a room, as `remove.lua` keeps them: ids, and `upto` for the time when all were removed.
pub fn removals(reply: Value) -> Result<Vec<Bytes>, Unavailable> {
    let kept: BTreeMap<String, String> = from_value(reply)?;
    let upto = kept.get("upto").and_then(|value| value.split(' ').next()?.parse().ok());
    Ok(all_removed(upto, kept.keys().filter_map(|id| id.parse().ok()).collect()))
}

/// The frames that announce which of the messages up to `since` were removed, from the reply of `welcome.lua`.
pub fn recent_removals(recent: &str, upto: &str, since: Id) -> Vec<Bytes> {
    let ids = recent.split(' ').filter_map(|id| id.parse().ok()).filter(|id| *id <= since);
    all_removed(upto.parse().ok(), ids.collect())
}

fn all_removed(upto: Option<Id>, ids: Vec<Id>) -> Vec<Bytes> {
    upto.map(removed_upto).into_iter().chain(removed_ids(&ids)).collect()
}

/// Parses a change of presence: `stamp participants session`, then a line of names that joined and one of names that
/// left, both separated by tabs.
fn change(text: &str, commands: &Commands) -> Option<Change> {
    let mut lines = text.split('\n');
    let mut head = lines.next()?.split(' ');
    let mut names = || -> Option<Vec<String>> {
        let names = lines.next()?.split('\t').filter(|name| !name.is_empty());
        names.map(|name| is_clean_name(name).then(|| name.to_owned())).collect()
    };
    Some(Change {
        stamp: head.next()?.parse().ok()?,
        participants: head.next()?.parse().ok()?,
        about: commands.own_session(head.next()?),
        joined: names()?,
        left: names()?,
    })
}

/// Whether this is a typing frame exactly as [`protocol::typing_json`] writes it.
fn is_typing(json: &str) -> bool {
    #[derive(Deserialize)]
    struct Typing {
        name: String,
        active: bool,
    }
    // A name has at most 32 characters, each at most six bytes when escaped.
    json.len() < 256
        && serde_json::from_str(json).is_ok_and(|typing: Typing| {
            is_clean_name(&typing.name) && protocol::typing_json(&typing.name, typing.active) == json
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Retention;
    use std::time::Duration;

    const BODY: &str = r#"{"by":"abcdefgh234567ab","name":"Ada","text":"hi"}"#;

    fn commands() -> Commands {
        Commands::new("i1".to_owned(), 0, &Retention { messages: 1, bytes: 1, life: Duration::ZERO })
    }

    fn texts(texts: &[&str]) -> Value {
        Value::Array(texts.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn only_what_is_exactly_ours_is_published() {
        let commands = commands();
        let message = format!("m5-1\n{BODY}");
        assert_eq!(published(&message, &commands), Some(Published::Message(Id { ms: 5, seq: 1 }, BODY)));
        let typing = r#"t{"type":"typing","name":"Ada","active":true}"#;
        assert_eq!(published(typing, &commands), Some(Published::Typing(&typing[1..])));
        for foreign in [
            "",
            "x",
            "m",
            "m5-1",
            "m5-1\nnonsense",
            "m5-1\n{\"by\":[[[[]]]]}",
            "t",
            "tnonsense",
            r#"t{"type":"typing","name":"Ada","active":true,"x":[]}"#,
            r#"t{"type":"message","name":"Ada","active":true}"#,
            "t{\"type\":\"typing\",\"name\":\"A\u{202e}da\",\"active\":true}",
            "px 0 -\n\n",
            "p5 0 -",
            "p5 1 -\nA\u{202e}da\n",
            "é",
        ] {
            assert_eq!(published(foreign, &commands), None, "{foreign:?}");
        }
    }

    #[test]
    fn changes_are_read_as_the_scripts_write_them() {
        let change = |text| change(text, &commands()).expect("well-formed");
        let change_ours = change("1732412345678000001 3 i1/7\nAda\tBob Lee\n");
        assert_eq!(change_ours.joined, ["Ada", "Bob Lee"]);
        assert!(change_ours.left.is_empty());
        assert_eq!((change_ours.participants, change_ours.about), (3, Some(7)));
        assert_eq!(change("5 0 i2/7\n\nAda").about, None);
    }

    #[test]
    fn a_roster_is_made_of_what_is_in_form() {
        let seat = |name: &str| format!("i1/1 abcdefgh234567ab 127.0.0.1 1732412345678 {name}");
        let values = [seat("Ada"), "123".to_owned(), seat("Bob Lee"), seat("A\u{7}"), "nonsense".to_owned()];
        let values = values.each_ref().map(String::as_str);
        let (_, names) = roster(texts(&values)).expect("a roster");
        assert_eq!(names, ["Ada", "Bob Lee"]);
        assert_eq!(roster(texts(&values[..2])).expect("a roster").0, 123);
    }
}
