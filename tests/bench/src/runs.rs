//! The measurements. Each is a function that starts what it needs, measures, and returns its figures as JSON. Compared
//! servers take turns within one run, so that other work on the machine affects all of them alike.

use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::crowd::{self, Crowd, Entrance};
use crate::ledger::Ledger;
use crate::meter::{Memory, Meter, curve, everyone, median, median_of, round_to, say, seconds, settle};
use crate::process::{self, Cage, Recipe, Redis, Server};
use crate::scripts;
use crate::stacks::{self, Probe};

/// What a run needs.
pub struct Bench {
    pub redis: Redis,
    /// Bobbin first, then its peers, then the floor.
    pub servers: Vec<Recipe>,
    pub quick: bool,
}

/// Bytes of text per message.
pub const SIZE: usize = 150;
/// Messages per second in the paced runs.
const RATE: f64 = 20.0;
/// Messages in flight in the saturated runs.
pub const IN_FLIGHT: usize = 8;

impl Bench {
    fn bobbin(&self) -> &Recipe {
        &self.servers[0]
    }

    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Starts a server with an empty Redis, or without a data file.
    pub fn start(&self, recipe: &Recipe) -> io::Result<(Server, Crowd)> {
        self.redis.cli(&["flushall"])?;
        if let Some((_, file)) = recipe.env.iter().find(|(name, _)| name == "DATA_FILE")
            && let Some(folder) = Path::new(file).parent()
        {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder)?;
        }
        let server = Server::start(recipe)?;
        let crowd = Crowd::new(server.address, recipe.dialect);
        Ok((server, crowd))
    }

    /// 1,000 clients in one room, each server in turn for some rounds: the cost and latency of a delivery, and the most
    /// deliveries per second.
    pub fn fanout(&self) -> io::Result<Value> {
        let (clients, rounds) = (1000, self.pick(1, 3));
        let (paced, saturated) = (seconds(self.pick(2, 5)), seconds(self.pick(1, 4)));
        let mut samples: Vec<Vec<Value>> = vec![Vec::new(); self.servers.len()];
        let mut latency: Vec<Histogram<u64>> = self.servers.iter().map(|_| Ledger::new().latency).collect();
        for round in 0..rounds {
            for (number, recipe) in self.servers.iter().enumerate() {
                say(&format!("fan-out, round {} of {rounds}: {}", round + 1, recipe.name));
                let (server, mut crowd) = self.start(recipe)?;
                let took = crowd.enter(crowd::rooms("fanout", clients, clients), Entrance::default())?;
                everyone(&crowd, clients, &server)?;
                settle(&mut crowd)?;
                let room = crowd::talk(0, clients, clients);
                crowd.paced(&room, RATE, seconds(1), SIZE)?;

                let meter = Meter::start(&server, &self.redis, &mut crowd);
                let whole = crowd.paced(&room, RATE, paced, SIZE)?;
                let mut sample = meter.stop(&crowd, whole);
                latency[number].add(&crowd.ledger.latency).expect("both have the same bounds");

                let meter = Meter::start(&server, &self.redis, &mut crowd);
                let whole = crowd.saturated(&room, IN_FLIGHT, saturated, SIZE)?;
                sample["saturated"] = meter.stop(&crowd, whole);
                sample["connect_s"] = json!(round_to(took.as_secs_f64(), 3));
                sample["rss_kb"] = json!(process::status(server.pid(), "VmRSS"));
                samples[number].push(sample);
            }
        }
        let mut servers = Map::new();
        for ((recipe, samples), latency) in self.servers.iter().zip(samples).zip(&latency) {
            let mut result = median_of(&samples);
            result["latency_curve_us"] = curve(latency);
            result["rounds"] = json!(samples);
            servers.insert(recipe.name.to_owned(), result);
        }
        Ok(
            json!({ "clients": clients, "bytes": SIZE, "messages_per_s": RATE, "in_flight": IN_FLIGHT, "servers": servers }),
        )
    }

    /// Redis's own CPU time per message.
    pub fn scripts(&self) -> io::Result<Value> {
        say("Redis alone: the scripts");
        let through_redis = |recipe: &&Recipe| recipe.env.iter().any(|(name, _)| name == "REDIS_ENDPOINT");
        let builds: Vec<&Recipe> = self.servers.iter().filter(through_redis).collect();
        scripts::measure(&self.redis, &builds, self.pick(3, 9), self.pick(10_000, 40_000))
    }

    /// The cost of a delivery as the room grows.
    pub fn sweep(&self) -> io::Result<Value> {
        let sizes: &[usize] = self.pick(&[10, 100, 1000], &[10, 100, 1000, 4000]);
        let time = seconds(self.pick(2, 5));
        let mut servers = Map::new();
        for recipe in &self.servers {
            say(&format!("cost against clients: {}", recipe.name));
            let (server, mut crowd) = self.start(recipe)?;
            let mut points = Vec::new();
            for &size in sizes {
                let new = size - crowd.len();
                crowd.enter(crowd::rooms("sweep", new, new), Entrance::default())?;
                everyone(&crowd, size, &server)?;
                settle(&mut crowd)?;
                // A rate of deliveries that every server can sustain.
                let rate = if size > 1000 { 5.0 } else { RATE };
                let room = crowd::talk(0, size, size);
                crowd.paced(&room, rate, seconds(1), SIZE)?;
                let meter = Meter::start(&server, &self.redis, &mut crowd);
                let whole = crowd.paced(&room, rate, time, SIZE)?;
                let mut point = meter.stop(&crowd, whole);
                point["clients"] = json!(size);
                point["messages_per_s"] = json!(rate);
                points.push(point);
            }
            servers.insert(recipe.name.to_owned(), Value::Array(points));
        }
        Ok(Value::Object(servers))
    }

    /// Memory as idle connections are added, in rooms of 100, and the time to connect them.
    pub fn memory(&self) -> io::Result<Value> {
        let steps: &[usize] = self.pick(&[2000], &[1000, 2500, 5000, 10_000]);
        let mut servers = Map::new();
        for recipe in self.servers.iter().filter(|recipe| !["floor", "file"].contains(&recipe.name)) {
            say(&format!("memory against connections: {}", recipe.name));
            let (server, mut crowd) = self.start(recipe)?;
            let (first, mut took) = (Memory::now(server.pid()), Duration::ZERO);
            let mut points = vec![first.json(0)];
            for &step in steps {
                let new: Vec<Rc<str>> = crowd::rooms("memory", step, 100).into_iter().skip(crowd.len()).collect();
                took += crowd.enter(new, Entrance::default())?;
                everyone(&crowd, step, &server)?;
                settle(&mut crowd)?;
                points.push(Memory::now(server.pid()).json(step));
            }
            // An idle connection has also answered a ping, which Bobbin sends every 20 s. A quick run does not wait for
            // that.
            crowd.idle(seconds(self.pick(0, 25)))?;
            let each = Memory::now(server.pid()).less(&first, crowd.len());
            let connect = round_to(took.as_secs_f64(), 2);
            let result = json!({ "points": points, "each": each, "connect_s": connect, "connected": crowd.len() });
            servers.insert(recipe.name.to_owned(), result);
        }
        Ok(Value::Object(servers))
    }

    /// Whether cost depends on the size of the room rather than on the number of rooms: the same messages in one room
    /// of 10 and spread over 1,000 rooms of 10, and their cost to a second instance with no client in those rooms.
    pub fn rooms(&self) -> io::Result<Value> {
        let (rooms, rate, time) = (self.pick(200, 1000), 200.0, seconds(self.pick(2, 8)));
        let mut result = Map::new();
        for (name, rooms) in [("one_room_of_10", 1), ("many_rooms_of_10", rooms)] {
            say(&format!("{rooms} rooms of 10"));
            let (server, mut crowd) = self.start(self.bobbin())?;
            let clients = rooms * 10;
            crowd.enter(crowd::rooms("town", clients, 10), Entrance::default())?;
            everyone(&crowd, clients, &server)?;
            settle(&mut crowd)?;
            let talk = crowd::talk(0, clients, 10);
            crowd.paced(&talk, rate, seconds(1), SIZE)?;
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            crowd.idle(time)?;
            let idle = meter.server();
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            let whole = crowd.paced(&talk, rate, time, SIZE)?;
            let busy = meter.server();
            let mut figures = meter.stop(&crowd, whole);
            let messages = crowd.ledger.said() as f64;
            figures["rooms"] = json!(rooms);
            figures["cpu_us_per_message"] = json!(round_to(busy.as_secs_f64() * 1e6 / messages, 1));
            figures["idle_cpu_percent"] = json!(round_to(idle.as_secs_f64() / time.as_secs_f64() * 100.0, 2));
            let net = busy.saturating_sub(idle).as_secs_f64() * 1e6 / messages;
            figures["cpu_us_per_message_less_idle"] = json!(round_to(net, 1));
            result.insert(name.to_owned(), figures);
        }
        say("a second task without a client in the room");
        let (server, mut crowd) = self.start(self.bobbin())?;
        let other = Server::start(self.bobbin())?;
        let mut bystanders = Crowd::new(other.address, other.dialect);
        bystanders.enter(crowd::rooms("elsewhere", 10, 10), Entrance::default())?;
        crowd.enter(crowd::rooms("here", 10, 10), Entrance::default())?;
        settle(&mut crowd)?;
        let before = process::cpu(other.pid());
        crowd.idle(time)?;
        let idle = process::cpu(other.pid()) - before;
        let before = process::cpu(other.pid());
        let whole = crowd.paced(&crowd::talk(0, 10, 10), rate, time, SIZE)?;
        let busy = process::cpu(other.pid()) - before;
        bystanders.idle(Duration::from_millis(200))?;
        let subscribers = self.redis.cli(&["pubsub", "numsub", "bobbin:{bench-here-0}:live"])?;
        result.insert(
            "second_task".to_owned(),
            json!({
                "messages_elsewhere": crowd.ledger.said(),
                "every_delivery": whole,
                "cpu_ms_while_idle": round_to(idle.as_secs_f64() * 1e3, 1),
                "cpu_ms_while_the_other_task_talks": round_to(busy.as_secs_f64() * 1e3, 1),
                "subscribers_of_the_room": subscribers.lines().nth(1).and_then(|count| count.parse::<u64>().ok()),
                "cpu_ms_of_the_talking_task": round_to(process::cpu(server.pid()).as_secs_f64() * 1e3, 1),
            }),
        );
        Ok(Value::Object(result))
    }

    /// The cost of a join with its leave, alternately in a small room and in a large one.
    pub fn joins(&self) -> io::Result<Value> {
        let (small, large) = (50, self.pick(1000, 5000));
        let (rate, time, rounds) = (100.0, seconds(self.pick(2, 5)), self.pick(1, 2));
        say(&format!("joins in a room of {small} and in one of {large}"));
        let (server, mut crowd) = self.start(self.bobbin())?;
        crowd.enter(crowd::rooms("small", small, small), Entrance::default())?;
        crowd.enter(crowd::rooms("large", large, large), Entrance::default())?;
        everyone(&crowd, small + large, &server)?;
        settle(&mut crowd)?;
        let window = time + seconds(3);
        let measure = |crowd: &mut Crowd, room: Option<&Rc<str>>| -> io::Result<(f64, f64)> {
            let (start, meter) = (Instant::now(), Meter::start(&server, &self.redis, crowd));
            if let Some(room) = room {
                let entrance = Entrance { stay: Some(Duration::ZERO), ..Entrance::default() };
                let total = (rate * time.as_secs_f64()) as usize;
                crowd.enter_paced(std::iter::repeat_n(room.clone(), total), rate, entrance)?;
            }
            crowd.idle(window.saturating_sub(start.elapsed()))?;
            Ok((meter.server().as_secs_f64() * 1e6, meter.redis().as_secs_f64() * 1e6))
        };
        let joins = rate * time.as_secs_f64();
        let (idle, idle_redis) = measure(&mut crowd, None)?;
        let (mut costs, mut redis_costs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..rounds {
            for (number, name) in ["bench-small-0", "bench-large-0"].into_iter().enumerate() {
                let (server, redis) = measure(&mut crowd, Some(&name.into()))?;
                costs[number].push((server - idle).max(0.0) / joins);
                redis_costs[number].push((redis - idle_redis).max(0.0) / joins);
            }
        }
        let [in_small, in_large] = costs.map(median);
        let [redis_small, redis_large] = redis_costs.map(median);
        Ok(json!({
            "small_room": small, "large_room": large, "joins_per_s": rate,
            "cpu_us_in_small": round_to(in_small, 1), "cpu_us_in_large": round_to(in_large, 1),
            "ratio": round_to(in_large / in_small, 2),
            "redis_us_in_small": round_to(redis_small, 1), "redis_us_in_large": round_to(redis_large, 1),
            "gone": crowd.gone, "complaint": crowd.complaint,
        }))
    }

    /// The time from starting the process to listening, and the size of the binary.
    pub fn start_time(&self) -> io::Result<Value> {
        say("start to listening");
        let mut times = Vec::new();
        for _ in 0..self.pick(5, 20) {
            times.push(Server::start(self.bobbin())?.started_in.as_secs_f64() * 1e3);
        }
        let worst = times.iter().copied().fold(0.0, f64::max);
        let size = fs::metadata(&self.bobbin().command[0])?.len();
        Ok(json!({
            "median_ms": round_to(median(times), 1), "worst_ms": round_to(worst, 1), "binary_bytes": size,
        }))
    }

    /// The stack touched by each kind of thread: with many idle sessions, and on each of the deepest paths.
    pub fn stacks(&self) -> io::Result<Value> {
        let idle = 200;
        say("stacks");
        let (server, mut crowd) = self.start(self.bobbin())?;
        crowd.enter(crowd::rooms("idle", idle, 50), Entrance::default())?;
        everyone(&crowd, idle, &server)?;
        settle(&mut crowd)?;
        let mut result = Map::new();
        result.insert("200 idle sessions".to_owned(), stacks::by_thread(server.pid())?);
        drop((crowd, server));

        let (server, _) = self.start(self.bobbin())?;
        let mut kept = Vec::new();
        let mut deepest = |result: &mut Map<String, Value>, path: &str, probe: io::Result<Probe>| -> io::Result<()> {
            match probe {
                Ok(probe) => kept.push(probe),
                Err(error) => eprintln!("  {path}: {error}"),
            }
            result.insert(path.to_owned(), stacks::by_thread(server.pid())?);
            Ok(())
        };
        for (client, (path, frames)) in stacks::paths().into_iter().enumerate() {
            deepest(&mut result, path, Probe::chat(server.address, client, &frames))?;
        }
        for page in ["/", "/app.js", "/metrics", "/readyz", "/nothing"] {
            deepest(&mut result, page, Probe::page(server.address, page))?;
        }
        Ok(Value::Object(result))
    }

    /// The same run with and without clients that do not read.
    pub fn slow(&self) -> io::Result<Value> {
        let (clients, stalled, size, rate) = (500, 25, 1000, 100.0);
        let (part, rounds) = (seconds(5), 1);
        let mut results: [Vec<Value>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (number, stalled) in [0, stalled].into_iter().enumerate() {
                say(&format!("{clients} clients, {stalled} of them not reading"));
                let (server, mut crowd) = self.start(self.bobbin())?;
                let names = crowd::rooms("slow", clients, clients);
                crowd.enter(names.iter().skip(stalled).cloned(), Entrance::default())?;
                let not_reading = Entrance { stalled: Some(4096), ..Entrance::default() };
                crowd.enter(names.iter().take(stalled).cloned(), not_reading)?;
                everyone(&crowd, clients, &server)?;
                settle(&mut crowd)?;
                let room = crowd::talk(0, clients - stalled, clients - stalled);
                let (before, mut most, mut whole) = (process::status(server.pid(), "VmRSS"), 0, true);
                let meter = Meter::start(&server, &self.redis, &mut crowd);
                for _ in 0..3 {
                    whole &= crowd.paced(&room, rate, part, size)?;
                    most = most.max(process::status(server.pid(), "VmRSS").saturating_sub(before));
                }
                let mut sample = meter.stop(&crowd, whole);
                sample["rss_growth_kb"] = json!(most);
                results[number].push(sample);
            }
        }
        let [without, with] = results.map(|samples| median_of(&samples));
        let ratio = |key: &str| round_to(with[key].as_f64().unwrap_or(0.0) / without[key].as_f64().unwrap_or(1.0), 2);
        let growth = |run: &Value| run["rss_growth_kb"].as_f64().unwrap_or(0.0);
        Ok(json!({
            "clients": clients, "not_reading": stalled, "bytes": size, "messages_per_s": rate,
            "p99_ratio": ratio("p99_us"), "p50_ratio": ratio("p50_us"),
            "kb_for_each_slow_client": round_to((growth(&with) - growth(&without)) / stalled as f64, 1),
            "without": without, "with": with,
        }))
    }

    /// The capacity of one instance within the limits of Fargate's sizes. Redis and the load generator are outside the
    /// limits.
    pub fn containers(&self) -> io::Result<Value> {
        let mut sizes = Vec::new();
        let ceiling = self.pick(2000, 15_000);
        for (cpus, megabytes) in [(0.25, 512), (0.5, 1024), (1.0, 2048)] {
            say(&format!("within {cpus} CPU and {megabytes} MB: connections"));
            let cage = Cage::new(cpus, megabytes)?;
            let recipe = cage.around(self.bobbin());
            let (server, mut crowd) = self.start(&recipe)?;
            let entrance = Entrance { window: 64, deadline: seconds(20), ..Entrance::default() };
            let (start, mut steps) = (Instant::now(), Vec::new());
            while crowd.len() < ceiling && crowd.gone == 0 && start.elapsed() < seconds(self.pick(20, 180)) {
                let step = 500.min(ceiling - crowd.len());
                let new: Vec<Rc<str>> =
                    crowd::rooms("held", crowd.len() + step, 50).into_iter().skip(crowd.len()).collect();
                let took = crowd.enter(new, entrance)?;
                steps.push(step as f64 / took.as_secs_f64());
            }
            let (held, took, gone) = (crowd.joined, start.elapsed(), crowd.gone);
            let complaint = crowd.complaint.clone();
            crowd.idle(seconds(5))?;
            let held_after = crowd.joined;
            let peak = cage.memory_peak();
            let rss = process::status(server.pid(), "VmRSS");
            drop((crowd, server, cage));

            let mut size = json!({
                "cpus": cpus, "megabytes": megabytes, "ceiling_of_the_run": ceiling,
                "connections": held, "still_held_after_5_s": held_after, "refused_or_lost": gone,
                "why": complaint, "joins_per_s": round_to(held as f64 / took.as_secs_f64(), 0),
                "joins_per_s_slowest_500": round_to(steps.iter().copied().fold(f64::INFINITY, f64::min), 0),
                "memory_peak_mb": peak >> 20, "rss_mb": rss >> 10,
            });
            for each in [50, 10] {
                say(&format!("within {cpus} CPU and {megabytes} MB: deliveries in rooms of {each}"));
                let cage = Cage::new(cpus, megabytes)?;
                let (server, mut crowd) = self.start(&cage.around(self.bobbin()))?;
                let clients = 1000;
                let entrance = Entrance { window: 16, ..Entrance::default() };
                crowd.enter(crowd::rooms("pace", clients, each), entrance)?;
                everyone(&crowd, clients, &server)?;
                settle(&mut crowd)?;
                let talk = crowd::talk(0, clients, each);
                let (best, p99) = self.most_deliveries(&mut crowd, &talk, each as f64)?;
                size[format!("rooms_of_{each}")] =
                    json!({ "deliveries_per_s": best, "messages_per_s": best / each as f64, "p99_ms_there": p99 });
            }
            sizes.push(size);
        }
        Ok(json!(sizes))
    }

    /// The highest rate of deliveries, within a tenth, at which p99 is under 100 ms and every delivery is made.
    fn most_deliveries(&self, crowd: &mut Crowd, talk: &[crowd::Room], each: f64) -> io::Result<(f64, f64)> {
        let time = seconds(self.pick(2, 3));
        let mut best = (0.0, 0.0);
        let (mut rate, mut step) = (2000.0, 2.0);
        while step > 1.1 && rate < 2_000_000.0 {
            let (mut whole, mut p99) = (false, f64::INFINITY);
            // Tries twice, because a stall may be the machine's rather than the server's.
            for _ in 0..2 {
                crowd.ledger = Ledger::new();
                whole = crowd.paced(talk, rate / each, time, SIZE)?;
                p99 = crowd.ledger.latency.value_at_quantile(0.99) as f64 / 1000.0;
                if whole && p99 < 100.0 {
                    break;
                }
                crowd.settle(Duration::from_millis(500), seconds(10))?;
            }
            if whole && p99 < 100.0 && crowd.gone == 0 {
                best = (rate.round(), round_to(p99, 1));
            } else {
                if crowd.gone > 0 {
                    break;
                }
                // Drains what is in flight, then continues from the best rate so far with smaller steps.
                crowd.settle(Duration::from_millis(500), seconds(10))?;
                rate = if best.0 > 0.0 { best.0 } else { rate / 4.0 };
                step = f64::sqrt(step);
            }
            rate *= step;
        }
        Ok(best)
    }
}
