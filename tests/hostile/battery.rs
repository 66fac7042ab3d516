//! One attack, with calm periods before and after it.

use crate::attackers::{Attackers, pin, start_floor};
use crate::attacks::Attack;
use crate::calm::{Calm, Seen};
use crate::common::{DataFile, Instance, Redis};
use crate::raw::is_proxied;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Lengths of the calm periods.
const BEFORE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(4);
/// Memory counts as released when it is within this much of its earlier value, per instance, and has this long for it.
/// An instance in memory also keeps the attackers' texts: up to this much at once and this much per second for each
/// address. It is twice what ADDRESS_TEXT_RATE allows, because 48 MB of texts took 80 to 88 MB.
const MEMORY_SLACK: u64 = 20 << 20;
const TEXT_KEPT: (u64, u64) = (256 << 10, 128 << 10);
const MEMORY_TIME: Duration = Duration::from_secs(60);
/// What fails the test, however busy the machine is; the goal is much lower, and printed. Latency may grow by this
/// factor, or up to this many milliseconds.
const WORST_FACTOR: f64 = 10.0;
const WORST_LATENCY: f64 = 1000.0;
const WORST_HEALTH: u64 = 1000;
const WORST_JOIN: u64 = 3000;
/// The goals, in milliseconds: of the calm room's p99, which may also grow by this factor at most; of health checks; and of joins from
/// other addresses.
const GOAL_LATENCY: f64 = 50.0;
const GOAL_FACTOR: f64 = 2.0;
const GOAL_HEALTH: u64 = 100;
const GOAL_JOIN: u64 = 1000;
const LARGEST_LOG: usize = 1 << 20;

/// The backplane of the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// One instance alone.
    Memory,
    /// One instance with a data file.
    File,
    /// Two instances on a Redis that may take 200 MB.
    Redis,
}

impl Place {
    /// The place with this name.
    pub fn named(word: &str) -> Option<Place> {
        match word {
            "memory" => Some(Place::Memory),
            "file" => Some(Place::File),
            "redis" => Some(Place::Redis),
            _ => None,
        }
    }
}

/// The instances under attack. Fields are dropped in this order.
struct Stage {
    instances: Vec<Instance>,
    _redis: Option<Redis>,
    _file: Option<DataFile>,
}

impl Stage {
    fn new(place: Place) -> Stage {
        // The default limits, which these tests are about.
        let settings = [
            ("TEXT_RATE", ""),
            ("ADDRESS_CONNECTIONS", ""),
            ("ADDRESS_CONNECTION_RATE", ""),
            ("ADDRESS_JOINS", ""),
            ("ADDRESS_NEW_ROOMS", ""),
            ("ADDRESS_TEXT_RATE", ""),
            ("ADDRESS_HISTORY_RATE", ""),
            ("MAX_CONNECTIONS", "2000"),
            // The addresses are on loopback, where a proxy would be trusted without being named.
            ("TRUSTED_PROXIES", if is_proxied() { "127.0.0.1" } else { "0" }),
            // Off, because it would ask calm clients to reconnect if the attackers were mostly on one instance, and
            // these clients do not.
            ("REBALANCE", "0"),
        ];
        match place {
            Place::Memory => Stage { instances: vec![Instance::start(&settings)], _redis: None, _file: None },
            Place::File => {
                let file = DataFile::new();
                let instance = Instance::start(&[&settings[..], &[("DATA_FILE", file.path().as_str())]].concat());
                Stage { instances: vec![instance], _redis: None, _file: Some(file) }
            }
            Place::Redis => {
                // Small, because strangers can fill it.
                let redis = Redis::with(&["--maxmemory", "200mb", "--maxmemory-policy", "noeviction"]);
                let instances = (0..2).map(|_| Instance::on(&redis, &settings)).collect();
                Stage { instances, _redis: Some(redis), _file: None }
            }
        }
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        self.instances.iter().map(|instance| instance.addr).collect()
    }

    /// How much more memory than before the instances may hold afterwards.
    fn slack(&self, addresses: u8, span: Duration) -> u64 {
        let in_memory = self._redis.is_none() && self._file.is_none();
        let kept = if in_memory { u64::from(addresses) * (TEXT_KEPT.0 + TEXT_KEPT.1 * span.as_secs()) } else { 0 };
        (MEMORY_SLACK + kept) * self.instances.len() as u64
    }

    /// Resident memory of all instances, in bytes.
    fn memory(&self) -> u64 {
        self.instances.iter().map(|instance| resident(instance.pid())).sum()
    }
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// Prints the table's heading.
pub fn print_head() {
    println!(
        "{:44} {:6} {:>4}  {:>22} {:>22} {:>22}  {:>7} {:>9} {:>9} {:>16} {:>7}",
        "attack",
        "place",
        "from",
        "before p50/p99 ms",
        "during p50/p99 ms",
        "after p50/p99 ms",
        "missing",
        "newcomers",
        "healthz",
        "MiB b/d/a",
        "log kB"
    );
}

/// Runs one attack, prints its line and the goals it missed, and returns how many of the test's limits it exceeded. `apart`: the
/// instances have the first processor to themselves.
pub fn run(place: Place, attack: &Attack, addresses: u8, span: Duration, apart: bool) -> usize {
    let stage = Stage::new(place);
    if apart {
        stage.instances.iter().for_each(|instance| pin(instance.pid(), "0"));
    }
    let calm = Calm::start(&stage.addrs());
    let mut before = calm.watch(BEFORE);
    let (memory, log) = (stage.memory(), log_bytes(&stage));
    let floor = std::env::var("HOSTILE_FLOOR").map(|kind| vec![start_floor(&kind)]);
    let targets = floor.unwrap_or_else(|_| stage.addrs());
    let (attackers, until) = (Attackers::start(attack, &targets, addresses, span), Instant::now() + span);
    let (mut during, peak) = std::thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = 0;
            while Instant::now() < until {
                peak = peak.max(stage.memory());
                std::thread::sleep(Duration::from_millis(100));
            }
            peak
        });
        (calm.watch(span), peak.join().expect("no panic"))
    });
    let opened = attackers.finish();
    let mut after = calm.watch(AFTER);
    calm.finish();
    for instance in stage.instances.iter().filter(|instance| resident(instance.pid()) == 0) {
        let log = instance.log();
        let end = log.lines().rev().take(20).collect::<Vec<_>>();
        println!("    !! an instance has ended; the end of its log, newest first:\n{}", end.join("\n"));
    }
    let back = Instant::now();
    let slack = stage.slack(addresses, span);
    while stage.memory() > memory + MEMORY_SLACK * stage.instances.len() as u64 && back.elapsed() < MEMORY_TIME {
        std::thread::sleep(Duration::from_millis(250));
    }
    let (left, log) = (stage.memory(), log_bytes(&stage) - log);
    print(place, attack, (addresses, opened), [&mut before, &mut during, &mut after], [memory, peak, left], log);
    judge(before.latency(99), &mut during, &mut after, left.saturating_sub(memory) > slack, log)
}

fn log_bytes(stage: &Stage) -> usize {
    stage.instances.iter().map(|instance| instance.log().len()).sum()
}

fn print(
    place: Place,
    attack: &Attack,
    (addresses, opened): (u8, usize),
    seen: [&mut Seen; 3],
    memory: [u64; 3],
    log: usize,
) {
    let [before, during, after] = seen;
    let times = |seen: &mut Seen| format!("{:.1} / {:.1}", seen.latency(50), seen.latency(99));
    let ((in_time, all), (slowest, failed)) = (during.got_in(GOAL_JOIN), during.health());
    println!(
        "{:44} {:6} {:>4}  {:>22} {:>22} {:>22}  {:>7} {:>9} {:>9} {:>16} {:>7}   {} opened",
        attack.name,
        format!("{place:?}").to_lowercase(),
        addresses,
        times(before),
        times(during),
        times(after),
        during.missing,
        format!("{in_time}/{all}"),
        if failed == 0 { format!("{slowest} ms") } else { format!("{failed} failed") },
        memory.map(|bytes| (bytes >> 20).to_string()).join("/"),
        log / 1000,
        opened,
    );
}

/// Prints the goals that were missed, and checks what must hold on any machine.
fn judge(calm: f64, during: &mut Seen, after: &mut Seen, has_grown: bool, log: usize) -> usize {
    let (slowest, failed) = during.health();
    let (in_time, newcomers) = during.got_in(WORST_JOIN);
    let missed = [
        (during.latency(99) > GOAL_LATENCY.min(GOAL_FACTOR * calm), "the p99"),
        (during.got_in(GOAL_JOIN).0 < newcomers, "newcomers"),
        (failed > 0 || slowest > GOAL_HEALTH, "health checks"),
    ];
    let missed: Vec<_> = missed.into_iter().filter(|(is_missed, _)| *is_missed).map(|(_, what)| what).collect();
    if !missed.is_empty() {
        println!("    over the goal: {}", missed.join(", "));
    }
    let broken = [
        (during.missing + after.missing > 0, "deliveries are missing"),
        (during.refused + after.refused > 0, "a calm message was refused"),
        (during.latency(99) > WORST_LATENCY.max(WORST_FACTOR * calm), "the calm room waited"),
        (in_time * 2 < newcomers, "newcomers did not get in"),
        (slowest > WORST_HEALTH || failed * 20 > during.health.len(), "health checks failed"),
        (has_grown, "memory did not come back"),
        (log > LARGEST_LOG, "the log is over 1 MB"),
    ];
    broken.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, what)| println!("    !! {what}")).count()
}
