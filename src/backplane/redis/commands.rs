//! Encodes the commands sent to Redis for each operation, and defines the keys, channels and scripts.
//!
//! Everything that must be atomic is a Lua script in this folder. Keys contain the room as hash tag (Redis Cluster
//! specification), so that a cluster keeps a room's keys together:
//!
//! | key | type | holds |
//! | --- | --- | --- |
//! | `bobbin:{room}:log` | stream | the messages |
//! | `bobbin:{room}:live` | channel | events as they happen; `bobbin:2:{room}:live` in database 2 |
//! | `bobbin:{room}:here` | sorted set | folded names, by the end of their leases |
//! | `bobbin:{room}:who` | hash | folded name -> session, mark, address, time of joining and shown name |
//! | `bobbin:{room}:ref:{by}:{ref}` | string | the id of the message that this client sent with this ref (a hash of it if it is long) |
//! | `bobbin:{room}:gone` | hash | the ids of removed messages, see `remove.lua` |
//! | `bobbin:bans` | hash and channel | banned targets, and until when |
//! | `bobbin:instances` | hash | each instance's session count, and when it was reported |
//! | `bobbin:probe` | string, 60 s | `1`; written to check that Redis accepts writes |

use std::time::Duration;

use redis::{Cmd, cmd};

use crate::backplane::{LEASE, REF_LIFE, Room, Seat, SessionId, Terms};
use crate::protocol::{Id, stored_reference};
use crate::settings::Retention;

const BANS: &str = include_str!("bans.lua");
const BANS_KEY: &str = "bobbin:bans";

/// Bans a target for this many milliseconds, over a connection that has not loaded the scripts. Instances read the bans
/// again with every heartbeat.
pub fn add_ban(target: &str, ms: u128) -> Vec<u8> {
    let mut command = cmd("EVAL");
    command.arg(BANS).arg(1).arg(BANS_KEY).arg(BANS_KEY).arg("add").arg(target).arg(ms.to_string());
    command.get_packed_command()
}

/// A seat that has been taken.
#[derive(Clone)]
pub struct Taken {
    /// The seat.
    pub seat: Seat,
    /// When it was taken, in milliseconds by Redis's clock.
    pub since: u64,
}

/// Which part of a log [`Commands::read`] reads.
pub struct Range {
    /// The command: `XRANGE` or `XREVRANGE`.
    pub order: &'static str,
    /// The first id, in that command's syntax.
    pub from: String,
    /// The last id, in that command's syntax.
    pub to: String,
}

impl Range {
    /// Backwards from an id, or from the newest message, to another id, or to the oldest message; the ids are excluded.
    pub fn backwards(before: Option<Id>, after: Option<Id>) -> Range {
        let (from, to) = (before.map_or("+".to_owned(), excluded), after.map_or("-".to_owned(), excluded));
        Range { order: "XREVRANGE", from, to }
    }

    /// Forwards from an id to another, or to the newest message; the ids are excluded.
    pub fn forwards(after: Id, before: Option<Id>) -> Range {
        Range { order: "XRANGE", from: excluded(after), to: before.map_or("+".to_owned(), excluded) }
    }
}

/// An id as the exclusive end of a range. Redis rejects the exclusion of the largest possible id.
pub fn excluded(id: Id) -> String {
    format!("({}", id.min(Id { ms: u64::MAX, seq: u64::MAX - 1 }))
}

/// Encodes commands on behalf of one instance.
pub struct Commands {
    /// This instance's unique name.
    pub instance: String,
    /// The prefix of all channels.
    prefix: String,
    join: Script,
    leave: Script,
    renew: Script,
    say: Script,
    welcome: Script,
    load_report: Script,
    remove: Script,
    bans: Script,
}

impl Commands {
    /// Commands of the instance with this name. The settings are part of the scripts rather than sent with each call.
    pub fn new(instance: String, database: i64, retention: &Retention) -> Commands {
        let settings = format!(
            "local EXACT, KEEP, KEEP_BYTES, LOG_LIFE, REF_LIFE, LEASE = {}, '{}', {}, '{}', '{}', {}\n",
            // Exact trimming with each message costs as much as adding it. With `~` Redis trims whole nodes of a
            // hundred entries, an acceptable excess for a long log; the heartbeat trims the rest.
            retention.messages < 1000,
            retention.messages,
            retention.bytes,
            retention.life.as_secs(),
            REF_LIFE.as_secs(),
            LEASE.as_millis()
        );
        let script = |text: &str| Script::new(format!("{settings}{text}"));
        let presence = |text: &str| script(&format!("{}{text}", include_str!("presence.lua")));
        Commands {
            instance,
            prefix: if database == 0 { "bobbin:{".to_owned() } else { format!("bobbin:{database}:{{") },
            join: presence(include_str!("join.lua")),
            leave: presence(include_str!("leave.lua")),
            renew: presence(include_str!("renew.lua")),
            say: script(include_str!("say.lua")),
            welcome: script(include_str!("welcome.lua")),
            load_report: script(include_str!("load_report.lua")),
            remove: script(include_str!("remove.lua")),
            bans: script(BANS),
        }
    }

    /// `SCRIPT LOAD` for each script.
    pub fn load_scripts(&self) -> Vec<Vec<u8>> {
        let presence = [&self.join, &self.leave, &self.renew];
        let all = [&self.say, &self.welcome, &self.load_report, &self.remove, &self.bans];
        [&presence[..], &all[..]].concat().into_iter().map(Script::load).collect()
    }

    /// `SCRIPT LOAD` for the script used for bulk reads.
    pub fn load_welcome(&self) -> Vec<u8> {
        self.welcome.load()
    }

    /// Keeps and publishes a message. `known` is the newest id this instance has seen in the room.
    pub fn say(&self, room: &str, by: &str, body: &str, reference: Option<&str>, known: Id) -> Vec<u8> {
        let mut command = evalsha(&self.say, 1 + usize::from(reference.is_some()));
        command.arg(log(room));
        if let Some(reference) = reference {
            command.arg(format!("bobbin:{{{room}}}:ref:{by}:{}", stored_reference(reference)));
        }
        command.arg(self.channel(room)).arg(body).arg(known.ms).get_packed_command()
    }

    /// Takes a seat, unless Redis's clock is past `latest`, in milliseconds.
    pub fn join(&self, seat: &Seat, terms: Terms, may_expire: bool, latest: u64) -> Vec<u8> {
        let mut command = self.presence(&self.join, &seat.room, may_expire);
        command.arg(&*seat.key).arg(self.session(seat.session)).arg(&*seat.by);
        command.arg(seat.address.to_string()).arg(&*seat.name).arg(latest);
        command.arg(terms.people).arg(u8::from(terms.may_open)).get_packed_command()
    }

    /// Releases a seat.
    pub fn leave(&self, seat: &Seat) -> Vec<u8> {
        let mut command = self.presence(&self.leave, &seat.room, false);
        command.arg(&*seat.key).arg(self.session(seat.session)).arg(&*seat.name).get_packed_command()
    }

    /// Renews the leases of sessions in one room; with `again`, missing seats are restored.
    pub fn renew<'a>(
        &self,
        room: &str,
        seats: impl IntoIterator<Item = &'a Taken>,
        lease: Duration,
        again: bool,
        may_expire: bool,
    ) -> Vec<u8> {
        let mut command = self.presence(&self.renew, room, may_expire);
        command.arg(u8::from(again)).arg(lease.as_millis() as u64);
        for Taken { seat, since } in seats {
            let (session, by, address, name) = (self.session(seat.session), &seat.by, seat.address, &seat.name);
            command.arg(&*seat.key).arg(format!("{session} {by} {address} {since} {name}"));
        }
        command.get_packed_command()
    }

    /// Reads at most `count` entries of a log. No script: it would cost Redis four times as much.
    pub fn read(&self, room: &str, range: &Range, count: usize) -> Vec<u8> {
        let mut command = cmd(range.order);
        command.arg(log(room)).arg(&range.from).arg(&range.to).arg("COUNT").arg(count).get_packed_command()
    }

    /// Completes a `welcome`, see `welcome.lua`; `newest` is the newest id when the seat was taken.
    pub fn welcome(&self, room: &str, since: Option<Id>, newest: Id) -> Vec<u8> {
        let since = since.map(|id| id.to_string()).unwrap_or_default();
        let mut command = evalsha(&self.welcome, 2);
        command.arg(log(room)).arg(gone(room)).arg(since).arg(newest.to_string()).get_packed_command()
    }

    /// Reads who is in a room: the values of the hash `who`.
    pub fn roster(&self, room: &str) -> Vec<u8> {
        cmd("HVALS").arg(who(room)).get_packed_command()
    }

    /// Publishes that someone is typing.
    pub fn typing(&self, room: &str, json: &str) -> Vec<u8> {
        cmd("PUBLISH").arg(self.channel(room)).arg(format!("t{json}")).get_packed_command()
    }

    /// Reads Redis's clock.
    pub fn time(&self) -> Vec<u8> {
        cmd("TIME").get_packed_command()
    }

    /// Publishes a probe to this instance itself.
    pub fn probe(&self) -> Vec<u8> {
        cmd("PUBLISH").arg(self.own_channel()).arg("").get_packed_command()
    }

    /// Reports this instance's session count.
    pub fn load_report(&self, sessions: u64) -> Vec<u8> {
        evalsha(&self.load_report, 1).arg("bobbin:instances").arg(&self.instance).arg(sessions).get_packed_command()
    }

    /// Removes messages, see `remove.lua`.
    pub fn remove(&self, room: &str, what: &str, value: &str, from: &str) -> Vec<u8> {
        let mut command = evalsha(&self.remove, 2);
        command.arg(log(room)).arg(gone(room)).arg(self.channel(room)).arg(what).arg(value).arg(from);
        command.get_packed_command()
    }

    /// Reads or changes the bans, see `bans.lua`.
    pub fn bans(&self, what: &str, rest: &[&str]) -> Vec<u8> {
        let mut command = evalsha(&self.bans, 1);
        command.arg(BANS_KEY).arg(self.bans_channel()).arg(what).arg(rest).get_packed_command()
    }

    /// Reads which messages of a room were removed, see `remove.lua`.
    pub fn removals(&self, room: &str) -> Vec<u8> {
        cmd("HGETALL").arg(gone(room)).get_packed_command()
    }

    /// The parts of a room's summary: number of messages, newest message, number of people.
    pub fn summary(&self, room: &str) -> [Vec<u8>; 3] {
        let newest = cmd("XREVRANGE").arg(log(room)).arg("+").arg("-").arg("COUNT").arg(1).get_packed_command();
        let people = cmd("ZCARD").arg(format!("bobbin:{{{room}}}:here")).get_packed_command();
        [cmd("XLEN").arg(log(room)).get_packed_command(), newest, people]
    }

    /// Reads the size of a room's log in bytes, and its number of messages.
    pub fn size(&self, room: &str) -> [Vec<u8>; 2] {
        // Exact, because a stranger chooses the messages that a sample would consist of.
        let bytes = cmd("MEMORY").arg("USAGE").arg(log(room)).arg("SAMPLES").arg(0).get_packed_command();
        [bytes, cmd("XLEN").arg(log(room)).get_packed_command()]
    }

    /// Deletes all but the newest messages of a log.
    pub fn trim(&self, room: &str, messages: u64) -> Vec<u8> {
        cmd("XTRIM").arg(log(room)).arg("MAXLEN").arg(messages).get_packed_command()
    }

    /// Subscribes to rooms.
    pub fn subscribe<'a>(&self, rooms: impl IntoIterator<Item = &'a Room>) -> Vec<u8> {
        let mut command = cmd("SUBSCRIBE");
        for room in rooms {
            command.arg(self.channel(room));
        }
        command.get_packed_command()
    }

    /// Subscribes to this instance's own channel and to the channel of the bans.
    pub fn subscribe_own(&self) -> Vec<u8> {
        cmd("SUBSCRIBE").arg(self.own_channel()).arg(self.bans_channel()).get_packed_command()
    }

    /// The channel on which changes of the bans are published.
    pub fn bans_channel(&self) -> String {
        format!("{}bans", self.prefix.trim_end_matches('{'))
    }

    /// Unsubscribes from rooms.
    pub fn unsubscribe(&self, rooms: &[Room]) -> Vec<u8> {
        let channels: Vec<String> = rooms.iter().map(|room| self.channel(room)).collect();
        cmd("UNSUBSCRIBE").arg(channels).get_packed_command()
    }

    /// The room that a channel belongs to; `None` for any other channel.
    pub fn room_of<'a>(&self, channel: &'a str) -> Option<&'a str> {
        channel.strip_prefix(&self.prefix)?.strip_suffix("}:live")
    }

    /// The number in a session's full name; `None` if the session belongs to another instance.
    pub fn own_session(&self, session: &str) -> Option<SessionId> {
        session.strip_prefix(&*self.instance)?.strip_prefix('/')?.parse().ok()
    }

    fn presence(&self, script: &Script, room: &str, may_expire: bool) -> Cmd {
        let mut command = evalsha(script, 3);
        command.arg(format!("bobbin:{{{room}}}:here")).arg(who(room)).arg(log(room));
        command.arg(self.channel(room)).arg(u8::from(may_expire));
        command
    }

    /// A session's name, unique among all instances.
    fn session(&self, number: SessionId) -> String {
        format!("{}/{number}", self.instance)
    }

    fn channel(&self, room: &str) -> String {
        format!("{}{room}}}:live", self.prefix)
    }

    fn own_channel(&self) -> String {
        format!("bobbin:instance:{}", self.instance)
    }
}

/// A script, and the hash by which it is called once loaded.
struct Script {
    text: String,
    hash: String,
}

impl Script {
    fn new(text: String) -> Script {
        Script { hash: redis::Script::new(&text).get_hash().to_owned(), text }
    }

    fn load(&self) -> Vec<u8> {
        cmd("SCRIPT").arg("LOAD").arg(&self.text).get_packed_command()
    }
}

/// `EVALSHA` for a script that was loaded when the connection was made.
fn evalsha(script: &Script, keys: usize) -> Cmd {
    let mut command = cmd("EVALSHA");
    command.arg(&script.hash).arg(keys);
    command
}

fn log(room: &str) -> String {
    format!("bobbin:{{{room}}}:log")
}

fn gone(room: &str) -> String {
    format!("bobbin:{{{room}}}:gone")
}

fn who(room: &str) -> String {
    format!("bobbin:{{{room}}}:who")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn channels_carry_the_database() {
        let retention = Retention { messages: 9, bytes: 9, life: Duration::from_secs(9) };
        let [first, second] = [0, 2].map(|database| Commands::new("i1".to_owned(), database, &retention));
        assert_eq!(first.channel("tea"), "bobbin:{tea}:live");
        assert_eq!(second.channel("tea"), "bobbin:2:{tea}:live");
        assert_eq!(second.room_of("bobbin:2:{tea}:live"), Some("tea"));
        assert_eq!(second.room_of("bobbin:{tea}:live"), None);
        assert_eq!(first.room_of("bobbin:2:{tea}:live"), None);
        assert_eq!(first.own_session("i1/12"), Some(12));
        assert_eq!(first.own_session("i12/1"), None);
    }
}
