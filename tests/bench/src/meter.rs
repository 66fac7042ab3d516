//! Collects a run's figures from the processes and the ledger as JSON, and combines the figures of several rounds.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::crowd::Crowd;
use crate::ledger::Ledger;
use crate::process::{self, Redis, Server};

/// Measures what the processes use from a moment on.
pub struct Meter {
    start: Instant,
    server: u32,
    redis: u32,
    at_start: [Duration; 3],
    user_and_system: (f64, f64),
}

impl Meter {
    /// Starts with an empty ledger.
    pub fn start(server: &Server, redis: &Redis, crowd: &mut Crowd) -> Meter {
        crowd.ledger = Ledger::new();
        let (server, redis) = (server.pid(), redis.pid());
        let at_start = [server, redis, std::process::id()].map(process::cpu);
        Meter { start: Instant::now(), server, redis, at_start, user_and_system: process::user_and_system(server) }
    }

    pub fn server(&self) -> Duration {
        process::cpu(self.server) - self.at_start[0]
    }

    pub fn redis(&self) -> Duration {
        process::cpu(self.redis) - self.at_start[1]
    }

    pub fn stop(&self, crowd: &Crowd, whole: bool) -> Value {
        let took = self.start.elapsed().as_secs_f64();
        let used = [self.server(), self.redis(), process::cpu(std::process::id()) - self.at_start[2]];
        let (user, system) = process::user_and_system(self.server);
        let (user, system) = (user - self.user_and_system.0, system - self.user_and_system.1);
        let ledger = &crowd.ledger;
        let (deliveries, messages) = (ledger.deliveries.max(1) as f64, ledger.said().max(1) as f64);
        let per = |time: Duration, count: f64| round_to(time.as_secs_f64() * 1e6 / count, 2);
        let quantile = |quantile| ledger.latency.value_at_quantile(quantile);
        json!({
            "every_delivery": whole, "owed": ledger.owed(), "surplus": ledger.surplus,
            "gone": crowd.gone, "complaint": crowd.complaint,
            "deliveries": ledger.deliveries, "deliveries_per_s": round_to(deliveries / took, 0),
            "cpu_us": per(used[0], deliveries), "user_share": round_to(user / (user + system).max(0.01), 2),
            "messages": messages, "messages_per_s": round_to(messages / took, 0),
            "server_us_per_message": per(used[0], messages), "redis_us_per_message": per(used[1], messages),
            "both_us_per_message": per(used[0] + used[1], messages), "generator_us": per(used[2], deliveries),
            "p50_us": quantile(0.5), "p99_us": quantile(0.99), "max_us": ledger.latency.max(),
            "to_all_p50_us": ledger.whole.value_at_quantile(0.5), "to_all_p99_us": ledger.whole.value_at_quantile(0.99),
        })
    }
}

/// Memory in kB: the process's own, and the kernel's for the whole machine.
pub struct Memory {
    rss: u64,
    page_tables: u64,
    kernel_stacks: u64,
    slab: u64,
    threads: u64,
}

impl Memory {
    pub fn now(pid: u32) -> Memory {
        Memory {
            rss: process::status(pid, "VmRSS"),
            page_tables: process::status(pid, "VmPTE"),
            kernel_stacks: process::meminfo("KernelStack"),
            slab: process::meminfo("Slab"),
            threads: process::status(pid, "Threads"),
        }
    }

    pub fn json(&self, connections: usize) -> Value {
        // Each thread has a kernel stack of 16 KiB, which is not in any process's own figures.
        let whole = self.rss + self.page_tables + self.threads * 16;
        json!({
            "connections": connections, "rss_kb": self.rss, "threads": self.threads, "with_kernel_stacks_kb": whole,
        })
    }

    /// The memory that one of `connections` connections added. The slab contains both ends of each connection,
    /// including the load generator's.
    pub fn less(&self, first: &Memory, connections: usize) -> Value {
        let each = |now: u64, then: u64| round_to((now as f64 - then as f64) / connections as f64, 2);
        json!({
            "rss_kb": each(self.rss, first.rss),
            "kernel_stack_kb": each(self.kernel_stacks, first.kernel_stacks),
            "page_tables_kb": each(self.page_tables, first.page_tables),
            "slab_of_both_ends_kb": each(self.slab, first.slab),
        })
    }
}

pub fn settle(crowd: &mut Crowd) -> io::Result<()> {
    // Notices in large rooms are gathered for up to 1 s.
    crowd.settle(Duration::from_millis(1200), seconds(10))
}

pub fn everyone(crowd: &Crowd, expected: usize, server: &Server) -> io::Result<()> {
    if crowd.joined == expected {
        return Ok(());
    }
    let why = crowd.complaint.as_deref().unwrap_or("no answer in time");
    Err(io::Error::other(format!("{}: {} of {expected} clients are in: {why}", server.name, crowd.joined)))
}

/// The median of each figure over the rounds. Anything that is not a figure is taken from the first round, and a flag
/// holds only if it holds in every round.
pub fn median_of(samples: &[Value]) -> Value {
    let mut result = samples[0].clone();
    for (key, value) in result.as_object_mut().expect("samples are objects") {
        if value.is_number() {
            let figures: Vec<f64> = samples.iter().filter_map(|sample| sample[key].as_f64()).collect();
            *value = json!(median(figures));
        } else if value.is_boolean() {
            *value = json!(samples.iter().all(|sample| sample[key] == true));
        } else if value.is_object() {
            let inner: Vec<Value> = samples.iter().map(|sample| sample[key].clone()).collect();
            *value = median_of(&inner);
        }
    }
    result
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        length if length % 2 == 1 => figures[middle],
        _ => (figures[middle - 1] + figures[middle]) / 2.0,
    }
}

/// Latency at increasingly fine quantiles, for the plot.
pub fn curve(latency: &Histogram<u64>) -> Value {
    let quantiles = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0];
    quantiles.iter().map(|&quantile| json!([quantile, latency.value_at_quantile(quantile)])).collect()
}

pub fn round_to(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn say(what: &str) {
    eprintln!("· {what}");
}
