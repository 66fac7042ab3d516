//! Just enough of Redis's wire format to find where one reply ends and the next begins. The proxy needs it to take
//! single published messages out of a stream whose connection otherwise looks healthy.

/// The length of the first whole reply in `bytes`, or `None` while it is not complete.
pub fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = || -> Option<i64> { std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse().ok() };
    match bytes[0] {
        // A string of so many bytes; -1 is nil.
        b'$' | b'=' | b'!' => match count()? {
            n if n < 0 => Some(line),
            n => {
                let end = line + n as usize + 2;
                (bytes.len() >= end).then_some(end)
            }
        },
        // So many replies after one another.
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

/// Whether a whole reply is a message that somebody published (and not, say, the answer to SUBSCRIBE).
pub fn is_published(reply: &[u8]) -> bool {
    let kind = reply.split(|&b| b == b'\n').nth(2);
    matches!(reply.first(), Some(b'*' | b'>')) && kind == Some(b"message\r")
}
