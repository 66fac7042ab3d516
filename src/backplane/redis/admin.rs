//! The admin operations on Redis. Changes are published, so that every instance follows at once. Instances also read
//! the bans with every heartbeat, in case they missed a publication.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use redis::{Value, cmd};

use super::core::Core;
use super::pipeline::{PATIENCE, Priority, Reply};
use super::replies::{from_value, not_understood, text};
use super::{Redis, bulk};
use crate::backplane::admin::{Admin, Ban, Occupant, Removal, RoomSummary, Target};
use crate::backplane::{Event, Room, Unavailable};
use crate::protocol::{self, Id};

/// Keys examined per step of a scan, and rooms read per batch.
const SCAN: usize = 1000;
const TOGETHER: usize = 100;

impl Admin for Redis {
    fn rooms(&self) -> Result<Vec<RoomSummary>, Unavailable> {
        let names: Vec<String> = self.core.names()?.into_iter().collect();
        let mut found = Vec::with_capacity(names.len());
        for some in names.chunks(TOGETHER) {
            let commands: Vec<_> = some.iter().flat_map(|room| self.core.commands.summary(room)).collect();
            let replies = self.core.bulk.ask(&commands, bulk::deadline())?;
            for (room, values) in some.iter().zip(replies.chunks_exact(3)) {
                found.push(summary(room, values));
            }
        }
        found.sort_by_key(|summary| std::cmp::Reverse(summary.last_activity));
        Ok(found)
    }

    fn people(&self, room: &Room) -> Result<Vec<Occupant>, Unavailable> {
        let reply = self.core.bulk.ask_one(self.core.commands.roster(room), bulk::deadline())?;
        let Value::Array(values) = reply else { return Err(not_understood(reply)) };
        let mut people: Vec<Occupant> =
            values.into_iter().filter_map(text).filter_map(|seat| occupant(&seat)).collect();
        people.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(people)
    }

    fn remove(&self, room: &Room, removal: &Removal) -> Result<u64, Unavailable> {
        let (what, value) = match removal {
            Removal::One(id) => ("one", id.to_string()),
            Removal::By(mark) => ("by", mark.clone()),
            Removal::All => ("all", String::new()),
        };
        let (mut from, mut removed) = ("-".to_owned(), 0);
        while !from.is_empty() {
            let command = self.core.commands.remove(room, what, &value, &from);
            let (rest, count): (String, u64) = from_value(self.core.pipeline.queue(command).wait()?)?;
            (from, removed) = (rest, removed + count);
        }
        Ok(removed)
    }

    fn ban(&self, target: &Target, time: Duration) -> Result<Ban, Unavailable> {
        let id = target.to_string();
        let bans = self.change_bans("add", &[&id, &time.as_millis().to_string()])?.1;
        bans.into_iter().find(|ban| ban.target == *target).ok_or_else(|| not_understood("a ban that is not there"))
    }

    fn bans(&self) -> Result<Vec<Ban>, Unavailable> {
        Ok(self.change_bans("list", &[])?.1)
    }

    fn lift(&self, target: &Target) -> Result<bool, Unavailable> {
        Ok(self.change_bans("lift", &[&target.to_string()])?.0)
    }

    fn banned(&self, by: &str, address: IpAddr) -> Option<Duration> {
        self.core.bans.left(by, address)
    }
}

impl Redis {
    fn change_bans(&self, what: &str, rest: &[&str]) -> Result<(bool, Vec<Ban>), Unavailable> {
        let (core, (to, answer)) = (self.core.clone(), bounded(1));
        // Applied on the reader's thread, so that an older list never replaces a newer one.
        self.core.pipeline.send(self.core.commands.bans(what, rest), move |reply| {
            let changed = reply.map_err(Unavailable::from).and_then(bans);
            if let Ok((_, bans)) = &changed {
                core.apply_bans(bans);
            }
            let _ = to.send(changed);
        });
        answer.recv_timeout(PATIENCE).map_err(|_| Unavailable)?
    }
}

impl Core {
    /// The names of all rooms with messages or people.
    pub fn names(&self) -> Result<BTreeSet<String>, Unavailable> {
        let (mut cursor, mut names) = ("0".to_owned(), BTreeSet::new());
        loop {
            // Matches two of a room's keys: its log, and who is in it.
            let mut scan = cmd("SCAN");
            let scan = scan.arg(&cursor).arg("MATCH").arg("bobbin:{*}:[lh][oe]*").arg("COUNT").arg(SCAN);
            let reply = self.bulk.ask_one(scan.get_packed_command(), bulk::deadline())?;
            let (next, keys): (String, Vec<String>) = from_value(reply)?;
            let room = |key: &String| Some(key.strip_prefix("bobbin:{")?.split_once('}')?.0.to_owned());
            names.extend(keys.iter().filter_map(room).filter(|room| protocol::is_room(room)));
            if next == "0" {
                return Ok(names);
            }
            cursor = next;
        }
    }

    /// Reads the bans again. Called whenever they may have changed; does not block.
    pub fn read_bans(self: &Arc<Core>) {
        let core = self.clone();
        let take_in = move |reply: Reply| {
            if let Ok(Ok((_, bans))) = reply.map(bans) {
                core.apply_bans(&bans);
            }
        };
        // Without a connection this fails, and the next connection starts with the same read.
        let _ = self.pipeline.append(self.commands.bans("list", &[]), Priority::Urgent, take_in);
        self.pipeline.flush();
    }

    fn apply_bans(&self, bans: &[Ban]) {
        if !self.bans.set(bans) {
            return;
        }
        for seat in self.rooms.seats() {
            if self.bans.left(&seat.by, seat.address).is_some() {
                (self.sink)(Event::Banned(seat.session));
            }
        }
    }
}

/// Parses the reply of `bans.lua`: whether a ban was lifted, and the bans in force.
fn bans(reply: Value) -> Result<(bool, Vec<Ban>), Unavailable> {
    let reply: Vec<String> = from_value(reply)?;
    let [lifted, now, bans @ ..] = reply.as_slice() else { return Err(not_understood(&reply)) };
    let now: u64 = now.parse().map_err(not_understood)?;
    let ban = |pair: &[String]| {
        let (target, until) = (pair[0].parse().ok()?, pair[1].parse().ok()?);
        Some(Ban { target, until, left: Duration::from_millis(u64::saturating_sub(until, now)) })
    };
    let mut bans: Vec<Ban> = bans.chunks_exact(2).filter_map(ban).collect();
    bans.sort_by_key(|ban| ban.until);
    Ok((lifted == "1", bans))
}

/// Parses the replies to [`super::commands::Commands::summary`].
fn summary(room: &str, replies: &[Reply]) -> RoomSummary {
    let number = |reply: &Reply| match reply {
        Ok(Value::Int(count)) => u64::try_from(*count).unwrap_or_default(),
        _ => 0,
    };
    // An entry consists of its id and its fields.
    let newest = match &replies[1] {
        Ok(Value::Array(entries)) => match entries.first() {
            Some(Value::Array(entry)) => entry.first().cloned().and_then(text),
            _ => None,
        },
        _ => None,
    };
    let newest: Option<Id> = newest.and_then(|id| id.parse().ok());
    RoomSummary {
        room: room.to_owned(),
        people: number(&replies[2]),
        messages: number(&replies[0]),
        last_activity: newest.map(|id| id.ms),
    }
}

/// Parses a value of the hash `who`: session, mark, address, time of joining, shown name.
fn occupant(seat: &str) -> Option<Occupant> {
    let mut parts = seat.splitn(5, ' ').skip(1);
    let (by, address, since) = (parts.next()?.to_owned(), parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    Some(Occupant { name: parts.next()?.to_owned(), by, since, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_and_bans_are_read_as_the_scripts_write_them() {
        let ada = occupant("i1/7 abcdefgh234567ab 192.0.2.7 1732412345678 Ada Lovelace").expect("a seat");
        assert_eq!(
            (ada.name.as_str(), ada.address.as_str(), ada.since),
            ("Ada Lovelace", "192.0.2.7", 1_732_412_345_678)
        );
        assert!(occupant("1732412345678000").is_none(), "the stamp is no seat");
        let texts = |texts: &[&str]| Value::Array(texts.iter().map(|t| Value::BulkString((*t).into())).collect());
        let (lifted, bans) = bans(texts(&["0", "1000", "192.0.2.7", "61000", "nonsense", "9000"])).expect("a reply");
        assert!(!lifted && bans.len() == 1 && bans[0].left == Duration::from_secs(60), "{bans:?}");
    }
}
