//! Proves that a data file stays small and fast however much passes through it: commands go directly to the rooms'
//! thread, without clients. The large tests run by name, on a release build: `cargo test --release --test storage_size
//! -- --ignored --nocapture`.

mod common;

use bobbin::backplane::Limits;
use bobbin::backplane::local::Local;
use bobbin::backplane::{Backplane, Event, EventSink, Room, Seat, Span, Terms};
use bobbin::protocol;
use bobbin::settings::Retention;
use common::DataFile;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const TERMS: Terms = Terms { people: 0, may_open: true, spare_rooms: 0 };

/// The rooms' thread, and the number of messages it has published.
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
        let local = Local::start(file, Limits { retention, rooms: 20_000, storage: Some(0) }, listener)
            .expect("the file is taken");
        Rooms { local, published }
    }

    /// Sends `count` messages, alternating between these seats' rooms, and waits until all are published.
    fn say(&self, seats: &[Seat], count: usize) {
        self.say_with(seats, count, true);
    }

    fn say_without_refs(&self, seats: &[Seat], count: usize) {
        self.say_with(seats, count, false);
    }

    fn say_with(&self, seats: &[Seat], count: usize, refs: bool) {
        let goal = self.published.load(Relaxed) + count;
        for (number, seat) in (0..count).zip(seats.iter().cycle()) {
            let key = refs.then(|| format!("ref-{number:08x}-{goal:x}"));
            let body = protocol::message_body(&seat.by, &seat.name, &"x".repeat(150), key.as_deref());
            // A message that waits for over 2 s is refused, so at most 500 wait, which even a busy disk takes in that time.
            self.await_published((goal - count + number).saturating_sub(500));
            self.local.say(seat, body, key);
        }
        self.await_published(goal);
    }

    fn await_published(&self, goal: usize) {
        // A message takes about 10 µs, so polling every 10 ms would dominate the measurement.
        let start = Instant::now();
        while self.published.load(Relaxed) < goal {
            assert!(start.elapsed() < Duration::from_secs(120), "not all were published");
            std::thread::sleep(Duration::from_micros(20));
        }
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
    for (what, burst) in [("one by one", 1), ("in sixteens", 16), ("500 in flight", 100_000)] {
        for on_file in [false, true] {
            let file = DataFile::new();
            let path = file.path();
            let rooms = Rooms::open(on_file.then_some(Path::new(&path)), 1000);
            let seats: Vec<Seat> = (0..100).map(|room| seat(room, room as u64)).collect();
            seats.iter().for_each(|seat| drop(rooms.local.join(seat, None, TERMS).expect("joined")));
            rooms.say(&seats, 10_000);
            let (start, before, count) = (Instant::now(), cpu(), if burst == 1 { 5_000 } else { 100_000 });
            (0..count / burst).for_each(|_| rooms.say(&seats, burst));
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

/// Sends messages to 20 rooms that keep 100 each; returns the file's size, with its write-ahead log, after each part.
fn sizes(file: &DataFile, part: usize, parts: usize) -> Vec<u64> {
    let rooms = Rooms::open(Some(Path::new(&file.path())), 100);
    let seats: Vec<Seat> = (0..20).map(|room| seat(room, room as u64)).collect();
    seats.iter().for_each(|seat| drop(rooms.local.join(seat, None, TERMS).expect("joined")));
    let size = |ending| std::fs::metadata(file.beside(ending)).map_or(0, |found| found.len());
    let mut sizes = Vec::new();
    for _ in 0..parts {
        rooms.say(&seats, part);
        sizes.push(size("") + size("-wal"));
    }
    sizes
}

/// Besides the logs, the file holds at most twenty minutes of refs, so those are left out of the measurement.
#[test]
fn what_is_deleted_makes_space_for_what_comes() {
    let file = DataFile::new();
    let sizes = sizes(&file, 5_000, 6);
    let refs: u64 = file.sql("SELECT count(*) * 64 FROM refs").parse().expect("a number");
    let grown = sizes[5].saturating_sub(sizes[1]);
    assert!(grown < refs + (1 << 20), "the file grew by {grown} bytes: {sizes:?}");
    assert_eq!(file.sql("SELECT count(*), max(messages) FROM messages, rooms"), "40000|100");
}

#[test]
#[ignore = "takes a minute"]
fn a_million_messages_do_not_make_the_file_grow() {
    let file = DataFile::new();
    let path = file.path();
    // Without refs, of which twenty minutes are kept: the logs alone.
    let rooms = Rooms::open(Some(Path::new(&path)), 1000);
    let seats: Vec<Seat> = (0..20).map(|room| seat(room, room as u64)).collect();
    seats.iter().for_each(|seat| drop(rooms.local.join(seat, None, TERMS).expect("joined")));
    let mut sizes = Vec::new();
    for _ in 0..20 {
        rooms.say_without_refs(&seats, 50_000);
        sizes.push(std::fs::metadata(&path).expect("the file").len());
    }
    println!("bytes after each 50,000 messages: {sizes:?}");
    assert!(sizes[19] <= sizes[1] + sizes[1] / 20, "it grew: {sizes:?}");
}

/// Makes a file with this many rooms of 1,000 messages each, all from the last week.
fn fill(file: &DataFile, rooms: usize) {
    drop(Rooms::open(Some(Path::new(&file.path())), 1000));
    let conn = rusqlite::Connection::open(file.path()).expect("the file");
    let body = protocol::message_body("abcdefgh234567ab", "Ada", &"x".repeat(150), Some("a-ref-of-16-chars"));
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    conn.pragma_update(None, "synchronous", "OFF").expect("a pragma");
    conn.execute_batch("BEGIN").expect("a transaction");
    let mut room = conn.prepare("INSERT INTO rooms VALUES (?, ?, ?, 0, 1000, 1000 * ?, 0)").expect("SQL");
    let mut message = conn.prepare("INSERT INTO messages VALUES (?, ?, 0, ?)").expect("SQL");
    for number in 1..=rooms {
        room.execute((number, format!("room-{number}"), now, body.len())).expect("a row");
        for age in (0..1000_i64).rev() {
            message.execute((number, now - age * 600_000, &body)).expect("a row");
        }
    }
    drop((room, message));
    conn.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").expect("written");
}

/// The median time of a join with its fifty messages, and of a page of a hundred older ones, in µs.
fn quickness(file: &DataFile, rooms: usize) -> (f64, f64) {
    let open = Rooms::open(Some(Path::new(&file.path())), 1000);
    let (mut joins, mut pages) = (Vec::new(), Vec::new());
    for n in 0..2000_usize {
        let seat = seat(1 + n * 7919 % rooms, n as u64);
        let start = Instant::now();
        let arrival = open.local.join(&seat, None, TERMS).expect("joined");
        joins.push(start.elapsed());
        assert_eq!(arrival.page.messages.len(), 50);
        let start = Instant::now();
        let page = open.local.history(&seat.room, Span::Before(Some(arrival.page.messages[0].0)), 100).expect("a page");
        pages.push(start.elapsed());
        assert_eq!(page.messages.len(), 100);
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    (median(joins), median(pages))
}

#[test]
#[ignore = "makes a file of 3 GB"]
fn ten_million_messages_in_ten_thousand_rooms_are_no_burden() {
    let (large, small) = (DataFile::new(), DataFile::new());
    fill(&large, 10_000);
    fill(&small, 10);
    let size = std::fs::metadata(large.path()).expect("the file").len();
    let start = Instant::now();
    let instance = large.start(&[("ADDRESS_CONNECTION_RATE", "0"), ("ADDRESS_JOINS", "0")]);
    let listening = start.elapsed();
    let clients: Vec<common::Client> =
        (0..90).map(|n| common::Client::join(instance.addr, &format!("room-{}", 1 + n * 111), "Ada")).collect();
    let status = std::fs::read_to_string(format!("/proc/{}/status", instance.pid())).expect("Linux");
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).expect("Linux").to_owned();
    drop((clients, instance));
    let fresh = quickness(&small, 10);
    let full = quickness(&large, 10_000);
    println!("{size} bytes; listening after {listening:?}; {resident}");
    println!(
        "join: {:.0} µs for {:.0} in a small file; page of 100: {:.0} µs for {:.0}",
        full.0, fresh.0, full.1, fresh.1
    );
    assert!(listening < Duration::from_secs(1), "{listening:?}");
    let kilobytes: u64 = resident.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number");
    assert!(kilobytes < 100_000, "{resident}");
    assert!(full.0 < 2.0 * fresh.0 && full.1 < 2.0 * fresh.1, "slower than in a small file");
}
