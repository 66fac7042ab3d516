//! A message: its id, and its body, which is the part the sender decides and the log keeps.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::json;
use super::name::{clean_text, is_clean_name, is_mark, is_reference};

/// A message's id: a Redis stream entry id, milliseconds and a sequence number. Ids order the messages of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Id {
    /// Unix time in milliseconds, by Redis's clock if there is one.
    pub ms: u64,
    /// Distinguishes messages of the same millisecond.
    pub seq: u64,
}

impl Id {
    /// Time since the id was assigned, by this machine's clock; zero if that clock is behind.
    pub fn age(self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_millis(self.ms))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Id, String> {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        let id = text.split_once('-').and_then(|(ms, seq)| Some(Id { ms: digits(ms)?, seq: digits(seq)? }));
        id.ok_or_else(|| "an id looks like 1732412345678-0".to_owned())
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A message's body: the JSON object that the log keeps. The rest of the frame is derived from the id, see
/// [`message_json`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    by: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(borrow, rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<Cow<'a, str>>,
}

/// The body made from values that have been checked already.
pub fn message_body(by: &str, name: &str, text: &str, reference: Option<&str>) -> String {
    json(&Body { by: by.into(), name: name.into(), text: text.into(), reference: reference.map(Cow::from) })
}

/// Whether this is a body exactly as [`message_body`] writes it. Other programs can write to a log or a channel; what
/// they write is never sent to a client.
pub fn is_body(text: &str) -> bool {
    let Ok(body) = serde_json::from_str::<Body<'_>>(text) else { return false };
    is_mark(&body.by)
        && is_clean_name(&body.name)
        && clean_text(&body.text).is_some_and(|text| text == body.text)
        && body.reference.as_deref().is_none_or(is_reference)
        && json(&body) == text
}

/// A whole `message` frame: the id, the time taken from it, and a body made by [`message_body`].
pub fn message_json(id: Id, body: &str) -> String {
    let fields = body.strip_prefix('{').unwrap_or("}");
    format!(r#"{{"type":"message","id":"{id}","at":{},{fields}"#, id.ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: &str = "abcdefgh234567ab";

    #[test]
    fn ids_have_a_text_form_and_an_order() {
        assert_eq!("12-3".parse(), Ok(Id { ms: 12, seq: 3 }));
        for wrong in ["", "12", "12-", "-3", "+1-0", "a-b", "99999999999999999999-0", "1-2-3"] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong:?}");
        }
        assert!(Id { ms: 9, seq: 10 } > Id { ms: 9, seq: 9 } && Id { ms: 10, seq: 0 } > Id { ms: 9, seq: 10 });
    }

    #[test]
    fn a_message_is_its_body_and_its_id() {
        let body = message_body(BY, "Ada", "a \"b\"", Some("r1"));
        assert_eq!(
            message_json(Id { ms: 5, seq: 1 }, &body),
            r#"{"type":"message","id":"5-1","at":5,"by":"abcdefgh234567ab","name":"Ada","text":"a \"b\"","ref":"r1"}"#
        );
        assert_eq!(message_body(BY, "Ada", "hi", None), r#"{"by":"abcdefgh234567ab","name":"Ada","text":"hi"}"#);
    }

    #[test]
    fn only_our_own_bodies_are_bodies() {
        assert!(is_body(&message_body(BY, "Ada", "a\nb \u{1F600} \"", Some("r"))));
        assert!(is_body(&message_body(BY, "Ada", "hi", None)));
        let with = |fields: &str| format!(r#"{{"by":"abcdefgh234567ab","name":"Ada",{fields}}}"#);
        assert!(is_body(&with(r#""text":"hi""#)));
        for wrong in [
            with(r#""text":["hi"]"#),
            with(r#""text":"hi","x":[[[[[[]]]]]]"#),
            with(r#""text":"hi","ref":null"#),
            with(r#""text":"hi","ref":7"#),
            with(r#""text":"hi","text":"ho""#),
            with(r#""text":"""#),
            with(r#""text": "hi""#),
            with(&format!(r#""text":"{}""#, "x".repeat(4097))),
            r#"{"by":"ABCDEFGH234567AB","name":"Ada","text":"hi"}"#.to_owned(),
            r#"{"by":"abcdefgh234567ab","name":"A\u202eda","text":"hi"}"#.to_owned(),
            r#"{"name":"Ada","text":"hi"}"#.to_owned(),
            String::new(),
        ] {
            assert!(!is_body(&wrong), "{wrong}");
        }
    }
}
