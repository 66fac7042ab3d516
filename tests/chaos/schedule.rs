//! The schedule: which fault affects what, when and for how long. It depends only on the seed, the length and the kind
//! of system, so that a run can be repeated. (The threads of the system under test still interleave freely: a seed
//! reproduces the faults, and usually, but not certainly, their consequences.)
//!
//! Faults come in rows that run in parallel: Redis itself, the connections to it, the instances, their machines, the
//! clients. Within a row one fault ends before the next begins, so two of three instances are always up. Each row uses
//! all of its kinds, in a random order, before it repeats one.

use super::arena::Backplane;
use super::clock::{self, At};
use super::cluster::DRAIN_SECONDS;
use super::fault::{CLIENT, Fault, Fault::*, INSTANCE, MACHINE, REDIS, WIRES};
use super::ledger::Window;
use super::rng::Rng;

/// A fault in the schedule.
#[derive(Clone, Debug)]
pub struct Planned {
    pub fault: Fault,
    pub from: At,
    pub to: At,
    /// The instance affected; for connections, `None` means all of them.
    pub instance: Option<usize>,
}

impl Planned {
    /// The ledger's record of it, starting now.
    pub fn window(&self) -> Window {
        Window {
            what: self.fault.to_string(),
            instance: self.instance,
            from: clock::now(),
            to: At::MAX,
            refuses: self.fault.refuses(),
            stops: self.fault.stops(),
            withholds: self.fault.withholds(),
        }
    }
}

/// The kinds of a row, the shortest and the longest pause between two of them, and whether the next one waits for the
/// end of the previous one.
type Row = (&'static [Fault], At, At, bool);

fn rows(backplane: Backplane) -> &'static [Row] {
    match backplane {
        Backplane::Redis => &[
            (REDIS, 1000, 3500, true),
            (WIRES, 300, 2000, true),
            (INSTANCE, 500, 3000, true),
            (MACHINE, 2000, 6000, true),
            (CLIENT, 500, 1500, false),
        ],
        // There is only one instance. It must be up long enough between faults for clients to use it.
        Backplane::File => &[
            (&[InstanceKill, InstanceFreeze, InstanceKill, InstanceDrain, InstanceKill], 200, 2500, true),
            (MACHINE, 1000, 4000, true),
            (CLIENT, 500, 1500, false),
        ],
    }
}

/// Makes a schedule of `length` milliseconds, ordered by start. `only` keeps the kinds whose names (as in the code:
/// `RedisWipe`) contain one of its words; if empty, it keeps all.
pub fn plan(seed: u64, length: At, backplane: Backplane, only: &[String]) -> Vec<Planned> {
    let wanted = |fault: &Fault| {
        let name = format!("{fault:?}").to_lowercase();
        only.is_empty() || only.iter().any(|word| name.contains(&word.to_lowercase()))
    };
    let mut plan = Vec::new();
    for (stream, (kinds, shortest, longest, waits)) in rows(backplane).iter().enumerate() {
        let kinds: Vec<Fault> = kinds.iter().copied().filter(wanted).collect();
        if kinds.is_empty() {
            continue;
        }
        let mut rng = Rng::new(seed, 1000 + stream as u64);
        let mut bag = Vec::new();
        let mut at = 1000 + rng.range(0, *longest); // quiet at first, until every client has sent a message
        while at + 500 < length {
            let fault = bag.pop().unwrap_or_else(|| {
                bag = kinds.clone();
                rng.shuffle(&mut bag);
                bag.pop().expect("there are kinds")
            });
            let to = (at + duration(fault, length, &mut rng)).min(length);
            plan.push(Planned { fault, from: at, to, instance: target(fault, backplane.instances(), &mut rng) });
            at = if *waits { to } else { at } + rng.range(*shortest, *longest);
        }
    }
    plan.sort_by_key(|planned| planned.from);
    plan
}

fn duration(fault: Fault, length: At, rng: &mut Rng) -> At {
    match fault {
        RedisRestart | RedisWipe | RedisPromote => rng.range(100, 4000),
        RedisDemote => rng.range(100, 3000),
        RedisHang | RedisReadOnly | RedisFull => rng.range(500, 5000),
        WireUp | WireDown => rng.range(1000, 6000),
        WireSlow => rng.range(1000, 4000),
        InstanceKill => rng.range(50, 3000),
        // Longer than the lease (15 s) if there is time for it.
        InstanceFreeze if length >= 40_000 && rng.chance(40) => rng.range(16_000, 30_000),
        InstanceFreeze => rng.range(1000, 8000),
        // The time it takes to drain; the next instance fault waits for it.
        InstanceDrain => DRAIN_SECONDS * 1000 + 500,
        // Long enough to be noticed, and for a heartbeat.
        ClockJump => rng.range(4500, 8000),
        // Sometimes long enough to miss more than the 500 messages that one welcome holds.
        ClientAway => rng.range(1000, if length >= 40_000 { 25_000 } else { 9000 }),
        ClientLeave => rng.range(100, 3000),
        SlowStalled | SlowSip | SlowHalf | Greedy | Impostor | Crowd => rng.range(2000, 6000),
        WireReset | PubsubCut | OtherCut | PubsubStale | LogLost | ClientCut => 0,
    }
}

fn target(fault: Fault, instances: usize, rng: &mut Rng) -> Option<usize> {
    let one = rng.range(0, instances as u64) as usize;
    match fault {
        _ if fault.is_redis() => None,
        _ if fault.is_wires() => (!rng.chance(25)).then_some(one),
        // The instance that is started with its own clock.
        ClockJump => Some(instances - 1),
        _ => Some(one),
    }
}
