//! Settings: environment variables, and flags of the same names that override them. Each is listed once, in [`SPECS`],
//! with its default and its help; [`Settings::parse`] validates them and reports the first invalid one in one line.
//! Secrets have no flag, because every user of a machine can read the command lines of all its processes.

pub mod access;
mod command;
pub mod page;
mod reader;
mod table;
pub mod tokens;
pub mod tools;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use self::access::Access;
pub use self::command::command;
use self::page::PageSettings;
use self::reader::Reader;
use self::table::SECRET_FILES;
pub use self::table::{SPECS, Spec};
use self::tokens::{Token, Tokens};
use self::tools::{ImportCall, ToolCall};
use crate::limits;
use crate::logging::Format;
use crate::metrics::emf::Emf;

/// The validated settings.
#[derive(Clone)]
pub struct Settings {
    /// TCP port; 0 picks a free one.
    pub port: u16,
    /// The address to listen on.
    pub bind: IpAddr,
    /// How to reach Redis; `None` for a single process without it.
    pub redis: Option<RedisSettings>,
    /// The SQLite file of a single process; `None` keeps rooms in memory.
    pub data_file: Option<PathBuf>,
    /// How much of each room's log is kept.
    pub retention: Retention,
    /// The maximum number of rooms.
    pub max_rooms: usize,
    /// The most bytes that all rooms may take together; `None` for a share of what there is, 0 for no limit.
    pub storage: Option<u64>,
    /// Messages per second per connection; 0 is unlimited.
    pub rate_limit: u32,
    /// The cap on WebSocket connections; `None` if the machine decides it.
    pub max_connections: Option<usize>,
    /// The time over which SIGTERM spreads closing the sessions.
    pub drain: Duration,
    passphrase: Option<Token>,
    /// Who may connect, and how much each may use.
    pub access: Access,
    /// The secrets of scripts and of the admin API.
    pub tokens: Tokens,
    /// Where the page is served, and who may embed it.
    pub page: PageSettings,
    /// Namespace, environment and service of the CloudWatch metric line.
    pub emf: Option<String>,
    /// Sessions per second that a rebalancing instance asks to reconnect; 0 is off.
    pub rebalance: u32,
    /// The files that contain secrets, for `--check`.
    pub secret_files: Vec<PathBuf>,
    /// The log level.
    pub log: LevelFilter,
    /// The format of log lines.
    pub log_format: Format,
}

/// The smallest `STORAGE_BYTES`. Less is probably a mistake in the unit, and would cost everybody their messages.
pub const LEAST_STORAGE: u64 = 1024 * 1024;

/// How much of a room's log is kept: the newest messages within all three bounds.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// The largest number of messages.
    pub messages: usize,
    /// The largest size of their bodies, in bytes.
    pub bytes: usize,
    /// The largest age.
    pub life: Duration,
}

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisSettings {
    /// A `redis://` or `rediss://` URL, in the redis crate's format.
    pub url: String,
    /// The password for AUTH, if not in the URL.
    pub password: Option<String>,
    /// The trusted certificate authorities, as PEM text; `None` for the system's.
    pub authorities: Option<Vec<u8>>,
}

/// What the command line requests.
pub enum CliAction {
    /// Run the server.
    Serve(Box<Settings>),
    /// `--check`: report on the settings and the machine.
    Check(Result<Box<Settings>, SettingError>),
    /// `--healthcheck`: request `/healthz` from the server at this address.
    Healthcheck(SocketAddr),
    /// `--import`: move a data file's rooms to Redis.
    Import(ImportCall),
    /// A subcommand: send a request to a running server.
    Tool(ToolCall),
    /// `--help` or `--version`: print this.
    Print(String),
}

/// An invalid setting, described in one line.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingError(String);

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingError {}

impl Settings {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// The first invalid setting: its variable and what it expects.
    pub fn parse<I: IntoIterator<Item = String>>(arguments: I) -> Result<CliAction, SettingError> {
        let matches = match command().try_get_matches_from(arguments) {
            Ok(matches) => matches,
            Err(error) if error.exit_code() == 0 => return Ok(CliAction::Print(error.to_string())),
            Err(error) => {
                // The first paragraph: the error, and below it the missing arguments, if any.
                let text = error.to_string();
                let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
                let line = lines.join(" ");
                return Err(SettingError(format!("{}; see --help", line.trim_start_matches("error: "))));
            }
        };
        let read = Reader(&matches);
        if matches.get_flag("check") {
            return Ok(CliAction::Check(Settings::read(&read).map(Box::new)));
        }
        let port = read.number("PORT", 0..=65_535)?;
        let bind: IpAddr = read.parsed("BIND")?;
        let own = if bind.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bind };
        if matches.get_flag("healthcheck") {
            return Ok(CliAction::Healthcheck(SocketAddr::new(own, port)));
        }
        if let Some(call) = ImportCall::read(&read)? {
            return Ok(CliAction::Import(call));
        }
        if let Some(call) = ToolCall::read(&read, &format!("http://{}", SocketAddr::new(own, port)))? {
            return Ok(CliAction::Tool(call));
        }
        Settings::read(&read).map(|settings| CliAction::Serve(Box::new(settings)))
    }

    fn read(read: &Reader<'_>) -> Result<Settings, SettingError> {
        let emf = read.text("METRICS_EMF");
        if emf.as_deref().is_some_and(|target| Emf::new(target).is_none()) {
            return Err(read.wrong("METRICS_EMF"));
        }
        let max_connections = match read.text("MAX_CONNECTIONS").as_deref() {
            None | Some("auto") => None,
            Some(_) => Some(read.number("MAX_CONNECTIONS", 1..=10_000_000)?),
        };
        let storage = match read.text("STORAGE_BYTES").as_deref() {
            None | Some("auto") => None,
            Some("0") => Some(0),
            Some(_) => Some(read.number("STORAGE_BYTES", LEAST_STORAGE..=u64::MAX)?),
        };
        let redis = redis_settings(read)?;
        let data_file = read.text("DATA_FILE").map(PathBuf::from);
        if redis.is_some() && data_file.is_some() {
            let line = "DATA_FILE: can't be combined with REDIS_ENDPOINT; unset one of the two";
            return Err(SettingError(line.to_owned()));
        }
        let is_in_memory = redis.is_none() && data_file.is_none();
        if is_in_memory && storage.is_some_and(|bytes| bytes > limits::MOST_IN_MEMORY) {
            let most = limits::MOST_IN_MEMORY;
            return Err(SettingError(format!("STORAGE_BYTES: at most {most} in memory; set DATA_FILE for more")));
        }
        let retention = Retention {
            messages: read.number("HISTORY_MESSAGES", 1..=1_000_000)?,
            bytes: read.unless_zero("HISTORY_BYTES", 65_536..=1_073_741_824)?.unwrap_or(usize::MAX),
            life: Duration::from_secs(86_400 * read.number::<u64>("HISTORY_DAYS", 1..=3650)?),
        };
        let max_rooms = read.unless_zero("MAX_ROOMS", 1..=1_000_000)?.unwrap_or(usize::MAX);
        Ok(Settings {
            port: read.number("PORT", 0..=65_535)?,
            bind: read.parsed("BIND")?,
            redis,
            data_file,
            retention,
            max_rooms,
            storage,
            rate_limit: read.number("RATE_LIMIT", 0..=1000)?,
            max_connections,
            drain: Duration::from_secs(read.number("DRAIN_SECONDS", 0..=100)?),
            passphrase: read.secret("PASSPHRASE")?.map(Token::new),
            access: Access::read(read, max_rooms, retention.life)?,
            tokens: Tokens::read(read)?,
            page: PageSettings::read(read)?,
            emf,
            rebalance: read.number("REBALANCE", 0..=1000)?,
            secret_files: SECRET_FILES.iter().filter_map(|name| read.text(name)).map(PathBuf::from).collect(),
            log: read.parsed("RUST_LOG")?,
            log_format: read.parsed("LOG_FORMAT")?,
        })
    }

    /// The bytes of this process's memory that the rooms may take; 0 if they are in a file or in Redis, or unlimited.
    pub fn rooms_in_memory(&self) -> u64 {
        let are_elsewhere = self.redis.is_some() || self.data_file.is_some();
        if are_elsewhere { 0 } else { limits::rooms_in_memory(self.storage).unwrap_or_default() }
    }

    /// Whether joining requires a passphrase.
    pub fn asks_passphrase(&self) -> bool {
        self.passphrase.is_some()
    }

    /// Whether this passphrase allows joining.
    pub fn admits(&self, offered: Option<&str>) -> bool {
        self.passphrase.as_ref().is_none_or(|wanted| wanted.is(offered.unwrap_or_default()))
    }
}

fn redis_settings(read: &Reader<'_>) -> Result<Option<RedisSettings>, SettingError> {
    let tls = match read.text("REDIS_TLS").as_deref() {
        None | Some("0") => false,
        Some("1") => true,
        Some(_) => return Err(read.wrong("REDIS_TLS")),
    };
    let password = read.secret("REDIS_PASSWORD")?;
    let authorities = read.file("REDIS_CA_FILE")?;
    // Without this check no server would be trusted, and only a later connection error would show it.
    let no_certificate = |pem: &Vec<u8>| !String::from_utf8_lossy(pem).contains("-----BEGIN CERTIFICATE-----");
    if authorities.as_ref().is_some_and(no_certificate) {
        return Err(read.wrong("REDIS_CA_FILE"));
    }
    let Some(endpoint) = read.text("REDIS_ENDPOINT") else { return Ok(None) };
    if read.is_flag("REDIS_ENDPOINT") && endpoint.contains('@') {
        let why =
            "a flag can be read by every user of this machine; set a password in REDIS_PASSWORD, or set the variable";
        return Err(SettingError(format!("REDIS_ENDPOINT: {why}")));
    }
    let url = if endpoint.contains("://") {
        endpoint
    } else {
        // An IPv6 address contains colons, so a port needs brackets around the address.
        let host = if endpoint.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{endpoint}]") } else { endpoint };
        format!("redis{}://{host}", if tls { "s" } else { "" })
    };
    let right_scheme = url.starts_with("redis://") || url.starts_with("rediss://");
    if !right_scheme || redis::parse_redis_url(&url).is_none_or(|url| url.host_str().is_none_or(str::is_empty)) {
        return Err(read.wrong("REDIS_ENDPOINT"));
    }
    Ok(Some(RedisSettings { url, password, authorities }))
}

/// Whether the variable's value is itself a secret.
fn is_secret(variable: &str) -> bool {
    ["PASSPHRASE", "PASSWORD", "TOKEN"].iter().any(|ending| variable.ends_with(ending))
}

fn spec(variable: &str) -> Option<&'static Spec> {
    SPECS.iter().find(|(name, _, _)| *name == variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Settings, String> {
        let arguments = std::iter::once("bobbin").chain(flags.iter().copied()).map(str::to_owned);
        match Settings::parse(arguments) {
            Ok(CliAction::Serve(settings)) => Ok(*settings),
            Ok(_) => Err("something else was asked".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn endpoints_come_in_three_shapes() {
        for (flags, url) in [
            (&["--redis-endpoint=redis"][..], "redis://redis"),
            (&["--redis-endpoint=10.0.0.7:6380"], "redis://10.0.0.7:6380"),
            (&["--redis-endpoint=cache", "--redis-tls=1"], "rediss://cache"),
            (&["--redis-endpoint=::1"], "redis://[::1]"),
            (&["--redis-endpoint=rediss://cache:6379/2"], "rediss://cache:6379/2"),
        ] {
            assert_eq!(parse(flags).expect("right").redis.expect("set").url, url);
        }
        assert!(parse(&["--redis-endpoint="]).expect("right").redis.is_none());
    }

    #[test]
    fn nonsense_is_named_in_one_line() {
        for (flags, variable) in [
            (&["--port=99999"][..], "PORT"),
            (&["--port=abc"], "PORT"),
            (&["--bind=somewhere"], "BIND"),
            (&["--redis-endpoint=http://x"], "REDIS_ENDPOINT"),
            (&["--redis-endpoint=redis://user:secret@x"], "REDIS_ENDPOINT"),
            (&["--redis-endpoint=a b"], "REDIS_ENDPOINT"),
            (&["--redis-tls=yes"], "REDIS_TLS"),
            (&["--redis-ca-file=/does/not/exist"], "REDIS_CA_FILE"),
            (&["--history-messages=0"], "HISTORY_MESSAGES"),
            (&["--rate-limit=-1"], "RATE_LIMIT"),
            (&["--max-connections=0"], "MAX_CONNECTIONS"),
            (&["--metrics-emf=Bobbin"], "METRICS_EMF"),
            (&["--rust-log=loud"], "RUST_LOG"),
            (&["--nonsense"], "--nonsense"),
            (&["export"], "<ROOM>"),
            (&["admin", "remove", "lobby"], "--all"),
        ] {
            let line = parse(flags).err().expect("wrong");
            assert!(line.contains(variable) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn secrets_have_no_flag() {
        for flag in ["--passphrase=sesame", "--redis-password=sesame", "--admin-token=sesame"] {
            let line = parse(&[flag]).err().expect("no flag");
            assert!(!line.contains("sesame"), "{line}");
        }
        assert!(parse(&[]).expect("right").admits(None));
    }
}
