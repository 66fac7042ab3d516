//! Connections to Redis: the address from the settings, the handshake, and the requirements on the server.

use std::fmt;
use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{
    ConnectionAddr, FromRedisValue, IntoConnectionInfo, Parser, RedisError, ServerError, ServerErrorKind, Value, cmd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

use super::socket::Socket;
use crate::settings::RedisSettings;

/// Timeout for connecting, writing and reading. It leaves time to refuse a client within 2 s.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(1500);
/// The shortest timeout that the system accepts for certain; it rejects zero.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
/// The oldest version that supports all commands used: RESP3, `XTRIM MINID`, and ranges with exclusive ends.
const OLDEST_VERSION: (u32, u32) = (6, 2);

/// Why there is no connection.
#[derive(Debug)]
pub enum LinkError {
    /// A network error.
    Io(io::Error),
    /// Redis rejected a command that the connection depends on.
    Refused(&'static str, ServerError),
    /// The connection ended, or the bytes read are not a reply.
    Read(RedisError),
    /// The server does not meet the requirements.
    Unsuitable(String),
    /// No reply within [`REDIS_TIMEOUT`].
    NoAnswer,
    /// Replies arrive, but published messages do not.
    Stale,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Io(error) if is_timeout(error) => f.write_str("no answer in time"),
            LinkError::Io(error) => error.fmt(f),
            LinkError::Refused(command, error) => write!(f, "{command} was rejected: {}", as_sent(error)),
            LinkError::Read(error) if error.is_timeout() => f.write_str("no answer in time"),
            LinkError::Read(error) => error.fmt(f),
            LinkError::Unsuitable(why) => f.write_str(why),
            LinkError::NoAnswer => f.write_str("no answer in time"),
            LinkError::Stale => f.write_str("the subscription is stale: published messages do not arrive"),
        }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> LinkError {
        LinkError::Io(error)
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> LinkError {
        LinkError::Read(error)
    }
}

/// An error reply as Redis sent it, for the operator: its code, such as `NOPERM`, and its text. Without the arguments of an
/// unknown command, one of which may be the password.
pub fn as_sent(error: &ServerError) -> String {
    let text = error.details().unwrap_or_default();
    let text = text.split_once(", with args").map_or(text, |(start, _)| start);
    format!("{} {text}", error.code()).trim_end().to_owned()
}

/// Whether a read or write failed because its timeout passed.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The address of Redis, and the credentials.
#[derive(Clone)]
pub struct Server {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    user: Option<String>,
    password: Option<String>,
    /// The database's number. Channels are not separated by database, so their names contain it.
    pub database: i64,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A connection after its handshake. Used directly, it carries one exchange at a time.
pub struct Connection {
    /// The byte stream.
    pub socket: Arc<Socket>,
    parser: Parser,
    /// Until when replies are read. Without one, each read has the socket's own timeout.
    pub deadline: Option<Instant>,
    /// How many bytes of replies may be read.
    pub most_bytes: usize,
}

impl Server {
    /// Parses the settings.
    ///
    /// # Errors
    /// The URL or the certificates are unusable.
    pub fn new(settings: &RedisSettings) -> Result<Server, LinkError> {
        let info = settings.url.as_str().into_connection_info()?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, None),
            ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), *port, Some(tls_config(settings.authorities.as_deref())?))
            }
            other => return Err(LinkError::Unsuitable(format!("{other} is neither redis nor rediss"))),
        };
        let redis = info.redis_settings();
        let password = settings.password.as_deref().or(redis.password());
        Ok(Server {
            // The resolver expects an IPv6 address without brackets.
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            tls,
            user: redis.username().map(str::to_owned),
            password: password.map(str::to_owned),
            database: redis.db(),
        })
    }

    /// Connects, verifies that Redis answers and accepts writes, and sends these `SCRIPT LOAD` commands; see
    /// [`Server::open`]. All commands leave together: over a slow network, one round trip for each would take longer
    /// than clients wait.
    pub fn connect(&self, scripts: &[Vec<u8>], deadline: Option<Instant>) -> Result<Connection, LinkError> {
        let probe = cmd("SET").arg("bobbin:probe").arg(1).arg("EX").arg(60).get_packed_command();
        let mut connection = self.open_and_send(&[probe, scripts.concat()].concat(), deadline)?;
        match connection.read()? {
            // When out of memory, Redis can still serve those already in their rooms.
            Value::ServerError(error) if error.code() != "OOM" => return Err(LinkError::Refused("SET", error)),
            _ => {}
        }
        for _ in scripts {
            connection.answer("SCRIPT LOAD")?;
        }
        Ok(connection)
    }

    /// Connects and authenticates. Each step takes at most [`REDIS_TIMEOUT`], and all of them end at `deadline`.
    pub fn open(&self, deadline: Option<Instant>) -> Result<Connection, LinkError> {
        self.open_and_send(&[], deadline)
    }

    /// Like [`Server::open`], and sends these commands too, without reading their replies.
    fn open_and_send(&self, commands: &[u8], deadline: Option<Instant>) -> Result<Connection, LinkError> {
        let left = || {
            let left = deadline.map_or(REDIS_TIMEOUT, |deadline| deadline.saturating_duration_since(Instant::now()));
            left.clamp(SHORTEST_TIMEOUT, REDIS_TIMEOUT)
        };
        let tcp = self.connect_tcp(left())?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(left()))?;
        tcp.set_write_timeout(Some(REDIS_TIMEOUT))?;
        let socket = match &self.tls {
            Some(config) => Socket::tls(tcp, config.clone(), &self.host)?,
            None => Socket::Plain(tcp),
        };
        let mut connection =
            Connection { socket: Arc::new(socket), parser: Parser::new(), deadline, most_bytes: usize::MAX };
        self.greet(&mut connection, commands)?;
        Ok(connection)
    }

    fn connect_tcp(&self, timeout: Duration) -> Result<TcpStream, LinkError> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failure = error,
            }
        }
        Err(failure.into())
    }

    /// Sends `HELLO` for RESP3 and authentication, selects the database, and sends these commands too, without reading
    /// their replies.
    fn greet(&self, connection: &mut Connection, commands: &[u8]) -> Result<(), LinkError> {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if let Some(password) = &self.password {
            hello.arg("AUTH").arg(self.user.as_deref().unwrap_or("default")).arg(password);
        }
        let mut all = hello.arg("SETNAME").arg("bobbin").get_packed_command();
        if self.database != 0 {
            all.extend(cmd("SELECT").arg(self.database).get_packed_command());
        }
        all.extend(commands);
        match connection.request(&all)? {
            Value::ServerError(error) if error.code() == "ERR" || error.code() == "NOPROTO" => {
                return Err(too_old(&format!("does not know HELLO 3 ({})", as_sent(&error))));
            }
            Value::ServerError(error) => return Err(LinkError::Refused("HELLO", error)),
            reply => check_server(&reply)?,
        }
        if self.database != 0 {
            connection.answer("SELECT")?;
        }
        Ok(())
    }
}

impl Connection {
    /// Sends one or several encoded commands and reads one reply.
    pub fn request(&mut self, command: &[u8]) -> Result<Value, LinkError> {
        self.socket.send(command)?;
        self.read()
    }

    /// Like [`Connection::request`], but an error reply is an error.
    pub fn demand(&mut self, name: &'static str, command: &[u8]) -> Result<Value, LinkError> {
        self.socket.send(command)?;
        self.answer(name)
    }

    /// Reads the reply to a command of this name. An error reply is an error.
    fn answer(&mut self, name: &'static str) -> Result<Value, LinkError> {
        match self.read()? {
            Value::ServerError(error) => Err(LinkError::Refused(name, error)),
            value => Ok(value),
        }
    }

    /// Reads one reply or push message. After a timeout it may be called again: a partial reply is not lost.
    pub fn read(&mut self) -> Result<Value, LinkError> {
        let most_bytes = &mut self.most_bytes;
        Ok(self.parser.parse_value(Until { socket: &self.socket, deadline: self.deadline, most_bytes })?)
    }
}

/// Reads from a socket, until the deadline if there is one. A timeout of the socket's own would restart with each byte
/// that arrives.
struct Until<'a> {
    socket: &'a Socket,
    deadline: Option<Instant>,
    most_bytes: &'a mut usize,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.tcp().set_read_timeout(Some(left.max(SHORTEST_TIMEOUT)))?;
        }
        let mut socket = self.socket;
        let count = socket.read(buffer)?;
        *self.most_bytes =
            self.most_bytes.checked_sub(count).ok_or_else(|| io::Error::other("the replies are too large"))?;
        Ok(count)
    }
}

/// Whether an error means that this server should no longer be used, for example because the primary became a replica.
pub fn ends_use(error: &ServerError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
    matches!(error.kind(), Some(ReadOnly | BusyLoading | MasterDown | ClusterDown))
}

fn too_old(what: &str) -> LinkError {
    let (major, minor) = OLDEST_VERSION;
    LinkError::Unsuitable(format!("Redis {major}.{minor} or newer is required (Valkey serves too); this one {what}"))
}

/// Checks the version and the role in the reply to `HELLO`. A replica rejects writes and lags behind; after a failover,
/// an old address may lead to one.
fn check_server(hello: &Value) -> Result<(), LinkError> {
    let Value::Map(fields) = hello else { return Err(too_old("does not answer HELLO with a map")) };
    let field = |name: &str| {
        let text = |value: &Value| String::from_redis_value_ref(value).ok();
        let found = fields.iter().find(|(key, _)| text(key).as_deref() == Some(name));
        found.and_then(|(_, value)| text(value)).unwrap_or_default()
    };
    if field("role") == "replica" {
        return Err(LinkError::Unsuitable("this Redis is a replica, which rejects writes".to_owned()));
    }
    let version = field("version");
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST_VERSION { Err(too_old(&format!("is {version}"))) } else { Ok(()) }
}

/// A TLS configuration that trusts these authorities (PEM text), or else the system's.
fn tls_config(authorities: Option<&[u8]>) -> Result<Arc<ClientConfig>, LinkError> {
    let unsuitable = |error: &dyn fmt::Display| LinkError::Unsuitable(format!("certificates: {error}"));
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| unsuitable(&error))?;
                roots.add(certificate).map_err(|error| unsuitable(&error))?;
            }
        }
        // Unreadable certificates are skipped, as is usual.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| unsuitable(&error))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version: &str, role: &str) -> Value {
        let text = |text: &str| Value::BulkString(text.into());
        Value::Map(vec![(text("server"), text("redis")), (text("version"), text(version)), (text("role"), text(role))])
    }

    #[test]
    fn an_error_is_shown_as_redis_sent_it() {
        for sent in ["NOPERM this user has no permissions", "OOM command not allowed", "READONLY", "ERR no"] {
            let reply = redis::parse_redis_value(format!("-{sent}\r\n").as_bytes()).expect("a reply");
            let Value::ServerError(error) = reply else { panic!("not an error: {reply:?}") };
            assert_eq!(LinkError::Refused("SET", error).to_string(), format!("SET was rejected: {sent}"));
        }
    }

    #[test]
    fn a_replica_is_not_taken_for_a_primary() {
        let why = check_server(&hello("7.0.15", "replica")).expect_err("a replica").to_string();
        assert!(why.contains("replica"), "{why}");
    }

    #[test]
    fn old_servers_are_refused_by_their_version() {
        let hello = |version: &str| hello(version, "master");
        for (version, right) in [("7.0.15", true), ("6.2.0", true), ("8.1", true), ("6.0.16", false), ("x", false)] {
            let checked = check_server(&hello(version));
            assert_eq!(checked.is_ok(), right, "{version}");
        }
        let why = check_server(&hello("6.0.16")).expect_err("too old").to_string();
        assert!(why.contains("6.2") && why.contains("6.0.16"), "{why}");
        assert!(check_server(&Value::Okay).is_err());
    }
}
