//! The part of Redis's wire format needed to find where one reply ends and the next begins. The proxy uses it to remove
//! single published messages from a connection that otherwise looks healthy.

/// The length of the first whole reply in `bytes`, or `None` if it is incomplete.
pub fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = || -> Option<i64> { std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse().ok() };
    match bytes[0] {
        // A string of this many bytes; -1 is nil.
        b'$' | b'=' | b'!' => match count()? {
            n if n < 0 => Some(line),
            n => {
                let end = line + n as usize + 2;
                (bytes.len() >= end).then_some(end)
            }
        },
        // This many replies in sequence.
        b'*' | b'>' | b'~' => several(bytes, line, count()?),
        b'%' => several(bytes, line, 2 * count()?),
        _ => Some(line),
    }
}

fn several(bytes: &[u8], from: usize, count: i64) -> Option<usize> {
    let mut end = from;
    for _ in 0..count {
        end += reply_len(bytes.get(end..).filter(|rest| !rest.is_empty())?)?;
    }
    Some(end)
}

/// Whether a whole reply is a published message (rather than, for example, the answer to SUBSCRIBE).
pub fn is_published(reply: &[u8]) -> bool {
    let kind = reply.split(|&b| b == b'\n').nth(2);
    matches!(reply.first(), Some(b'*' | b'>')) && kind == Some(b"message\r")
}
