//! One run: the system, the clients on it, and at the end the healing, the look around and the verdict. The fault test
//! and the single scenarios differ only in who talks and in what breaks.

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

/// Instances behind the imagined load balancer.
pub const INSTANCES: usize = 3;
/// What the instances are started with.
pub const DRAIN_SECONDS: u64 = 2;
/// After a heal, what is promised within 20 s must be so; the rest is for a busy machine.
const QUIET_WITHIN: At = 25_000;

/// A room: how many talk in it, how often each says something (milliseconds), and how many of them stay with each instance, so
/// that each can be seen to recover.
pub struct Talk {
    pub name: &'static str,
    pub clients: usize,
    pub pace: At,
    pub at_home: usize,
}

/// The rooms of the fault test. One has more talk than a welcome can hold after a long absence; 60 clients in all.
pub const ROOMS: [Talk; 4] = [
    Talk { name: "busy", clients: 24, pace: 500, at_home: 2 },
    Talk { name: "calm", clients: 14, pace: 1000, at_home: 0 },
    Talk { name: "calmer", clients: 12, pace: 1500, at_home: 0 },
    Talk { name: "calmest", clients: 10, pace: 3000, at_home: 0 },
];

pub struct Arena {
    pub stage: Arc<Stage>,
    pub cluster: Cluster,
    clients: Vec<JoinHandle<()>>,
    broken: Vec<Broken>,
}

/// What came of it.
pub struct Outcome {
    pub stage: Arc<Stage>,
    pub verdict: Verdict,
    /// From the heal until everybody had all messages and receipts, and until all knew who is here.
    pub caught_up_after: At,
    pub counts_right_after: At,
}

impl Arena {
    /// Starts the system with `settings` beside its own, and the clients; all are joined when this returns.
    pub fn start(rooms: &[Talk], seed: u64, settings: &[(&str, &str)]) -> Arena {
        clock::now();
        let limited = !settings.contains(&("RATE_LIMIT", "0"));
        let roles = roles(rooms, if limited { 4.0 } else { 100.0 });
        let stage = Arc::new(Stage {
            ledger: Ledger::new(roles.len()),
            rooms: rooms.iter().map(|room| room.name.to_string()).collect(),
            instances: Mutex::new(vec![SocketAddr::from(([127, 0, 0, 1], 0)); INSTANCES]),
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

    /// All is healed. The clients talk on until every instance has given a receipt again, then everything must come to rest
    /// and be right; they leave, and the books are judged.
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
        for instance in 0..INSTANCES {
            if !self.cluster.wait_ready(instance, 5000) {
                stage.ledger.remark(format!("instance {instance} is not ready after the heal"));
            }
        }
        let logs = self.visit_all();
        stage.ending.store(true, SeqCst);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
        self.cluster.check_leaks(15_000);
        self.cluster.finish();

        let mut verdict = checker::judge(&stage.ledger, &logs);
        verdict.broken.extend(self.broken);
        for story in report::slow_recoveries(&stage.ledger) {
            verdict.broken.push(Broken { what: "slow to recover", story });
        }
        Outcome { stage, verdict, caught_up_after, counts_right_after }
    }

    /// A stranger visits every room on every instance, and reads the log of each room once.
    fn visit_all(&mut self) -> BTreeMap<String, Log> {
        let mut logs = BTreeMap::new();
        let stage = Arc::clone(&self.stage);
        let instances = stage.instances.lock().expect("nobody panics holding it").clone();
        for room in &stage.rooms {
            for (instance, addr) in instances.iter().enumerate() {
                match inspect::visit(&stage, *addr, instance, room, instance == 0) {
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

fn roles(rooms: &[Talk], most: f64) -> Vec<Role> {
    let mut roles = Vec::new();
    for room in rooms {
        for number in 0..room.clients {
            let index = roles.len();
            let home = (number < room.at_home * INSTANCES).then_some(number % INSTANCES);
            let (name, room, pace) = (format!("c{index:02}"), room.name.to_string(), room.pace);
            roles.push(Role { index, name, room, home, pace, most });
        }
    }
    roles
}
