//! How much is let in: connections by what the machine can bear, frames by each client's rate.
//!
//! A process that runs out of files gets an error and lives; one that runs out of memory maps dies, since a failed
//! allocation aborts. So the cap on connections comes before any of the system's own limits.

use std::collections::VecDeque;
use std::fs;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// What the process needs of each limit for itself: its own threads and files, Redis, health checks.
const RESERVE: usize = 128;
/// Memory maps of a thread: stack, its guard, signal stack, its guard.
const MAPS_A_THREAD: usize = 4;
/// Stacks that threads may borrow at a time, see [`crate::threads::on_temporary_stack`]: enough for all that wait for Redis on a
/// usual day.
pub const MAX_SPARE_STACKS: usize = 256;
/// A burst of messages is this many seconds' worth of the rate limit.
pub const BURST_SECONDS: f64 = 4.0;
/// Maps that the program, its libraries and its heap take, with room to grow, and the spare stacks with two guards each.
const MAPS_RESERVE: usize = 2048 + 3 * MAX_SPARE_STACKS;
/// What a connection takes of the address space, in bytes: its stack and signal stack with their guards, and some heap.
const ADDRESS_SPACE_A_CONNECTION: usize = 128 * 1024;
/// What the program takes of it by itself, and what glibc takes a core: up to 8 heaps of 64 MiB.
const ADDRESS_SPACE_RESERVE: (usize, usize) = (256 * 1024 * 1024, 512 * 1024 * 1024);
/// What a connection takes of a container's memory at the most, in bytes: user pages, the kernel's stack and structures.
/// The benchmark's 15,000 were charged with 37 KiB each; one that joined while all spare stacks were taken has 4 more.
const BYTES_A_CONNECTION: usize = 42 * 1024;
/// What of a container's memory is not for connections, in bytes.
const BYTES_RESERVE: usize = 48 * 1024 * 1024;

/// How many connections this machine can bear: the smallest of its limits, each less a reserve, and which one it is.
pub fn capacity() -> (usize, &'static str) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let cgroup = cgroup_folder();
    // Version 2, or where a container sees version 1.
    let at_cgroup = |file: &str, old: &str| {
        number(&format!("{cgroup}/{file}")).or_else(|| number(&format!("/sys/fs/cgroup/{old}")))
    };
    let cores = available_parallelism().map_or(1, NonZero::get);
    let address_space_reserve = ADDRESS_SPACE_RESERVE.0 + cores * ADDRESS_SPACE_RESERVE.1;
    let known = [
        (soft_limit(&limits, "Max open files").map(|n| n.saturating_sub(RESERVE)), "open files (RLIMIT_NOFILE)"),
        (soft_limit(&limits, "Max processes").map(|n| n.saturating_sub(RESERVE)), "threads (RLIMIT_NPROC)"),
        (number("/proc/sys/kernel/threads-max").map(|n| n.saturating_sub(RESERVE)), "kernel.threads-max"),
        (at_cgroup("pids.max", "pids/pids.max").map(|n| n.saturating_sub(RESERVE)), "the container's pids.max"),
        (
            soft_limit(&limits, "Max address space")
                .map(|n| n.saturating_sub(address_space_reserve) / ADDRESS_SPACE_A_CONNECTION),
            "address space (RLIMIT_AS)",
        ),
        (
            number("/proc/sys/vm/max_map_count").map(|n| n.saturating_sub(MAPS_RESERVE) / MAPS_A_THREAD),
            "vm.max_map_count",
        ),
        (
            at_cgroup("memory.max", "memory/memory.limit_in_bytes")
                .map(|n| n.saturating_sub(BYTES_RESERVE) / BYTES_A_CONNECTION),
            "the container's memory.max",
        ),
    ];
    let found = known.into_iter().filter_map(|(limit, why)| Some((limit?, why)));
    let (cap, why) = found.min_by_key(|(limit, _)| *limit).unwrap_or((1000, "a guess, for want of /proc"));
    (cap.max(1), why)
}

/// The soft value of one line of `/proc/self/limits`; `None` if it is unlimited.
fn soft_limit(limits: &str, name: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Where this process's cgroup (version 2) is seen: within a container it is the root.
fn cgroup_folder() -> String {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_end_matches('/').to_owned();
    format!("/sys/fs/cgroup{path}")
}

/// Counts connections against a cap.
pub struct Slots {
    taken: AtomicUsize,
    cap: usize,
}

impl Slots {
    /// `cap` slots, all free.
    pub fn new(cap: usize) -> Arc<Slots> {
        Arc::new(Slots { taken: AtomicUsize::new(0), cap })
    }

    /// Takes a slot, which is given back when the value is dropped; `None` at the cap.
    pub fn take(self: &Arc<Slots>) -> Option<Slot> {
        let one_more = |taken| (taken < self.cap).then_some(taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, one_more).ok().map(|_| Slot(self.clone()))
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    /// How many there are.
    pub fn cap(&self) -> usize {
        self.cap
    }
}

/// One connection's place, see [`Slots::take`].
pub struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
    }
}

/// A token bucket: so many a second in the long run, a burst of so many at once.
pub struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket. A `rate` of 0 never runs out.
    pub fn new(rate: f64, burst: f64, now: Instant) -> Bucket {
        Bucket { rate, burst, tokens: burst, filled: now }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.rate == 0.0 {
            return Ok(());
        }
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
    }
}

/// When something last happened, to tell how often it did lately.
#[derive(Default)]
pub struct Recent(VecDeque<Instant>);

impl Recent {
    /// It happens: how many times it did within this time, now included.
    pub fn count(&mut self, now: Instant, within: Duration) -> usize {
        self.0.push_back(now);
        while self.0.front().is_some_and(|at| now.saturating_duration_since(*at) > within) {
            self.0.pop_front();
        }
        self.0.len()
    }
}

/// How deep a client's JSON may nest. `serde_json` goes 127 levels down by itself, and each takes up to 2 KiB of stack
/// in a debug build: a connection's small stack would overflow, which ends the whole process.
const MAX_NESTING: usize = 8;

/// Whether JSON text nests no deeper than `MAX_NESTING`. The contract's own frames are flat; the rest is room for
/// fields that are not known yet.
pub fn is_shallow(json: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return false;
        }
    }
    true
}

/// A random number from 0 up to 1, for spreading things out.
pub fn jitter() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A random name of 32 hexadecimal digits that nobody can guess.
pub fn random_name() -> String {
    format!("{:016x}{:016x}", random(), random())
}

fn random() -> u64 {
    getrandom::u64().expect("the kernel has random numbers once it has booted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(5.0, 20.0, start);
        assert!((0..20).all(|_| bucket.take(start).is_ok()));
        assert_eq!(bucket.take(start), Err(Duration::from_millis(200)));
        assert!(bucket.take(start + Duration::from_millis(250)).is_ok());
        assert!(bucket.take(start + Duration::from_millis(260)).is_err());
        let mut free = Bucket::new(0.0, 0.0, start);
        assert!((0..1000).all(|_| free.take(start).is_ok()));
    }

    #[test]
    fn brackets_count_outside_of_strings_only() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_shallow(&nested(8)) && !is_shallow(&nested(9)));
        assert!(is_shallow(&format!("[{}]", nested(7).repeat(50))) && !is_shallow(&"{\"a\":".repeat(9)));
        assert!(is_shallow(r#"{"text":"[[[[[[[[[[ \" {{{{{{{{{{ \\"}"#));
        assert!(!is_shallow(r#"{"text":"\\",[[[[[[[["#));
    }

    #[test]
    fn slots_come_back() {
        let slots = Slots::new(2);
        let (one, two) = (slots.take(), slots.take());
        assert!(one.is_some() && two.is_some() && slots.take().is_none());
        drop(one);
        assert_eq!(slots.taken(), 1);
        assert!(slots.take().is_some());
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max processes             unlimited            unlimited            processes\n\
                    Max open files            1024                 20000                files\n";
        assert_eq!(soft_limit(text, "Max open files"), Some(1024));
        assert_eq!(soft_limit(text, "Max processes"), None);
        assert!(capacity().0 >= 1);
    }
}
