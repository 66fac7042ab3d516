//! Mass joins, and the largest room: thousands of clients that connect at once, and a message to all of them.

use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::crowd::{self, Crowd, Entrance};
use crate::meter::{Meter, everyone, round_to, say, seconds, settle};
use crate::runs::{Bench, IN_FLIGHT, SIZE};

/// How many may be connecting at a time.
const WINDOW: usize = 512;

impl Bench {
    /// All clients join one room: the time until the last has its `welcome`, then the time for one message to reach
    /// everyone, and the highest rate of deliveries.
    pub fn large(&self) -> io::Result<Value> {
        let clients = self.pick(2000, 10_000);
        let (paced, saturated, rate) = (seconds(self.pick(2, 15)), seconds(self.pick(1, 5)), 4.0);
        let mut result = Map::new();
        for recipe in &self.servers {
            say(&format!("{clients} clients into one room: {}", recipe.name));
            let (server, mut crowd) = self.start(recipe)?;
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            let entrance = Entrance { window: WINDOW, ..Entrance::default() };
            let took = crowd.enter(crowd::rooms("large", clients, clients), entrance)?;
            let used = [meter.server(), meter.redis()].map(|cpu| round_to(cpu.as_secs_f64(), 2));
            if let Err(error) = everyone(&crowd, clients, &server) {
                result.insert(recipe.name.to_owned(), json!({ "failed": error.to_string() }));
                continue;
            }
            settle(&mut crowd)?;
            let room = crowd::talk(0, clients, clients);
            crowd.paced(&room, rate, seconds(1), SIZE)?;
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            let whole = crowd.paced(&room, rate, paced, SIZE)?;
            let mut figures = meter.stop(&crowd, whole);
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            let whole = crowd.saturated(&room, IN_FLIGHT, saturated, SIZE)?;
            figures["saturated"] = meter.stop(&crowd, whole);
            figures["connect_s"] = json!(round_to(took.as_secs_f64(), 2));
            figures["connect_server_cpu_s"] = json!(used[0]);
            figures["connect_redis_cpu_s"] = json!(used[1]);
            result.insert(recipe.name.to_owned(), figures);
        }
        Ok(json!({ "clients": clients, "messages_per_s": rate, "in_flight": IN_FLIGHT, "servers": result }))
    }

    /// 2,000 joins per second into 1,000 rooms, each client leaving after two seconds, beside a calm room of 10 with
    /// twenty messages per second.
    pub fn rush(&self) -> io::Result<Value> {
        let (rooms, rate, time) = (1000, self.pick(1000.0, 2000.0), self.pick(5, 30));
        let mut result = Map::new();
        for recipe in self.servers.iter().filter(|recipe| !["floor", "file"].contains(&recipe.name)) {
            say(&format!("{rate} joins per second into {rooms} rooms: {}", recipe.name));
            let (server, mut crowd) = self.start(recipe)?;
            let over = AtomicBool::new(false);
            let (address, dialect) = (server.address, server.dialect);
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            let (start, total) = (Instant::now(), rate as usize * time as usize);
            let calm = thread::scope(|scope| {
                let calm = scope.spawn(|| calm_room(Crowd::new(address, dialect), &over));
                let stay = Entrance { stay: Some(seconds(2)), deadline: seconds(time + 10), ..Entrance::default() };
                let names: Vec<Rc<str>> = (0..rooms).map(|room| format!("bench-rush-{room}").into()).collect();
                let names = (0..total).map(|number| names[number % rooms].clone());
                let entered = crowd.enter_paced(names, rate, stay);
                over.store(true, Ordering::Relaxed);
                let calm = calm.join().unwrap_or_else(|_| Err(io::Error::other("the calm room's thread panicked")));
                entered.and(calm)
            })?;
            let took = start.elapsed().as_secs_f64();
            let each = |cpu: Duration| round_to(cpu.as_secs_f64() * 1e6 / total as f64, 1);
            let quantile = |quantile| crowd.entered.value_at_quantile(quantile);
            result.insert(
                recipe.name.to_owned(),
                json!({
                    "joined": crowd.entered.len(), "asked_for": total, "took_s": round_to(took, 2),
                    "refused_or_lost": crowd.gone, "complaint": crowd.complaint,
                    "join_p50_us": quantile(0.5), "join_p99_us": quantile(0.99),
                    "server_us_per_join": each(meter.server()), "redis_us_per_join": each(meter.redis()),
                    "calm": calm,
                }),
            );
        }
        Ok(json!({ "rooms": rooms, "joins_per_s": rate, "seconds": time, "servers": result }))
    }
}

/// The latency of messages in a room of ten, until `over` is set.
fn calm_room(mut crowd: Crowd, over: &AtomicBool) -> io::Result<Value> {
    let mut whole = true;
    crowd.enter(crowd::rooms("calm", 10, 10), Entrance::default())?;
    let talk = crowd::talk(0, 10, 10);
    while !over.load(Ordering::Relaxed) {
        whole &= crowd.paced(&talk, 20.0, seconds(1), SIZE)?;
    }
    let quantile = |quantile| crowd.ledger.latency.value_at_quantile(quantile);
    Ok(json!({
        "every_delivery": whole, "deliveries": crowd.ledger.deliveries,
        "p50_us": quantile(0.5), "p99_us": quantile(0.99), "max_us": crowd.ledger.latency.max(),
    }))
}
