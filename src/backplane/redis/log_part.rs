//! Parts of a room's log, parsed from the replies to `Commands::read`.

use redis::Value;
use tungstenite::Bytes;

use super::replies::{not_understood, text};
use crate::backplane::{Page, Unavailable};
use crate::protocol::{Id, PAGE_BYTES, is_body};

/// Part of a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogPart {
    /// Whether the log has more messages.
    pub more: bool,
    /// The messages, in the order in which they were read.
    pub messages: Vec<(Id, String)>,
    /// The first and the last entry read, whether a message or not.
    pub start: Option<Id>,
    /// See `start`.
    pub end: Option<Id>,
    /// The number of entries that are not Bobbin's messages.
    pub skipped: usize,
    /// The size of the messages, in bytes.
    bytes: usize,
}

impl LogPart {
    /// The page made of a part that was read backwards.
    pub fn newest_last(mut self) -> Page {
        self.messages.reverse();
        Page { messages: self.messages, more: self.more }
    }

    /// The number of entries, messages or not.
    pub fn entries(&self) -> usize {
        self.messages.len() + self.skipped
    }

    /// Adds entries as `XRANGE` and `XREVRANGE` return them, up to `limit` in all and to [`PAGE_BYTES`], but at least one. Skips
    /// those that are not Bobbin's messages. Returns whether there was space for all; `more` is set if not.
    pub fn add(&mut self, entries: Value, limit: usize) -> Result<bool, Unavailable> {
        let Value::Array(entries) = entries else { return Err(not_understood(entries)) };
        for entry in entries {
            let (id, body) = self::entry(entry)?;
            let bytes = self.bytes + body.as_ref().map_or(0, String::len);
            self.more = self.entries() == limit || bytes > PAGE_BYTES && self.end.is_some();
            if self.more {
                return Ok(false);
            }
            self.bytes = bytes;
            self.start = self.start.or(Some(id));
            self.end = Some(id);
            match body {
                Some(body) => self.messages.push((id, body)),
                None => self.skipped += 1,
            }
        }
        Ok(true)
    }
}

/// Parses an entry of a log: its id, and the body if it is a message of Bobbin's.
fn entry(entry: Value) -> Result<(Id, Option<String>), Unavailable> {
    let Value::Array(parts) = entry else { return Err(not_understood(entry)) };
    let [id, fields] = <[Value; 2]>::try_from(parts).map_err(not_understood)?;
    let id: Id = text(id).unwrap_or_default().parse().map_err(not_understood)?;
    let body = match fields {
        Value::Array(fields) => <[Value; 2]>::try_from(fields).ok(),
        _ => None,
    };
    let body = body.filter(|[field, _]| *field == Value::BulkString(b"m".to_vec())).and_then(|[_, body]| text(body));
    Ok((id, body.filter(|body| is_body(body))))
}

/// What a `welcome` tells of the log.
#[derive(Debug, Clone, Default)]
pub struct Missed {
    /// The newest id in the log.
    pub newest: Id,
    /// Whether messages after `since` are no longer kept.
    pub gap: bool,
    /// Frames that announce removed messages.
    pub removed: Vec<Bytes>,
    /// The newest messages after `since`, newest first, and whether there are older ones.
    pub part: LogPart,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message_body;

    const BODY: &str = r#"{"by":"abcdefgh234567ab","name":"Ada","text":"hi"}"#;

    fn texts(texts: &[&str]) -> Value {
        Value::Array(texts.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn entries_of_others_are_passed_over() {
        let entry = |id: &str, fields: &[&str]| Value::Array(vec![Value::BulkString(id.into()), texts(fields)]);
        let part = |entries: Vec<Value>, limit| {
            let mut part = LogPart::default();
            part.add(Value::Array(entries), limit).map(|_| part)
        };
        let ours = |id| entry(id, &["m", BODY]);
        let foreign = [&["m", ""][..], &["n", BODY], &["m", BODY, "m", BODY], &["m"], &[]];
        let mut entries: Vec<_> = foreign.map(|fields| entry("2-0", fields)).into();
        entries.extend([Value::Array(vec![Value::BulkString("2-1".into()), Value::Nil]), ours("3-0")]);
        let read = part(entries, 9).expect("a part");
        assert_eq!((read.messages.len(), read.skipped, read.end, read.more), (1, 6, Some(Id { ms: 3, seq: 0 }), false));
        let invalid = Value::Array(vec![Value::BulkString("m".into()), Value::BulkString(vec![0xFF])]);
        let invalid = Value::Array(vec![Value::BulkString("1-0".into()), invalid]);
        assert_eq!(part(vec![invalid], 9).expect("a part").skipped, 1);
        assert!(part(vec![ours("x")], 9).is_err() && part(vec![Value::Nil], 9).is_err());
        let read = part(vec![ours("1-0"); 3], 2).expect("a part");
        assert_eq!((read.more, read.entries()), (true, 2));
    }

    #[test]
    fn a_part_of_a_log_is_limited_in_bytes() {
        let body = message_body("abcdefgh234567ab", "Ada", &"x".repeat(4096), None);
        let entry = Value::Array(vec![Value::BulkString("1-0".into()), texts(&["m", &body])]);
        let (mut part, fitting) = (LogPart::default(), PAGE_BYTES / body.len());
        assert_eq!(part.add(Value::Array(vec![entry.clone(); fitting]), fitting - 1), Ok(false));
        assert_eq!(part.add(Value::Array(vec![entry.clone()]), 500), Ok(true), "only what is taken counts");
        assert_eq!(part.add(Value::Array(vec![entry]), 500), Ok(false));
        assert_eq!((part.entries(), part.more), (fitting, true));
    }
}
