//! The shortest explanation of a broken promise that the ledger allows: who sent the message when and on which
//! instance, its outcome, who missed it and where that client was, and which faults were active.

use super::checker::Room;
use super::clock::{At, show};
use super::ledger::{Answer, Book, Connection, Id, Window};
use std::fmt::Write;

pub fn lost(room: &Room, id: Id, missed_by: &[&Book]) -> String {
    let mut story = message(room, id);
    let seen_by = room.here.iter().filter(|b| b.seen.contains_key(&id)).count();
    let names: Vec<&str> = missed_by.iter().map(|b| &*b.name).collect();
    let _ = write!(story, "\n    seen by {seen_by}, missed by {}: {}", names.len(), names.join(" "));
    let book = missed_by[0];
    let before = book.seen.range(..id).next_back();
    let after = book.seen.range(id..).next();
    for (word, seen) in [("before", before), ("after", after)] {
        if let Some((id, seen)) = seen {
            let instance = book.connections[seen.connection].instance;
            let _ =
                write!(story, "\n    {} saw {id} {word} it, at {} on instance {instance}", book.name, show(seen.at));
        }
    }
    let from = id.at().saturating_sub(500);
    let until = after.map_or(id.at() + 5000, |(_, seen)| seen.at + 100);
    for connection in book.connections.iter().filter(|c| c.opened < until && c.end() > from) {
        let _ = write!(story, "\n    {}", place(book, connection));
    }
    story + &faults(room.windows, from, until)
}

pub fn twice(room: &Room, by: &str, key: &str, ids: &[Id]) -> String {
    let mut story =
        format!("ref {key} by {by} has the ids {}", ids.iter().map(Id::to_string).collect::<Vec<_>>().join(", "));
    if let Some((book, i)) = sender(room, by, key) {
        story += &attempts(book, i);
    }
    let (first, last) = (ids[0].at(), ids[ids.len() - 1].at());
    story + &faults(room.windows, first.saturating_sub(500), last)
}

/// What is known of one message.
pub fn message(room: &Room, id: Id) -> String {
    let mut story = format!("{id} in {} ({})", room.room, show(id.at()));
    let Some(facts) = room.known.get(&id).or_else(|| room.log.get(&id)) else {
        return story;
    };
    let _ = write!(story, " by {}, ref {}", facts.name, facts.key.as_deref().unwrap_or("none"));
    if let Some((book, i)) = facts.key.as_deref().and_then(|key| sender(room, &facts.by, key)) {
        story += &attempts(book, i);
    }
    story
}

/// What a client sent on the connection that was just closed, in its last seconds.
pub fn closed(book: &Book, code: u16) -> String {
    let Some((number, connection)) = book.connections.iter().enumerate().next_back() else { return code.to_string() };
    let mut story = format!("{code}\n    {}\n   ", place(book, connection));
    let recently = connection.end().saturating_sub(15_000);
    for attempt in book.attempts.iter().filter(|a| a.connection == number && a.at > recently) {
        let answer = attempt.answer.map(|(at, answer)| format!("{answer:?} {}", show(at)));
        let _ = write!(story, " {} {} ({})", show(attempt.at), attempt.message, answer.unwrap_or_default());
    }
    story
}

/// The outcome of one message that was sent.
pub fn sending(book: &Book, message: usize, windows: &[Window]) -> String {
    let sent = book.messages[message].first_sent;
    let until = book.attempts.iter().rev().find(|a| a.message == message).map_or(sent, |a| a.at) + 4000;
    let story = format!("ref {} by {}", book.messages[message].key, book.name);
    story + &attempts(book, message) + &faults(windows, sent, until)
}

fn sender<'a>(room: &Room<'a>, by: &str, key: &str) -> Option<(&'a Book, usize)> {
    room.here
        .iter()
        .filter(|book| book.by == by)
        .find_map(|book| Some((*book, book.messages.iter().position(|m| &*m.key == key)?)))
}

fn attempts(book: &Book, message: usize) -> String {
    let mut story = String::new();
    for attempt in book.attempts.iter().filter(|a| a.message == message) {
        let connection = &book.connections[attempt.connection];
        let _ = write!(story, "\n    sent at {} on instance {}: ", show(attempt.at), connection.instance);
        let _ = match attempt.answer {
            Some((at, Answer::Receipt)) => write!(story, "receipt at {}", show(at)),
            Some((at, Answer::Refused)) => write!(story, "refused at {}", show(at)),
            None => match &connection.ended {
                Some((at, how)) => {
                    write!(story, "no answer; connection ended at {}: {how}", show(*at))
                }
                None => write!(story, "no answer"),
            },
        };
    }
    if let Some((at, id, instance)) = book.messages[message].receipt {
        let _ = write!(story, "\n    the receipt: {id} at {} on instance {instance}", show(at));
    }
    story
}

fn place(book: &Book, connection: &Connection) -> String {
    let since = connection.since.map_or("none".into(), |id| id.to_string());
    let welcome = connection.welcome.map_or("no welcome".into(), |at| format!("welcome at {}", show(at)));
    let ended = match &connection.ended {
        Some((at, how)) => format!("ended at {}: {how}", show(*at)),
        None => "to the end".into(),
    };
    let gap = if connection.gap { ", gap" } else { "" };
    format!(
        "{} on instance {} from {}, since={since}, {welcome}{gap}, {ended}",
        book.name,
        connection.instance,
        show(connection.opened)
    )
}

fn faults(windows: &[Window], from: At, until: At) -> String {
    let mut story = String::new();
    for window in windows.iter().filter(|w| w.withholds && w.from <= until && w.to.saturating_add(6000) >= from) {
        let instance = window.instance.map_or("all instances".into(), |instance| format!("instance {instance}"));
        let to = if window.to == At::MAX { "the end".into() } else { show(window.to) };
        let _ = write!(story, "\n    fault: {} ({instance}), {} to {to}", window.what, show(window.from));
    }
    story
}
