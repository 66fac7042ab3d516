//! The system under test, as processes: three instances on a Redis and its replica, or one on a data file. Starts them,
//! watches them, and checks their logs when they have ended. The faults are in `breaking`.

use super::arena::Backplane;
use super::clock::{self, At};
use super::common::Instance;
use super::common::http::Connection;
use super::common::redis::{endpoint, free_port};
use super::folder::Folder;
use super::pair::Pair;
use super::process::{Running, Usage, files, names_of_threads, settled, tail, usage};
use super::proxy::Which;
use super::rng::Rng;
use super::schedule::Planned;
use super::stage::Stage;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long an instance may take to end beyond its drain, in milliseconds: 6 s for sessions that do not answer, 3 s for
/// a Redis that hangs, and a margin for a busy machine.
const DRAIN_MARGIN: At = 12_000;
/// A setting of all instances.
pub const DRAIN_SECONDS: u64 = 2;
/// A stale subscription must be detected within this time: three probes, which are sent every 3 s, and a margin.
const STALE_AT_MOST: At = 14_000;

pub struct Cluster {
    pub store: Store,
    pub instances: Vec<Running>,
    /// Instances that have received SIGTERM, and when.
    pub draining: Vec<(Running, At)>,
    /// The slots whose subscription is stale, with the number of the window.
    pub stale: Vec<(usize, usize)>,
    pub stage: Arc<Stage>,
    pub rng: Rng,
    /// The number of strangers so far; each has a name of its own.
    pub strangers: usize,
    /// The instances' settings in addition to the test's own.
    settings: Vec<(String, String)>,
    /// Controls the wall clock of the last instance: see [`Folder::set_clock`].
    pub folder: Folder,
}

/// What keeps the rooms.
pub enum Store {
    Redis(Box<Pair>),
    File,
}

impl Store {
    pub fn pair(&mut self) -> &mut Pair {
        match self {
            Store::Redis(pair) => pair,
            Store::File => panic!("there is no Redis"),
        }
    }
}

impl Cluster {
    /// Starts everything. Afterwards, the instances' addresses are on the stage.
    pub fn start(stage: Arc<Stage>, seed: u64, settings: &[(&str, &str)]) -> Cluster {
        let count = stage.backplane.instances();
        let store = match stage.backplane {
            Backplane::Redis => Store::Redis(Box::new(Pair::start(count))),
            Backplane::File => Store::File,
        };
        let mut cluster = Cluster {
            store,
            instances: Vec::new(),
            draining: Vec::new(),
            stale: Vec::new(),
            stage,
            rng: Rng::new(seed, 2000),
            strangers: 0,
            settings: settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            folder: Folder::new(),
        };
        let idle = Usage { threads: 0, files: 0 };
        for slot in 0..count {
            let instance = cluster.new_instance(slot);
            cluster.instances.push(Running { instance, slot, idle, killed: false });
        }
        for slot in 0..count {
            let ready = cluster.wait_ready(slot, 10_000);
            assert!(ready, "instance {slot} is not ready at the start");
            cluster.instances[slot].idle = settled(&cluster.instances[slot].instance);
        }
        cluster
    }

    pub fn new_instance(&self, slot: usize) -> Instance {
        let drain = DRAIN_SECONDS.to_string();
        let mut settings = vec![
            ("DRAIN_SECONDS".to_string(), drain),
            // Clients that still use the address of an instance that ended reach nobody else's.
            ("PORT".to_string(), free_port().to_string()),
            // Nothing is trimmed, so `gap` always means lost data.
            ("HISTORY_MESSAGES".to_string(), "1000000".to_string()),
            ("HISTORY_BYTES".to_string(), "1073741824".to_string()),
            ("STORAGE_BYTES".to_string(), "0".to_string()),
        ];
        settings.push(match &self.store {
            Store::Redis(pair) => ("REDIS_ENDPOINT".into(), endpoint(pair.proxies[slot].addr)),
            Store::File => ("DATA_FILE".into(), self.folder.path("chat.db")),
        });
        if slot + 1 == self.stage.backplane.instances() {
            settings.extend(self.folder.clock_settings());
        }
        settings.extend(self.settings.iter().cloned());
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        let instance = Instance::with_log_reader(&settings);
        self.stage.instances.lock().expect("nobody panics holding it")[slot] = instance.addr;
        instance
    }

    /// Executes the whole schedule, which ends at `length`; by then all faults have been healed.
    pub fn run(&mut self, plan: &[Planned], length: At) {
        let mut events: Vec<(At, bool, usize)> = Vec::new();
        for (i, planned) in plan.iter().enumerate() {
            events.push((planned.from, true, i));
            events.push((planned.to.max(planned.from + 1), false, i));
        }
        events.sort();
        let start = clock::now();
        let mut windows = vec![None; plan.len()];
        for (at, begins, i) in events {
            self.watch_until(start + at);
            match (begins, windows[i]) {
                (true, _) => windows[i] = self.strike(&plan[i]),
                (false, Some(window)) => self.heal(&plan[i], window),
                (false, None) => {} // the fault was not possible
            }
        }
        self.watch_until(start + length);
    }

    fn watch_until(&mut self, until: At) {
        while clock::now() < until {
            self.look_around();
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Handles what the system does by itself: drained instances end, and stale subscriptions are detected. No instance
    /// may end for any other reason.
    pub fn look_around(&mut self) {
        let now = clock::now();
        for (mut old, since) in std::mem::take(&mut self.draining) {
            match old.instance.try_wait() {
                Some(status) if status.success() => self.bury(old),
                None if now < since + DRAIN_SECONDS * 1000 + DRAIN_MARGIN => self.draining.push((old, since)),
                status => {
                    let how = status.map_or("does not end".into(), |s| format!("ended with {s}"));
                    self.stage.ledger.remark(format!(
                        "a drained instance {how}, {} after its SIGTERM; its log ends:\n{}",
                        clock::show(now - since),
                        tail(&old.instance.log())
                    ));
                    old.instance.kill();
                    self.bury(old);
                }
            }
        }
        for running in &mut self.instances {
            if let Some(status) = running.instance.try_wait()
                && !running.killed
            {
                running.killed = true;
                let log = tail(&running.instance.log());
                self.stage.ledger.remark(format!("instance {} ended by itself: {status}\n{log}", running.slot));
            }
        }
        for (slot, window) in std::mem::take(&mut self.stale) {
            let Store::Redis(pair) = &self.store else { continue };
            match pair.proxies[slot].stale_since() {
                None => self.stage.ledger.close(window),
                Some(since) if now > self.sound_since(slot, window, since).saturating_add(STALE_AT_MOST) => {
                    let since = clock::show(since);
                    self.stage
                        .ledger
                        .remark(format!("instance {slot} did not detect its stale subscription since {since}"));
                    pair.proxies[slot].cut(Which::Pubsub);
                }
                Some(_) => self.stale.push((slot, window)),
            }
        }
    }

    /// Since when no other fault has touched an instance.
    fn sound_since(&self, slot: usize, own: usize, since: At) -> At {
        let windows = self.stage.ledger.windows.lock().expect("nobody panics holding it");
        let others = windows.iter().enumerate().filter(|(i, w)| *i != own && w.withholds && w.touches(slot));
        others.map(|(_, w)| w.to).fold(since, At::max)
    }

    /// Waits until all drained instances have ended and all stale subscriptions have been detected.
    pub fn wait_settled(&mut self) {
        while !self.draining.is_empty() || !self.stale.is_empty() {
            self.look_around();
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether `/readyz` answers 200 within this many milliseconds.
    pub fn wait_ready(&self, slot: usize, within: At) -> bool {
        let deadline = clock::now() + within;
        while clock::now() < deadline {
            if let Ok(stream) = std::net::TcpStream::connect(self.instances[slot].instance.addr)
                && Connection::over(stream).request("GET", "/readyz", "").status == 200
            {
                return true;
            }
            thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// When all clients have gone: waits until no instance has more threads or open files than at its start.
    pub fn check_leaks(&self, within: At) {
        let deadline = clock::now() + within;
        for running in &self.instances {
            loop {
                let (now, idle) = (usage(&running.instance), running.idle);
                if now.threads <= idle.threads && now.files <= idle.files {
                    break;
                }
                if clock::now() > deadline {
                    let story = format!(
                        "instance {} leaks: {idle:?} before, {now:?} after everybody left\n{}\n{:?}",
                        running.slot,
                        names_of_threads(&running.instance),
                        files(&running.instance)
                    );
                    self.stage.ledger.remark(story);
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Stops everything and checks the logs.
    pub fn finish(mut self) {
        for mut running in std::mem::take(&mut self.instances) {
            running.instance.kill();
            self.bury(running);
        }
    }

    /// Checks the log of an instance that has ended.
    pub fn bury(&self, mut running: Running) {
        running.instance.wait(super::common::PATIENCE);
        let log = running.instance.log();
        if let Ok(folder) = std::env::var("LOGS") {
            let file = format!("{folder}/instance-{}-{}.log", running.slot, running.instance.pid());
            std::fs::write(file, &log).expect("LOGS names a folder");
        }
        if let Some(at) = log.find("panicked") {
            let story = tail(&log[..(at + 400).min(log.len())]);
            self.stage.ledger.remark(format!("instance {} panicked: …{story}", running.slot));
            std::mem::forget(running.instance); // dropping it would panic too, and the report is still to be printed
        }
    }
}
