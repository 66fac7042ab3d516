//! Assigns sessions to lanes.
//!
//! A message wakes every lane with members of its room, and waking a thread costs as much as several sends. So the
//! sessions of a small room share one lane. Beyond `ONE_LANE` members, new sessions are spread over all lanes. Sessions
//! never move: a room that grew has its first members on its first lane, and one that shrinks stays spread until it is
//! empty.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backplane::{Room, SessionId};

/// Members of a room that share one lane. Writing to this many sockets takes 0.2 ms.
const ONE_LANE: u32 = 32;
/// The most lanes: a room's lanes are a 64-bit set.
pub const MAX_LANES: usize = 64;

/// The number of sessions per lane, in all and per room. Locked only for look-ups.
pub struct Placement {
    lanes: usize,
    counts: Mutex<Counts>,
    /// The next session number. Modulo the number of lanes it gives the session's lane.
    next: AtomicU64,
}

/// Sessions per lane.
struct Counts {
    of_room: HashMap<Room, Vec<u32>>,
    all: Vec<u32>,
}

/// A session's number and its place on a lane, given up when dropped.
pub struct Berth {
    /// The session.
    pub session: SessionId,
    room: Room,
    placement: Arc<Placement>,
}

/// The lanes of a room, as an iterator.
pub struct RoomLanes {
    /// One bit per lane not yet returned.
    bits: u64,
    /// Whether the room is small enough for its members to share a lane.
    pub is_small: bool,
}

impl Iterator for RoomLanes {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lane = (self.bits != 0).then(|| self.bits.trailing_zeros() as usize);
        self.bits &= self.bits.wrapping_sub(1);
        lane
    }
}

impl Placement {
    /// `lanes` is 1 to [`MAX_LANES`].
    pub fn new(lanes: usize) -> Arc<Placement> {
        let counts = Counts { of_room: HashMap::new(), all: vec![0; lanes] };
        Arc::new(Placement { lanes, counts: Mutex::new(counts), next: AtomicU64::new(0) })
    }

    /// Assigns a number and a lane to a session.
    pub fn assign(self: &Arc<Placement>, room: &Room) -> Berth {
        let number = self.next.fetch_add(1, Relaxed);
        let mut counts = self.counts();
        let Counts { of_room, all } = &mut *counts;
        let members = of_room.entry(room.clone()).or_insert_with(|| vec![0; self.lanes]);
        let lanes = 0..self.lanes;
        let lane = match members.iter().sum() {
            0 => lanes.min_by_key(|lane| all[*lane]),
            1..ONE_LANE => lanes.max_by_key(|lane| members[*lane]),
            ONE_LANE.. => lanes.min_by_key(|lane| members[*lane]),
        }
        .unwrap_or(0);
        members[lane] += 1;
        all[lane] += 1;
        let session = number * self.lanes as u64 + lane as u64;
        Berth { session, room: room.clone(), placement: self.clone() }
    }

    /// The lane of a session.
    pub fn lane_of(&self, session: SessionId) -> usize {
        session as usize % self.lanes
    }

    /// The lanes with sessions of this room.
    pub fn lanes_of(&self, room: &Room) -> RoomLanes {
        let counts = self.counts();
        let members = counts.of_room.get(room).map_or(&[][..], Vec::as_slice);
        let bits = members.iter().enumerate().fold(0, |lanes, (lane, count)| lanes | u64::from(*count > 0) << lane);
        RoomLanes { bits, is_small: members.iter().sum::<u32>() <= ONE_LANE }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let lane = self.placement.lane_of(self.session);
        let mut counts = self.placement.counts();
        counts.all[lane] -= 1;
        if let Some(members) = counts.of_room.get_mut(&self.room) {
            members[lane] -= 1;
            if members.iter().all(|count| *count == 0) {
                counts.of_room.remove(&self.room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_room_has_one_lane_and_a_large_one_all() {
        let placement = Placement::new(4);
        let (tea, coffee) = (Room::from("tea"), Room::from("coffee"));
        let few: Vec<Berth> = (0..ONE_LANE).map(|_| placement.assign(&tea)).collect();
        assert!(placement.lanes_of(&tea).is_small && placement.lanes_of(&tea).count() == 1);
        let one = placement.assign(&coffee);
        let many: Vec<Berth> = (0..1000).map(|_| placement.assign(&tea)).collect();
        assert!(!placement.lanes_of(&tea).is_small && placement.lanes_of(&tea).eq([0, 1, 2, 3]));
        let on = |lane| few.iter().chain(&many).filter(|berth| placement.lane_of(berth.session) == lane).count();
        assert_eq!([on(0), on(1), on(2), on(3)].iter().filter(|count| (257..=259).contains(*count)).count(), 4);
        assert!(placement.lanes_of(&coffee).eq([placement.lane_of(one.session)]));
        assert!(few.windows(2).all(|pair| pair[0].session < pair[1].session), "numbers grow");
        drop((few, many));
        assert_eq!(
            (placement.lanes_of(&tea).count(), placement.counts().of_room.len()),
            (0, 1),
            "an empty room leaves nothing"
        );
    }

    #[test]
    fn rooms_of_any_size_fill_all_lanes_alike() {
        for size in 1..=ONE_LANE {
            let placement = Placement::new(2);
            let rooms = (0..20).map(|room| Room::from(format!("room-{room}").as_str()));
            let berths: Vec<Berth> =
                rooms.flat_map(|room| (0..size).map(|_| placement.assign(&room)).collect::<Vec<_>>()).collect();
            assert_eq!(placement.counts().all, [10 * size; 2], "{size} in each room");
            drop(berths);
            assert_eq!(placement.counts().all, [0; 2]);
        }
    }
}
