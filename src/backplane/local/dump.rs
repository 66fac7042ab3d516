//! Reads a whole data file, for `bobbin --import`.

use std::path::Path;

use rusqlite::{Connection, params};

use super::admin;
use super::all_logs::rooms_after;
use super::data_error::DataError;
use super::file::{self, DataFile};
use super::room_log::{Log, floor, id, pair};
use crate::backplane::admin::Ban;
use crate::protocol::Id;

/// A data file, locked against servers while it is read.
pub struct Dump {
    conn: Connection,
    _file: Option<DataFile>,
}

/// A room with messages.
pub struct DumpedRoom {
    /// Its name.
    pub name: String,
    /// The newest id it ever assigned.
    pub last: Id,
    /// Whether its oldest messages have been trimmed.
    pub is_trimmed: bool,
    number: i64,
}

impl Dump {
    /// Opens an existing file.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn open(path: &Path) -> Result<Dump, DataError> {
        if !path.is_file() {
            return Err(DataError::Unusable(format!("{}: no such file", path.display())));
        }
        let (conn, file) = file::open(Some(path))?;
        Ok(Dump { conn, _file: file })
    }

    /// All rooms with messages.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn rooms(&self) -> Result<Vec<DumpedRoom>, DataError> {
        let rooms = rooms_after(&self.conn, 0, usize::MAX >> 1)?.into_iter().filter(|(_, log)| !log.is_empty());
        let dumped = |(name, log): (String, Log)| DumpedRoom {
            name,
            last: log.last,
            is_trimmed: log.is_trimmed(),
            number: log.number(),
        };
        Ok(rooms.map(dumped).collect())
    }

    /// The messages of a room that follow `after`, oldest first, none older than `from` in Unix milliseconds.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn messages(
        &self,
        room: &DumpedRoom,
        after: Id,
        from: u64,
        count: usize,
    ) -> Result<Vec<(Id, String)>, DataError> {
        let (ms, seq) = pair(after.max(floor(from)));
        let sql = "SELECT ms, seq, body FROM messages WHERE room = ? AND (ms, seq) > (?, ?) AND body IS NOT NULL
                   ORDER BY ms, seq LIMIT ?";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map(params![room.number, ms, seq, count], |row| Ok((id(row, 0)?, row.get(2)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The refs remembered for a room: mark, ref, and the message's id.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn refs(&self, room: &DumpedRoom) -> Result<Vec<(String, String, Id)>, DataError> {
        let mut statement = self.conn.prepare_cached("SELECT by, ref, ms, seq FROM refs WHERE room = ?")?;
        let rows = statement.query_map([room.number], |row| Ok((row.get(0)?, row.get(1)?, id(row, 2)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The bans in force.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn bans(&self) -> Result<Vec<Ban>, DataError> {
        Ok(admin::read_bans(&self.conn)?)
    }
}
