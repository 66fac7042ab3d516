//! How Redis's answers, and what is published, are read. Other programs may have written under our keys, so nothing
//! here takes a form for granted: what is not understood is logged and counts as no answer.

use redis::{FromRedisValue, Value};

use crate::backplane::{Change, Unavailable};
use crate::protocol::Id;

/// The entries that `XRANGE` or `XREVRANGE` answered, in its order.
pub fn entries(value: Value) -> Result<Vec<(Id, String)>, Unavailable> {
    let raw: Vec<(String, Vec<String>)> = from_value(value)?;
    raw.into_iter()
        .map(|(id, mut fields)| {
            let id = id.parse().map_err(not_understood)?;
            Ok((id, if fields.len() == 2 { fields.swap_remove(1) } else { String::new() }))
        })
        .collect()
}

/// When it was, and the shown names of all who were in the room: the answer of `roster.lua`.
pub fn people(value: Value) -> Result<(u64, Vec<String>), Unavailable> {
    let reply: Vec<String> = from_value(value)?;
    let [stamp, names @ ..] = reply.as_slice() else { return Err(not_understood(&reply)) };
    Ok((stamp.parse().map_err(not_understood)?, names.to_vec()))
}

/// An answer as a Rust value.
pub fn from_value<T: FromRedisValue>(value: Value) -> Result<T, Unavailable> {
    T::from_redis_value(value).map_err(not_understood)
}

/// An answer that is not what the script promises: another program wrote under our keys.
pub fn not_understood(what: impl std::fmt::Debug) -> Unavailable {
    log::warn!("redis: an answer was not understood: {what:?}");
    Unavailable
}

/// `stamp participants session`, then the names that joined, then those that left, each line parted by tabs.
pub fn change(text: &str, task: &str) -> Option<Change> {
    let mut lines = text.split('\n');
    let mut head = lines.next()?.split(' ');
    let mut names = || -> Option<Vec<String>> {
        Some(lines.next()?.split('\t').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    };
    Some(Change {
        stamp: head.next()?.parse().ok()?,
        participants: head.next()?.parse().ok()?,
        about: own_session(head.next()?, task),
        joined: names()?,
        left: names()?,
    })
}

/// The number of a session known as `task/number`, if it is of this task.
pub fn own_session(session: &str, task: &str) -> Option<u64> {
    session.strip_prefix(task)?.strip_prefix('/')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_parsed_as_the_scripts_write_them() {
        let parsed = change("1732412345678000001 3 t1/7\nAda\tBob Lee\n", "t1").expect("well-formed");
        assert_eq!(parsed.joined, ["Ada", "Bob Lee"]);
        assert!(parsed.left.is_empty());
        assert_eq!((parsed.participants, parsed.about), (3, Some(7)));
        assert_eq!(change("5 0 t2/7\n\nAda", "t1").expect("well-formed").about, None);
        assert!(change("x 0 -\n\n", "t1").is_none());
        assert!(change("5 0 -", "t1").is_none());
    }

    #[test]
    fn sessions_of_other_tasks_are_not_ours() {
        assert_eq!(own_session("t1/12", "t1"), Some(12));
        assert_eq!(own_session("t12/1", "t1"), None);
        assert_eq!(own_session("-", "t1"), None);
    }
}
