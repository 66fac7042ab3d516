//! How each fault is injected and healed.

use super::clock;
use super::cluster::{Cluster, DRAIN_SECONDS, Store};
use super::common::PATIENCE;
use super::fault::Fault;
use super::process::Running;
use super::proxy::{Proxy, Which};
use super::schedule::Planned;
use super::stage::Order;
use super::strangers;
use std::thread;
use std::time::Duration;

/// How far a clock jumps, in the syntax of `faketime`.
const JUMPS: [&str; 4] = ["+1d", "-1d", "+1h", "-1h"];
/// Longer than a log is kept: since Redis's clock decides, nothing is lost.
const LONG_JUMPS: [&str; 2] = ["+31d", "-31d"];

impl Cluster {
    /// Starts a fault; returns a number for [`Cluster::heal`], or `None` if it was not possible.
    pub fn strike(&mut self, planned: &Planned) -> Option<usize> {
        let window = self.stage.ledger.open(planned.window());
        let done = if planned.fault.is_redis() {
            self.begin_redis(planned.fault)
        } else if planned.fault.is_wires() {
            self.begin_wires(planned, window);
            true
        } else {
            self.begin(planned, window);
            true
        };
        if !done {
            self.stage.ledger.close(window);
        }
        done.then_some(window)
    }

    /// Ends a fault.
    pub fn heal(&mut self, planned: &Planned, window: usize) {
        if planned.fault.is_redis() {
            self.end_redis(planned.fault);
        } else if planned.fault.is_wires() {
            self.end_wires(planned);
        } else {
            self.end(planned);
        }
        // Two kinds end when the system has recovered from them, which `look_around` detects.
        let by_itself = planned.fault == Fault::PubsubStale
            || planned.fault == Fault::InstanceDrain && matches!(self.store, Store::Redis(_));
        if !by_itself {
            self.stage.ledger.close(window);
        }
    }

    fn begin_redis(&mut self, fault: Fault) -> bool {
        let Store::Redis(pair) = &mut self.store else { return false };
        match fault {
            Fault::RedisRestart => pair.primary.kill(),
            Fault::RedisWipe => {
                pair.primary.kill();
                pair.primary.wipe();
                self.stage.ledger.lose(0);
                // Messages kept from now on have a later millisecond than any that are gone.
                thread::sleep(Duration::from_millis(2));
            }
            Fault::RedisHang => pair.primary.freeze(),
            Fault::RedisPromote => return pair.promote(&mut self.rng, &self.stage.ledger),
            Fault::RedisDemote => return pair.demote(&mut self.rng, &self.stage.ledger),
            // A replica of a server that does not exist: it keeps its data, and rejects writes.
            Fault::RedisReadOnly => pair.primary.cmd("REPLICAOF 127.0.0.1 1"),
            Fault::RedisFull => pair.primary.cmd("CONFIG SET maxmemory 1"),
            other => unreachable!("{other} does not strike Redis"),
        }
        true
    }

    fn end_redis(&mut self, fault: Fault) {
        let pair = self.store.pair();
        match fault {
            Fault::RedisRestart | Fault::RedisWipe => pair.primary.up(),
            Fault::RedisHang => pair.primary.thaw(),
            Fault::RedisPromote => pair.follow_again(),
            Fault::RedisDemote => pair.lead(),
            Fault::RedisReadOnly => pair.primary.cmd("REPLICAOF NO ONE"),
            Fault::RedisFull => pair.primary.cmd("CONFIG SET maxmemory 0"),
            other => unreachable!("{other} does not strike Redis"),
        }
    }

    fn begin_wires(&mut self, planned: &Planned, window: usize) {
        let delay = self.rng.millis(20, 150);
        let slots = self.slots(planned);
        for slot in slots {
            let proxy = self.proxy(slot);
            match planned.fault {
                Fault::WireReset => _ = proxy.cut(Which::All),
                Fault::WireUp => proxy.hold(Some(Which::All), None),
                Fault::WireDown => proxy.hold(None, Some(Which::All)),
                Fault::PubsubCut => _ = proxy.cut(Which::Pubsub),
                Fault::OtherCut => _ = proxy.cut(Which::Other),
                Fault::PubsubStale => {
                    proxy.make_stale();
                    self.stale.push((slot, window));
                }
                Fault::WireSlow => proxy.delay(delay),
                other => unreachable!("{other} does not strike a wire"),
            }
        }
    }

    fn end_wires(&mut self, planned: &Planned) {
        // Half of the time, what was held back arrives late; otherwise never.
        let cut = self.rng.chance(50);
        for slot in self.slots(planned) {
            let proxy = self.proxy(slot);
            match planned.fault {
                Fault::WireUp | Fault::WireDown => {
                    if cut {
                        proxy.cut(Which::All);
                    }
                    proxy.release();
                }
                Fault::WireSlow => proxy.delay(Duration::ZERO),
                _ => {}
            }
        }
    }

    fn begin(&mut self, planned: &Planned, window: usize) {
        let slot = planned.instance.unwrap_or_default();
        match planned.fault {
            Fault::InstanceKill => {
                self.instances[slot].killed = true;
                self.instances[slot].instance.kill();
            }
            Fault::InstanceFreeze => self.instances[slot].instance.signal("STOP"),
            Fault::InstanceDrain if matches!(self.store, Store::File) => {
                self.instances[slot].killed = true;
                self.instances[slot].instance.signal("TERM");
            }
            Fault::InstanceDrain => {
                let old = self.replace(slot);
                old.instance.signal("TERM");
                self.draining.push((old, clock::now()));
                let planned_to = planned.to.saturating_sub(planned.from) + clock::now();
                self.stage.ledger.windows.lock().expect("nobody panics holding it")[window].to = planned_to;
            }
            Fault::ClockJump => {
                let far = matches!(self.store, Store::Redis(_)) && self.rng.chance(50);
                let jump = if far { *self.rng.pick(&LONG_JUMPS) } else { *self.rng.pick(&JUMPS) };
                self.folder.set_clock(jump);
            }
            Fault::LogLost => self.instances[slot].instance.lose_log_reader(),
            Fault::ClientCut => self.order(5, 25, Order::Cut),
            Fault::ClientAway => self.order(1, 5, Order::Away(clock::now() + planned.to - planned.from)),
            Fault::ClientLeave => self.order(1, 4, Order::Leave(clock::now() + planned.to - planned.from)),
            kind => {
                self.strangers += 1;
                let addr = self.instances[slot].instance.addr;
                let room = self.rng.pick(&self.stage.rooms).clone();
                let until = clock::now() + planned.to - planned.from;
                let name = format!("stranger-{}", self.strangers);
                strangers::start(kind, &self.stage, addr, room, name, until);
            }
        }
    }

    fn end(&mut self, planned: &Planned) {
        let slot = planned.instance.unwrap_or_default();
        match planned.fault {
            Fault::InstanceDrain if matches!(self.store, Store::File) => {
                let status = self.instances[slot].instance.wait(PATIENCE + Duration::from_secs(DRAIN_SECONDS));
                if !status.success() {
                    self.stage.ledger.remark(format!("a drained instance ended with {status}"));
                }
                let old = self.replace(slot);
                self.bury(old);
            }
            Fault::InstanceKill => {
                let old = self.replace(slot);
                self.bury(old);
            }
            Fault::InstanceFreeze => self.instances[slot].instance.signal("CONT"),
            Fault::ClockJump => self.folder.set_clock("+0"),
            _ => {}
        }
    }

    /// Starts a new instance in a slot, and returns the previous one.
    fn replace(&mut self, slot: usize) -> Running {
        let idle = self.instances[slot].idle;
        let fresh = Running { instance: self.new_instance(slot), slot, idle, killed: false };
        std::mem::replace(&mut self.instances[slot], fresh)
    }

    fn slots(&self, planned: &Planned) -> std::ops::Range<usize> {
        planned.instance.map_or(0..self.stage.backplane.instances(), |slot| slot..slot + 1)
    }

    fn proxy(&mut self, slot: usize) -> &Proxy {
        &self.store.pair().proxies[slot]
    }

    fn order(&mut self, fewest: u64, most: u64, order: Order) {
        let mut clients: Vec<usize> = (0..self.stage.orders.len()).collect();
        self.rng.shuffle(&mut clients);
        clients.truncate(self.rng.range(fewest, most) as usize);
        for client in clients {
            *self.stage.orders[client].lock().expect("nobody panics holding it") = Some(order);
        }
    }

    /// Starts a fault of one instance; it lasts until healed.
    pub fn strike_one(&mut self, fault: Fault, slot: usize) -> (Planned, usize) {
        let planned = Planned { fault, from: 0, to: 0, instance: (!fault.is_redis()).then_some(slot) };
        let window = self.strike(&planned).expect("it can strike");
        (planned, window)
    }
}
