//! Pages of the logs, for welcomes and histories. They are read between batches, when everything published is in the
//! file.

use crossbeam_channel::Sender;
use rusqlite::{Connection, params};

use super::clock;
use super::room_log::{self, Log, id, pair};
use super::rooms::{LocalRoom, Rooms, complain};
use crate::backplane::admin::{REMOVED_TOLD, removed_ids};
use crate::backplane::{Arrival, JoinError, Page, Room, Seat, Span};
use crate::protocol::{Id, PAGE_BYTES, RESUME_MESSAGES, WELCOME_MESSAGES, WELCOME_NAMES};

/// The size of a `message` frame without its body, in bytes.
const FRAME_BYTES: usize = 90;

/// A page to read once the batch is committed.
pub enum Wanted {
    Arrival {
        seat: Seat,
        since: Option<Id>,
        /// Decided when the seat was taken: later joins of the same batch may have changed the room since.
        is_new_room: bool,
        reply: Sender<Result<Arrival, JoinError>>,
    },
    History(Room, Span, usize, Sender<Page>),
}

impl Rooms {
    /// Reads one page and answers.
    pub fn read_page(&mut self, wanted: Wanted) {
        // The receiver is gone only if the caller has timed out.
        match wanted {
            Wanted::Arrival { seat, since, is_new_room, reply } => {
                let arrival = self.arrival(&seat.room, since, is_new_room).map_err(|error| complain(&error).into());
                let is_read = arrival.is_ok();
                // A caller that has timed out releases the seat itself, and may already have taken it again.
                if reply.send(arrival).is_ok() && !is_read {
                    self.give_back(&seat);
                }
            }
            Wanted::History(room, span, limit, reply) => {
                if let Ok(page) = self.history(&room, span, limit).map_err(|error| complain(&error)) {
                    let _ = reply.send(page);
                }
            }
        }
    }

    fn arrival(&self, name: &Room, since: Option<Id>, is_new_room: bool) -> rusqlite::Result<Arrival> {
        let nobody = LocalRoom::new(Log::default());
        let (room, conn, floor) = (self.rooms.get(name).unwrap_or(&nobody), self.store.conn(), self.floor());
        let limit = if since.is_some() { RESUME_MESSAGES } else { WELCOME_MESSAGES };
        let mut names: Vec<String> = room.people.values().take(WELCOME_NAMES).map(|p| p.name.to_string()).collect();
        names.sort_unstable();
        let page = room.log.newest(conn, since.unwrap_or_default(), room_log::or_end(None), limit, floor)?;
        let last = match page.messages.last() {
            Some((id, _)) => *id,
            None => room.log.newest_id(conn, floor)?,
        };
        let removed = since.map_or(Ok(Vec::new()), |since| room.log.removed(conn, since))?;
        Ok(Arrival {
            participants: room.people.len() as u64,
            is_new_room,
            names,
            page,
            removed: removed_ids(&removed),
            last,
            gap: since.map_or(Ok(false), |since| room.log.has_gap(conn, since, floor))?,
            stamp: self.changes,
        })
    }

    fn history(&self, name: &Room, span: Span, limit: usize) -> rusqlite::Result<Page> {
        let (conn, floor) = (self.store.conn(), self.floor());
        let log = match self.rooms.get(name) {
            Some(room) => room.log.clone(),
            None => Log::load(conn, name)?.unwrap_or_default(),
        };
        match span {
            Span::Before(before) => log.newest(conn, floor, room_log::or_end(before), limit, floor),
            Span::After { after, before } => log.oldest(conn, after.max(floor), room_log::or_end(before), limit),
        }
    }

    /// Messages up to this id are too old to be shown.
    fn floor(&self) -> Id {
        room_log::floor(clock::show_from(self.limits.retention.life))
    }
}

impl Log {
    /// The newest messages between two ids (exclusive), oldest first, and whether there are older ones down to `floor`.
    pub fn newest(&self, conn: &Connection, after: Id, before: Id, limit: usize, floor: Id) -> rusqlite::Result<Page> {
        let (mut messages, _) = self.read(conn, "DESC", after.max(floor), before, limit)?;
        messages.reverse();
        let first = messages.first().map_or(before, |(id, _)| *id);
        Ok(Page { messages, more: self.exists(conn, floor, first)? })
    }

    /// The newest id in the log, not counting removed messages.
    pub fn newest_id(&self, conn: &Connection, floor: Id) -> rusqlite::Result<Id> {
        let (newest, _) = self.read(conn, "DESC", floor, room_log::or_end(None), 1)?;
        Ok(newest.first().map_or(Id::default(), |(id, _)| *id))
    }

    /// The oldest messages between two ids (exclusive), and whether there are more.
    pub fn oldest(&self, conn: &Connection, after: Id, before: Id, limit: usize) -> rusqlite::Result<Page> {
        let (messages, more) = self.read(conn, "ASC", after, before, limit)?;
        Ok(Page { messages, more })
    }

    fn read(
        &self,
        conn: &Connection,
        order: &str,
        after: Id,
        before: Id,
        limit: usize,
    ) -> rusqlite::Result<(Vec<(Id, String)>, bool)> {
        let mut statement = conn.prepare_cached(&format!(
            "SELECT ms, seq, body FROM messages
             WHERE room = ? AND (ms, seq) > (?, ?) AND (ms, seq) < (?, ?) AND body IS NOT NULL
             ORDER BY ms {order}, seq {order}"
        ))?;
        let ((after_ms, after_seq), (before_ms, before_seq)) = (pair(after), pair(before));
        let mut rows = statement.query(params![self.number(), after_ms, after_seq, before_ms, before_seq])?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let body: String = row.get(2)?;
            bytes += body.len() + FRAME_BYTES;
            if found.len() == limit || (bytes > PAGE_BYTES && !found.is_empty()) {
                return Ok((found, true));
            }
            found.push((id(row, 0)?, body));
        }
        Ok((found, false))
    }

    /// The ids of the newest removed messages up to this id whose rows are still there.
    pub fn removed(&self, conn: &Connection, upto: Id) -> rusqlite::Result<Vec<Id>> {
        let ((ms, seq), most) = (pair(upto), REMOVED_TOLD);
        conn.prepare_cached(
            "SELECT ms, seq FROM messages INDEXED BY removed
             WHERE room = ? AND (ms, seq) <= (?, ?) AND body IS NULL ORDER BY ms DESC, seq DESC LIMIT ?",
        )?
        .query_map(params![self.number(), ms, seq, most], |row| id(row, 0))?
        .collect()
    }

    /// Whether messages after `since` are no longer kept: `since` itself is not, and it is not the newest id. A message
    /// removed through the admin API still counts as kept.
    pub fn has_gap(&self, conn: &Connection, since: Id, floor: Id) -> rusqlite::Result<bool> {
        if since == self.last {
            return Ok(false);
        }
        if since == Id::default() {
            return Ok(self.is_trimmed() || self.exists(conn, since, floor)?);
        }
        let mut itself = conn.prepare_cached("SELECT 1 FROM messages WHERE (room, ms, seq) = (?, ?, ?)")?;
        Ok(since <= floor || !itself.exists(self.at(since))?)
    }
}
