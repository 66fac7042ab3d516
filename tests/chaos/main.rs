//! The fault test: three tasks, one Redis, 60 clients that talk, and a random schedule of everything that can break.
//! At the end all is healed, and every promise of the wire contract is checked against what each client saw.
//!
//!     cargo test --release --test chaos                          60 s, a new seed each time
//!     SECONDS=600 SEED=7 cargo test --release --test chaos       longer, and a run repeated
//!     cargo test --release --test chaos -- 20 7 Redis Deaf       20 s, seed 7, only faults with these words
//!
//! It sees the system as its users do: it speaks the wire contract, sends signals to processes, and sits on the
//! wire between the tasks and Redis. `LOGS=folder` keeps the tasks' logs.
//!
//! | file | owns |
//! | --- | --- |
//! | `schedule` | what breaks when |
//! | `cluster`, `process`, `proxy`, `resp` | the processes and the wires between them, and how they are broken |
//! | `client`, `session`, `wire` | a faithful client |
//! | `slow` | clients that are not faithful |
//! | `ledger`, `clock` | what happened, and when |
//! | `inspect` | the look at the healed system |
//! | `checker`, `story`, `report` | what was promised, and what came of it |

mod checker;
mod client;
mod clock;
mod cluster;
mod inspect;
mod ledger;
mod process;
mod proxy;
mod report;
mod resp;
mod rng;
mod schedule;
mod session;
mod slow;
mod story;
mod wire;

#[path = "../common/mod.rs"]
mod common;

use client::{Client, Role, Stage};
use cluster::Cluster;
use ledger::{Broken, Ledger};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Tasks behind the imagined load balancer.
pub const TASKS: usize = 3;
/// What the tasks are started with.
pub const DRAIN_SECONDS: u64 = 2;
/// After a heal, what is promised within 20 s must be so; the rest is for a busy machine.
const QUIET_WITHIN: clock::At = 25_000;

/// A room, how many talk in it, and how often each says something (milliseconds).
pub struct Talk {
    pub name: &'static str,
    pub clients: usize,
    pub pace: clock::At,
}

/// One room with more talk than a welcome can hold after a long absence, three calm ones; 60 clients.
pub const ROOMS: [Talk; 4] = [
    Talk {
        name: "busy",
        clients: 24,
        pace: 500,
    },
    Talk {
        name: "calm",
        clients: 14,
        pace: 1000,
    },
    Talk {
        name: "calmer",
        clients: 12,
        pace: 1500,
    },
    Talk {
        name: "calmest",
        clients: 10,
        pace: 3000,
    },
];

fn main() -> ExitCode {
    let options = Options::read();
    println!("seed {}, {} s", options.seed, options.seconds);
    let broken = run(&options);
    if broken == 0 {
        println!(
            "\nall promises held (seed {})\n1 passed, 0 failed",
            options.seed
        );
        return ExitCode::SUCCESS;
    }
    println!(
        "\n{broken} promises broken; again with: SECONDS={} SEED={}\n0 passed, 1 failed",
        options.seconds, options.seed
    );
    ExitCode::FAILURE
}

struct Options {
    seconds: u64,
    seed: u64,
    only: Vec<String>,
}

impl Options {
    /// From the environment, or numbers and words from the command line.
    fn read() -> Options {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let mut numbers = Vec::new();
        let mut only = Vec::new();
        for word in std::env::args()
            .skip(1)
            .filter(|word| !word.starts_with('-'))
        {
            match word.parse() {
                Ok(number) => numbers.push(number),
                Err(_) => only.push(word),
            }
        }
        let by_time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let by_time = by_time.map_or(1, |time| time.as_millis() as u64 % 1_000_000);
        Options {
            seconds: numbers.first().copied().or(number("SECONDS")).unwrap_or(60),
            seed: numbers
                .get(1)
                .copied()
                .or(number("SEED"))
                .unwrap_or(by_time),
            only,
        }
    }
}

/// The whole run; gives the number of broken promises.
fn run(options: &Options) -> usize {
    clock::now();
    let roles = roles();
    let stage = Arc::new(Stage {
        ledger: Ledger::new(roles.len()),
        tasks: Mutex::new(vec![SocketAddr::from(([127, 0, 0, 1], 0)); TASKS]),
        talking: AtomicBool::new(true),
        ending: AtomicBool::new(false),
        orders: roles.iter().map(|_| Mutex::default()).collect(),
    });
    let mut cluster = Cluster::start(Arc::clone(&stage), options.seed);
    let clients: Vec<_> = roles
        .into_iter()
        .map(|role| Client::start(role, Arc::clone(&stage), options.seed))
        .collect();
    let joined = || {
        stage
            .ledger
            .clients
            .iter()
            .map(|c| c.lock().expect("nobody panics holding it"))
    };
    let absent = || {
        joined()
            .filter(|b| b.participants == 0)
            .map(|b| b.name.clone())
            .collect()
    };
    let mut broken = Vec::new();
    let mut must = |what: &'static str, result: Result<clock::At, Vec<String>>| {
        result.unwrap_or_else(|stories| {
            broken.extend(stories.into_iter().map(|story| Broken { what, story }));
            QUIET_WITHIN
        })
    };
    must(
        "cannot join at the start",
        inspect::wait_until_none(10_000, absent),
    );

    cluster.run(&schedule::plan(
        options.seed,
        options.seconds * 1000,
        &options.only,
    ));

    // Healed. The clients talk on until every task has given a receipt again, then all must come to rest.
    let healed = clock::now();
    cluster.wait_settled();
    let silent = || tasks_without_receipt(&stage, healed);
    must(
        "no receipt after the heal",
        inspect::wait_until_none(QUIET_WITHIN, silent),
    );
    stage.talking.store(false, SeqCst);
    let left = || QUIET_WITHIN.saturating_sub(clock::now() - healed).max(5000);
    must(
        "not caught up",
        inspect::wait_until_none(left(), || inspect::not_caught_up(&stage)),
    );
    let caught_up_after = clock::now() - healed;
    must(
        "who is here is wrong",
        inspect::wait_until_none(left(), || inspect::wrong_counts(&stage)),
    );
    let counts_right_after = clock::now() - healed;
    for task in 0..TASKS {
        if !cluster.wait_ready(task, 5000) {
            stage
                .ledger
                .remark(format!("task {task} is not ready after the heal"));
        }
    }
    let logs = visit_all(&stage);
    stage.ending.store(true, SeqCst);
    clients
        .into_iter()
        .for_each(|client| client.join().expect("a client does not panic"));
    cluster.check_leaks(15_000);
    cluster.finish();

    let mut verdict = checker::judge(&stage.ledger, &logs);
    verdict.broken.extend(broken);
    for story in report::slow_recoveries(&stage.ledger) {
        verdict.broken.push(Broken {
            what: "slow to recover",
            story,
        });
    }
    report::print(
        &stage.ledger,
        &verdict,
        &report::Measured {
            caught_up_after,
            counts_right_after,
        },
    );
    verdict.broken.len()
}

/// Who talks where. Two clients of the busy room stay with each task, so that each can be seen to recover.
fn roles() -> Vec<Role> {
    let mut roles = Vec::new();
    for room in &ROOMS {
        for number in 0..room.clients {
            let index = roles.len();
            let home = (room.name == "busy" && number < 2 * TASKS).then_some(number % TASKS);
            let (name, room, pace) = (format!("c{index:02}"), room.name.to_string(), room.pace);
            roles.push(Role {
                index,
                name,
                room,
                home,
                pace,
            });
        }
    }
    roles
}

fn tasks_without_receipt(stage: &Stage, since: clock::At) -> Vec<String> {
    let mut receipts = [0; TASKS];
    for client in &stage.ledger.clients {
        let book = client.lock().expect("nobody panics holding it");
        for (at, _, task) in book
            .messages
            .iter()
            .rev()
            .take(20)
            .filter_map(|m| m.receipt)
        {
            receipts[task] += usize::from(at > since);
        }
    }
    let without = (0..TASKS).filter(|task| receipts[*task] == 0);
    without.map(|task| format!("task {task}")).collect()
}

/// A stranger visits every room on every task, and reads the log of each room once.
fn visit_all(stage: &Stage) -> BTreeMap<String, inspect::Log> {
    let mut logs = BTreeMap::new();
    let tasks = stage
        .tasks
        .lock()
        .expect("nobody panics holding it")
        .clone();
    for room in &ROOMS {
        for (task, addr) in tasks.iter().enumerate() {
            match inspect::visit(stage, *addr, task, room.name, task == 0) {
                Ok(log) if task == 0 => _ = logs.insert(room.name.to_string(), log),
                Ok(_) => {}
                Err(story) => stage.ledger.remark(story),
            }
        }
    }
    logs
}
