//! The system under test, as processes: one Redis with an append-only file, three instances, each behind a proxy of its
//! own. Carries out the schedule's faults, heals them, and writes down when.

use super::arena::{DRAIN_SECONDS, INSTANCES};
use super::clock::{self, At};
use super::common::http::Connection;
use super::common::{Instance, Redis};
use super::process::{Running, Usage, names_of_threads, settled, tail, usage};
use super::proxy::{Proxy, Which};
use super::rng::Rng;
use super::schedule::{Fault, Planned};
use super::slow;
use super::stage::{Order, Stage};

use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// A deaf subscription must be found by then: a heartbeat (5 s), the wait for the probe (5 s), and some patience.
const DEAF_AT_MOST: At = 14_000;

pub struct Cluster {
    redis: Redis,
    proxies: Vec<Proxy>,
    instances: Vec<Running>,
    /// Instances that have had their SIGTERM, and when.
    draining: Vec<(Running, At)>,
    /// The slots whose subscription is deaf, with the number of the window.
    deaf: Vec<(usize, usize)>,
    stage: Arc<Stage>,
    rng: Rng,
    slow_ones: usize,
    /// What the instances are started with beside what we need.
    settings: Vec<(String, String)>,
}

impl Cluster {
    /// Starts everything. The instances' addresses are on the stage then.
    pub fn start(stage: Arc<Stage>, seed: u64, settings: &[(&str, &str)]) -> Cluster {
        // Each command is on disk before it is answered; so what a killed Redis forgets, nobody had been promised.
        let redis = Redis::durable();
        let proxies: Vec<Proxy> = (0..INSTANCES).map(|_| Proxy::start(redis.addr())).collect();
        let mut cluster = Cluster {
            redis,
            proxies,
            instances: Vec::new(),
            draining: Vec::new(),
            deaf: Vec::new(),
            stage,
            rng: Rng::new(seed, 2000),
            slow_ones: 0,
            settings: settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        };
        let idle = Usage { threads: 0, files: 0 };
        for slot in 0..INSTANCES {
            let instance = cluster.new_instance(slot);
            cluster.instances.push(Running { instance, slot, idle, killed: false });
        }
        for slot in 0..INSTANCES {
            let ready = cluster.wait_ready(slot, 10_000);
            assert!(ready, "instance {slot} is not ready at the start");
            cluster.instances[slot].idle = settled(&cluster.instances[slot].instance);
        }
        cluster
    }

    fn new_instance(&self, slot: usize) -> Instance {
        let (endpoint, drain) = (self.proxies[slot].addr.to_string(), DRAIN_SECONDS.to_string());
        let mut settings = vec![
            ("REDIS_ENDPOINT", &*endpoint),
            ("DRAIN_SECONDS", &drain),
            ("HISTORY_MESSAGES", "1000000"), // nothing is trimmed, so `gap` means lost data
        ];
        settings.extend(self.settings.iter().map(|(name, value)| (&**name, &**value)));
        let instance = Instance::start(&settings);
        self.stage.instances.lock().expect("nobody panics holding it")[slot] = instance.addr;
        instance
    }

    /// Carries out the whole schedule, which ends at `length`; all that it broke has been put right again by then.
    pub fn run(&mut self, plan: &[Planned], length: At) {
        let mut events: Vec<(At, bool, usize)> = Vec::new();
        for (i, planned) in plan.iter().enumerate() {
            events.push((planned.from, true, i));
            events.push((planned.to.max(planned.from + 1), false, i));
        }
        events.sort();
        let start = clock::now();
        let mut windows = vec![0; plan.len()];
        for (at, begins, i) in events {
            self.watch_until(start + at);
            match begins {
                true => windows[i] = self.strike(&plan[i]),
                false => self.heal(&plan[i], windows[i]),
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

    /// Begins a fault; the number is for [`Cluster::heal`].
    pub fn strike(&mut self, planned: &Planned) -> usize {
        let window = self.stage.ledger.open(planned.window());
        self.begin(planned, window);
        window
    }

    /// Ends a fault.
    pub fn heal(&mut self, planned: &Planned, window: usize) {
        self.end(planned);
        // Two kinds end when the system has dealt with them, and `look_around` sees that.
        if !matches!(planned.fault, Fault::PubsubDeaf | Fault::InstanceDrain) {
            self.stage.ledger.close(window);
        }
    }

    fn begin(&mut self, planned: &Planned, window: usize) {
        let slots = || planned.instance.map_or(0..INSTANCES, |slot| slot..slot + 1);
        let slot = planned.instance.unwrap_or_default();
        match planned.fault {
            Fault::RedisRestart => self.redis.kill(),
            Fault::RedisWipe => {
                self.redis.kill();
                self.redis.wipe();
                self.stage.ledger.lose(0);
                // What is kept from now on has a later millisecond than anything that is gone.
                thread::sleep(Duration::from_millis(2));
            }
            Fault::RedisHang => self.redis.freeze(),
            Fault::WireReset => slots().for_each(|s| _ = self.proxies[s].cut(Which::All)),
            Fault::WireUp => slots().for_each(|s| self.proxies[s].hold(Some(Which::All), None)),
            Fault::WireDown => slots().for_each(|s| self.proxies[s].hold(None, Some(Which::All))),
            Fault::PubsubCut => slots().for_each(|s| _ = self.proxies[s].cut(Which::Pubsub)),
            Fault::OtherCut => slots().for_each(|s| _ = self.proxies[s].cut(Which::Other)),
            Fault::PubsubDeaf => slots().for_each(|s| {
                self.proxies[s].deafen();
                self.deaf.push((s, window));
            }),
            Fault::WireSlow => {
                let delay = self.rng.millis(20, 150);
                slots().for_each(|s| self.proxies[s].delay(delay));
            }
            Fault::InstanceKill => {
                self.instances[slot].killed = true;
                self.instances[slot].instance.kill();
            }
            Fault::InstanceFreeze => self.instances[slot].instance.signal("STOP"),
            Fault::InstanceDrain => {
                let idle = self.instances[slot].idle;
                let fresh = Running { instance: self.new_instance(slot), slot, idle, killed: false };
                let old = std::mem::replace(&mut self.instances[slot], fresh);
                old.instance.signal("TERM");
                self.draining.push((old, clock::now()));
                let planned_to = planned.to.saturating_sub(planned.from) + clock::now();
                self.stage.ledger.windows.lock().expect("nobody panics holding it")[window].to = planned_to;
            }
            Fault::ClientCut => self.order(5, 25, Order::Cut),
            Fault::ClientAway => self.order(1, 5, Order::Away(planned.to - planned.from)),
            Fault::ClientLeave => self.order(1, 4, Order::Leave(planned.to - planned.from)),
            Fault::SlowDeaf | Fault::SlowSip | Fault::SlowHalf => {
                self.slow_ones += 1;
                let addr = self.instances[slot].instance.addr;
                let room = self.rng.pick(&self.stage.rooms).clone();
                let name = format!("slow-{}", self.slow_ones);
                let until = clock::now() + planned.to - planned.from;
                slow::start(planned.fault, addr, room, name, until);
            }
        }
    }

    fn end(&mut self, planned: &Planned) {
        let slots = || planned.instance.map_or(0..INSTANCES, |slot| slot..slot + 1);
        let slot = planned.instance.unwrap_or_default();
        match planned.fault {
            Fault::RedisRestart | Fault::RedisWipe => self.redis.up(),
            Fault::RedisHang => self.redis.thaw(),
            Fault::WireUp | Fault::WireDown => {
                // Half of the time what was held back arrives late, half of the time never.
                if self.rng.chance(50) {
                    slots().for_each(|s| _ = self.proxies[s].cut(Which::All));
                }
                slots().for_each(|s| self.proxies[s].release());
            }
            Fault::WireSlow => slots().for_each(|s| self.proxies[s].delay(Default::default())),
            Fault::InstanceKill => {
                let idle = self.instances[slot].idle;
                let fresh = Running { instance: self.new_instance(slot), slot, idle, killed: false };
                let old = std::mem::replace(&mut self.instances[slot], fresh);
                self.bury(old);
            }
            Fault::InstanceFreeze => self.instances[slot].instance.signal("CONT"),
            _ => {}
        }
    }

    fn order(&mut self, fewest: u64, most: u64, order: Order) {
        let mut clients: Vec<usize> = (0..self.stage.orders.len()).collect();
        self.rng.shuffle(&mut clients);
        clients.truncate(self.rng.range(fewest, most) as usize);
        for client in clients {
            *self.stage.orders[client].lock().expect("nobody panics holding it") = Some(order);
        }
    }

    /// What happens without the schedule's doing: drained instances end, deaf subscriptions are found, and no instance ends
    /// by itself.
    pub fn look_around(&mut self) {
        let now = clock::now();
        for (mut old, since) in std::mem::take(&mut self.draining) {
            match old.instance.try_wait() {
                Some(status) if status.success() => self.bury(old),
                None if now < since + DRAIN_SECONDS * 1000 + 5000 => self.draining.push((old, since)),
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
                let story =
                    format!("instance {} ended by itself: {status}\n{}", running.slot, tail(&running.instance.log()));
                self.stage.ledger.remark(story);
            }
        }
        for (slot, window) in std::mem::take(&mut self.deaf) {
            match self.proxies[slot].deaf_since() {
                None => self.stage.ledger.close(window),
                Some(since) if now > self.sound_since(slot, window, since).saturating_add(DEAF_AT_MOST) => {
                    self.stage.ledger.remark(format!(
                        "instance {slot} did not find its subscription deaf since {}",
                        clock::show(since)
                    ));
                    self.proxies[slot].cut(Which::Pubsub);
                }
                Some(_) => self.deaf.push((slot, window)),
            }
        }
    }

    /// Since when no fault but this one has touched an instance.
    fn sound_since(&self, slot: usize, own: usize, since: At) -> At {
        let windows = self.stage.ledger.windows.lock().expect("nobody panics holding it");
        let others = windows.iter().enumerate().filter(|(i, w)| *i != own && w.deafens && w.touches(slot));
        others.map(|(_, w)| w.to).fold(since, At::max)
    }

    /// Until all drained instances have ended and all deaf subscriptions are found.
    pub fn wait_settled(&mut self) {
        while !self.draining.is_empty() || !self.deaf.is_empty() {
            self.look_around();
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether `/readyz` says 200 within so many milliseconds.
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

    /// When everybody has gone: waits until no instance has more threads or open files than at its start.
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
                        "instance {} leaks: {idle:?} before, {now:?} after everybody left\n{}",
                        running.slot,
                        names_of_threads(&running.instance)
                    );
                    self.stage.ledger.remark(story);
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Ends everything and looks through the logs.
    pub fn finish(mut self) {
        for mut running in std::mem::take(&mut self.instances) {
            running.instance.kill();
            self.bury(running);
        }
    }

    /// An instance has ended: what does its log say?
    fn bury(&self, mut running: Running) {
        running.instance.wait(super::common::PATIENCE);
        let log = running.instance.log();
        if let Ok(folder) = std::env::var("LOGS") {
            let file = format!("{folder}/instance-{}-{}.log", running.slot, running.instance.pid());
            std::fs::write(file, &log).expect("LOGS names a folder");
        }
        if let Some(at) = log.find("panicked") {
            self.stage.ledger.remark(format!(
                "instance {} panicked: …{}",
                running.slot,
                tail(&log[..(at + 400).min(log.len())])
            ));
            std::mem::forget(running.instance); // its drop would panic too, and we have a report to print
        }
    }
}
