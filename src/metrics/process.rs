//! Process metrics from the kernel, under the names that Prometheus clients use.

use std::fs;
use std::time::SystemTime;

use ::prometheus::{IntGauge, Registry};

/// Memory, threads, open files and start time. A restart after a crash is visible only in the start time.
pub(super) struct Process {
    start: IntGauge,
    memory: IntGauge,
    threads: IntGauge,
    files: IntGauge,
}

impl Default for Process {
    fn default() -> Process {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a valid name");
        let start = gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        start.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        Process {
            start,
            memory: gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
            threads: gauge("process_threads", "Number of OS threads in the process."),
            files: gauge("process_open_fds", "Number of open file descriptors."),
        }
    }
}

impl Process {
    pub(super) fn register(&self, registry: &Registry) {
        for gauge in [&self.start, &self.memory, &self.threads, &self.files] {
            registry.register(Box::new(gauge.clone())).expect("a new name");
        }
    }

    /// Reads the current values.
    pub(super) fn sample(&self) {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        self.memory.set(field(&status, "VmRSS:").saturating_mul(1024));
        self.threads.set(field(&status, "Threads:"));
        let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.files.set(i64::try_from(files).unwrap_or(i64::MAX));
    }
}

/// The number in the field of this name; 0 if absent.
fn field(status: &str, name: &str) -> i64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_kernel_writes_them() {
        let status = "VmPeak:\t  2000 kB\nVmRSS:\t    1028 kB\nThreads:\t12\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "Threads:"), field(status, "Other:")), (1028, 12, 0));
    }
}
