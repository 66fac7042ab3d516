//! Pages of the logs, for welcomes and histories. They are read between batches, when everything published is in the
//! file.

use crossbeam_channel::Sender;

use super::clock;
use super::room_log::{self, Log};
use super::rooms::{LocalRoom, Rooms, complain};
use crate::backplane::{Arrival, JoinError, Leave, Page, Room, Seat, Span};
use crate::protocol::{Id, RESUME_MESSAGES, WELCOME_MESSAGES, WELCOME_NAMES};

/// A page to read once the batch is committed.
pub enum Wanted {
    Arrival(Seat, Option<Id>, Sender<Result<Arrival, JoinError>>),
    History(Room, Span, usize, Sender<Page>),
}

impl Rooms {
    /// Reads one page and answers.
    pub fn read_page(&mut self, wanted: Wanted) {
        // The receiver is gone only if the caller has timed out.
        match wanted {
            Wanted::Arrival(seat, since, reply) => {
                let arrival = self.arrival(&seat.room, since).map_err(|error| complain(&error).into());
                let is_read = arrival.is_ok();
                if reply.send(arrival).is_err() || !is_read {
                    self.leave(&seat, Leave::Now);
                }
            }
            Wanted::History(room, span, limit, reply) => {
                if let Ok(page) = self.history(&room, span, limit).map_err(|error| complain(&error)) {
                    let _ = reply.send(page);
                }
            }
        }
    }

    fn arrival(&self, name: &Room, since: Option<Id>) -> rusqlite::Result<Arrival> {
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
        Ok(Arrival {
            participants: room.people.len() as u64,
            names,
            page,
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

    /// Messages below this id are too old to be shown.
    fn floor(&self) -> Id {
        room_log::floor(clock::show_from(self.limits.retention.life))
    }
}
