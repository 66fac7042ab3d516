//! The fault test: three instances on a Redis and its replica, or one on a data file, 90 clients that chat, and a
//! random schedule of faults. At the end all faults are healed, and every promise of the wire contract is checked
//! against what each client saw.
//!
//!     cargo test --release --test chaos                          60 s, a new seed each time
//!     SECONDS=600 SEED=7 cargo test --release --test chaos       longer, and a run repeated
//!     cargo test --release --test chaos -- 20 7 Redis Stale      20 s, seed 7, only faults with these words
//!     BACKPLANE=file cargo test --release --test chaos           on a data file
//!
//! It sees the system as its users do: it uses the wire contract, sends signals to processes, and proxies the
//! connections between the instances and Redis. `LOGS=folder` keeps the instances' logs.
//!
//! | file | owns |
//! | --- | --- |
//! | `arena` | one run from start to verdict |
//! | `fault`, `schedule` | what can break, and what breaks when |
//! | `cluster`, `process`, `folder` | the processes |
//! | `pair`, `proxy`, `resp` | Redis, its replica and the connections to them |
//! | `breaking` | how each fault is injected and healed |
//! | `client`, `session`, `wire` | a faithful client |
//! | `strangers` | clients that misbehave |
//! | `stage` | what all of these share |
//! | `ledger`, `clock` | what happened, and when |
//! | `inspect` | the inspection of the healed system |
//! | `checker`, `story`, `report` | the promises, and how they were kept |

#![allow(dead_code)] // each of the two programs uses some of the modules

mod arena;
mod breaking;
mod checker;
mod client;
mod clock;
mod cluster;
mod fault;
mod folder;
mod inspect;
mod ledger;
mod pair;
mod process;
mod proxy;
mod report;
mod resp;
mod rng;
mod schedule;
mod session;
mod stage;
mod story;
mod strangers;
mod wire;

#[path = "../common/mod.rs"]
mod common;

use arena::{Arena, Backplane, ROOMS};
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::read();
    println!("seed {}, {} s, on {:?}", options.seed, options.seconds, options.backplane);
    let plan = schedule::plan(options.seed, options.seconds * 1000, options.backplane, &options.only);
    let mut arena = Arena::start(options.backplane, &ROOMS, options.seed, &[]);
    arena.cluster.run(&plan, options.seconds * 1000);
    let outcome = arena.finish();
    outcome.print();
    match outcome.verdict.broken.len() {
        0 => {
            println!("\nall promises held (seed {})\n1 passed, 0 failed", options.seed);
            ExitCode::SUCCESS
        }
        broken => {
            let kind = format!("{:?}", options.backplane).to_lowercase();
            let again = format!("BACKPLANE={kind} SECONDS={} SEED={}", options.seconds, options.seed);
            println!("\n{broken} promises broken; again with: {again}\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    seconds: u64,
    seed: u64,
    backplane: Backplane,
    only: Vec<String>,
}

impl Options {
    /// Reads the options, from the environment or from numbers and words on the command line.
    fn read() -> Options {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let mut numbers = Vec::new();
        let mut only = Vec::new();
        for word in std::env::args().skip(1).filter(|word| !word.starts_with('-')) {
            match word.parse() {
                Ok(number) => numbers.push(number),
                Err(_) => only.push(word),
            }
        }
        let by_time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let by_time = by_time.map_or(1, |time| time.as_millis() as u64 % 1_000_000);
        Options {
            seconds: numbers.first().copied().or(number("SECONDS")).unwrap_or(60),
            seed: numbers.get(1).copied().or(number("SEED")).unwrap_or(by_time),
            backplane: match std::env::var("BACKPLANE").as_deref() {
                Ok("file") => Backplane::File,
                Ok("redis") | Err(_) => Backplane::Redis,
                Ok(other) => panic!("BACKPLANE is redis or file, not {other}"),
            },
            only,
        }
    }
}
