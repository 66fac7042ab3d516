//! A cache of log reads for `welcome`. When hundreds of clients join or rejoin a room at once, one read serves all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::log_part::Missed;
use crate::backplane::{Room, Unavailable};
use crate::protocol::Id;

/// How long a read is reused. Messages that Redis trims meanwhile may still be sent for this long.
const LIFE: Duration = Duration::from_secs(1);
/// The most cached reads, each with up to 256 KiB of messages. Further reads are not cached.
const MOST: usize = 16;

/// Cached reads, by room and `since`. Those of a room are dropped when one of its messages is removed, and when this instance
/// unsubscribes from the room, because it would then miss removals.
#[derive(Default)]
pub struct LogCache {
    reads: Mutex<BTreeMap<(Room, Option<Id>), Read>>,
}

struct Read {
    began: Instant,
    /// Empty during the read, and if it failed.
    missed: Arc<OnceLock<Missed>>,
}

impl LogCache {
    /// The messages after `since` for a `welcome`. Calls `read` if they are not cached, or if the log did not end with `newest`
    /// when they were read: an import may have replaced it.
    pub fn get_or_read(
        &self,
        room: &Room,
        since: Option<Id>,
        newest: Id,
        read: impl FnOnce() -> Result<Missed, Unavailable>,
    ) -> Result<Missed, Unavailable> {
        let (key, began) = ((room.clone(), since), Instant::now());
        let mut reads = self.fresh(began);
        let found = reads.get(&key).map(|read| read.missed.clone());
        if let Some(missed) = found.as_ref().and_then(|found| found.get()).filter(|missed| missed.newest == newest) {
            drop(reads);
            return Ok(missed.clone());
        }
        // During another thread's read, this one is not cached.
        let keep = found.map_or(reads.len() < MOST, |found| found.get().is_some());
        let own = keep.then(Arc::<OnceLock<Missed>>::default);
        if let Some(own) = &own {
            reads.insert(key, Read { began, missed: own.clone() });
        }
        drop(reads);
        let missed = read()?;
        // Invisible if the entry has been dropped meanwhile.
        if let Some(own) = own {
            let _ = own.set(missed.clone());
        }
        Ok(missed)
    }

    /// Drops expired reads.
    pub fn drop_expired(&self) {
        drop(self.fresh(Instant::now()));
    }

    /// Drops the reads of a room.
    pub fn drop_room(&self, room: &str) {
        self.fresh(Instant::now()).retain(|(of, _), _| **of != *room);
    }

    /// Drops all reads: the connection may now lead to another server.
    pub fn clear(&self) {
        self.fresh(Instant::now()).clear();
    }

    /// The reads that have not expired.
    fn fresh(&self, now: Instant) -> MutexGuard<'_, BTreeMap<(Room, Option<Id>), Read>> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.retain(|_, read| now.saturating_duration_since(read.began) < LIFE);
        reads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> Id {
        Id { ms, seq: 0 }
    }

    fn up_to(newest: u64) -> Result<Missed, Unavailable> {
        Ok(Missed { newest: id(newest), ..Missed::default() })
    }

    /// The newest id returned if the log's is `expected`, and `then` when it is read.
    fn newest(cache: &LogCache, room: &str, since: Option<u64>, expected: u64, then: u64) -> u64 {
        let missed = cache.get_or_read(&room.into(), since.map(id), id(expected), || up_to(then));
        missed.expect("it is read").newest.ms
    }

    #[test]
    fn a_read_is_reused_until_the_log_changes() {
        let cache = LogCache::default();
        assert_eq!(newest(&cache, "tea", None, 5, 6), 6);
        assert_eq!(newest(&cache, "tea", None, 6, 7), 6);
        assert_eq!(newest(&cache, "tea", Some(1), 6, 8), 8);
        assert_eq!(newest(&cache, "pub", None, 6, 9), 9);
        assert_eq!(newest(&cache, "tea", None, 7, 10), 10, "there is a newer message");
        assert_eq!(newest(&cache, "tea", None, 10, 11), 10);
        cache.drop_room("tea");
        assert_eq!([newest(&cache, "tea", None, 10, 12), newest(&cache, "pub", None, 9, 12)], [12, 9]);
        cache.clear();
        assert_eq!(newest(&cache, "pub", None, 9, 3), 3);
        assert_eq!(newest(&cache, "pub", None, 2, 14), 14, "it was replaced by an older log");
    }

    #[test]
    fn a_read_dropped_while_under_way_is_not_cached() {
        let cache = LogCache::default();
        let outdated = cache.get_or_read(&"tea".into(), None, id(1), || {
            assert_eq!(newest(&cache, "tea", None, 1, 2), 2, "it does not wait for the first read");
            cache.drop_room("tea");
            up_to(3)
        });
        assert_eq!(outdated.expect("it is read").newest, id(3));
        assert_eq!(newest(&cache, "tea", None, 3, 4), 4);
    }

    #[test]
    fn few_reads_are_cached_and_not_for_long() {
        let cache = LogCache::default();
        (0..2 * MOST as u64).for_each(|n| _ = newest(&cache, &format!("room-{n}"), None, 1, 2));
        assert_eq!(cache.reads.lock().expect("no panic").len(), MOST);
        drop(cache.fresh(Instant::now() + LIFE));
        assert_eq!(newest(&cache, "room-0", None, 2, 3), 3);
        assert!(cache.get_or_read(&"pub".into(), None, id(1), || Err(Unavailable)).is_err());
        assert_eq!(newest(&cache, "pub", None, 1, 4), 4);
    }
}
