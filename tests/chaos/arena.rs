//! One run: starts the system and its clients, and at the end heals all faults, inspects the system and reaches a
//! verdict. The fault test and the scenarios differ only in their rooms and faults.

use super::checker::{self, Verdict};
use super::client::Client;
use super::clock::{self, At};
use super::cluster::Cluster;
use super::inspect::{self, Log};
use super::ledger::{Broken, Ledger};
use super::report;
use super::stage::{Role, Stage};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What keeps the rooms. It also determines the number of instances.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backplane {
    Redis,
    File,
}

impl Backplane {
    pub fn instances(self) -> usize {
        match self {
            Backplane::Redis => 3,
            Backplane::File => 1,
        }
    }
}

/// Everything promised within 20 s must hold this long after a heal; the margin is for a busy machine.
const QUIET_WITHIN: At = 25_000;

/// A kind of room: how many clients it has, how often each sends (milliseconds), and how many of them stay with each
/// instance, so that the recovery of each instance is visible.
#[derive(Clone, Copy)]
pub struct Talk {
    pub name: &'static str,
    pub clients: usize,
    pub pace: At,
    pub at_home: usize,
    /// The number of rooms of this kind; if more than one, their names are numbered.
    pub rooms: usize,
}

/// The rooms of the fault test, with 90 clients in all. One is so busy that a welcome cannot contain everything missed
/// during a long absence; most are small.
pub const ROOMS: [Talk; 5] = [
    Talk { name: "busy", clients: 24, pace: 500, at_home: 2, rooms: 1 },
    Talk { name: "calm", clients: 14, pace: 1000, at_home: 0, rooms: 1 },
    Talk { name: "calmer", clients: 12, pace: 1500, at_home: 0, rooms: 1 },
    Talk { name: "calmest", clients: 10, pace: 3000, at_home: 0, rooms: 1 },
    Talk { name: "small", clients: 1, pace: 5000, at_home: 0, rooms: 30 },
];

impl Talk {
    /// A single room.
    pub fn one(name: &'static str, clients: usize, pace: At, at_home: usize) -> Talk {
        Talk { name, clients, pace, at_home, rooms: 1 }
    }

    fn names(self) -> impl Iterator<Item = String> {
        let numbered = move |number| format!("{}-{number:03}", self.name);
        (0..self.rooms).map(move |number| if self.rooms == 1 { self.name.into() } else { numbered(number) })
    }
}

pub struct Arena {
    pub stage: Arc<Stage>,
    pub cluster: Cluster,
    clients: Vec<JoinHandle<()>>,
    broken: Vec<Broken>,
}

/// The result of a run.
pub struct Outcome {
    pub stage: Arc<Stage>,
    pub verdict: Verdict,
    /// Time from the heal until every client had all messages and receipts, and until all knew who is present.
    pub caught_up_after: At,
    pub counts_right_after: At,
}

impl Arena {
    /// Starts the system with `settings` in addition to its own, and the clients; returns once all have joined.
    pub fn start(backplane: Backplane, rooms: &[Talk], seed: u64, settings: &[(&str, &str)]) -> Arena {
        clock::now();
        let limited = !settings.contains(&("RATE_LIMIT", "0"));
        let roles = roles(backplane.instances(), rooms, if limited { 4.0 } else { 100.0 });
        let stage = Arc::new(Stage {
            ledger: Ledger::new(roles.len()),
            backplane,
            rooms: rooms.iter().flat_map(|room| room.names()).collect(),
            instances: Mutex::new(vec![SocketAddr::from(([127, 0, 0, 1], 0)); backplane.instances()]),
            talking: AtomicBool::new(true),
            ending: AtomicBool::new(false),
            orders: roles.iter().map(|_| Mutex::default()).collect(),
        });
        let cluster = Cluster::start(Arc::clone(&stage), seed, settings);
        let start = |role| Client::start(role, Arc::clone(&stage), seed);
        let clients = roles.into_iter().map(start).collect();
        let mut arena = Arena { stage, cluster, clients, broken: Vec::new() };
        let stage = Arc::clone(&arena.stage);
        let joined = inspect::wait_until_none(10_000, || inspect::never_joined(&stage));
        arena.must("cannot join at the start", joined);
        arena
    }

    /// Called when all faults are healed. The clients keep sending until every instance has sent a receipt; then the
    /// system must settle in a correct state, the clients leave, and the ledger is checked.
    pub fn finish(mut self) -> Outcome {
        let stage = Arc::clone(&self.stage);
        let healed = clock::now();
        let left = || QUIET_WITHIN.saturating_sub(clock::now() - healed).max(5000);
        self.cluster.wait_settled();
        let silent = || inspect::instances_without_receipt(&stage, healed);
        self.must("no receipt after the heal", inspect::wait_until_none(left(), silent));
        stage.talking.store(false, SeqCst);
        let behind = || inspect::not_caught_up(&stage);
        self.must("not caught up", inspect::wait_until_none(left(), behind));
        let caught_up_after = clock::now() - healed;
        let wrong = || inspect::wrong_counts(&stage);
        self.must("who is here is wrong", inspect::wait_until_none(left(), wrong));
        let counts_right_after = clock::now() - healed;
        for instance in 0..stage.backplane.instances() {
            if !self.cluster.wait_ready(instance, 5000) {
                stage.ledger.remark(format!("instance {instance} is not ready after the heal"));
            }
        }
        let logs = self.visit_all(left);
        stage.ending.store(true, SeqCst);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
        self.cluster.check_leaks(15_000);
        self.cluster.finish();

        let mut verdict = checker::judge(stage.backplane, &stage.ledger, &logs);
        verdict.broken.extend(self.broken);
        for story in report::slow_recoveries(&stage.ledger, stage.backplane.instances()) {
            verdict.broken.push(Broken { what: "slow to recover", story });
        }
        Outcome { stage, verdict, caught_up_after, counts_right_after }
    }

    /// A stranger visits every room on every instance, and reads each room's log once.
    fn visit_all(&mut self, left: impl Fn() -> At) -> BTreeMap<String, Log> {
        let mut logs = BTreeMap::new();
        let stage = Arc::clone(&self.stage);
        let instances = stage.instances.lock().expect("nobody panics holding it").clone();
        for room in &stage.rooms {
            // Of many small rooms, each is inspected on one instance only.
            let looks = if stage.rooms.len() > 10 && room.contains('-') { 1 } else { instances.len() };
            for (instance, addr) in instances.iter().enumerate().take(looks) {
                match inspect::visit(&stage, *addr, instance, room, instance == 0, left()) {
                    Ok(log) if instance == 0 => _ = logs.insert(room.clone(), log),
                    Ok(_) => {}
                    Err(story) => self.broken.push(Broken { what: "a stranger's welcome is wrong", story }),
                }
            }
        }
        logs
    }

    fn must(&mut self, what: &'static str, result: Result<At, Vec<String>>) {
        let stories = result.err().unwrap_or_default();
        self.broken.extend(stories.into_iter().map(|story| Broken { what, story }));
    }
}

impl Outcome {
    pub fn print(&self) {
        report::print(self);
    }
}

fn roles(instances: usize, rooms: &[Talk], most: f64) -> Vec<Role> {
    let mut roles = Vec::new();
    for talk in rooms {
        for room in talk.names() {
            for number in 0..talk.clients {
                let index = roles.len();
                let home = (number < talk.at_home * instances).then_some(number % instances);
                let (name, room, pace) = (format!("c{index:02}"), room.clone(), talk.pace);
                roles.push(Role { index, name, room, home, pace, most });
            }
        }
    }
    roles
}
