//! One instance: a process of the real binary on a free port, with its log kept.

use super::{PATIENCE, Redis, http, poll, poll_until, signal};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Turns the limits per address off, for tests that are not about them: all their clients share one address.
pub const NO_LIMITS: [(&str, &str); 7] = [
    ("TEXT_RATE", "0"),
    ("ADDRESS_CONNECTIONS", "0"),
    ("ADDRESS_CONNECTION_RATE", "0"),
    ("ADDRESS_JOINS", "0"),
    ("ADDRESS_NEW_ROOMS", "0"),
    ("ADDRESS_TEXT_RATE", "0"),
    ("ADDRESS_HISTORY_RATE", "0"),
];

/// A running server. Dropping it kills the process, and fails the test if anything in it ever panicked.
pub struct Instance {
    child: Child,
    /// Its address.
    pub addr: SocketAddr,
    log: Arc<Mutex<String>>,
    out: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    /// The process that reads its stderr for the test, if it was started with one.
    log_reader: Option<Child>,
    status: Option<ExitStatus>,
}

/// Settings of every instance, unless a test sets others. Without rebalancing, because a test that fills one of several
/// instances with hundreds of clients would have some of them sent away.
const DEFAULTS: [(&str, &str); 4] = [("PORT", "0"), ("BIND", "127.0.0.1"), ("RUST_LOG", "info"), ("REBALANCE", "0")];

impl Instance {
    /// Starts one on a free port of 127.0.0.1 and waits until it listens. `settings` are its environment variables;
    /// apart from `PATH` it has no others.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Instance {
        let mut command = Instance::command();
        command.envs(DEFAULTS);
        command.envs(settings.iter().copied());
        Instance::spawn(command)
    }

    /// Starts one on this Redis, and waits until it has connected.
    #[track_caller]
    pub fn on(redis: &Redis, settings: &[(&str, &str)]) -> Instance {
        let endpoint = redis.endpoint();
        let instance = Instance::start(&[&[("REDIS_ENDPOINT", endpoint.as_str())], settings].concat());
        poll_until("ready", PATIENCE, || http::get(instance.addr, "/readyz").status == 200);
        instance
    }

    /// Starts one from a prepared command (for example a wrapper such as `prlimit`) and waits until it listens.
    #[track_caller]
    pub fn spawn(command: Command) -> Instance {
        Instance::spawn_with(command, None)
    }

    /// Like [`Instance::start`], with a separate process that reads its log and can die: see
    /// [`Instance::lose_log_reader`].
    #[track_caller]
    pub fn with_log_reader(settings: &[(&str, &str)]) -> Instance {
        let mut cat = Command::new("cat");
        let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat is there");
        let mut command = Instance::command();
        command.envs(DEFAULTS);
        command.envs(settings.iter().copied());
        command.stderr(Stdio::from(cat.stdin.take().expect("stdin is piped")));
        Instance::spawn_with(command, Some(cat))
    }

    fn spawn_with(mut command: Command, mut log_reader: Option<Child>) -> Instance {
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        drop(command); // with our end of the log reader's pipe
        let (log, out) = (Arc::default(), Arc::default());
        let stderr: Box<dyn Read + Send> = match &mut log_reader {
            Some(reader) => Box::new(reader.stdout.take().expect("stdout is piped")),
            None => Box::new(child.stderr.take().expect("stderr is piped")),
        };
        let stdout = child.stdout.take().expect("stdout is piped");
        let readers = vec![keep(stderr, Arc::clone(&log)), keep(stdout, Arc::clone(&out))];
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut instance = Instance { child, addr: nowhere, log, out, readers, log_reader, status: None };
        let mut ended = false;
        let addr = poll("the server listens or ends", PATIENCE, || {
            let found = address(&instance.log()).map(Some);
            if found.is_none() && ended {
                return Some(None);
            }
            ended = instance.try_wait().is_some();
            found
        });
        instance.addr =
            addr.unwrap_or_else(|| panic!("ended at the start, {:?}; its log:\n{}", instance.status, instance.log()));
        instance
    }

    /// The binary with an empty environment and its output piped, not yet started: `BOBBIN_BIN`, or the one built by
    /// Cargo.
    pub fn command() -> Command {
        let mut command = Command::new(Instance::binary());
        bare(&mut command);
        command
    }

    /// The path of the binary.
    pub fn binary() -> String {
        std::env::var("BOBBIN_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_bobbin").into())
    }

    /// Everything written to stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("the reader does not panic").clone()
    }

    /// Everything written to stdout so far.
    pub fn out(&self) -> String {
        self.out.lock().expect("the reader does not panic").clone()
    }

    /// Waits until the log contains `text`.
    #[track_caller]
    pub fn logged(&self, text: &str) {
        poll_until(&format!("{text:?} in the log"), PATIENCE, || self.log().contains(text));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `TERM`, `INT`, `KILL`, `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Kills the process that reads its log: from now on its stderr is closed.
    pub fn lose_log_reader(&mut self) {
        if let Some(mut reader) = self.log_reader.take() {
            let _ = reader.kill();
            let _ = reader.wait();
        }
    }

    /// Sends a signal to the process that reads its log: `STOP` or `CONT`.
    pub fn signal_log_reader(&self, name: &str) {
        signal(self.log_reader.as_ref().expect("it has one").id(), name);
    }

    /// kill -9; the process is gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // it may be gone already
        self.wait(PATIENCE);
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child");
        }
        self.status
    }

    /// Waits until it has ended and its log is complete.
    #[track_caller]
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let status = poll("the server ends", patience, || self.try_wait());
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        self.reap_log_reader();
        status
    }

    /// Waits for the log reader, which ends when its input does.
    fn reap_log_reader(&mut self) {
        if let Some(mut reader) = self.log_reader.take() {
            let _ = reader.wait();
        }
    }

    /// The number of threads the process has.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // It may be stopped, and its output would never end.
            self.lose_log_reader();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // libfaketime's files remain when its process is killed.
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{name}{}", self.child.id()));
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        self.reap_log_reader();
        if std::thread::panicking() {
            eprintln!("--- log of the instance at {} ---\n{}", self.addr, self.log());
        } else {
            let log = self.log();
            assert!(!log.contains("panicked"), "the server panicked; its log:\n{log}");
        }
    }
}

/// Clears the environment (except `PATH`), sets [`NO_LIMITS`] and pipes the output.
pub fn bare(command: &mut Command) {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(NO_LIMITS);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

fn address(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on http://")?;
    let (line, _) = rest.split_once('\n')?; // a whole line, not its beginning
    line.split([' ', '"']).next()?.trim_end_matches(['/', ',']).parse().ok()
}

fn keep(pipe: impl Read + Send + 'static, text: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            text.lock().expect("nobody panics holding it").push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
