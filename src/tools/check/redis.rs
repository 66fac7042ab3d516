//! Checks Redis: whether it is reachable and usable, what a restart could lose, and its latency. Nothing is changed:
//! commands that write are sent in a form that finds no key to change.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use redis::{FromRedisValue, Value, cmd};

use super::Finding;
use crate::backplane::redis::{Connection, LinkError, Server};
use crate::settings::RedisSettings;

/// A longer round trip is reported, because every message takes two.
const SLOW_ROUND_TRIP: Duration = Duration::from_millis(50);
/// A larger clock difference is reported, because message ids carry Redis's time.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(1);
/// The commands that the server needs, in a form that changes nothing. (`HSET` is needed too, but has no such form.)
const NEEDED_COMMANDS: &[&str] = &[
    "SET bobbin:probe 1 XX EX 60",
    "GET bobbin:{check}:ref:x",
    "XADD bobbin:{check}:log NOMKSTREAM * m x",
    "XDEL bobbin:{check}:log 1-1",
    "XLEN bobbin:{check}:log",
    "XRANGE bobbin:{check}:log - + COUNT 1",
    "XREVRANGE bobbin:{check}:log + - COUNT 1",
    "XTRIM bobbin:{check}:log MAXLEN 9",
    "XINFO STREAM bobbin:{check}:log",
    "XSETID bobbin:{check}:log 1-1",
    "MEMORY USAGE bobbin:{check}:log",
    "EXISTS bobbin:{check}:log",
    "EXPIRE bobbin:{check}:log 9",
    "DEL bobbin:{check}:here",
    "PEXPIRE bobbin:{check}:here 9",
    "PEXPIREAT bobbin:bans 9",
    "HGET bobbin:{check}:who x",
    "HMGET bobbin:{check}:who x",
    "HVALS bobbin:{check}:who",
    "HGETALL bobbin:bans",
    "HDEL bobbin:{check}:who x",
    "ZADD bobbin:{check}:here XX 1 x",
    "ZREM bobbin:{check}:here x",
    "ZCARD bobbin:{check}:here",
    "ZCOUNT bobbin:{check}:here 0 1",
    "ZSCORE bobbin:{check}:here x",
    "ZRANGEBYSCORE bobbin:{check}:here 0 1",
    "SCAN 0 MATCH bobbin:{*} COUNT 1",
    "EVALSHA 0000000000000000000000000000000000000000 0",
    "PUBLISH bobbin:check x",
    "SUBSCRIBE bobbin:check",
];

/// Checks Redis.
pub(super) fn look(settings: &RedisSettings) -> Vec<Finding> {
    let server = match Server::new(settings) {
        Ok(server) => server,
        Err(error) => return vec![Finding::error("redis", format!("{error}; check REDIS_ENDPOINT and REDIS_CA_FILE"))],
    };
    let mut connection = match server.open(None) {
        Ok(connection) => connection,
        Err(error) => return vec![Finding::error("redis", format!("{server}: {error}; {}", remedy(&error)))],
    };
    look_closer(&server, &mut connection)
        .unwrap_or_else(|error| vec![Finding::error("redis", format!("{server}: the connection broke: {error}"))])
}

fn remedy(error: &LinkError) -> &'static str {
    match error {
        LinkError::Refused(..) => "check REDIS_PASSWORD, and the user in REDIS_ENDPOINT",
        LinkError::Unsuitable(_) => "use the primary of a newer Redis or Valkey",
        _ => "is it running, and does a firewall allow this machine? Check REDIS_ENDPOINT and REDIS_TLS",
    }
}

fn look_closer(server: &Server, connection: &mut Connection) -> Result<Vec<Finding>, LinkError> {
    let mut findings = Vec::new();
    match info(connection)? {
        Some(info) => {
            let field = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
            findings.push(Finding::ok("redis", format!("{} at {server}", field("redis_version"))));
            if field("role") == "slave" {
                findings
                    .push(Finding::error("redis", "this is a replica; name the primary, or a proxy that follows it"));
            }
            let saves = config(connection, "save")?;
            findings.push(persistence(field("aof_enabled") == "1", saves.as_deref()));
            findings.push(eviction(field("maxmemory"), field("maxmemory_policy")));
        }
        None => {
            let unknown = format!(
                "{server} answers; INFO is not permitted, so persistence and eviction are unknown, and strangers can fill it"
            );
            findings.push(Finding::warning("redis", unknown));
        }
    }
    findings.extend(time(connection)?);
    findings.push(permissions(connection)?);
    Ok(findings)
}

/// The fields of `INFO`; `None` if it is not permitted.
fn info(connection: &mut Connection) -> Result<Option<HashMap<String, String>>, LinkError> {
    let reply = connection.request(&cmd("INFO").get_packed_command())?;
    let Ok(text) = String::from_redis_value(reply) else { return Ok(None) };
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(Some(text.lines().filter_map(pair).collect()))
}

/// A configuration parameter of Redis; `None` if it is unavailable.
fn config(connection: &mut Connection, name: &str) -> Result<Option<String>, LinkError> {
    let reply = connection.request(&cmd("CONFIG").arg("GET").arg(name).get_packed_command())?;
    Ok(HashMap::<String, String>::from_redis_value(reply).ok().and_then(|mut found| found.remove(name)))
}

fn persistence(appends: bool, saves: Option<&str>) -> Finding {
    match saves {
        _ if appends => Finding::ok("persistence", "every message is appended to a file"),
        Some("") => Finding::warning("persistence", "none: a restart of Redis loses everything; set appendonly yes"),
        _ => Finding::warning(
            "persistence",
            "snapshots only: a crash of Redis loses the newest messages; set appendonly yes",
        ),
    }
}

fn eviction(limit: &str, policy: &str) -> Finding {
    match (limit, policy) {
        ("0", "noeviction") => Finding::warning(
            "memory",
            "without maxmemory, strangers who fill many rooms can fill half of its machine, or its container; set maxmemory",
        ),
        (_, "noeviction") => {
            Finding::ok("memory", "nothing is evicted; at three quarters, the largest logs are trimmed")
        }
        ("0", _) => Finding::warning(
            "memory",
            format!("{policy} would evict messages if maxmemory were set; set maxmemory-policy noeviction"),
        ),
        _ => Finding::error(
            "memory",
            format!("{policy} evicts messages and people when Redis is full; set maxmemory-policy noeviction"),
        ),
    }
}

/// The round trip time, and the difference between the clocks.
fn time(connection: &mut Connection) -> Result<[Finding; 2], LinkError> {
    let mut best: Option<(Duration, Duration)> = None;
    for _ in 0..5 {
        let (sent, before) = (Instant::now(), unix_time());
        let reply = connection.request(&cmd("TIME").get_packed_command())?;
        let took = sent.elapsed();
        let (seconds, micros) = <(String, String)>::from_redis_value(reply).unwrap_or_default();
        let theirs = Duration::from_secs(seconds.parse().unwrap_or_default())
            + Duration::from_micros(micros.parse().unwrap_or_default());
        if best.is_none_or(|(fastest, _)| took < fastest) {
            best = Some((took, theirs.abs_diff(before + took / 2)));
        }
    }
    let (took, apart) = best.unwrap_or_default();
    let trip = format!("{:.1} ms", took.as_secs_f64() * 1000.0);
    Ok([
        match took > SLOW_ROUND_TRIP {
            true => Finding::warning("round trip", format!("{trip}, twice per message; use a Redis nearby")),
            false => Finding::ok("round trip", trip),
        },
        match apart > MAX_CLOCK_SKEW {
            true => Finding::warning(
                "clock",
                format!(
                    "Redis's clock differs from this machine's by {:.1} s; synchronize both with NTP",
                    apart.as_secs_f64()
                ),
            ),
            false => Finding::ok("clock", format!("{} ms apart", apart.as_millis())),
        },
    ])
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Whether the user has all needed permissions. A permitted command may still fail, since its key does not exist.
fn permissions(connection: &mut Connection) -> Result<Finding, LinkError> {
    let mut refused = Vec::new();
    for line in NEEDED_COMMANDS {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let mut command = cmd(name);
        for word in words {
            command.arg(word);
        }
        if let Value::ServerError(error) = connection.request(&command.get_packed_command())?
            && matches!(error.code(), "NOPERM" | "READONLY" | "OOM" | "MISCONF")
        {
            refused.push(format!("{name} ({})", error.code()));
        }
    }
    Ok(match refused.is_empty() {
        true => Finding::ok("permissions", "the user has all needed permissions"),
        false => Finding::error("permissions", format!("Redis rejects {}; check the user's ACL", refused.join(", "))),
    })
}
