//! How many connections this machine can hold.
//!
//! A process that runs out of files gets an error and continues; one that runs out of memory maps dies, because a
//! failed allocation aborts. So the cap on connections is below every limit of the system.

use std::fs;
use std::num::NonZero;
use std::thread::available_parallelism;

/// Reserved in each limit for the process itself: its own threads and files, Redis, health checks.
const RESERVE: usize = 128;
/// Memory maps per thread: the stack and its guard, the signal stack and its guard.
const MAPS_PER_THREAD: usize = 4;
/// Temporary stacks in use at a time, see [`crate::threads::on_temporary_stack`]: enough for all threads that wait for
/// Redis under normal load.
pub const MAX_SPARE_STACKS: usize = 256;
/// The most frames that have memory maps of their own, see [`crate::protocol::text_frame`].
pub const MAX_LARGE_FRAMES: usize = 512;
/// Maps used by the program, its libraries and its heap, with some margin, by large frames, and by the temporary stacks
/// with two guards each.
const MAPS_RESERVE: usize = 2048 + MAX_LARGE_FRAMES + 3 * MAX_SPARE_STACKS;
/// A connection's stack, in bytes of address space. The deepest paths, as reported by valgrind's drd
/// (`--show-stack-usage=yes`), take 11 KiB in a release build and 20 KiB in a debug build (`history`), plus 4.4 KiB for
/// glibc. So 32 KiB is the smallest safe power of two. It is larger because glibc keeps up to 40 MiB of the stacks of threads that
/// have ended, each with some pages in memory: of 64 KiB stacks, that was 11 MiB.
///
/// Two pages of it (8 KiB) are touched and stay in memory: enough to wait for a message and handle it. Functions in
/// `http/` and `session/` that are marked `inline(never)` keep their frames out of the functions that wait; work that
/// takes more stack runs [`crate::threads::on_temporary_stack`].
pub const CONNECTION_STACK: usize = 256 * 1024;
/// Address space per connection, in bytes: its stack and signal stack with their guards, and some heap.
const ADDRESS_SPACE_PER_CONNECTION: usize = CONNECTION_STACK + 64 * 1024;
/// Address space of the program itself, and of glibc per core: up to 8 heaps of 64 MiB.
const ADDRESS_SPACE_RESERVE: (usize, usize) = (256 * 1024 * 1024, 512 * 1024 * 1024);
/// Memory per connection charged to a container, in bytes, at most: user pages, kernel stack and kernel structures. The
/// benchmark's 15,000 connections were charged 37 KiB each; one that joins while all temporary stacks are in use takes
/// 4 KiB more.
const BYTES_PER_CONNECTION: usize = 42 * 1024;
/// Container memory not available to connections, in bytes.
const BYTES_RESERVE: usize = 48 * 1024 * 1024;
/// Memory of a whole machine not available to connections, in bytes: the kernel and common services.
const MACHINE_RESERVE: usize = 192 * 1024 * 1024;

/// How many connections this machine can hold, beside rooms that may take this many bytes of its memory (at most half of
/// it counts), and which of its limits decides that: the smallest, each less a reserve.
pub fn capacity(rooms: u64) -> (usize, &'static str) {
    let rooms = (rooms as usize).min(memory().unwrap_or_default() / 2);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let cores = available_parallelism().map_or(1, NonZero::get);
    let address_space_reserve = ADDRESS_SPACE_RESERVE.0 + cores * ADDRESS_SPACE_RESERVE.1;
    let known = [
        (soft_limit(&limits, "Max open files").map(|n| n.saturating_sub(RESERVE)), "open files (RLIMIT_NOFILE)"),
        (soft_limit(&limits, "Max processes").map(|n| n.saturating_sub(RESERVE)), "threads (RLIMIT_NPROC)"),
        (number("/proc/sys/kernel/threads-max").map(|n| n.saturating_sub(RESERVE)), "kernel.threads-max"),
        (
            smallest_of_cgroups("pids.max", "pids/pids.max").map(|n| n.saturating_sub(RESERVE)),
            "the container's pids.max",
        ),
        (
            soft_limit(&limits, "Max address space")
                .map(|n| n.saturating_sub(address_space_reserve) / ADDRESS_SPACE_PER_CONNECTION),
            "address space (RLIMIT_AS)",
        ),
        (
            number("/proc/sys/vm/max_map_count").map(|n| n.saturating_sub(MAPS_RESERVE) / MAPS_PER_THREAD),
            "vm.max_map_count",
        ),
        (
            container_memory().map(|n| n.saturating_sub(BYTES_RESERVE + rooms) / BYTES_PER_CONNECTION),
            "the container's memory.max",
        ),
        (
            machine_memory().map(|n| n.saturating_sub(MACHINE_RESERVE + rooms) / BYTES_PER_CONNECTION),
            "the machine's memory",
        ),
    ];
    let found = known.into_iter().filter_map(|(limit, why)| Some((limit?, why)));
    let (cap, why) =
        found.min_by_key(|(limit, _)| *limit).unwrap_or((1000, "a default, because /proc is not available"));
    (cap.max(1), why)
}

fn number(path: &str) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The soft limit in one line of `/proc/self/limits`; `None` if unlimited.
fn soft_limit(limits: &str, name: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The largest `STORAGE_BYTES` of a process that keeps rooms in memory. It may be exceeded by a quarter, and SQLite's databases
/// in memory have at most 2 GiB.
pub const MOST_IN_MEMORY: u64 = 3 << 29;

/// The memory that rooms may take if they are in memory, in bytes: as set, or a quarter of the container's or the machine's.
/// `None` if unlimited.
pub fn rooms_in_memory(setting: Option<u64>) -> Option<u64> {
    match setting {
        Some(bytes) => (bytes > 0).then_some(bytes),
        None => memory().map(|bytes| (bytes as u64 / 4).min(MOST_IN_MEMORY)),
    }
}

/// The memory of this container or machine, in bytes; `None` if unknown.
fn memory() -> Option<usize> {
    container_memory().into_iter().chain(machine_memory()).min()
}

fn container_memory() -> Option<usize> {
    smallest_of_cgroups("memory.max", "memory/memory.limit_in_bytes")
}

fn machine_memory() -> Option<usize> {
    total_memory(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// Total memory in bytes, from the text of `/proc/meminfo`.
fn total_memory(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok().map(|kib| kib * 1024)
}

/// The smallest memory limit of this process's cgroup (version 2) and its ancestors, all of which apply; or the version
/// 1 limit, if the container sees that.
fn smallest_of_cgroups(file: &str, old: &str) -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let found = cgroup_folders(&own).iter().filter_map(|folder| number(&format!("{folder}/{file}"))).min();
    found.or_else(|| number(&format!("/sys/fs/cgroup/{old}")))
}

/// The directories of this process's cgroup and its ancestors, from the text of `/proc/self/cgroup`. Within a container
/// the root is the container's own.
fn cgroup_folders(own: &str) -> Vec<String> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_end_matches('/');
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| format!("/sys/fs/cgroup{}", &path[..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max processes             unlimited            unlimited            processes\n\
                    Max open files            1024                 20000                files\n";
        assert_eq!(soft_limit(text, "Max open files"), Some(1024));
        assert_eq!(soft_limit(text, "Max processes"), None);
        assert_eq!(total_memory("MemTotal:         524288 kB\nMemFree: 1 kB\n"), Some(512 * 1024 * 1024));
        assert!(capacity(0).0 >= capacity(u64::MAX).0 && capacity(u64::MAX).0 >= 1);
    }

    #[test]
    fn every_cgroup_above_is_looked_at() {
        let root = "/sys/fs/cgroup";
        assert_eq!(cgroup_folders("0::/\n"), [root]);
        let nested = [root, "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/system.slice/bobbin.service"];
        assert_eq!(cgroup_folders("1:cpu:/x\n0::/system.slice/bobbin.service\n"), nested);
        assert_eq!(cgroup_folders(""), [root]);
    }
}
