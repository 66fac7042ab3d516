//! The subcommands, which send requests to a running server.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use super::{Reader, RedisSettings, SettingError, redis_settings};

/// A request to a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// `admin rooms`.
    Rooms,
    /// `admin people ROOM`.
    People(String),
    /// `admin remove [ROOM] …`: the room, or all rooms, and the suffix of the path to its messages.
    Remove(Option<String>, String),
    /// `admin ban MARK|ADDRESS`, with the minutes.
    Ban(String, u64),
    /// `admin bans`.
    Bans,
    /// `admin lift MARK|ADDRESS`.
    Lift(String),
    /// `export ROOM`.
    Export(String),
}

/// A request, and the server to send it to.
#[derive(Clone)]
pub struct ToolCall {
    /// The request.
    pub tool: Tool,
    /// `http://` or `https://`, host and port, without a trailing slash.
    pub url: String,
    /// The value for `Authorization: Bearer`: `ADMIN_TOKEN`, or for an export possibly the passphrase.
    pub token: Option<String>,
}

/// The arguments of `--import`.
#[derive(Clone)]
pub struct ImportCall {
    /// The data file to read.
    pub file: PathBuf,
    /// The Redis to write to.
    pub redis: RedisSettings,
    /// How long messages are kept.
    pub life: Duration,
    /// Whether to replace rooms that exist on Redis.
    pub replace: bool,
}

impl ImportCall {
    pub(super) fn read(read: &Reader<'_>) -> Result<Option<ImportCall>, SettingError> {
        let Some(file) = read.0.get_one::<PathBuf>("import").cloned() else { return Ok(None) };
        let Some(redis) = redis_settings(read)? else {
            return Err(SettingError("REDIS_ENDPOINT: required by --import".to_owned()));
        };
        let life = Duration::from_secs(86_400 * read.number::<u64>("HISTORY_DAYS", 1..=3650)?);
        Ok(Some(ImportCall { file, redis, life, replace: read.0.get_flag("replace") }))
    }
}

/// The flags of `--import`.
pub(super) fn import() -> [Arg; 2] {
    let file = Arg::new("import").long("import").value_name("FILE").value_parser(clap::value_parser!(PathBuf));
    let replace = Arg::new("replace").long("replace").action(ArgAction::SetTrue).requires("import");
    [
        file.help("import the rooms of a data file into REDIS_ENDPOINT; no server may be using the file"),
        replace.help("with --import: replace rooms that exist in Redis"),
    ]
}

impl ToolCall {
    pub(super) fn read(read: &Reader<'_>, own: &str) -> Result<Option<ToolCall>, SettingError> {
        let Some((name, matches)) = read.0.subcommand() else { return Ok(None) };
        let admin = read.secret("ADMIN_TOKEN")?;
        let (tool, matches, token) = match (name, matches.subcommand()) {
            ("export", _) => (Tool::Export(text(matches, "ROOM")), matches, admin.or(read.secret("PASSPHRASE")?)),
            (_, Some((name, matches))) => (admin_tool(name, matches), matches, admin),
            // Unreachable: clap requires a subcommand.
            (_, None) => return Ok(None),
        };
        let url = matches.get_one::<String>("url").cloned().unwrap_or_else(|| own.to_owned());
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(SettingError(format!("--url: invalid value {url:?}; expected http://… or https://…")));
        }
        Ok(Some(ToolCall { tool, url: url.trim_end_matches('/').to_owned(), token }))
    }
}

fn text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

fn admin_tool(name: &str, matches: &ArgMatches) -> Tool {
    match name {
        "rooms" => Tool::Rooms,
        "people" => Tool::People(text(matches, "ROOM")),
        "remove" => Tool::Remove(matches.get_one("ROOM").cloned(), which(matches)),
        "ban" => Tool::Ban(text(matches, "WHOM"), matches.get_one("minutes").copied().unwrap_or(60)),
        "bans" => Tool::Bans,
        _ => Tool::Lift(text(matches, "WHOM")),
    }
}

/// The suffix of the path that selects the messages to remove.
fn which(matches: &ArgMatches) -> String {
    match (matches.get_one::<String>("ID"), matches.get_one::<String>("by")) {
        (Some(id), _) => format!("/{id}"),
        (None, Some(mark)) => format!("?by={mark}"),
        (None, None) => String::new(),
    }
}

pub(super) fn commands() -> [Command; 2] {
    let room = || Arg::new("ROOM").required(true).help("name of the room");
    let whom = || Arg::new("WHOM").required(true).help("a mark (the `by` of messages), or an IP address");
    let url = || Arg::new("url").long("url").value_name("URL").help("URL of the server; unset: PORT of this machine");
    let minutes = Arg::new("minutes").long("minutes").value_name("N").value_parser(clap::value_parser!(u64));
    let admin = |name: &'static str, about: &'static str| Command::new(name).about(about).arg(url());
    [
        Command::new("admin")
            .about("Administer a running server, with ADMIN_TOKEN or ADMIN_TOKEN_FILE; prints lines of JSON.")
            .subcommand_required(true)
            .subcommands([
                admin("rooms", "List all rooms, with people, messages and last activity."),
                admin("people", "List the people in a room: name, mark, time of joining, address.").arg(room()),
                admin(
                    "remove",
                    "Remove one message, all messages of one client in a room or everywhere, or all of a room.",
                )
                .arg(
                    Arg::new("ROOM").required_unless_present("by").help("name of the room; with --by unset: all rooms"),
                )
                .arg(Arg::new("ID").help("id of the message"))
                .arg(Arg::new("by").long("by").value_name("MARK").help("all messages with this `by`"))
                .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("all messages of the room"))
                .group(ArgGroup::new("which").args(["ID", "by", "all"]).required(true)),
                admin("ban", "Disconnect a client or an address and refuse its joins.")
                    .arg(whom())
                    .arg(minutes.help("duration in minutes; unset: 60")),
                admin("bans", "List the bans."),
                admin("lift", "Lift a ban.").arg(whom()),
            ]),
        Command::new("export")
            .about("Print the whole log of a room as lines of JSON, oldest first, with ADMIN_TOKEN or PASSPHRASE.")
            .arg(room())
            .arg(url()),
    ]
}
