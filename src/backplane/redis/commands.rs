//! What Redis is asked: the keys, the channels, and the scripts.
//!
//! All that must be atomic is a Lua script beside this file. Keys carry the room as hash tag (Redis Cluster
//! specification), so that a cluster keeps a room's keys together:
//!
//! | key | type | holds |
//! | --- | --- | --- |
//! | `bobbin:{room}:log` | stream | the messages |
//! | `bobbin:{room}:live` | channel | events as they happen |
//! | `bobbin:{room}:here` | sorted set | folded name, and the end of its lease |
//! | `bobbin:{room}:who` | hash | folded name, and who has it |
//! | `bobbin:{room}:ref:{ref}` | string | the id that a message with this ref got |
//! | `bobbin:tasks` | hash | each task's count of sessions, and when it told |

use std::sync::LazyLock;

use redis::{Cmd, Script};

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)+) => {
        $(
            #[allow(missing_docs)] // Its file says what it does.
            pub static $name: LazyLock<Script> = LazyLock::new(|| Script::new(concat!($(include_str!($file)),+)));)+
        /// All of them, as they are loaded.
        pub const SCRIPTS: &[&str] = &[$(concat!($(include_str!($file)),+)),+];
    };
}

scripts! {
    JOIN = "presence.lua" "join.lua";
    LEAVE = "presence.lua" "leave.lua";
    RENEW_LEASES = "presence.lua" "renew.lua";
    SAY = "say.lua";
    READ = "read.lua";
    LOAD_REPORT = "load_report.lua";
    ROSTER = "roster.lua";
}

/// `EVALSHA` of a script that was loaded when the connection was made.
pub fn script(script: &Script, keys: usize) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys);
    command
}

/// The key of a room's log.
pub fn log_key(room: &str) -> String {
    format!("bobbin:{{{room}}}:log")
}

/// The key of the people in a room.
pub fn who_key(room: &str) -> String {
    format!("bobbin:{{{room}}}:who")
}

/// Asks who is in a room; `replies::people` understands the answer.
pub fn ask_for_people(room: &str) -> Vec<u8> {
    script(&ROSTER, 1).arg(who_key(room)).get_packed_command()
}

/// The channel on which a room's events are published.
pub fn channel_of_room(room: &str) -> String {
    format!("bobbin:{{{room}}}:live")
}

/// The channel that only this task listens to.
pub fn channel_of_task(task: &str) -> String {
    format!("bobbin:task:{task}")
}
