//! A real redis-server with its own port and directory, and its faults.

use super::{PATIENCE, poll, poll_until, signal, unique};
use ::redis::{Connection, FromRedisValue};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// The password of the user `bobbin`.
pub const PASSWORD: &str = "open";

/// A redis-server on 127.0.0.1. Instances connect as the user in docs/redis.md, so that they have no other permissions;
/// the tests use the default user, which has all. Dropping this kills the process and removes its directory.
pub struct Redis {
    child: Option<Child>,
    pub port: u16,
    pub dir: PathBuf,
    args: Vec<String>,
}

/// Arguments for [`Redis::durable`].
pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "no"];

impl Redis {
    /// Starts one that keeps everything in memory.
    pub fn start() -> Redis {
        Redis::with(&["--appendonly", "no"])
    }

    /// Starts one that writes every command to its file before it answers, so that a kill loses nothing it has answered.
    /// That needs no `fsync`, for which it would have to wait on a machine whose disk is busy.
    pub fn durable() -> Redis {
        Redis::with(&DURABLE)
    }

    /// Starts one with these arguments.
    pub fn with(args: &[&str]) -> Redis {
        let mut redis = Redis::absent(args);
        redis.up();
        redis
    }

    /// Reserves a port and a directory for one that is not started yet.
    pub fn absent(args: &[&str]) -> Redis {
        let dir = std::env::temp_dir().join(unique("bobbin-redis"));
        std::fs::create_dir(&dir).expect("a directory for redis");
        Redis { child: None, port: free_port(), dir, args: args.iter().map(ToString::to_string).collect() }
    }

    /// Replaces the arguments for later starts.
    pub fn arguments(&mut self, args: &[&str]) {
        self.args = args.iter().map(ToString::to_string).collect();
    }

    /// A value for `REDIS_ENDPOINT`: with the documented user, or only the address if the server has TLS or a password.
    pub fn endpoint(&self) -> String {
        if self.has("--tls-port") || self.has("--requirepass") {
            self.addr().to_string()
        } else {
            endpoint(self.addr())
        }
    }

    fn has(&self, option: &str) -> bool {
        self.args.iter().any(|arg| arg == option)
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it, on the same port as before and with the data in its directory.
    pub fn up(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let port = self.port.to_string();
        let tls = self.has("--tls-port");
        let mut command = Command::new("redis-server");
        if !tls {
            command.args(["--port", &port]);
        }
        command.args(["--bind", "127.0.0.1", "--save", "", "--dir"]).arg(&self.dir).args(&self.args);
        command.arg("--user").args(documented_user().split(' '));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is installed (apt-get install redis-server)"));
        let secret = self.has("--requirepass");
        poll_until("redis-server answers", PATIENCE, || {
            let child = self.child.as_mut().expect("just started");
            assert!(child.try_wait().expect("our own child").is_none(), "redis-server ended at its start");
            if tls || secret {
                TcpStream::connect(self.addr()).is_ok()
            } else {
                self.connection().is_some_and(|mut c| ::redis::cmd("PING").query::<String>(&mut c).is_ok())
            }
        });
    }

    /// kill -9; its port refuses connections when this returns.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Removes its data, so that the next [`Redis::up`] starts empty.
    pub fn wipe(&self) {
        assert!(self.child.is_none(), "it still runs");
        for entry in std::fs::read_dir(&self.dir).expect("its directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).expect("its own files");
            } else if path.extension().is_none_or(|e| e != "pem") {
                std::fs::remove_file(path).expect("its own files");
            }
        }
    }

    /// SIGSTOP: connections stay open and nothing is answered.
    pub fn freeze(&self) {
        signal(self.pid(), "STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(self.pid(), "CONT");
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Runs one command, split at spaces: `redis.cmd::<i64>("DBSIZE")`.
    #[track_caller]
    pub fn cmd<T: FromRedisValue>(&self, line: &str) -> T {
        let mut words = line.split(' ');
        let mut cmd = ::redis::cmd(words.next().expect("a command"));
        words.for_each(|word| {
            cmd.arg(word);
        });
        let mut connection = poll("a connection to redis", PATIENCE, || self.connection());
        cmd.query(&mut connection).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// How often a command was executed.
    pub fn calls(&self, command: &str) -> u64 {
        let (stats, start) = (self.cmd::<String>("INFO commandstats"), format!("cmdstat_{command}:calls="));
        let count = stats.lines().find_map(|line| line.strip_prefix(&start)?.split(',').next()?.parse().ok());
        count.unwrap_or_default()
    }

    /// A connection for the test.
    pub fn connection(&self) -> Option<Connection> {
        let client = ::redis::Client::open(format!("redis://{}/", self.addr())).expect("a plain address");
        let connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        connection.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(connection)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A value for `REDIS_ENDPOINT`: the documented user at the address of a [`Redis`] or of a proxy in front of it.
pub fn endpoint(addr: SocketAddr) -> String {
    format!("redis://bobbin:{PASSWORD}@{addr}")
}

/// The user in docs/redis.md, as arguments of `--user`.
fn documented_user() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md");
    let text = std::fs::read_to_string(path).expect("docs/redis.md");
    let user = text.lines().find_map(|line| line.strip_prefix("ACL SETUSER ")).expect("the user");
    user.replace("PASSWORD", PASSWORD)
}

/// Creates a key and a certificate for 127.0.0.1, and the authority that signed it, as `ca.pem`, `cert.pem` and
/// `key.pem` in `dir`.
pub fn certificates(dir: &Path) {
    let run = |args: &str| {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().expect("openssl");
        assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    run(&format!(
        "req -x509 {key} -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem \
         -addext keyUsage=critical,keyCertSign -addext basicConstraints=critical,CA:TRUE"
    ));
    run(&format!("req {key} -subj /CN=localhost -keyout key.pem -out request.pem"));
    std::fs::write(dir.join("names.pem"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("a small file");
    run(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile names.pem -out cert.pem",
    );
}

/// A port that belongs to this process until it ends, so that a killed server gets the same one again. It is below the
/// kernel's range for outgoing connections, and no other test has it, because the same port of another address is in
/// use. (Tests in Python use ports below 20,000.)
pub fn free_port() -> u16 {
    static OWN: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());
    let mut own = OWN.lock().expect("nobody panics holding it");
    let first = std::process::id().wrapping_mul(37) as usize + own.len();
    let mut ports = (0..10_000).map(|n| 20_000 + ((first + n) % 10_000) as u16);
    let (port, listener) = ports
        .find_map(|port| {
            let listener = TcpListener::bind(("127.1.1.1", port)).ok()?;
            TcpListener::bind(("127.0.0.1", port)).ok().map(|_| (port, listener))
        })
        .expect("a free port");
    own.push(listener);
    port
}
