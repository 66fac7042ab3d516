//! An instance as a process: its threads, its open files, the end of its log.

use std::path::PathBuf;

use super::common::Instance;

/// A running instance, with the state of its process.
pub struct Running {
    pub instance: Instance,
    pub slot: usize,
    /// The usage when nobody was connected.
    pub idle: Usage,
    /// Whether the schedule has killed it; any other end is a defect.
    pub killed: bool,
}

/// The number of a process's threads and of its open files, see [`files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub threads: usize,
    pub files: usize,
}

/// The usage, once it has been stable for a moment (a request for `/readyz` may just have ended).
pub fn settled(instance: &Instance) -> Usage {
    let mut before = usage(instance);
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = usage(instance);
        if now == before {
            break;
        }
        before = now;
    }
    before
}

pub fn usage(instance: &Instance) -> Usage {
    Usage { threads: instance.threads(), files: files(instance).len() }
}

/// The open files of a process, except libfaketime's: there are two of these, or none if a process with the same number
/// was killed earlier.
pub fn files(instance: &Instance) -> Vec<PathBuf> {
    let files = std::fs::read_dir(format!("/proc/{}/fd", instance.pid())).into_iter().flatten().flatten();
    let files = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    files.filter(|file| !file.starts_with("/dev/shm")).collect()
}

pub fn names_of_threads(instance: &Instance) -> String {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/task", instance.pid())).into_iter().flatten().flatten() {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        names.push(name.trim().to_string());
    }
    names.sort();
    names.join(", ")
}

pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
