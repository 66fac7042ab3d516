//! Presence in local rooms: taking and releasing seats, and leases.
//!
//! All of it is decided in memory. The rows in the file are for the next process: everyone present then starts with a
//! full lease, so nobody is shown leaving at a restart.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, params};

use super::room_log::Log;
use super::rooms::{LocalRoom, Outcome, Rooms, complain};
use super::{admin, clock};
use crate::backplane::admin::{Occupant, Target};
use crate::backplane::{Change, Event, JoinError, LEASE, Leave, Room, Seat, SessionId, Terms};
use crate::protocol::Id;

/// A person in a room.
pub struct Person {
    /// As shown.
    pub name: Arc<str>,
    /// The client's mark.
    pub by: Arc<str>,
    /// When the person joined, in Unix milliseconds.
    since: u64,
    /// `None` from a restart until the client returns.
    address: Option<IpAddr>,
    /// `None` from a restart until the client returns.
    session: Option<SessionId>,
    /// When the lease ends; `None` while the connection is open.
    expires: Option<Instant>,
    /// Whether the client took the seat over from its older session.
    came_back: bool,
}

impl LocalRoom {
    /// The people in the room.
    pub fn occupants(&self) -> Vec<Occupant> {
        let occupant = |person: &Person| Occupant {
            name: person.name.to_string(),
            by: person.by.to_string(),
            since: person.since,
            address: person.address.map(|address| address.to_string()).unwrap_or_default(),
        };
        self.people.values().map(occupant).collect()
    }
}

impl Rooms {
    /// Loads the bans from the file.
    pub fn load_bans(&mut self) {
        if let Ok(bans) = admin::read_bans(self.store.conn()).map_err(|error| complain(&error)) {
            self.bans.set(&bans);
        }
    }

    /// The sessions to which a ban applies.
    pub fn sessions_of(&self, target: &Target) -> Vec<SessionId> {
        let people = self.rooms.values().flat_map(|room| room.people.values());
        let theirs = people.filter(|person| person.address.is_some_and(|address| target.is(&person.by, address)));
        theirs.filter_map(|person| person.session).collect()
    }

    /// Loads the seats of those present when the last process ended.
    pub fn seat_again(&mut self) -> rusqlite::Result<()> {
        let expires = Instant::now() + LEASE;
        for [room, key, by, name] in load(self.store.conn())? {
            let (name_of_room, key): (Room, Arc<str>) = (room.into(), key.into());
            let (name, by, since) = (name.into(), by.into(), clock::unix_ms());
            let (address, session, came_back) = (None, None, false);
            let person = Person { name, by, since, address, session, expires: Some(expires), came_back };
            self.expiring.push_back((expires, name_of_room.clone(), key.clone()));
            let log = Log::load(self.store.conn(), &name_of_room)?.unwrap_or_default();
            let room = self.rooms.entry(name_of_room).or_insert_with(|| LocalRoom::new(log));
            room.people.insert(key, person);
        }
        Ok(())
    }

    /// Takes a seat, or takes it over from the client's older session. Returns whether this opened the room.
    pub fn acquire(&mut self, seat: &Seat, terms: Terms) -> Result<bool, JoinError> {
        if let Some(left) = self.bans.left(&seat.by, seat.address) {
            return Err(JoinError::Banned(left));
        }
        self.open(&seat.room, terms.spare_rooms)?;
        let Some(room) = self.rooms.get_mut(&seat.room) else { return Err(JoinError::Unavailable) };
        let is_new_room = room.people.is_empty() && room.log.last == Id::default();
        if is_new_room && !terms.may_open {
            // Otherwise it would count as a room until the next tick.
            self.rooms.remove(&seat.room);
            return Err(JoinError::MayNotOpen);
        }
        let is_full = terms.people > 0 && room.people.len() as u64 >= terms.people;
        let mut change = Change { about: Some(seat.session), ..Change::default() };
        let (mut taken_over, mut came_back, mut since) = (None, false, clock::unix_ms());
        match room.people.get(&seat.key) {
            Some(old) if old.by == seat.by => {
                // After a join that was answered too late, the holder is this very session.
                taken_over = old.session.filter(|session| *session != seat.session);
                (came_back, since) = (true, old.since);
                if old.name != seat.name {
                    change.left.push(old.name.to_string());
                    change.joined.push(seat.name.to_string());
                }
            }
            Some(old) if old.expires.is_none_or(|end| end > Instant::now()) => return Err(JoinError::NameTaken),
            _ if is_full => return Err(JoinError::RoomFull),
            Some(old) => {
                change.left.push(old.name.to_string());
                change.joined.push(seat.name.to_string());
            }
            None => change.joined.push(seat.name.to_string()),
        }
        let (name, by) = (seat.name.clone(), seat.by.clone());
        let (address, session) = (Some(seat.address), Some(seat.session));
        let person = Person { name, by, since, address, session, expires: None, came_back };
        self.seats_are_behind |= self.store.write(|conn| put(conn, &seat.room, &seat.key, &person)).is_err();
        room.people.insert(seat.key.clone(), person);
        self.outcomes.extend(taken_over.map(|session| Outcome::Event(Event::TakenOver(session))));
        self.announce(&seat.room, change);
        Ok(is_new_room)
    }

    /// Releases a seat, if the session still holds it.
    pub fn leave(&mut self, seat: &Seat, how: Leave) {
        let Some(room) = self.rooms.get_mut(&seat.room) else { return };
        let Some(person) = room.people.get_mut(&seat.key).filter(|p| p.session == Some(seat.session)) else { return };
        match how {
            Leave::Expire(lease) => {
                let end = Instant::now() + lease;
                person.expires = Some(end);
                // Leases differ in length, so it may not be the last to end.
                let place = self.expiring.partition_point(|(other, ..)| *other <= end);
                self.expiring.insert(place, (end, seat.room.clone(), seat.key.clone()));
            }
            Leave::Now => {
                room.people.remove(&seat.key);
                self.forget_seat(&seat.room, &seat.key);
                let left = vec![seat.name.to_string()];
                self.announce(&seat.room, Change { left, about: Some(seat.session), ..Change::default() });
            }
        }
    }

    /// Releases the seat of a join that was answered with an error or too late. A returning client keeps its lease.
    pub fn give_back(&mut self, seat: &Seat) {
        let person = self.rooms.get(&seat.room).and_then(|room| room.people.get(&seat.key));
        let came_back = person.is_some_and(|person| person.came_back);
        self.leave(seat, if came_back { Leave::Expire(LEASE) } else { Leave::Now });
    }

    fn forget_seat(&mut self, room: &Room, key: &str) {
        self.seats_are_behind |= self.store.write(|conn| remove(conn, room, key)).is_err();
    }

    fn announce(&mut self, name: &Room, mut change: Change) {
        if change.joined.is_empty() && change.left.is_empty() {
            return;
        }
        self.changes += 1;
        change.participants = self.rooms.get(name).map_or(0, |room| room.people.len() as u64);
        change.stamp = self.changes;
        self.outcomes.push(Outcome::Event(Event::Presence { room: name.clone(), change }));
    }

    /// Releases the seats whose lease has ended.
    pub fn reap(&mut self, now: Instant) {
        let mut changes: HashMap<Room, Change> = HashMap::new();
        while self.expiring.front().is_some_and(|(end, ..)| *end <= now)
            && let Some((end, name, key)) = self.expiring.pop_front()
        {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            if room.people.get(&key).is_some_and(|person| person.expires == Some(end))
                && let Some(person) = room.people.remove(&key)
            {
                self.forget_seat(&name, &key);
                changes.entry(name).or_default().left.push(person.name.to_string());
            }
        }
        changes.into_iter().for_each(|(room, change)| self.announce(&room, change));
    }

    /// Rewrites all seats after a write has failed.
    pub fn write_seats(&mut self) {
        self.seats_are_behind = self.store.write(|conn| replace(conn, &self.rooms)).is_err();
    }
}

/// All seats: room, folded name, mark, shown name.
fn load(conn: &Connection) -> rusqlite::Result<Vec<[String; 4]>> {
    conn.prepare("SELECT room, key, by, name FROM seats")?
        .query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?
        .collect()
}

/// Inserts or updates a seat.
fn put(conn: &Connection, room: &str, key: &str, person: &Person) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO seats VALUES (?, ?, ?, ?)")?
        .execute(params![room, key, person.by, person.name])
        .map(drop)
}

/// Deletes a seat.
fn remove(conn: &Connection, room: &str, key: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM seats WHERE room = ? AND key = ?")?.execute([room, key]).map(drop)
}

/// Rewrites all seats.
fn replace(conn: &Connection, rooms: &HashMap<Room, LocalRoom>) -> rusqlite::Result<()> {
    conn.execute("DELETE FROM seats", [])?;
    rooms
        .iter()
        .try_for_each(|(name, room)| room.people.iter().try_for_each(|(key, person)| put(conn, name, key, person)))
}
