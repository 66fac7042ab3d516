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
    /// `admin remove ROOM …`: the room, and the suffix of the path to its messages.
    Remove(String, String),
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
            return Err(SettingError("REDIS_ENDPOINT: --import needs to know where Redis is".to_owned()));
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
        file.help("moves the rooms of a data file to REDIS_ENDPOINT; it must not be in use"),
        replace.help("with --import: rooms that exist on Redis are replaced by the file's"),
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
            return Err(SettingError(format!("--url: {url:?} begins with neither http:// nor https://")));
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
        "remove" => Tool::Remove(text(matches, "ROOM"), which(matches)),
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
    let room = || Arg::new("ROOM").required(true).help("the room's name");
    let whom = || Arg::new("WHOM").required(true).help("a mark (the `by` of messages), or an IP address");
    let url = || Arg::new("url").long("url").value_name("URL").help("the server; unset: PORT of this machine");
    let minutes = Arg::new("minutes").long("minutes").value_name("N").value_parser(clap::value_parser!(u64));
    let admin = |name: &'static str, about: &'static str| Command::new(name).about(about).arg(url());
    [
        Command::new("admin")
            .about("The host's tools, by ADMIN_TOKEN or ADMIN_TOKEN_FILE; answers are lines of JSON.")
            .subcommand_required(true)
            .subcommands([
                admin("rooms", "All rooms, with people, messages and last activity."),
                admin("people", "Who is in a room: name, mark, since when, address.").arg(room()),
                admin("remove", "Removes one message, all of one person, or all.")
                    .arg(room())
                    .arg(Arg::new("ID").help("the message's id"))
                    .arg(Arg::new("by").long("by").value_name("MARK").help("all messages with this `by`"))
                    .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("all messages of the room"))
                    .group(ArgGroup::new("which").args(["ID", "by", "all"]).required(true)),
                admin("ban", "Sends somebody away, and keeps him out.")
                    .arg(whom())
                    .arg(minutes.help("for how long; unset: 60")),
                admin("bans", "Who is kept out."),
                admin("lift", "Lets somebody in again.").arg(whom()),
            ]),
        Command::new("export")
            .about("Writes the whole log of a room as lines of JSON, oldest first, by ADMIN_TOKEN or PASSPHRASE.")
            .arg(room())
            .arg(url()),
    ]
}
