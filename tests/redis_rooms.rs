//! Proves that many rooms do not slow down one room: joins to new rooms do not delay messages, all rooms catch up at
//! once after a lost connection, and no lease is lost meanwhile. With a network latency of one millisecond between
//! instance and Redis. And that a connection to Redis that is slow, cut, or silent in one direction costs no message and
//! no name.

#[allow(dead_code)]
#[path = "chaos/clock.rs"]
mod clock;
mod common;
#[allow(dead_code)]
#[path = "chaos/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "chaos/resp.rs"]
mod resp;

use common::http::{Connection, get, metric};
use common::*;
use proxy::{Proxy, Which};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Joins are spread over this many threads.
const JOINERS: usize = 4;

/// A load, and what it may cost.
struct Load {
    rooms: usize,
    /// Joins per second; 0 is as fast as possible.
    rate: usize,
    delay: Duration,
    p99: Duration,
    back: Duration,
}

#[test]
fn many_rooms_cost_one_room_nothing() {
    let (p99, back) = (Duration::from_millis(400), Duration::from_secs(4));
    many_rooms(&Load { rooms: 400, rate: 0, delay: Duration::from_millis(1), p99, back });
}

/// What an instance is measured by. For a release build on a quiet machine: `BOBBIN_BIN=target/release/bobbin cargo test
/// --test redis_rooms -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute, and a machine of its own"]
fn five_thousand_rooms_cost_one_room_nothing() {
    for micros in [200, 1000] {
        let (p99, back) = (Duration::from_millis(50), Duration::from_secs(3));
        many_rooms(&Load { rooms: 5000, rate: 500, delay: Duration::from_micros(micros), p99, back });
    }
}

fn many_rooms(load: &Load) {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.addr());
    proxy.delay(load.delay);
    let endpoint = common::redis::endpoint(proxy.addr);
    let instance = Instance::start(&[("REDIS_ENDPOINT", &endpoint), ("RATE_LIMIT", "0"), ("MAX_CONNECTIONS", "6000")]);
    poll_until("ready", PATIENCE, || get(instance.addr, "/readyz").status == 200);
    let mut ada = Client::join(instance.addr, "calm", "Ada");
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (mut times, mut clients) = std::thread::scope(|scope| {
        let talk = scope.spawn(|| {
            let mut times = Vec::new();
            while !done.load(SeqCst) {
                let start = Instant::now();
                ada.say(&format!("m{}", times.len()));
                times.push(start.elapsed());
            }
            times
        });
        let addr = instance.addr;
        let join = move |n: usize| {
            if load.rate > 0 {
                let due = Duration::from_secs_f64(n as f64 / load.rate as f64);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
            Client::join(addr, &format!("room-{n}"), "Bob")
        };
        let some = move |part: usize| (part..load.rooms).step_by(JOINERS).map(join).collect::<Vec<_>>();
        let joins: Vec<_> = (0..JOINERS).map(|part| scope.spawn(move || some(part))).collect();
        let clients: Vec<Client> = joins.into_iter().flat_map(|joins| joins.join().expect("all join")).collect();
        done.store(true, SeqCst);
        (talk.join().expect("Ada talks on"), clients)
    });
    let joined = start.elapsed();
    times.sort();
    let p99 = times[times.len() * 99 / 100];

    // Messages kept while the connection was down are not missed in any room.
    let cut = Instant::now();
    proxy.cut(Which::All);
    ada.patience = PATIENCE;
    ada.until("down", |f| f["backplane"] == "down");
    ada.until("up", |f| f["backplane"] == "up");
    let back = cut.elapsed();
    println!(
        "{} rooms, {:?} away: joined in {joined:?}; p99 of {} messages {p99:?}; back after {back:?}",
        load.rooms,
        load.delay,
        times.len()
    );
    // Where joins go as fast as they can, a busy machine slows both. When joins went first, a message took as long as all
    // of them.
    let most = if load.rate == 0 { load.p99.max(joined / 4) } else { load.p99 };
    assert!(p99 < most, "p99 {p99:?} of {} messages in {joined:?}", times.len());
    assert!(back < load.back, "back after {back:?}");
    side_by_side(&mut clients, |client| {
        client.until("up", |f| f["backplane"] == "up");
        client.say("here");
        assert_eq!(client.participants(), 1);
    });
    std::thread::sleep(Duration::from_secs(7)); // two heartbeats
    let mut connection = redis.connection().expect("a connection");
    let mut leases = ::redis::pipe();
    (0..load.rooms).for_each(|n| _ = leases.cmd("ZCARD").arg(format!("bobbin:{{room-{n}}}:here")));
    let seats: Vec<usize> = leases.query(&mut connection).expect("their numbers");
    assert_eq!(seats, vec![1; load.rooms], "no lease is lost");
    side_by_side(&mut clients, |client| assert_eq!(client.ended(), None));
}

/// Does something with each client, on several threads: one that is not read for 45 s answers no ping and is dropped.
fn side_by_side(clients: &mut [Client], act: impl Fn(&mut Client) + Sync) {
    let share = clients.len().div_ceil(JOINERS);
    std::thread::scope(|scope| {
        for some in clients.chunks_mut(share) {
            scope.spawn(|| some.iter_mut().for_each(&act));
        }
    });
}

/// An instance that reaches Redis through a proxy.
fn behind_proxy(redis: &Redis, settings: &[(&str, &str)]) -> (Proxy, Instance) {
    let proxy = Proxy::start(redis.addr());
    let endpoint = common::redis::endpoint(proxy.addr);
    let instance = Instance::start(&[&[("REDIS_ENDPOINT", endpoint.as_str())][..], settings].concat());
    poll_until("ready", PATIENCE, || get(instance.addr, "/readyz").status == 200);
    (proxy, instance)
}

/// Two instances, the first behind a proxy.
fn pair(redis: &Redis) -> (Proxy, Instance, Instance) {
    let (proxy, first) = behind_proxy(redis, &[]);
    (proxy, first, Instance::on(redis, &[("RATE_LIMIT", "0")]))
}

/// Of a room of thousands, they would keep Redis busy for milliseconds each time.
#[test]
fn those_who_come_at_once_have_all_names_read_once() {
    let redis = Redis::start();
    let (proxy, first, second) = pair(&redis);
    // One more than a join returns.
    let _there: Vec<Client> = (0..101).map(|n| Client::join(second.addr, "tea", &format!("Guest {n}"))).collect();
    let before = redis.calls("hvals");
    proxy.delay(Duration::from_millis(30));
    std::thread::scope(|scope| {
        let join = |n| Client::join(first.addr, "tea", &format!("Newcomer {n}"));
        let joins: Vec<_> = (0..8).map(|n| scope.spawn(move || join(n))).collect();
        let here: Vec<Client> = joins.into_iter().map(|join| join.join().expect("a welcome")).collect();
        poll_until("the names are read", PATIENCE, || redis.calls("hvals") > before);
        assert_eq!(redis.calls("hvals"), before + 1);
        drop(here);
    });
}

/// The welcome arrives before the names of the large room have been read.
#[test]
fn who_leaves_while_the_connection_is_lost_is_missed_by_nobody_who_has_just_come() {
    let redis = Redis::start();
    let (proxy, first, second) = pair(&redis);
    let mut there: Vec<Client> = (0..102).map(|n| Client::join(second.addr, "tea", &format!("Guest {n}"))).collect();
    proxy.delay(Duration::from_millis(200));
    let mut ada = Client::join(first.addr, "tea", "Ada");
    proxy.cut(Which::All);
    there.pop().expect("one").leave();
    proxy.delay(Duration::ZERO);
    ada.see_participants(102);
}

/// The network delivers data late, though its sender has given up: by then the client is elsewhere.
#[test]
fn a_join_that_was_held_up_does_not_take_over_a_newer_session() {
    let redis = Redis::start();
    let (proxy, first, second) = pair(&redis);
    proxy.hold(Some(Which::All), None);
    let mut late = Client::connect(first.addr, "tea");
    let secret = late.secret.clone();
    assert_eq!(late.try_enter("Ada", None)["code"], "unavailable");
    let mut ada = Client::back(second.addr, "tea", "Ada", &secret, None);
    std::thread::sleep(Duration::from_millis(300));
    proxy.release();
    poll_until("the first instance is back", PATIENCE, || get(first.addr, "/readyz").status == 200);
    ada.say("still here");
    ada.take(Duration::from_secs(1));
    assert_eq!(ada.ended(), None);
    assert_eq!(ada.participants(), 1);
}

/// Redis has given Ada's seat to her new session, but its reply does not arrive, or the page of the log does not.
#[test]
fn a_comeback_that_is_refused_because_redis_hangs_shows_nobody_leaving() {
    for which in [Which::All, Which::Other] {
        let redis = Redis::start();
        let (proxy, first, second) = pair(&redis);
        let mut ada = Client::join(first.addr, "tea", "Ada");
        let mut bob = Client::join(second.addr, "tea", "Bob");
        let said = ada.say("before");
        let mut back = Client::connect(first.addr, "tea");
        back.secret.clone_from(&ada.secret);
        proxy.hold(None, Some(which));
        assert_eq!(back.try_enter("Ada", said["id"].as_str())["code"], "unavailable", "{which:?}");
        proxy.release();
        poll_until("the first instance is back", PATIENCE, || get(first.addr, "/readyz").status == 200);
        bob.quiet("Ada leaves", Duration::from_secs(1), |f| f["type"] == "presence" && f["left"] != json!([]));
        // The same connection may try again, and is not taken for its own older session.
        back.enter("Ada", said["id"].as_str());
        assert_eq!(back.welcome["participants"], 2);
        ada.expect_close(4001);
        assert_eq!(bob.say("after"), back.hear("after"));
        bob.never("Ada leaves", |f| f["type"] == "presence" && f["left"] != json!([]));
        assert_eq!(back.ended(), None);
    }
}

/// The log is read in parts of at most 500 messages, and a message that is published meanwhile does not end that.
#[test]
fn hundreds_of_messages_that_were_missed_are_all_delivered() {
    let redis = Redis::start();
    let (proxy, first, second) = pair(&redis);
    let mut bob = Client::join(first.addr, "tea", "Bob");
    let mut ada = Client::join(second.addr, "tea", "Ada");
    proxy.hold(Some(Which::All), Some(Which::All));
    proxy.cut(Which::All);
    bob.until("down", |f| f["backplane"] == "down");
    for n in 1..=700 {
        // Reads now and then, because a client that does not is cut.
        if n % 50 == 0 { drop(ada.say(&n.to_string())) } else { drop(ada.post(&n.to_string())) }
    }
    proxy.release();
    bob.patience = PATIENCE * 2;
    bob.hear("500"); // the end of the first part
    assert_eq!(ada.say("and on"), bob.hear("and on"));
    let (his, hers) = (bob.messages(), ada.messages());
    assert_eq!(his.len(), hers.len(), "each once");
    assert_eq!(his, hers, "in order");
}

/// One direction is dead, while publications continue to arrive.
#[test]
fn what_redis_does_not_receive_is_refused_in_time_though_others_talk_on() {
    let redis = Redis::start();
    let (proxy, first, second) = pair(&redis);
    let mut ada = Client::join(first.addr, "tea", "Ada");
    let mut bob = Client::join(second.addr, "tea", "Bob");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                bob.say("talk");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        proxy.hold(Some(Which::All), None);
        let start = Instant::now();
        let key = ada.post("hello?");
        let answer = ada.until("an answer", |f| f["ref"] == key.as_str());
        let took = start.elapsed();
        done.store(true, SeqCst);
        assert_eq!(answer["code"], "unavailable", "{answer}");
        assert!(took < Duration::from_millis(2_800), "refused after {took:?}");
    });
    proxy.release();
}

/// Each step towards Redis takes 0.4 s, and a client waits 2 s for all of them.
#[test]
fn a_network_of_200_ms_each_way_is_enough() {
    let redis = Redis::start();
    let (proxy, slow, near) = pair(&redis);
    proxy.delay(Duration::from_millis(200));
    let mut ada = Client::join(slow.addr, "tea", "Ada");
    let mut bob = Client::join(near.addr, "tea", "Bob");
    let said = bob.say("hi");
    assert_eq!(ada.hear("hi"), said);
    ada.send(json!({"type": "history", "before": "99999999999999-0", "limit": 10}));
    assert_eq!(ada.expect("history")["messages"], json!([said]));
    proxy.cut(Which::All);
    let missed = bob.say("in the hole");
    ada.patience = Duration::from_secs(20);
    assert_eq!(ada.hear("in the hole"), missed);
}

/// 32 rooms have each missed 200 KiB, over a network that carries 1 MB per second: more than it can carry for many
/// rooms at a time before the deadline.
#[test]
fn what_many_rooms_have_missed_comes_over_a_slow_network() {
    const ROOMS: usize = 32;
    let redis = Redis::start();
    let (proxy, slow, near) = pair(&redis);
    let room = |n: usize| format!("room-{n}");
    let mut here: Vec<Client> = (0..ROOMS).map(|n| Client::join(slow.addr, &room(n), "Ada")).collect();
    let mut there: Vec<Client> = (0..ROOMS).map(|n| Client::join(near.addr, &room(n), "Bob")).collect();
    proxy.hold(Some(Which::All), Some(Which::All));
    proxy.cut(Which::All);
    let text = "x".repeat(4000);
    for bob in &mut there {
        (0..50).for_each(|_| _ = bob.post(&text));
        bob.say("last");
    }
    proxy.delay(Duration::from_millis(16)); // for each 16 KiB
    proxy.release();
    side_by_side(&mut here, |ada| {
        ada.patience = Duration::from_secs(60);
        ada.hear("last");
        assert_eq!(ada.messages().len(), 51);
    });
}

/// A message is removed while it is being read to fill a gap: the client gets it first, and then the removal.
#[test]
fn a_removal_does_not_overtake_a_message_that_is_being_read() {
    let redis = Redis::start();
    let (proxy, first, second) = pair(&redis);
    let mut ada = Client::join(first.addr, "tea", "Ada");
    let mut bob = Client::join(second.addr, "tea", "Bob");
    ada.see_join("Bob");
    // The log cannot be read until the reply is held up.
    redis.cmd::<()>("ACL SETUSER bobbin -xrange");
    proxy.hold(None, Some(Which::All));
    let said = bob.say("in the hole");
    proxy.cut(Which::All);
    proxy.release();
    ada.until("up again", |f| f["backplane"] == "up");
    let before = redis.calls("xrange");
    redis.cmd::<()>("ACL SETUSER bobbin +xrange");
    proxy.hold(None, Some(Which::Other));
    let held = Instant::now();
    while redis.calls("xrange") == before {
        if held.elapsed() > Duration::from_secs(1) {
            // A connection was just being made, so nothing is read before the release, and there is nothing to see. A
            // unit test of `delivery.rs` shows it each time.
            return proxy.release();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = said["id"].as_str().expect("an id");
    redis.cmd::<i64>(&format!("XDEL bobbin:{{tea}}:log {id}"));
    let mut connection = redis.connection().expect("it runs");
    let mut publish = ::redis::cmd("PUBLISH");
    publish.arg("bobbin:{tea}:live").arg(format!("ri {id}")).query::<i64>(&mut connection).expect("it is published");
    ada.take(Duration::from_millis(300)); // for the publication
    proxy.release();
    poll_until("the removal", PATIENCE, || {
        ada.take(Duration::from_millis(50));
        ada.received.iter().any(|f| f["type"] == "removed")
    });
    ada.take(Duration::from_secs(1)); // for the message, if it comes later
    let place = |wanted: &dyn Fn(&Value) -> bool| ada.received.iter().position(wanted);
    let (message, removal) = (place(&|f| *f == said), place(&|f| f["type"] == "removed"));
    assert!(message.is_none() || message < removal, "{:?}", ada.received);
}

#[test]
fn who_joins_while_redis_is_slow_is_told_when_to_come_back() {
    let redis = Redis::start();
    let (proxy, instance) = behind_proxy(&redis, &[("ADDRESS_JOINS", "0")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let mut many: Vec<Client> = (0..80).map(|n| Client::connect(instance.addr, &format!("room-{n}"))).collect();
    // Half a second each way: whatever Redis is asked has waited for longer than 250 ms.
    proxy.delay(Duration::from_millis(500));
    for client in &mut many {
        client.send(json!({"type": "join", "name": "Bob"}));
    }
    ada.say("those who are in do not notice");
    let answers: Vec<Value> = many.iter_mut().map(|client| client.next()).collect();
    let busy: Vec<&Value> = answers.iter().filter(|answer| answer["message"] == "the server is busy").collect();
    assert!(!busy.is_empty() && busy.iter().all(|answer| answer["code"] == "rate_limited"), "{answers:?}");
    assert!(busy.iter().all(|answer| (1000..=2001).contains(&answer["retry_ms"].as_u64().unwrap_or(0))), "{busy:?}");
    proxy.delay(Duration::ZERO);
    instance.logged("127.0.0.1: the server is busy");
    assert_eq!(metric(instance.addr, "bobbin_limited_total{limit=\"overload\"}"), busy.len() as f64);
}

#[test]
fn requests_that_cannot_read_within_two_seconds_are_refused_and_counted() {
    let redis = Redis::start();
    let (proxy, instance) = behind_proxy(&redis, &[("READS_AT_ONCE", "1")]);
    assert_eq!(get(instance.addr, "/r/tea/messages").status, 200, "the connection for reading is open now");
    proxy.delay(Duration::from_millis(300));
    let mut readers: Vec<Connection> = (0..9).map(|_| Connection::open(instance.addr)).collect();
    for (number, reader) in readers.iter_mut().enumerate() {
        reader.write(format!("GET /r/room-{number}/messages HTTP/1.1\r\nHost: test\r\n\r\n"));
    }
    let answers: Vec<_> = readers.iter_mut().map(|reader| reader.response(false)).collect();
    let refused = answers.iter().filter(|answer| answer.status == 503 && answer.text().contains("are reading")).count();
    assert!((1..9).contains(&refused), "each takes 600 ms, one after the other: {answers:?}");
    assert_eq!(metric(instance.addr, "bobbin_limited_total{limit=\"reads\"}"), refused as f64);
}
