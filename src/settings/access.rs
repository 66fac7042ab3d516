//! Settings for access: trusted proxies, allowed origins, and limits per address, connection and room.

use std::time::Duration;

use tungstenite::http::HeaderName;

use super::{Reader, SettingError};
use crate::limits::{PerAddress, RoomLimits, TrustedProxies};

/// Who may connect, and how much each may use.
#[derive(Debug, Clone)]
pub struct Access {
    /// Whose `X-Forwarded-For` is trusted.
    pub proxies: TrustedProxies,
    /// The header in which a proxy names the user; `None` if people choose their names.
    pub user_header: Option<HeaderName>,
    /// Allowed origins besides the server's own, in lower case; `*` allows any.
    pub origins: Vec<String>,
    /// The limits per address.
    pub per_address: PerAddress,
    /// Bytes of message text per second per connection; 0 is unlimited.
    pub text_rate: u32,
    /// People per room; 0 is unlimited.
    pub room_people: u64,
    /// Names announced as typing at a time in a large room; 0 is unlimited.
    pub typing_names: usize,
    /// The percentage of the cap on connections for those that have not joined; `None` if they have no share of their own.
    pub lobby_percent: Option<usize>,
    /// Joins in progress in the backplane at a time. Messages wait behind them for Redis and for a processor. With 32 instead of
    /// 16, when hundreds joined at once on two cores, the 99th percentile of a calm room's latency doubled, and 10,000 clients
    /// needed an eighth less time. If Redis is far away this is not the limit: each join also reads a page, and four pages
    /// are read at a time.
    pub joins_at_once: usize,
    /// Pages that are read for HTTP requests at a time: few, because sessions read through the same connections or thread. The
    /// addresses take turns.
    pub reads_at_once: usize,
}

impl Access {
    /// Reads them. `max_rooms` and `life` are the server's limits on rooms.
    pub(super) fn read(read: &Reader<'_>, max_rooms: usize, life: Duration) -> Result<Access, SettingError> {
        let proxies = match read.text("TRUSTED_PROXIES") {
            None => TrustedProxies::Unset,
            Some(_) => read.parsed("TRUSTED_PROXIES")?,
        };
        let user_header = match read.text("USER_HEADER") {
            None => None,
            Some(_) => Some(read.parsed("USER_HEADER")?),
        };
        if user_header.is_some() && !matches!(proxies, TrustedProxies::Networks(_)) {
            let why =
                "USER_HEADER: requires TRUSTED_PROXIES with networks, or whoever reaches the port could claim any name";
            return Err(SettingError(why.to_owned()));
        }
        let most = 0..=1_000_000_000;
        Ok(Access {
            proxies,
            user_header,
            origins: origins(read)?,
            per_address: PerAddress {
                connections: read.number("ADDRESS_CONNECTIONS", most.clone())?,
                connection_rate: read.number("ADDRESS_CONNECTION_RATE", most.clone())?,
                joins: read.number("ADDRESS_JOINS", most.clone())?,
                wrong_passphrases: read.number("ADDRESS_WRONG_PASSPHRASES", most.clone())?,
                rooms: RoomLimits {
                    per_hour: read.number("ADDRESS_NEW_ROOMS", most.clone())?,
                    most: max_rooms.try_into().unwrap_or(u32::MAX),
                    life,
                },
                history: read.number("ADDRESS_HISTORY_RATE", most.clone())?,
                text: read.number("ADDRESS_TEXT_RATE", most.clone())?,
            },
            text_rate: read.number("TEXT_RATE", most.clone())?,
            room_people: read.number("ROOM_PEOPLE", most.clone())?,
            typing_names: read.number("TYPING_NAMES", most.clone())?,
            lobby_percent: read.unless_zero("LOBBY_PERCENT", 1..=100)?,
            joins_at_once: read.unless_zero("JOINS_AT_ONCE", most.clone())?.unwrap_or(usize::MAX),
            reads_at_once: read.unless_zero("READS_AT_ONCE", most)?.unwrap_or(usize::MAX),
        })
    }
}

fn origins(read: &Reader<'_>) -> Result<Vec<String>, SettingError> {
    let text = read.text("ALLOWED_ORIGINS").unwrap_or_default().to_ascii_lowercase();
    let all: Vec<String> = text.split(',').map(|origin| origin.trim().to_owned()).filter(|o| !o.is_empty()).collect();
    let is_origin = |origin: &String| {
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        origin == "*" || authority.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', ' ', '@']))
    };
    if all.iter().all(is_origin) { Ok(all) } else { Err(read.wrong("ALLOWED_ORIGINS")) }
}
