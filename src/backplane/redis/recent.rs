//! What was read from logs within the last second: when hundreds join a room at once, or come back to it, one read serves
//! them all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::log_part::Missed;
use crate::backplane::{Room, Unavailable};
use crate::protocol::Id;

/// How long a read is of use: so briefly that what Redis trims meanwhile makes no difference.
const LIFE: Duration = Duration::from_secs(1);
/// The most reads kept, each with up to 256 KiB of messages.
const MOST: usize = 16;

/// The recent reads. Those of a room are forgotten once one of its messages is removed, and once this instance is no longer
/// subscribed to it, because it would not hear of that.
#[derive(Default)]
pub struct Recent {
    reads: Mutex<BTreeMap<(Room, Option<Id>), Read>>,
}

struct Read {
    began: Instant,
    /// Empty while it is under way, and if it failed.
    missed: Arc<OnceLock<Missed>>,
}

impl Recent {
    /// What is in the log after `since`, as far as a `welcome` tells. Calls `read` if that was not read recently, or if the log
    /// did not end with `newest` then: it may have been replaced, by an import for example.
    pub fn or_read(
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
        // While another one is under way, this one is not kept.
        let keep = found.map_or(reads.len() < MOST, |found| found.get().is_some());
        let own = keep.then(Arc::<OnceLock<Missed>>::default);
        if let Some(own) = &own {
            reads.insert(key, Read { began, missed: own.clone() });
        }
        drop(reads);
        let missed = read()?;
        // Nobody sees it if it has been forgotten meanwhile.
        own.map(|own| own.set(missed.clone()));
        Ok(missed)
    }

    /// Forgets what is too old.
    pub fn forget_old(&self) {
        drop(self.fresh(Instant::now()));
    }

    /// Forgets what was read of a room.
    pub fn forget_room(&self, room: &str) {
        self.fresh(Instant::now()).retain(|(of, _), _| **of != *room);
    }

    /// Forgets everything: the server may be another one now.
    pub fn forget_all(&self) {
        self.fresh(Instant::now()).clear();
    }

    /// The reads, without those that are too old.
    fn fresh(&self, now: Instant) -> MutexGuard<'_, BTreeMap<(Room, Option<Id>), Read>> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.retain(|_, read| now.saturating_duration_since(read.began) < LIFE);
        reads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::redis::log_part::LogPart;

    fn id(ms: u64) -> Id {
        Id { ms, seq: 0 }
    }

    fn up_to(newest: u64) -> Result<Missed, Unavailable> {
        Ok(Missed { newest: id(newest), gap: false, part: LogPart::default() })
    }

    /// The newest id that a welcome tells if the log's is `newest`, and `then` once it is read.
    fn told(recent: &Recent, room: &str, since: Option<u64>, newest: u64, then: u64) -> u64 {
        let missed = recent.or_read(&room.into(), since.map(id), id(newest), || up_to(then));
        missed.expect("it is read").newest.ms
    }

    #[test]
    fn one_read_serves_those_who_ask_the_same_until_there_is_more() {
        let recent = Recent::default();
        assert_eq!(told(&recent, "tea", None, 5, 6), 6);
        assert_eq!(told(&recent, "tea", None, 6, 7), 6);
        assert_eq!(told(&recent, "tea", Some(1), 6, 8), 8);
        assert_eq!(told(&recent, "pub", None, 6, 9), 9);
        assert_eq!(told(&recent, "tea", None, 7, 10), 10, "there is a newer message");
        assert_eq!(told(&recent, "tea", None, 10, 11), 10);
        recent.forget_room("tea");
        assert_eq!([told(&recent, "tea", None, 10, 12), told(&recent, "pub", None, 9, 12)], [12, 9]);
        recent.forget_all();
        assert_eq!(told(&recent, "pub", None, 9, 3), 3);
        assert_eq!(told(&recent, "pub", None, 2, 14), 14, "it was replaced by an older log");
    }

    #[test]
    fn what_is_forgotten_while_it_is_read_serves_nobody() {
        let recent = Recent::default();
        let outdated = recent.or_read(&"tea".into(), None, id(1), || {
            assert_eq!(told(&recent, "tea", None, 1, 2), 2, "nobody waits for another's read");
            recent.forget_room("tea");
            up_to(3)
        });
        assert_eq!(outdated.expect("it is read").newest, id(3));
        assert_eq!(told(&recent, "tea", None, 3, 4), 4);
    }

    #[test]
    fn few_are_kept_and_not_for_long() {
        let recent = Recent::default();
        (0..2 * MOST as u64).for_each(|n| _ = told(&recent, &format!("room-{n}"), None, 1, 2));
        assert_eq!(recent.reads.lock().expect("no panic").len(), MOST);
        drop(recent.fresh(Instant::now() + LIFE));
        assert_eq!(told(&recent, "room-0", None, 2, 3), 3);
        assert!(recent.or_read(&"pub".into(), None, id(1), || Err(Unavailable)).is_err());
        assert_eq!(told(&recent, "pub", None, 1, 4), 4);
    }
}
