//! The processes of a run: servers, Redis, and what the kernel reports about them (CPU, memory, threads). Each ends
//! when its value is dropped.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::dialect::Dialect;

/// A server under test: its name, its protocol, and how to start it.
#[derive(Clone)]
pub struct Recipe {
    pub name: &'static str,
    pub dialect: Dialect,
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
}

impl Recipe {
    pub fn env(mut self, name: &str, value: impl ToString) -> Recipe {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }
}

pub struct Server {
    pub name: &'static str,
    pub dialect: Dialect,
    pub address: SocketAddr,
    /// The time from starting the process until it reports that it listens.
    pub started_in: Duration,
    process: Process,
}

impl Server {
    /// Starts it and waits until it prints its address.
    pub fn start(recipe: &Recipe) -> io::Result<Server> {
        let mut command = Command::new(&recipe.command[0]);
        command.args(&recipe.command[1..]).env("PORT", "0").envs(recipe.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut process = Process(command.spawn().map_err(|error| {
            io::Error::other(format!("{} does not start ({}): {error}", recipe.name, recipe.command[0]))
        })?);
        let (sender, lines) = mpsc::channel();
        follow(process.0.stdout.take().expect("it is piped"), sender.clone());
        follow(process.0.stderr.take().expect("it is piped"), sender);
        let mut said = String::new();
        let deadline = start + Duration::from_secs(20);
        loop {
            let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                return Err(io::Error::other(format!("{} does not listen. It said:\n{said}", recipe.name)));
            };
            if let Some((_, url)) = line.split_once("listening on http://") {
                let url = url.split_whitespace().next().unwrap_or(url);
                let address = url.trim_end_matches('/').parse().map_err(io::Error::other)?;
                let started_in = start.elapsed();
                if recipe.dialect == Dialect::Bobbin {
                    until_ready(address, deadline)?;
                }
                return Ok(Server { name: recipe.name, dialect: recipe.dialect, address, started_in, process });
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// It listens before it has reached Redis; `/readyz` reports when it has.
fn until_ready(address: SocketAddr, deadline: Instant) -> io::Result<()> {
    while Instant::now() < deadline {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other("the server is not ready in time"))
}

/// Reads a stream to its end, so that the process never blocks on it; lines go to `lines` while that has a receiver.
fn follow(stream: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    thread::spawn(move || {
        let show = std::env::var_os("BENCH_SHOW").is_some();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if show || line.contains("panic") {
                eprintln!("    server: {line}");
            }
            let _ = lines.send(line);
        }
    });
}

pub struct Redis {
    pub port: u16,
    process: Process,
}

impl Redis {
    /// Starts a redis-server on a free port, without persistence.
    pub fn start() -> io::Result<Redis> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--tcp-backlog", "4096"];
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string()]).args(options).stdin(Stdio::null()).stdout(Stdio::null());
        let mut redis = Redis { port, process: Process(command.spawn()?) };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline || redis.process.0.try_wait()?.is_some() {
                return Err(io::Error::other("redis-server does not start"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }

    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs one command through redis-cli.
    pub fn cli(&self, words: &[&str]) -> io::Result<String> {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The CPU time used by a process, including threads that have ended.
pub fn cpu(pid: u32) -> Duration {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write only to the local value whose pointer they receive.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) != 0 || libc::clock_gettime(clock, &mut time) != 0
    };
    assert!(!failed, "process {pid} is gone");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// User and system time of a process in seconds, from /proc.
pub fn user_and_system(pid: u32) -> (f64, f64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
    (ticks(11), ticks(12))
}

/// A line of /proc/PID/status: kB for memory, a count for `Threads`.
pub fn status(pid: u32, key: &str) -> u64 {
    number(&format!("/proc/{pid}/status"), key)
}

/// A line of /proc/meminfo, in kB.
pub fn meminfo(key: &str) -> u64 {
    number("/proc/meminfo", key)
}

fn number(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// The first line printed by a command, or a dash; used for the versions in the report.
pub fn version(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("–").trim().to_owned()
}

/// A control group with limits, as a container has, for versions 1 and 2 of the kernel's interface.
pub struct Cage {
    folders: Vec<PathBuf>,
    memory_peak: PathBuf,
}

impl Cage {
    pub fn new(cpus: f64, megabytes: u64) -> io::Result<Cage> {
        let name = format!("bobbin-bench-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let (quota, bytes) = (((cpus * 100_000.0) as u64).to_string(), (megabytes << 20).to_string());
        if root.join("cgroup.controllers").exists() {
            let folder = root.join(name);
            fs::write(root.join("cgroup.subtree_control"), "+cpu +memory")?;
            fs::create_dir_all(&folder)?;
            let cage = Cage { memory_peak: folder.join("memory.peak"), folders: vec![folder.clone()] };
            fs::write(folder.join("cpu.max"), format!("{quota} 100000"))?;
            fs::write(folder.join("memory.max"), bytes)?;
            return Ok(cage);
        }
        let (cpu, memory) = (root.join("cpu").join(&name), root.join("memory").join(&name));
        fs::create_dir_all(&cpu)?;
        fs::create_dir_all(&memory)?;
        let memory_peak = memory.join("memory.max_usage_in_bytes");
        let cage = Cage { folders: vec![cpu.clone(), memory.clone()], memory_peak };
        fs::write(cpu.join("cpu.cfs_period_us"), "100000")?;
        fs::write(cpu.join("cpu.cfs_quota_us"), quota)?;
        fs::write(memory.join("memory.limit_in_bytes"), bytes)?;
        Ok(cage)
    }

    /// The same server, started within these limits.
    pub fn around(&self, recipe: &Recipe) -> Recipe {
        let enter: String =
            self.folders.iter().map(|folder| format!("echo $$ > {}/cgroup.procs && ", folder.display())).collect();
        // With version 1, a container sees its own limits at the root; a separate mount namespace imitates that.
        let show = self.folders.iter().find(|folder| folder.starts_with("/sys/fs/cgroup/memory")).map(|memory| {
            let mount = format!("mount --bind {} /sys/fs/cgroup/memory && exec \\\"\\$@\\\"", memory.display());
            format!("unshare -m sh -c \"{mount}\" sh ")
        });
        let script = format!("{enter} exec {}\"$@\"", show.unwrap_or_default());
        let mut command = vec!["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
        command.extend(recipe.command.iter().cloned());
        Recipe { command, ..recipe.clone() }
    }

    /// The peak memory charged to the group, in bytes: pages, kernel stacks and everything else.
    pub fn memory_peak(&self) -> u64 {
        fs::read_to_string(&self.memory_peak).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // The kernel allows a group to be removed only once its last process has been reaped, which takes a moment.
        for folder in &self.folders {
            let deadline = Instant::now() + Duration::from_secs(10);
            while fs::remove_dir(folder).is_err() && folder.exists() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}
