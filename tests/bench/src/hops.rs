//! The cost of a message in system calls, counted by strace, and in context switches, counted by the kernel, while
//! messages are sent one at a time through a room of 10. The two are counted in separate passes, because strace stops
//! every thread at every call.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::crowd::{self, Entrance};
use crate::meter::{Meter, everyone, round_to, say, settle};
use crate::runs::{Bench, SIZE};

impl Bench {
    /// Every server in turn: 10,000 messages in a room of 10, one at a time.
    pub fn hops(&self) -> io::Result<Value> {
        let (clients, messages) = (10, self.pick(1000, 10_000));
        let mut result = Map::new();
        for recipe in &self.servers {
            say(&format!("system calls and context switches: {}", recipe.name));
            let (server, mut crowd) = self.start(recipe)?;
            crowd.enter(crowd::rooms("hops", clients, clients), Entrance::default())?;
            everyone(&crowd, clients, &server)?;
            settle(&mut crowd)?;
            let room = crowd::talk(0, clients, clients);
            crowd.one_by_one(&room, 200, SIZE)?;

            let pids = [server.pid(), self.redis.pid()];
            let before = pids.map(switches);
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            let whole = crowd.one_by_one(&room, messages, SIZE)?;
            let mut figures = meter.stop(&crowd, whole);
            let each = |count: u64| round_to(count as f64 / messages as f64, 2);
            let [server_switches, redis_switches] = [0, 1].map(|of| each(switches(pids[of]) - before[of]));
            figures["server_switches"] = json!(server_switches);
            figures["redis_switches"] = json!(redis_switches);
            for (pid, key) in [(pids[0], "server_calls"), (pids[1], "redis_calls")] {
                let Ok(strace) = Strace::attach(pid) else { continue };
                crowd.one_by_one(&room, messages, SIZE)?;
                let calls = strace.detach()?;
                // Calls made fewer than once per hundred messages are not caused by the messages.
                let calls =
                    calls.into_iter().map(|(name, count)| (name, each(count))).filter(|(_, count)| *count >= 0.01);
                figures[key] = calls.map(|(name, count)| (name, json!(count))).collect();
            }
            result.insert(recipe.name.to_owned(), figures);
        }
        Ok(json!({ "clients": clients, "messages": messages, "servers": result }))
    }
}

/// How often the threads of a process yielded or lost a core.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let status = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
    let of = |text: String| -> u64 {
        let lines = text.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        lines.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
    };
    status.map(of).sum()
}

/// A running `strace -c -f -p`.
struct Strace {
    process: Child,
    summary: PathBuf,
}

impl Strace {
    fn attach(pid: u32) -> io::Result<Strace> {
        let summary = std::env::temp_dir().join(format!("bobbin-bench-strace-{}-{pid}", std::process::id()));
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-o"]).arg(&summary).args(["-p", &pid.to_string()]);
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = BufReader::new(process.stderr.take().expect("it is piped"));
        // Its first line reports that it is attached; the rest is discarded.
        let mut lines = stderr.lines();
        let attached = lines.next().is_some_and(|line| line.is_ok_and(|line| line.contains("attached")));
        thread::spawn(move || lines.for_each(drop));
        thread::sleep(Duration::from_millis(200));
        if attached { Ok(Strace { process, summary }) } else { Err(io::Error::other("strace did not attach")) }
    }

    /// Stops it, and returns how often each system call was made.
    fn detach(mut self) -> io::Result<BTreeMap<String, u64>> {
        // SAFETY: sends a signal to our own child, which has not been reaped.
        unsafe { libc::kill(self.process.id() as libc::pid_t, libc::SIGINT) };
        self.process.wait()?;
        let text = fs::read_to_string(&self.summary)?;
        let _ = fs::remove_file(&self.summary);
        // % time, seconds, usecs/call, calls, [errors,] syscall
        let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|row| row.len() >= 5 && row.last() != Some(&"total"));
        Ok(rows.filter_map(|row| Some((row.last()?.to_string(), row[3].parse().ok()?))).collect())
    }
}
