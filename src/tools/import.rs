//! `bobbin --import FILE`: moves the rooms and bans of a data file to Redis and keeps all ids, so that clients resume
//! where they left off.
//!
//! Each room is first written under a temporary key, and appears complete when that is renamed. Presence is not moved:
//! clients rejoin by themselves.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use redis::{Value, cmd};

use crate::backplane::REF_LIFE;
use crate::backplane::local::DataError;
use crate::backplane::local::dump::{Dump, DumpedRoom};
use crate::backplane::redis::commands::add_ban;
use crate::backplane::redis::connect::{Connection, LinkError, Server};
use crate::protocol::{self, Id};
use crate::settings::tools::ImportCall;

/// Commands sent before their replies are read: about 2 MB at most.
const PIPELINE: usize = 100;
/// Lifetime of the temporary keys that an interrupted import leaves behind.
const TEMPORARY_KEY_LIFE: Duration = Duration::from_secs(3600);
/// Room names listed in a refusal.
const LISTED: usize = 5;

/// Why the import failed or stopped.
#[derive(Debug)]
pub enum ImportError {
    /// The file cannot be used.
    File(DataError),
    /// Redis cannot be used.
    Redis(LinkError),
    /// These rooms already exist on Redis.
    Exist(Vec<String>),
    /// The report cannot be written.
    Output(io::Error),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::File(error) => write!(f, "can't import the file: {error}"),
            ImportError::Redis(error) => write!(f, "can't import into redis: {error}"),
            ImportError::Exist(rooms) => {
                let more = if rooms.len() > LISTED { ", …" } else { "" };
                let listed = rooms.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
                write!(f, "these rooms exist in redis: {listed}{more}; --replace overwrites them")
            }
            ImportError::Output(error) => write!(f, "can't write: {error}"),
        }
    }
}

impl std::error::Error for ImportError {}

impl From<DataError> for ImportError {
    fn from(error: DataError) -> ImportError {
        ImportError::File(error)
    }
}

impl From<LinkError> for ImportError {
    fn from(error: LinkError) -> ImportError {
        ImportError::Redis(error)
    }
}

/// Imports all rooms and bans, and writes a one-line report.
///
/// # Errors
/// [`ImportError`]. Rooms imported before the error are complete on Redis. Without `--replace`, none is imported if any
/// of them exists at the start.
pub fn run(call: &ImportCall, output: &mut impl Write) -> Result<(), ImportError> {
    let dump = Dump::open(&call.file)?;
    let mut redis = Server::new(&call.redis)?.connect(&[], None)?;
    let rooms = dump.rooms()?;
    if !call.replace {
        let existing = existing(&mut redis, &rooms)?;
        if !existing.is_empty() {
            return Err(ImportError::Exist(existing));
        }
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let from = now.saturating_sub(call.life).as_millis() as u64;
    let (mut moved, mut messages) = (0, 0);
    for room in &rooms {
        let count = import_room(&mut redis, &dump, room, from, call)?;
        moved += usize::from(count > 0);
        messages += count;
    }
    let bans = dump.bans()?;
    let add = bans.iter().map(|ban| add_ban(&ban.target.to_string(), ban.left.as_millis()));
    ask(&mut redis, "EVAL", add.collect())?;
    let bans = bans.len();
    writeln!(output, "imported {messages} messages in {moved} rooms; bans: {bans}").map_err(ImportError::Output)
}

fn log_key(room: &str) -> String {
    format!("bobbin:{{{room}}}:log")
}

/// Which of the rooms already have a log on Redis.
fn existing(redis: &mut Connection, rooms: &[DumpedRoom]) -> Result<Vec<String>, LinkError> {
    let mut found = Vec::new();
    for some in rooms.chunks(PIPELINE) {
        let commands = some.iter().map(|room| cmd("EXISTS").arg(log_key(&room.name)).get_packed_command());
        let answers = ask(redis, "EXISTS", commands.collect())?;
        let there = some.iter().zip(answers).filter(|(_, answer)| *answer == Value::Int(1));
        found.extend(there.map(|(room, _)| room.name.clone()));
    }
    Ok(found)
}

/// Imports one room and returns its number of messages.
fn import_room(
    redis: &mut Connection,
    dump: &Dump,
    room: &DumpedRoom,
    from: u64,
    call: &ImportCall,
) -> Result<usize, ImportError> {
    let (log, part) = (log_key(&room.name), format!("bobbin:{{{}}}:import", room.name));
    redis.demand("DEL", &cmd("DEL").arg(&part).get_packed_command())?;
    let (mut last, mut count) = (Id::default(), 0);
    loop {
        let messages = dump.messages(room, last, from, PIPELINE)?;
        let Some((newest, _)) = messages.last() else { break };
        last = *newest;
        // Other programs may have written to the file; only Bobbin's own messages are imported.
        let ours = messages.iter().filter(|(_, body)| protocol::is_body(body));
        let add = |(id, body): &(Id, String)| {
            cmd("XADD").arg(&part).arg(id.to_string()).arg("m").arg(body).get_packed_command()
        };
        let commands: Vec<_> = ours.map(add).collect();
        count += commands.len();
        ask(redis, "XADD", commands)?;
        let expiry = cmd("EXPIRE").arg(&part).arg(TEMPORARY_KEY_LIFE.as_secs()).get_packed_command();
        redis.demand("EXPIRE", &expiry)?;
    }
    if count == 0 {
        return Ok(0);
    }
    // Later ids continue after the newest one ever assigned. Since version 7, Redis also stores how many entries were
    // ever added: a count one higher than the number of entries indicates that the log has lost its beginning.
    let (newest, added) = (room.last.max(last).to_string(), count + usize::from(room.is_trimmed));
    let counted = cmd("XSETID").arg(&part).arg(&newest).arg("ENTRIESADDED").arg(added).get_packed_command();
    if let Value::ServerError(_) = redis.request(&counted)? {
        redis.demand("XSETID", &cmd("XSETID").arg(&part).arg(&newest).get_packed_command())?;
    }
    redis.demand("EXPIRE", &cmd("EXPIRE").arg(&part).arg(call.life.as_secs()).get_packed_command())?;
    let rename = if call.replace { "RENAME" } else { "RENAMENX" };
    if redis.demand(rename, &cmd(rename).arg(&part).arg(&log).get_packed_command())? == Value::Int(0) {
        return Err(ImportError::Exist(vec![room.name.clone()]));
    }
    for refs in dump.refs(room)?.chunks(PIPELINE) {
        let set = |(by, reference, id): &(String, String, Id)| {
            let key = format!("bobbin:{{{}}}:ref:{by}:{}", room.name, protocol::stored_reference(reference));
            cmd("SET").arg(key).arg(id.to_string()).arg("EX").arg(REF_LIFE.as_secs()).get_packed_command()
        };
        ask(redis, "SET", refs.iter().map(set).collect())?;
    }
    Ok(count)
}

/// Pipelines commands and reads their replies. An error reply is an error.
fn ask(redis: &mut Connection, name: &'static str, commands: Vec<Vec<u8>>) -> Result<Vec<Value>, LinkError> {
    redis.socket.send(&commands.concat())?;
    let replies: Vec<Value> = commands.iter().map(|_| redis.read()).collect::<Result<_, _>>()?;
    replies
        .into_iter()
        .map(|reply| match reply {
            Value::ServerError(error) => Err(LinkError::Refused(name, error)),
            value => Ok(value),
        })
        .collect()
}
