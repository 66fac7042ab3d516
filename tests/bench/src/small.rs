//! Small rooms: the cost of a message to the server and Redis together, and its latency, in rooms of 5 and 10, with one
//! to a thousand rooms.

use std::io;

use serde_json::{Map, Value, json};

use crate::crowd::{self, Entrance};
use crate::dialect::Dialect;
use crate::meter::{Meter, everyone, round_to, say, seconds, settle};
use crate::runs::{Bench, SIZE};

/// The number of rooms, the people in each, and the total messages per second to try.
type Town = (usize, usize, &'static [f64]);

/// p50 and p99 are compared at the rates of the first town.
const TOWNS: &[Town] = &[
    (100, 10, &[200.0, 1000.0, 2000.0, 5000.0]),
    (1, 5, &[2000.0]),
    (1, 10, &[200.0, 2000.0]),
    (10, 10, &[2000.0]),
    (200, 5, &[5000.0]),
    (1000, 5, &[5000.0]),
    (1000, 10, &[200.0, 2000.0]),
];
const QUICK_TOWNS: &[Town] = &[(100, 10, &[2000.0])];

/// Messages in flight when measuring the highest rate.
const IN_FLIGHT: usize = 256;

impl Bench {
    /// Every server in every town, in turn.
    pub fn small(&self) -> io::Result<Value> {
        let time = seconds(self.pick(2, 3));
        let servers: Vec<_> = self.servers.iter().filter(|recipe| recipe.name != "floor").collect();
        let mut points = vec![Vec::new(); servers.len()];
        for &(rooms, each, rates) in self.pick(QUICK_TOWNS, TOWNS) {
            for (recipe, points) in servers.iter().zip(&mut points) {
                say(&format!("{rooms} rooms of {each}: {}", recipe.name));
                let (server, mut crowd) = self.start(recipe)?;
                let clients = rooms * each;
                crowd.enter(crowd::rooms("small", clients, each), Entrance::default())?;
                everyone(&crowd, clients, &server)?;
                settle(&mut crowd)?;
                let talk = crowd::talk(0, clients, each);
                crowd.paced(&talk, rates[0], seconds(1), SIZE)?;
                for &rate in rates {
                    let meter = Meter::start(&server, &self.redis, &mut crowd);
                    let whole = crowd.paced(&talk, rate, time, SIZE)?;
                    let mut point = meter.stop(&crowd, whole);
                    point["rooms"] = json!(rooms);
                    point["each"] = json!(each);
                    point["messages_per_s"] = json!(rate);
                    points.push(point);
                }
            }
        }
        let by_server = servers.iter().zip(points).map(|(recipe, points)| (recipe.name.to_owned(), points.into()));
        Ok(Value::Object(by_server.collect()))
    }

    /// The highest rate of messages kept and delivered to everyone, in 200 rooms of 5.
    pub fn kept(&self) -> io::Result<Value> {
        let (rooms, each, time) = (200, 5, seconds(self.pick(1, 5)));
        let mut result = Map::new();
        for recipe in self.servers.iter().filter(|recipe| recipe.name != "floor") {
            say(&format!("messages per second in {rooms} rooms of {each}: {}", recipe.name));
            let (server, mut crowd) = self.start(recipe)?;
            crowd.enter(crowd::rooms("kept", rooms * each, each), Entrance::default())?;
            everyone(&crowd, rooms * each, &server)?;
            settle(&mut crowd)?;
            let talk = crowd::talk(0, rooms * each, each);
            crowd.saturated(&talk, IN_FLIGHT, seconds(1), SIZE)?;
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            let whole = crowd.saturated(&talk, IN_FLIGHT, time, SIZE)?;
            result.insert(recipe.name.to_owned(), meter.stop(&crowd, whole));
        }
        Ok(json!({ "rooms": rooms, "each": each, "in_flight": IN_FLIGHT, "servers": result }))
    }

    /// The cost of 10,000 silent sessions in 1,000 rooms: pings, leases and other periodic work.
    pub fn idle(&self) -> io::Result<Value> {
        let (rooms, each) = self.pick((200, 10), (1000, 10));
        // Long enough for two pings of each session, which are 20 s apart.
        let time = seconds(self.pick(5, 40));
        let mut result = Map::new();
        for recipe in self.servers.iter().filter(|recipe| recipe.dialect == Dialect::Bobbin && recipe.name != "file") {
            say(&format!("{rooms} silent rooms of {each}: {}", recipe.name));
            let (server, mut crowd) = self.start(recipe)?;
            crowd.enter(crowd::rooms("idle", rooms * each, each), Entrance::default())?;
            everyone(&crowd, rooms * each, &server)?;
            settle(&mut crowd)?;
            let meter = Meter::start(&server, &self.redis, &mut crowd);
            crowd.idle(time)?;
            let percent = |cpu: std::time::Duration| round_to(cpu.as_secs_f64() / time.as_secs_f64() * 100.0, 2);
            let (server, redis) = (percent(meter.server()), percent(meter.redis()));
            let figures = json!({ "server_percent": server, "redis_percent": redis, "held": crowd.joined });
            result.insert(recipe.name.to_owned(), figures);
        }
        Ok(json!({ "rooms": rooms, "each": each, "seconds": time.as_secs(), "servers": result }))
    }
}
