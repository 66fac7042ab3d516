//! Shared by all black-box tests: the real binary as an [`Instance`], a real redis-server as a [`Redis`], a WebSocket
//! [`Client`] that records every frame, plain HTTP, and waiting with a deadline.
//!
//! Nothing here knows Bobbin's internals: it starts the program, uses `bobbin.v1` and plain HTTP, and sends signals.
//! Every wait has a deadline and polls; no test sleeps for a time that "should be enough".

#![allow(dead_code, unused_imports, unused_macros)] // each test binary uses some of this

pub mod client;
pub mod data_file;
pub mod faulty;
pub mod from;
pub mod http;
pub mod instance;
pub mod redis;
pub mod wire;
#[macro_use]
pub mod both;
#[macro_use]
pub mod together;

pub use client::{Client, End};
pub use data_file::DataFile;
pub use faulty::Faulty;
pub use instance::Instance;
pub use redis::Redis;

pub use serde_json::{Value, json};

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How long a test waits for something that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Calls `probe` repeatedly until it returns a value; panics with `what` when `patience` has passed.
#[track_caller]
pub fn poll<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`poll`] for a condition.
#[track_caller]
pub fn poll_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    poll(what, patience, || condition().then_some(()));
}

/// Checks `condition` for the whole of `span`; panics with `what` as soon as it is false. For promises that something
/// does *not* happen for a while.
#[track_caller]
pub fn holds(what: &str, span: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < span {
        assert!(condition(), "after {:?}: no longer true: {what}", start.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A string unique among all calls and processes: for refs, rooms and the clients' secrets.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    let nanos = now.as_nanos() as u64;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}-{nanos:x}-{count}", std::process::id())
}

/// Sends a signal by name (`TERM`, `KILL`, `STOP`, `CONT`) to one process. Uses the shell's `kill`, since a system call
/// would need `unsafe`.
pub fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .expect("a shell is there");
    assert!(status.success(), "kill -{name} {pid}: {status}");
}
