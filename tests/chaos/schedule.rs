//! The schedule: which fault strikes what, when and for how long. It depends on the seed and the length alone, so that
//! a run can be repeated. (The threads of the system under test still interleave as they like: a seed repeats the
//! faults, and mostly, not surely, their consequence.)
//!
//! Faults come in four rows that run side by side: Redis itself, the wires to it, the instances, the clients. Within a row one
//! ends before the next begins; so two instances are always up. Each row goes through all of its kinds, in a random
//! order, before it repeats one.

use super::arena::{DRAIN_SECONDS, INSTANCES};
use super::clock::{self, At};
use super::ledger::Window;
use super::rng::Rng;
use Fault::*;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Killed and started again, with what it had on disk.
    RedisRestart,
    /// Killed and started again, empty.
    RedisWipe,
    /// Stopped (SIGSTOP): connections stay open, nothing is answered.
    RedisHang,
    /// All connections between an instance and Redis reset.
    WireReset,
    /// What the instance sends does not arrive.
    WireUp,
    /// What Redis answers does not arrive.
    WireDown,
    /// The connections that carry pub/sub are reset.
    PubsubCut,
    /// The other connections are reset.
    OtherCut,
    /// The subscription hears nothing more, and its connection looks well.
    PubsubDeaf,
    /// Everything is late by a tenth of a second or so.
    WireSlow,
    /// kill -9, and a new one after a while.
    InstanceKill,
    /// SIGSTOP, then SIGCONT.
    InstanceFreeze,
    /// SIGTERM, its replacement being there already: a deployment.
    InstanceDrain,
    /// Some clients' connections break.
    ClientCut,
    /// A client's machine sleeps for a while.
    ClientAway,
    /// A client leaves with a close frame and returns later.
    ClientLeave,
    /// A client that reads nothing.
    SlowDeaf,
    /// A client that reads one byte a second.
    SlowSip,
    /// A client that stops in the middle of a frame that it sends.
    SlowHalf,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RedisRestart => "Redis killed, restarted with its data",
            RedisWipe => "Redis killed, restarted without its data",
            RedisHang => "Redis hangs",
            WireReset => "all connections to Redis reset",
            WireUp => "blackhole towards Redis",
            WireDown => "blackhole from Redis",
            PubsubCut => "connection with pub/sub cut",
            OtherCut => "connection without pub/sub cut",
            PubsubDeaf => "subscription deaf",
            WireSlow => "Redis far away",
            InstanceKill => "instance killed (-9), restarted",
            InstanceFreeze => "instance frozen, then goes on",
            InstanceDrain => "instance drained (SIGTERM), replaced",
            ClientCut => "clients cut off",
            ClientAway => "client asleep, comes back",
            ClientLeave => "client leaves, comes back",
            SlowDeaf => "slow client: reads nothing",
            SlowSip => "slow client: a byte a second",
            SlowHalf => "slow client: stops within a frame",
        })
    }
}

/// One fault of the schedule.
#[derive(Clone, Debug)]
pub struct Planned {
    pub fault: Fault,
    pub from: At,
    pub to: At,
    /// The instance it strikes; for wires, `None` is all of them.
    pub instance: Option<usize>,
}

impl Planned {
    /// What the ledger holds of it, from now on.
    pub fn window(&self) -> Window {
        let fault = self.fault;
        let client = matches!(fault, ClientCut | ClientAway | ClientLeave | SlowDeaf | SlowSip | SlowHalf);
        Window {
            what: fault.to_string(),
            instance: self.instance,
            from: clock::now(),
            to: At::MAX,
            refuses: matches!(fault, RedisRestart | RedisWipe | RedisHang | WireUp | WireDown),
            stops: matches!(fault, InstanceKill | InstanceFreeze | InstanceDrain),
            deafens: !client,
        }
    }
}

const REDIS: &[Fault] = &[RedisRestart, RedisWipe, RedisHang, RedisRestart, RedisHang];
const WIRES: &[Fault] = &[WireReset, WireUp, WireDown, PubsubCut, OtherCut, PubsubDeaf, WireSlow];
const INSTANCE: &[Fault] = &[InstanceKill, InstanceFreeze, InstanceDrain];
const CLIENT: &[Fault] = &[ClientCut, ClientAway, ClientLeave, SlowDeaf, SlowSip, SlowHalf, ClientCut];

/// Makes a schedule of `length` milliseconds, in the order of beginning. `only` keeps those kinds whose names (as in
/// the code: `RedisWipe`) contain one of its words; an empty one keeps all.
pub fn plan(seed: u64, length: At, only: &[String]) -> Vec<Planned> {
    let wanted = |fault: &Fault| {
        let name = format!("{fault:?}").to_lowercase();
        only.is_empty() || only.iter().any(|word| name.contains(&word.to_lowercase()))
    };
    // The kinds of a row, the shortest and the longest calm between two of them, and whether the next one waits for the
    // end of the one before. Data is lost less often than not: what is lost with it cannot be asked for.
    let rows =
        [(REDIS, 1500, 5000, true), (WIRES, 300, 2000, true), (INSTANCE, 500, 3000, true), (CLIENT, 500, 1500, false)];
    let mut plan = Vec::new();
    for (stream, (kinds, shortest, longest, waits)) in rows.into_iter().enumerate() {
        let kinds: Vec<Fault> = kinds.iter().copied().filter(wanted).collect();
        if kinds.is_empty() {
            continue;
        }
        let mut rng = Rng::new(seed, 1000 + stream as u64);
        let mut bag = Vec::new();
        let mut at = 1000 + rng.range(0, longest); // calm at first: everybody has talked once
        while at + 500 < length {
            let fault = bag.pop().unwrap_or_else(|| {
                bag = kinds.clone();
                rng.shuffle(&mut bag);
                bag.pop().expect("there are kinds")
            });
            let to = (at + duration(fault, length, &mut rng)).min(length);
            plan.push(Planned { fault, from: at, to, instance: target(fault, &mut rng) });
            at = if waits { to } else { at } + rng.range(shortest, longest);
        }
    }
    plan.sort_by_key(|planned| planned.from);
    plan
}

fn duration(fault: Fault, length: At, rng: &mut Rng) -> At {
    match fault {
        RedisRestart | RedisWipe => rng.range(100, 4000),
        RedisHang => rng.range(500, 5000),
        WireUp | WireDown => rng.range(1000, 6000),
        WireSlow => rng.range(1000, 4000),
        InstanceKill => rng.range(100, 4000),
        // Longer than the lease (15 s) where there is time for it.
        InstanceFreeze if length >= 40_000 && rng.chance(40) => rng.range(16_000, 30_000),
        InstanceFreeze => rng.range(1000, 8000),
        // As long as it takes to drain; the next instance fault waits for it.
        InstanceDrain => DRAIN_SECONDS * 1000 + 500,
        // Now and then long enough to miss more than the 500 messages that one welcome brings.
        ClientAway => rng.range(1000, if length >= 40_000 { 25_000 } else { 9000 }),
        ClientLeave => rng.range(100, 3000),
        SlowDeaf | SlowSip | SlowHalf => rng.range(2000, 6000),
        WireReset | PubsubCut | OtherCut | PubsubDeaf | ClientCut => 0,
    }
}

fn target(fault: Fault, rng: &mut Rng) -> Option<usize> {
    let one = rng.range(0, INSTANCES as u64) as usize;
    match fault {
        RedisRestart | RedisWipe | RedisHang => None,
        WireReset | WireUp | WireDown | PubsubCut | OtherCut | PubsubDeaf | WireSlow => {
            (!rng.chance(25)).then_some(one)
        }
        _ => Some(one),
    }
}
