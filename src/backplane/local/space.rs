//! The limit on what all rooms take together: whether it is exceeded, and to which size the largest logs are then trimmed.

use rusqlite::Connection;

use super::{all_logs, file};
use crate::backplane::storage;

/// The database may exceed the limit on its size by one part in this many; beyond that no messages are added. All else is
/// still written, so that trimming can go on: on a full disk it could not even start.
const EXCESS: u64 = 4;
/// If the limit is exceeded by one part in this many although logs are being trimmed, the size to trim them to is
/// determined again.
const EXCESS_WHILE_TRIMMED: u64 = 8;
/// Of the limit, the part that logs keep even if other data takes the rest. Little, because all of it is Bobbin's.
const LOGS_PART: u64 = 8;
/// The space of the largest message with its ref, in bytes, and the part of the limit after which the space is measured.
const MESSAGE: u64 = 32 * 1024;
const MEASURE_AFTER: u64 = 32;
/// Of the limit, how much more is written before logs are measured again if there was nothing to trim.
const TRIM_AGAIN: u64 = 32;

/// The space of all rooms.
pub struct Space {
    /// The most bytes that they may take together; `None` if unlimited.
    pub most: Option<u64>,
    /// The bytes in use.
    used: u64,
    /// Messages added since `used` was read.
    messages: u64,
    /// The bytes in use beyond which no messages are added.
    full_from: u64,
    /// The size to which larger logs are trimmed, while all rooms together take too many bytes.
    pub trim_to: Option<usize>,
    /// The bytes in use from which on logs are to be trimmed at once.
    trim_from: u64,
}

impl Space {
    /// The limit in bytes; `None` is unlimited. If the database takes more already, because the limit has been lowered,
    /// messages are still added while it is trimmed.
    pub fn new(most: Option<u64>, conn: &Connection) -> Space {
        let used = file::used(conn).unwrap_or_default();
        Space {
            most,
            used,
            messages: 0,
            full_from: most.map_or(u64::MAX, |most| most.max(used).saturating_add(most / EXCESS)),
            trim_to: None,
            trim_from: most.unwrap_or(u64::MAX),
        }
    }

    /// Counts new messages, and reads how many bytes are in use if these may be many more than before. Not for each message,
    /// because that takes as long as to add it.
    pub fn grow(&mut self, messages: usize, conn: &Connection) {
        self.messages += messages as u64;
        if self.most.is_some_and(|most| self.messages * MESSAGE > most / MEASURE_AFTER) {
            self.measure(conn);
        }
    }

    fn measure(&mut self, conn: &Connection) {
        self.used = file::used(conn).unwrap_or_default();
        self.messages = 0;
    }

    /// Whether no more messages are to be added until something has been trimmed.
    pub fn is_full(&self) -> bool {
        self.used > self.full_from
    }

    /// Whether so much has been written since the last check that logs are to be trimmed now.
    pub fn is_short(&self) -> bool {
        self.used > self.trim_from
    }

    /// If all rooms together take too many bytes, sets the size to which the largest logs are trimmed from now on, and
    /// returns true. It is in force until no log is larger.
    pub fn check(&mut self, conn: &Connection) -> bool {
        let Some(most) = self.most else { return false };
        self.measure(conn);
        let used = self.used;
        self.trim_from = most;
        if used <= most || (self.trim_to.is_some() && used <= most.saturating_add(most / EXCESS_WHILE_TRIMMED)) {
            return false;
        }
        let sizes = all_logs::sizes(conn).unwrap_or_default();
        self.trim_to = storage::trim_to(sizes, used, most, most / LOGS_PART).map(|size| size as usize);
        if self.trim_to.is_none() {
            self.trim_from = used + most / TRIM_AGAIN;
        }
        self.warn(most);
        self.trim_to.is_some()
    }

    fn warn(&self, most: u64) {
        match self.trim_to {
            Some(size) => log::warn!(
                "all rooms together take over {most} bytes (STORAGE_BYTES): logs are trimmed to {size} bytes each"
            ),
            None => log::warn!("all rooms together take over {most} bytes (STORAGE_BYTES), but little of that is logs"),
        }
    }
}
