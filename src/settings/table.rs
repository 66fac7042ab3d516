//! The table of settings: the variable, default and help text of each.

/// One setting: its variable, its default ("" if unset) and its help text.
pub type Spec = (&'static str, &'static str, &'static str);

/// All settings, in the order of the settings page.
pub const SPECS: &[Spec] = &[
    ("PORT", "3000", "TCP port; 0 picks a free one"),
    ("BIND", "0.0.0.0", "address to listen on; :: includes IPv6"),
    ("REDIS_ENDPOINT", "", "host, host:port, redis:// or rediss:// URL; unset: a single process without Redis"),
    ("DATA_FILE", "", "file in which a single process keeps rooms, created if missing; unset: in memory"),
    ("REDIS_TLS", "0", "0 or 1: whether to use TLS; only if REDIS_ENDPOINT is not a URL"),
    ("REDIS_PASSWORD", "", "password for AUTH"),
    ("REDIS_PASSWORD_FILE", "", "file with the password for AUTH"),
    ("REDIS_CA_FILE", "", "PEM file with the certificate authorities to trust; unset: the system's"),
    ("HISTORY_MESSAGES", "1000", "messages kept per room, 1 to 1000000"),
    ("HISTORY_DAYS", "30", "days for which messages are kept, 1 to 3650"),
    ("HISTORY_BYTES", "4194304", "bytes of messages kept per room, 65536 to 1073741824; 0 is unlimited"),
    (
        "MAX_ROOMS",
        "10000",
        "maximum number of rooms; with Redis, of those with people on one instance; 1 to 1000000; 0 is unlimited",
    ),
    (
        "STORAGE_BYTES",
        "auto",
        "bytes that all rooms may take together, beyond which the largest logs are trimmed, at least 1048576, in memory at most \
         1610612736; 0 is unlimited, in memory 1610612736; auto: in memory, a quarter of the memory; in a file, half of the disk's free \
         space; in Redis, three quarters of its maxmemory, or half of its machine's memory if that is not set",
    ),
    ("ROOM_PEOPLE", "10000", "maximum number of people per room; 0 is unlimited"),
    (
        "RATE_LIMIT",
        "5",
        "messages per second per connection, with bursts of four times as many; 0 is unlimited, at most 1000",
    ),
    (
        "TYPING_NAMES",
        "5",
        "names announced as typing at a time, once per second, in rooms of more than 50 people; 0 announces all at once",
    ),
    ("TEXT_RATE", "8192", "bytes of text per second per connection, with bursts of 16 times as many; 0 is unlimited"),
    (
        "ADDRESS_CONNECTIONS",
        "100",
        "concurrent WebSockets per address, and six times as many other connections; 0 is unlimited",
    ),
    (
        "ADDRESS_CONNECTION_RATE",
        "20",
        "new connections per second per address, with bursts of ten times as many; 0 is unlimited",
    ),
    ("ADDRESS_JOINS", "600", "joins per minute per address; 0 is unlimited"),
    (
        "ADDRESS_NEW_ROOMS",
        "300",
        "new rooms per hour per address; over HISTORY_DAYS, at most a tenth of MAX_ROOMS, or twice this if that is more; 0 is unlimited",
    ),
    ("ADDRESS_WRONG_PASSPHRASES", "20", "wrong passphrases per address before it has to wait; 0 is unlimited"),
    (
        "ADDRESS_TEXT_RATE",
        "65536",
        "bytes of text per second per address, with bursts of twice as many; 0 is unlimited",
    ),
    (
        "ADDRESS_HISTORY_RATE",
        "524288",
        "bytes read from logs per second per address, with bursts of eight times as many; 0 is unlimited",
    ),
    (
        "TRUSTED_PROXIES",
        "",
        "whose X-Forwarded-For is trusted: networks (10.0.0.0/8,192.0.2.1) or a number of proxies; unset: private networks",
    ),
    (
        "USER_HEADER",
        "",
        "header in which a trusted proxy names the user, such as Remote-User; requires networks in TRUSTED_PROXIES",
    ),
    (
        "ALLOWED_ORIGINS",
        "",
        "additional origins whose pages may connect: https://a.example,https://b.example; * allows any",
    ),
    ("MAX_CONNECTIONS", "auto", "maximum number of WebSocket connections; auto: as many as the machine can hold"),
    (
        "LOBBY_PERCENT",
        "25",
        "percentage of MAX_CONNECTIONS for connections that have not joined; beyond it, a new one replaces the one silent \
         longest; 0 to 100, 0 is off",
    ),
    ("JOINS_AT_ONCE", "16", "joins carried out at a time; the others wait up to 2 s; 0 is unlimited"),
    (
        "READS_AT_ONCE",
        "4",
        "pages of messages read at a time for HTTP requests; the others wait up to 2 s; 0 is unlimited",
    ),
    ("DRAIN_SECONDS", "20", "seconds over which the sessions are closed after SIGTERM, 0 to 100"),
    ("PASSPHRASE", "", "shared secret, required to join and to read logs; unset: none"),
    ("PASSPHRASE_FILE", "", "file with the passphrase"),
    ("POST_TOKEN", "", "token with which scripts may post messages over HTTP; at least 16 visible ASCII characters"),
    ("POST_TOKEN_FILE", "", "file with POST_TOKEN"),
    ("POST_TOKENS_FILE", "", "file with one script per line: its name, its token, its rooms (a,b or *)"),
    ("ADMIN_TOKEN", "", "token for the admin API; at least 16 visible ASCII characters"),
    ("ADMIN_TOKEN_FILE", "", "file with ADMIN_TOKEN"),
    ("METRICS_TOKEN", "", "token for reading /metrics from public addresses; at least 16 visible ASCII characters"),
    ("METRICS_TOKEN_FILE", "", "file with METRICS_TOKEN"),
    ("BASE_PATH", "", "path under which a proxy serves the page, such as /chat"),
    ("FRAME_ANCESTORS", "", "who may embed the page: origins with scheme, or 'self'; unset: nobody"),
    ("METRICS_EMF", "", "NAMESPACE/ENVIRONMENT/SERVICE of a CloudWatch metric line, written to stdout every minute"),
    (
        "REBALANCE",
        "10",
        "sessions per second that an instance with over 1.5 times its share asks to reconnect elsewhere; 0 is off, at most 1000",
    ),
    ("LOG_FORMAT", "text", "text, or json for one object per line"),
    ("RUST_LOG", "info", "off, error, warn, info, debug or trace"),
];

/// Settings that name a file with a secret in it.
pub(super) const SECRET_FILES: [&str; 6] = [
    "REDIS_PASSWORD_FILE",
    "PASSPHRASE_FILE",
    "POST_TOKEN_FILE",
    "POST_TOKENS_FILE",
    "ADMIN_TOKEN_FILE",
    "METRICS_TOKEN_FILE",
];
