//! The SQL that concerns the logs of all rooms: counting them, and finding those to trim. `room_log.rs` has that of one.

use rusqlite::{Connection, Params, params};

use super::room_log::Log;

/// The number of rooms with a row.
pub fn count_rooms(conn: &Connection) -> rusqlite::Result<usize> {
    conn.query_row("SELECT count(*) FROM rooms", [], |row| row.get(0))
}

/// The next rooms in order of their numbers.
pub fn rooms_after(conn: &Connection, number: i64, count: usize) -> rusqlite::Result<Vec<(String, Log)>> {
    rooms(conn, "WHERE id > ? ORDER BY id LIMIT ?", params![number, count])
}

/// The sizes of all logs, in bytes.
pub fn sizes(conn: &Connection) -> rusqlite::Result<Vec<u64>> {
    conn.prepare_cached("SELECT bytes FROM rooms")?.query_map([], |row| row.get(0))?.collect()
}

/// The largest logs over this size.
pub fn largest(conn: &Connection, bytes: usize, count: usize) -> rusqlite::Result<Vec<(String, Log)>> {
    rooms(conn, "WHERE bytes > ? ORDER BY bytes DESC LIMIT ?", params![bytes, count])
}

/// The rooms that this clause selects, by name.
fn rooms(conn: &Connection, clause: &str, params: impl Params) -> rusqlite::Result<Vec<(String, Log)>> {
    let sql = format!("SELECT id, last_ms, last_seq, messages, bytes, trimmed, name FROM rooms {clause}");
    conn.prepare_cached(&sql)?.query_map(params, |row| Ok((row.get(6)?, Log::from_row(row)?)))?.collect()
}
