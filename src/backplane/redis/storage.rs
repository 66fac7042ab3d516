//! Keeps Redis below its limit, so that strangers who fill many rooms do not bring it to its `maxmemory`, where it refuses
//! everything: when it takes more, the largest logs are trimmed. Each instance does this.

use std::sync::Arc;
use std::time::Duration;

use redis::{Value, cmd};

use super::bulk;
use super::core::Core;
use super::pipeline::Failure;
use super::replies::from_value;
use crate::backplane::{Event, Unavailable, storage};
use crate::settings::LEAST_STORAGE;
use crate::threads;

/// How often Redis's memory is read. Logs are trimmed if it is over the limit twice in a row.
const EVERY: Duration = Duration::from_secs(5);
/// How long to wait after there was nothing to trim: something else fills Redis, and looking for logs takes time.
const PAUSE: Duration = Duration::from_secs(300);
/// Logs measured per batch, and logs trimmed. Redis executes a batch in one go; measuring takes it about 0.02 ms for each log,
/// and trimming 4 MiB 0.4 ms.
const MEASURED: usize = 16;
const TRIMMED: usize = 4;

/// Redis's memory, in bytes.
struct Memory {
    used: u64,
    /// The most that it should take.
    most: u64,
}

/// A room's log.
struct Log {
    room: String,
    bytes: u64,
    messages: u64,
}

/// Starts the thread. `setting` is the limit in bytes; 0 is unlimited, `None` is [`share`].
pub fn start(core: Arc<Core>, setting: Option<u64>) -> std::io::Result<()> {
    if setting == Some(0) {
        return Ok(());
    }
    let (mut was_over, mut warned) = (false, false);
    let mut look = move || match memory(&core, setting) {
        Ok(Some(_)) if was_over => {
            was_over = false;
            trim_largest(&core, setting)
        }
        Ok(over) => {
            was_over = over.is_some();
            EVERY
        }
        Err(Failure::Refused(code)) if code == "NOPERM" => {
            if !std::mem::replace(&mut warned, true) {
                log::warn!("the user may not run INFO, so Redis may become full: STORAGE_BYTES has no effect");
            }
            PAUSE
        }
        Err(_) => EVERY,
    };
    let run = move || {
        let mut pause = EVERY;
        loop {
            std::thread::sleep(pause);
            pause = look();
        }
    };
    threads::spawn_critical("redis-storage", run).map(drop)
}

/// Reads Redis's memory; `None` if it is not over its limit.
fn memory(core: &Core, setting: Option<u64>) -> Result<Option<Memory>, Failure> {
    let info = cmd("INFO").arg("memory").get_packed_command();
    let info: String = from_value(core.bulk.ask_one(info, bulk::deadline())?).map_err(|_| Failure::Down)?;
    let field = |name: &str| -> u64 {
        let mut values = info.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.next().and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    // Buffers for replicas and for the append-only file do not count towards `maxmemory`.
    let used = field("used_memory").saturating_sub(field("mem_not_counted_for_evict"));
    let most = setting.unwrap_or_else(|| share(field("maxmemory"), field("total_system_memory")));
    Ok((most >= LEAST_STORAGE && used > most).then_some(Memory { used, most }))
}

/// The limit unless set otherwise: three quarters of `maxmemory`, or without one half of the memory of Redis's machine.
fn share(maxmemory: u64, machine: u64) -> u64 {
    if maxmemory > 0 { maxmemory / 4 * 3 } else { machine / 2 }
}

/// Trims the largest logs if Redis is over its limit, and returns how long to wait then.
fn trim_largest(core: &Core, setting: Option<u64>) -> Duration {
    let Ok(mut logs) = logs(core) else { return EVERY };
    // Read again, because another instance may have trimmed the logs before they were measured.
    let Ok(Some(Memory { used, most })) = memory(core, setting) else { return EVERY };
    let Some(size) = storage::trim_to(logs.iter().map(|log| log.bytes).collect(), used, most, most / 2) else {
        log::warn!("redis takes {used} bytes, over {most} (STORAGE_BYTES), but the logs take less than half of that");
        return PAUSE;
    };
    logs.retain(|log| log.bytes > size && log.messages > 1);
    log::warn!(
        "redis takes {used} bytes, over {most} (STORAGE_BYTES): {} logs are trimmed to {size} bytes",
        logs.len()
    );
    (core.sink)(Event::Trimmed);
    for some in logs.chunks(TRIMMED) {
        // As if all messages of a log had the same size.
        let trim = |log: &Log| core.commands.trim(&log.room, (log.messages * size / log.bytes).max(1));
        let commands: Vec<_> = some.iter().map(trim).collect();
        let replies = core.bulk.ask(&commands, bulk::deadline());
        if let Some(failure) = replies.map_or_else(Some, |replies| replies.into_iter().find_map(Result::err)) {
            log::warn!("redis: logs can't be trimmed: {failure:?}");
            return EVERY;
        }
    }
    if logs.is_empty() { PAUSE } else { EVERY }
}

/// All logs in Redis.
fn logs(core: &Core) -> Result<Vec<Log>, Unavailable> {
    let names: Vec<String> = core.names()?.into_iter().collect();
    let mut logs = Vec::new();
    for some in names.chunks(MEASURED) {
        let commands: Vec<_> = some.iter().flat_map(|room| core.commands.size(room)).collect();
        let replies = core.bulk.ask(&commands, bulk::deadline())?;
        for (room, values) in some.iter().zip(replies.chunks_exact(2)) {
            // Without a log the size is nil.
            if let [Ok(Value::Int(bytes)), Ok(Value::Int(messages))] = values {
                logs.push(Log { room: room.clone(), bytes: *bytes as u64, messages: *messages as u64 });
            }
        }
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_maxmemory_the_machine_counts() {
        assert_eq!(share(400, 1000), 300);
        assert_eq!(share(0, 1000), 500);
    }
}
