//! The admin operations on local rooms: jobs for the thread that owns the rooms, answered after the commit, as all
//! commands are.

use std::net::IpAddr;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::room_log::Log;
use super::rooms::Rooms;
use super::{Command, Local, clock};
use crate::backplane::admin::{Admin, Ban, Occupant, Removal, RoomSummary, Target, removed_ids, removed_upto};
use crate::backplane::{Event, Room, Unavailable};

/// A job for the rooms' thread. It returns what to do once the commit has succeeded or failed.
pub type Job = Box<dyn FnOnce(&mut Rooms) -> Then + Send>;
/// Runs after the commit; `false` means that it failed.
pub type Then = Box<dyn FnOnce(bool) + Send>;

impl Local {
    /// Runs a job on the rooms' thread, and publishes its events once they are committed.
    fn run_job<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Rooms) -> Result<(T, Vec<Event>), Unavailable> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let listener = self.listener.clone();
        self.ask(|reply| {
            Command::Admin(Box::new(move |rooms| {
                let done = job(rooms);
                Box::new(move |is_kept| {
                    let done = done.ok().filter(|_| is_kept).map(|(value, events)| {
                        events.into_iter().for_each(|event| listener(event));
                        value
                    });
                    let _ = reply.send(done.ok_or(Unavailable));
                })
            }))
        })?
    }
}

impl Admin for Local {
    fn rooms(&self) -> Result<Vec<RoomSummary>, Unavailable> {
        self.run_job(|rooms| {
            let mut found = summaries(rooms.store.conn()).map_err(|error| super::rooms::complain(&error))?;
            for (name, room) in &rooms.rooms {
                match found.iter_mut().find(|summary| *summary.room == **name) {
                    Some(summary) => summary.people = room.people.len() as u64,
                    None => found.push(RoomSummary {
                        room: name.to_string(),
                        people: room.people.len() as u64,
                        messages: 0,
                        last_activity: None,
                    }),
                }
            }
            found.sort_by_key(|summary| std::cmp::Reverse(summary.last_activity));
            Ok((found, Vec::new()))
        })
    }

    fn people(&self, room: &Room) -> Result<Vec<Occupant>, Unavailable> {
        let name = room.clone();
        self.run_job(move |rooms| {
            let mut people: Vec<Occupant> = rooms.rooms.get(&name).map(|room| room.occupants()).unwrap_or_default();
            people.sort_by(|one, other| one.name.cmp(&other.name));
            Ok((people, Vec::new()))
        })
    }

    fn remove(&self, room: &Room, removal: &Removal) -> Result<u64, Unavailable> {
        let (name, removal) = (room.clone(), removal.clone());
        self.run_job(move |rooms| {
            let mut log = match rooms.rooms.get(&name) {
                Some(room) => room.log.clone(),
                None => Log::load(rooms.store.conn(), &name)
                    .map_err(|error| super::rooms::complain(&error))?
                    .unwrap_or_default(),
            };
            let removed = rooms.store.erase(|conn| {
                let removed = log.blank(conn, &removal)?;
                log.save(conn).map(|()| removed)
            })?;
            rooms.put_log(&name, log);
            let count = removed.len() as u64;
            let frames = match (&removal, removed.iter().max()) {
                (Removal::All, Some(newest)) => vec![removed_upto(*newest)],
                _ => removed_ids(&removed),
            };
            let events = frames.into_iter().map(|frame| Event::Removed { room: name.clone(), frame }).collect();
            Ok((count, events))
        })
    }

    fn ban(&self, target: &Target, time: Duration) -> Result<Ban, Unavailable> {
        let until = clock::unix_ms().saturating_add(time.as_millis() as u64);
        let ban = Ban { target: target.clone(), until, left: time };
        self.run_job(move |rooms| {
            rooms.store.write(|conn| {
                lift(conn, &ban.target)?;
                let (by, address) = columns(&ban.target);
                conn.execute("INSERT INTO bans VALUES (NULL, ?, ?, ?)", params![by, address, ban.until as i64])
            })?;
            let events = rooms.sessions_of(&ban.target).into_iter().map(Event::Banned).collect();
            rooms.load_bans();
            Ok((ban, events))
        })
    }

    fn bans(&self) -> Result<Vec<Ban>, Unavailable> {
        self.run_job(|rooms| {
            Ok((read_bans(rooms.store.conn()).map_err(|error| super::rooms::complain(&error))?, Vec::new()))
        })
    }

    fn lift(&self, target: &Target) -> Result<bool, Unavailable> {
        let target = target.clone();
        self.run_job(move |rooms| {
            let lifted = rooms.store.write(|conn| lift(conn, &target))?;
            rooms.load_bans();
            Ok((lifted > 0, Vec::new()))
        })
    }

    fn banned(&self, by: &str, address: IpAddr) -> Option<Duration> {
        self.bans.left(by, address)
    }
}

fn summaries(conn: &Connection) -> rusqlite::Result<Vec<RoomSummary>> {
    // Removed messages are counted through a partial index, which contains nothing else.
    let sql = "SELECT name, last_ms, messages - (SELECT count(*) FROM messages WHERE room = id AND body IS NULL)
               FROM rooms";
    conn.prepare(sql)?
        .query_map([], |row| {
            let (last, messages): (u64, u64) = (row.get(1)?, row.get(2)?);
            Ok(RoomSummary { room: row.get(0)?, people: 0, messages, last_activity: (last > 0).then_some(last) })
        })?
        .collect()
}

/// A target as the two columns of the table: mark and address.
fn columns(target: &Target) -> (Option<String>, Option<String>) {
    match target {
        Target::By(mark) => (Some(mark.clone()), None),
        Target::Address(address) => (None, Some(address.to_string())),
    }
}

fn lift(conn: &Connection, target: &Target) -> rusqlite::Result<usize> {
    let (by, address) = columns(target);
    conn.execute("DELETE FROM bans WHERE by IS ? AND address IS ?", params![by, address])
}

/// The bans in force.
pub fn read_bans(conn: &Connection) -> rusqlite::Result<Vec<Ban>> {
    let now = clock::unix_ms();
    let rows = conn
        .prepare("SELECT coalesce(by, address), until FROM bans WHERE until > ? ORDER BY until")?
        .query_map([now as i64], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let ban = |(target, until): (String, u64)| {
        Some(Ban { target: target.parse().ok()?, until, left: Duration::from_millis(until.saturating_sub(now)) })
    };
    Ok(rows.into_iter().filter_map(ban).collect())
}
