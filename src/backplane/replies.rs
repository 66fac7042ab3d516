//! How Redis's answers are read. Other programs may have written under our keys, so nothing here takes a form for
//! granted: what is not understood is logged and counts as no answer.

use redis::{FromRedisValue, Value};
use serde_json::value::RawValue;

use super::Unavailable;
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

/// Whether this is a message as `say.lua` keeps it. Whatever else someone put into a log (by hand, with `XADD`) is
/// passed over: in a frame it would not be JSON.
pub fn is_body(body: &str) -> bool {
    body.starts_with(r#"{"name":"#) && serde_json::from_str::<&RawValue>(body).is_ok()
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
