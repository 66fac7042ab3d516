//! How many rooms an address has opened: per hour, and during the time for which a room stays, so that one address can
//! take neither all rooms nor the space of their logs.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::bucket::Bucket;

/// An address may open one in this many of all rooms at once, at least as many as in an hour, and as many again during the
/// time for which a room stays.
const PART: u32 = 20;
/// The last one in [`SPARE_PART`] of all rooms are for addresses that have opened less than one in [`FEW_PART`] of those
/// that they may, so that a few busy addresses cannot take all rooms, nor a network more than that part. A server with less
/// than [`SPARE_PART`] times the rooms that an address may open has none to spare.
const SPARE_PART: u32 = 4;
const FEW_PART: f64 = 50.0;
/// The number of rooms that an address may open again without being charged.
const KNOWN: usize = 64;
/// The longest wait that a client is told, if only many days would do.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The limits on opening rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomLimits {
    /// Rooms per hour; 0 is unlimited.
    pub per_hour: u32,
    /// The most rooms of the server.
    pub most: u32,
    /// How long a room stays after its last message.
    pub life: Duration,
}

/// The rooms that an address has opened.
pub struct Openings {
    per_hour: Bucket,
    lasting: Bucket,
    /// How many rooms it may open while a room stays.
    share: f64,
    /// How many rooms it leaves to others once it has opened more than a few.
    spare: u32,
    /// Hashes of the rooms opened last, the newest at the end: a visitor who comes back to a room in which nothing has
    /// been said opens the same room each time.
    known: VecDeque<u64>,
}

impl Openings {
    /// None yet. The limits are multiplied by `times`.
    pub fn new(limits: &RoomLimits, times: u32, now: Instant) -> Openings {
        let hour = f64::from(limits.per_hour) * f64::from(times);
        let of_one = limits.per_hour.max(limits.most / PART);
        let part = limits.most / SPARE_PART;
        let has_spare = limits.per_hour > 0 && of_one <= part;
        let share = of_one.saturating_mul(times);
        let share = f64::from(if has_spare { share.min(part / 2) } else { share });
        let rate = if limits.per_hour == 0 { 0.0 } else { share / limits.life.as_secs_f64() };
        Openings {
            per_hour: Bucket::new(hour / 3600.0, hour, now),
            lasting: Bucket::new(rate, share, now),
            share,
            spare: if has_spare { part } else { 0 },
            known: VecDeque::new(),
        }
    }

    /// Counts a room, and returns whether it was counted: not if it is known. If so, [`Openings::keep`] or
    /// [`Openings::take_back`] must follow.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub fn open(&mut self, room: &str, now: Instant) -> Result<bool, Duration> {
        let room = HASHER.hash_one(room);
        if let Some(place) = self.known.iter().position(|known| *known == room) {
            self.known.remove(place);
            self.known.push_back(room);
            return Ok(false);
        }
        let waits = [self.per_hour.wait(1.0, now), self.lasting.wait(1.0, now)];
        if let Some(wait) = waits.into_iter().filter_map(Result::err).max() {
            return Err(wait.min(LONGEST_WAIT));
        }
        self.charge(1.0);
        Ok(true)
    }

    /// Remembers a room that was counted and opened.
    pub fn keep(&mut self, room: &str) {
        self.known.push_back(HASHER.hash_one(room));
        if self.known.len() > KNOWN {
            self.known.pop_front();
        }
    }

    /// Takes back a room that was counted and not opened.
    pub fn take_back(&mut self) {
        self.charge(-1.0);
    }

    fn charge(&mut self, rooms: f64) {
        self.per_hour.charge(rooms);
        self.lasting.charge(rooms);
    }

    /// How many rooms must remain for others after the next one.
    pub fn spare(&mut self, now: Instant) -> u32 {
        let are_few = self.lasting.wait(self.share - self.share / FEW_PART, now).is_ok();
        if are_few { 0 } else { self.spare }
    }

    /// Whether no room counts any more.
    pub fn are_forgotten(&mut self, now: Instant) -> bool {
        self.lasting.wait(self.share, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const LIMITS: RoomLimits = RoomLimits { per_hour: 300, most: 10_000, life: Duration::from_secs(30 * 86_400) };

    fn open(openings: &mut Openings, room: &str, now: Instant) -> bool {
        let counted = openings.open(room, now);
        if counted == Ok(true) {
            openings.keep(room);
        }
        counted.is_ok()
    }

    #[test]
    fn one_address_opens_a_tenth_of_all_rooms() {
        let mut now = Instant::now();
        let mut openings = Openings::new(&LIMITS, 1, now);
        assert_eq!(openings.spare(now), 0);
        let mut opened = 0;
        for hour in 0..24 {
            opened += (0..1000).filter(|n| open(&mut openings, &format!("room-{hour}-{n}"), now)).count();
            now += Duration::from_secs(3600);
        }
        assert!((500..520).contains(&opened), "{opened}");
        for hour in 24..30 * 24 {
            opened += (0..1000).filter(|n| open(&mut openings, &format!("room-{hour}-{n}"), now)).count();
            now += Duration::from_secs(3600);
        }
        assert!((990..=1000).contains(&opened), "{opened}");
        assert_eq!(openings.spare(now), 2500);
        assert!(!openings.are_forgotten(now + 29 * DAY) && openings.are_forgotten(now + 31 * DAY));
    }

    #[test]
    fn a_room_that_is_opened_again_and_again_is_one() {
        let now = Instant::now();
        let mut openings = Openings::new(&RoomLimits { per_hour: 9, most: 1, ..LIMITS }, 1, now);
        assert!((0..1000).all(|_| open(&mut openings, "quiet", now)));
        assert_eq!((0..20).filter(|n| open(&mut openings, &format!("room-{n}"), now)).count(), 8);
        assert!(open(&mut openings, "quiet", now) && open(&mut openings, "room-0", now), "the last are known");
        let mut openings = Openings::new(&LIMITS, 1, now);
        assert!((0..KNOWN + 1).all(|n| open(&mut openings, &format!("room-{n}"), now)));
        assert_eq!((openings.open("room-0", now), openings.open("room-1", now)), (Ok(true), Ok(false)), "64 are known");
    }

    #[test]
    fn of_two_that_open_one_room_at_once_one_is_counted() {
        let now = Instant::now();
        let mut openings = Openings::new(&RoomLimits { per_hour: 2, most: 1, ..LIMITS }, 1, now);
        for _ in 0..100 {
            assert!(openings.open("one", now) == Ok(true) && openings.open("one", now) == Ok(true));
            openings.take_back();
            openings.take_back();
        }
        assert!(openings.open("one", now) == Ok(true) && openings.open("one", now) == Ok(true));
        openings.keep("one");
        openings.take_back();
        assert_eq!(openings.open("one", now), Ok(false));
        assert!(openings.open("two", now).is_ok() && openings.open("three", now).is_err());
    }

    #[test]
    fn a_network_cannot_take_the_last_rooms() {
        let now = Instant::now();
        let mut network = Openings::new(&LIMITS, 10, now);
        assert_eq!((0..5000).filter(|n| open(&mut network, &format!("room-{n}"), now)).count(), 1250);
        assert_eq!(network.spare(now), 2500);
        let mut wait = Openings::new(&RoomLimits { per_hour: 1, most: 10, ..LIMITS }, 1, now);
        assert!(open(&mut wait, "one", now));
        assert_eq!(wait.open("two", now), Err(LONGEST_WAIT), "not thirty days");
    }

    #[test]
    fn zero_is_unlimited() {
        let now = Instant::now();
        let mut openings = Openings::new(&RoomLimits { per_hour: 0, ..LIMITS }, 1, now);
        assert!((0..5000).all(|n| open(&mut openings, &format!("room-{n}"), now)));
        assert!(openings.spare(now) == 0 && openings.are_forgotten(now));
    }
}
