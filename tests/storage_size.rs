//! Proves that a data file stays small, quick and cheap however much goes through it: the rooms' own thread is given
//! commands directly, without clients. The large ones run by name, on a release build:
//! `cargo test --release --test storage_size -- --ignored --nocapture`.

mod common;

use bobbin::backplane::local::{Limits, Local};
use bobbin::backplane::{Backplane, Event, EventSink, Room, Seat};
use bobbin::protocol;
use bobbin::settings::Retention;
use common::DataFile;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The rooms' thread, and how many messages it has published.
struct Rooms {
    local: Local,
    published: Arc<AtomicUsize>,
}

impl Rooms {
    fn open(file: Option<&Path>, messages: usize) -> Rooms {
        let published = Arc::new(AtomicUsize::new(0));
        let count = published.clone();
        let listener: EventSink = Arc::new(move |event| match event {
            Event::Message { .. } => drop(count.fetch_add(1, Relaxed)),
            Event::Refused { .. } => panic!("a message was refused"),
            _ => {}
        });
        let retention = Retention { messages, bytes: 1 << 30, life: Duration::from_secs(30 * 86_400) };
        let local = Local::start(file, Limits { retention, rooms: 20_000 }, listener).expect("the file is taken");
        Rooms { local, published }
    }

    /// Says `count` messages by turns in these seats' rooms and waits until all are published.
    fn say(&self, seats: &[Seat], count: usize) {
        let goal = self.published.load(Relaxed) + count;
        for (number, seat) in (0..count).zip(seats.iter().cycle()) {
            let key = format!("ref-{number:08x}-{goal:x}");
            let body = protocol::message_body(&seat.by, &seat.name, &"x".repeat(150), Some(&key));
            self.local.say(seat, body, Some(key));
        }
        common::poll_until("all are published", Duration::from_secs(60), || self.published.load(Relaxed) == goal);
    }
}

fn seat(room: usize, session: u64) -> Seat {
    let name: Arc<str> = format!("Person {session}").into();
    Seat {
        room: Room::from(format!("room-{room}")),
        session,
        key: name.to_lowercase().into(),
        name,
        by: "abcdefgh234567ab".into(),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let all: u64 = std::fs::read_dir("/proc/self/task")
        .expect("Linux")
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()))
        .sum();
    Duration::from_nanos(all)
}

#[test]
#[ignore = "a measurement"]
fn what_a_message_costs() {
    for (what, burst) in [("one by one", 1), ("in sixteens", 16), ("as they come", 100_000)] {
        for on_file in [false, true] {
            let file = DataFile::new();
            let path = file.path();
            let rooms = Rooms::open(on_file.then_some(Path::new(&path)), 1000);
            let seats: Vec<Seat> = (0..100).map(|room| seat(room, room as u64)).collect();
            seats.iter().for_each(|seat| drop(rooms.local.join(seat, None).expect("joined")));
            rooms.say(&seats, 10_000);
            let (start, before, count) = (Instant::now(), cpu(), if burst == 1 { 5_000 } else { 100_000 });
            for _ in 0..count / burst {
                rooms.say(&seats, burst);
            }
            let (took, used) = (start.elapsed(), cpu() - before);
            println!(
                "{what}, {}: {:.1} µs of CPU per message, {:.0} messages/s",
                if on_file { "on a file" } else { "in memory" },
                used.as_secs_f64() * 1e6 / count as f64,
                count as f64 / took.as_secs_f64()
            );
        }
    }
}
