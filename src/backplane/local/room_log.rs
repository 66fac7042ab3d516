//! The SQL of one room's log: adding and trimming messages, and recognizing a `ref`. Reading is in `pages.rs`.
//!
//! The functions need only a connection. Those that write are called within its transaction.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use crate::backplane::admin::Removal;
use crate::protocol::Id;
use crate::settings::Retention;

/// The most messages trimmed from a room at a time, so that a large excess does not hold up the thread.
pub const TRIM: usize = 1000;
/// The most messages trimmed with a batch because all rooms together take too many bytes.
const TRIM_FEW: usize = 16;
/// A bound after all messages; SQLite's integers are signed.
const END: Id = Id { ms: i64::MAX as u64, seq: i64::MAX as u64 };

/// A room's row in the table.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The row's number; 0 until the first message.
    number: i64,
    /// The newest id ever assigned.
    pub last: Id,
    messages: usize,
    bytes: usize,
    /// Whether the oldest messages have been trimmed.
    trimmed: bool,
}

/// A message to add.
pub struct Draft<'a> {
    pub by: &'a str,
    pub body: &'a str,
    /// As it is stored, see [`crate::protocol::stored_reference`].
    pub reference: Option<&'a str>,
    /// The current time, in Unix milliseconds.
    pub ms: u64,
    /// The current ten-minute period of service.
    pub period: u64,
}

/// The result of adding a message.
pub enum Kept {
    /// It was added with this id.
    New(Id),
    /// Its ref was known: the first message's id, and its body if still in the log.
    Before(Id, Option<String>),
}

impl Log {
    /// Loads a room's row, if there is one.
    pub fn load(conn: &Connection, name: &str) -> rusqlite::Result<Option<Log>> {
        conn.prepare_cached("SELECT id, last_ms, last_seq, messages, bytes, trimmed FROM rooms WHERE name = ?")?
            .query_row([name], Log::from_row)
            .optional()
    }

    /// Reads a row of the table of rooms, without its name.
    pub fn from_row(row: &Row<'_>) -> rusqlite::Result<Log> {
        Ok(Log {
            number: row.get(0)?,
            last: id(row, 1)?,
            messages: row.get(3)?,
            bytes: row.get(4)?,
            trimmed: row.get(5)?,
        })
    }

    /// The room's number in the file, 0 if it has none yet.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Whether the oldest messages have been trimmed.
    pub fn is_trimmed(&self) -> bool {
        self.trimmed
    }

    /// Whether no messages remain.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Adds a message, unless its ref is known. The room's row is written later, by [`Log::settle`].
    pub fn keep(&mut self, conn: &Connection, name: &str, draft: &Draft<'_>) -> rusqlite::Result<Kept> {
        if self.number == 0 {
            conn.prepare_cached("INSERT INTO rooms VALUES (NULL, ?, 0, 0, 0, 0, 0)")?.execute([name])?;
            self.number = conn.last_insert_rowid();
        }
        if let Some(reference) = draft.reference
            && let Some(first) = self.find(conn, draft, reference)?
        {
            let body = conn
                .prepare_cached("SELECT body FROM messages WHERE (room, ms, seq) = (?, ?, ?)")?
                .query_row(self.at(first), |row| row.get(0))
                .optional()?;
            return Ok(Kept::Before(first, body.flatten()));
        }
        let (ms, last) = (draft.ms, self.last);
        let id = if ms > last.ms { Id { ms, seq: 0 } } else { Id { seq: last.seq + 1, ..last } };
        let (ms, seq) = pair(id);
        conn.prepare_cached("INSERT INTO messages VALUES (?, ?, ?, ?)")?.execute(params![
            self.number,
            ms,
            seq,
            draft.body
        ])?;
        if let Some(reference) = draft.reference {
            conn.prepare_cached("INSERT INTO refs VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
                draft.period,
                self.number,
                draft.by,
                reference,
                ms,
                seq
            ])?;
        }
        self.last = id;
        self.messages += 1;
        self.bytes += draft.body.len();
        Ok(Kept::New(id))
    }

    /// Whether the draft's ref is known, so that it would add nothing.
    pub fn knows(&self, conn: &Connection, draft: &Draft<'_>) -> bool {
        draft.reference.is_some_and(|reference| matches!(self.find(conn, draft, reference), Ok(Some(_))))
    }

    fn find(&self, conn: &Connection, draft: &Draft<'_>, reference: &str) -> rusqlite::Result<Option<Id>> {
        conn.prepare_cached("SELECT ms, seq FROM refs WHERE period IN (?1, ?1 - 1) AND (room, by, ref) = (?2, ?3, ?4)")?
            .query_row(params![draft.period, self.number, draft.by, reference], |row| id(row, 0))
            .optional()
    }

    /// Ends a batch: trims the log to its limits in messages and bytes, and writes the row. While all rooms together take
    /// too many bytes, `trim_to` is the size of the largest; only a few messages are trimmed for it, because there may be
    /// many such rooms in a batch. Returns whether it took more than its own limit in bytes.
    pub fn settle(
        &mut self,
        conn: &Connection,
        retention: &Retention,
        trim_to: Option<usize>,
    ) -> rusqlite::Result<bool> {
        let was_large = self.bytes > retention.bytes;
        if self.has_too_many(retention) {
            self.trim(conn, retention, 0, TRIM)?;
        }
        let less = trim_to.map(|bytes| Retention { bytes, ..*retention });
        if let Some(less) = less.filter(|less| self.has_too_many(less)) {
            self.trim(conn, &less, 0, TRIM_FEW)?;
        }
        self.save(conn).map(|()| was_large)
    }

    /// Writes the row.
    pub fn save(&self, conn: &Connection) -> rusqlite::Result<()> {
        let (ms, seq) = pair(self.last);
        conn.prepare_cached(
            "UPDATE rooms SET last_ms = ?2, last_seq = ?3, messages = ?4, bytes = ?5, trimmed = ?6 WHERE id = ?1",
        )?
        .execute(params![self.number, ms, seq, self.messages, self.bytes, self.trimmed])
        .map(drop)
    }

    /// Deletes the row of a room of which nothing remains.
    pub fn remove(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached("DELETE FROM rooms WHERE id = ?")?.execute([self.number]).map(drop)
    }

    fn has_too_many(&self, retention: &Retention) -> bool {
        self.messages > retention.messages || self.bytes > retention.bytes
    }

    /// Whether the log exceeds its limits; `before` is in Unix milliseconds.
    pub fn is_over(&self, conn: &Connection, retention: &Retention, before: u64) -> rusqlite::Result<bool> {
        Ok(self.has_too_many(retention) || self.exists(conn, Id::default(), Id { ms: before, seq: 0 })?)
    }

    /// Deletes the oldest messages that exceed the limits or are older than `before`, at most this many.
    pub fn trim(&mut self, conn: &Connection, retention: &Retention, before: u64, most: usize) -> rusqlite::Result<()> {
        let mut oldest = conn.prepare_cached(
            "SELECT ms, seq, octet_length(body) FROM messages WHERE room = ? ORDER BY ms, seq LIMIT ?",
        )?;
        let mut rows = oldest.query(params![self.number, most])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let id = id(row, 0)?;
            if id.ms >= before && !self.has_too_many(retention) {
                break;
            }
            last = Some(id);
            let bytes: Option<usize> = row.get(2)?;
            // Deleting the row of a removed message loses nothing more.
            self.trimmed |= bytes.is_some();
            self.messages = self.messages.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes.unwrap_or_default());
        }
        let Some(last) = last else {
            // If there is nothing to delete although there is too much, the counts are wrong.
            if self.has_too_many(retention) {
                (self.messages, self.bytes) = (0, 0);
            }
            return Ok(());
        };
        conn.prepare_cached("DELETE FROM messages WHERE room = ? AND (ms, seq) <= (?, ?)")?
            .execute(self.at(last))
            .map(drop)
    }

    /// Removes messages for the admin API: their rows stay, without a body. The caller saves the room's row.
    pub fn blank(&mut self, conn: &Connection, removal: &Removal) -> rusqlite::Result<Vec<Id>> {
        let mut values: Vec<Value> = vec![self.number.into()];
        let condition = match removal {
            Removal::All => {
                // The log starts anew, so messages trimmed before no longer count as a gap.
                self.trimmed = false;
                ""
            }
            Removal::By(mark) => {
                // A body starts with its sender's mark.
                values.push(format!(r#"{{"by":"{mark}""#).into());
                "AND substr(body, 1, 24) = ?2"
            }
            Removal::One(id) => {
                values.extend([pair(*id).0.into(), pair(*id).1.into()]);
                "AND (ms, seq) = (?2, ?3)"
            }
        };
        let sql = format!(
            "SELECT ms, seq, octet_length(body) FROM messages
                           WHERE room = ?1 AND body IS NOT NULL {condition}"
        );
        let row = |row: &Row<'_>| Ok((id(row, 0)?, row.get::<_, usize>(2)?));
        let found: Vec<(Id, usize)> =
            conn.prepare(&sql)?.query_map(params_from_iter(values), row)?.collect::<rusqlite::Result<_>>()?;
        let mut blank = conn.prepare("UPDATE messages SET body = NULL WHERE (room, ms, seq) = (?, ?, ?)")?;
        for (id, bytes) in &found {
            blank.execute(self.at(*id))?;
            self.bytes = self.bytes.saturating_sub(*bytes);
        }
        Ok(found.into_iter().map(|(id, _)| id).collect())
    }

    /// Whether there are messages between two ids (exclusive).
    pub fn exists(&self, conn: &Connection, after: Id, before: Id) -> rusqlite::Result<bool> {
        let ((after_ms, after_seq), (before_ms, before_seq)) = (pair(after), pair(before));
        conn.prepare_cached(
            "SELECT 1 FROM messages
             WHERE room = ? AND (ms, seq) > (?, ?) AND (ms, seq) < (?, ?) AND body IS NOT NULL LIMIT 1",
        )?
        .exists(params![self.number, after_ms, after_seq, before_ms, before_seq])
    }

    /// The key of a message with this id.
    pub fn at(&self, id: Id) -> [i64; 3] {
        let (ms, seq) = pair(id);
        [self.number, ms, seq]
    }
}

/// The largest id before this time, in Unix milliseconds: an exclusive bound for the messages at or after it.
pub fn floor(ms: u64) -> Id {
    ms.checked_sub(1).map_or(Id::default(), |ms| Id { ms, seq: END.seq })
}

/// The given bound, or the end of the log.
pub fn or_end(before: Option<Id>) -> Id {
    before.unwrap_or(END)
}

/// Deletes refs from before the last period, and returns how many were deleted.
pub fn forget_refs(conn: &Connection, period: u64, count: usize) -> rusqlite::Result<usize> {
    conn.prepare_cached(
        "DELETE FROM refs WHERE (period, room, by, ref) IN
             (SELECT period, room, by, ref FROM refs WHERE period < ?1 - 1 LIMIT ?2)",
    )?
    .execute(params![period, count])
}

/// Reads an id from two columns.
pub fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<Id> {
    let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(Id { ms: number(column)?, seq: number(column + 1)? })
}

/// An id as two SQLite integers. Clients may send ids that are too large; no such message exists.
pub fn pair(id: Id) -> (i64, i64) {
    let id = id.min(END);
    (id.ms.cast_signed(), id.seq.min(END.seq).cast_signed())
}
