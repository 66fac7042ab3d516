//! Proves the limits per address, when forwarded addresses and user names are trusted, and which origins may connect.

mod common;

use common::from::{connect, join, upgrade};
use common::http::{Connection, Response, get, metric, request};
use common::wire::{UPGRADE, text_frame};
use common::*;
use std::io::Read;
use std::time::{Duration, Instant};

/// How many connections one address opens in the tests about taking turns.
const MANY: usize = 400;

/// Asserts a refusal with this status and a `Retry-After`.
#[track_caller]
fn later(answer: Result<Client, Response>, status: u16) {
    let Err(refusal) = answer else { panic!("it was not refused") };
    assert_eq!(refusal.status, status, "{}", refusal.text());
    let wait = refusal.header("retry-after").and_then(|value| value.parse::<u64>().ok());
    assert!(wait.is_some_and(|seconds| (1..=60).contains(&seconds)), "{refusal:?}");
    assert_eq!(refusal.text().trim_end().lines().count(), 1);
}

fn forwarded(for_whom: &str) -> String {
    format!("X-Forwarded-For: {for_whom}\r\n")
}

#[track_caller]
fn limited(instance: &Instance, limit: &str) -> f64 {
    metric(instance.addr, &format!("bobbin_limited_total{{limit=\"{limit}\"}}"))
}

#[test]
fn connections_of_an_address_are_counted() {
    let instance = Instance::start(&[("ADDRESS_CONNECTIONS", "3")]);
    let mut mine: Vec<Client> = (0..3).map(|n| join(instance.addr, 1, "tea", &format!("N{n}"))).collect();
    later(upgrade(instance.addr, 1, "tea", ""), 429);
    join(instance.addr, 2, "tea", "Bob").say("another address does not notice");
    mine[0].say("nor do those who are in");
    mine.pop().expect("one").leave();
    poll_until("there is room for one", PATIENCE, || upgrade(instance.addr, 1, "tea", "").is_ok());
    assert!(get(instance.addr, "/metrics").text().contains("bobbin_limited_total{limit=\"connections\"} "));
    instance.logged("127.0.0.1: too many connections from this address (ADDRESS_CONNECTIONS)");
}

#[test]
fn one_connection_does_not_wait_behind_hundreds_from_another_address() {
    const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
    let instance = Instance::start(&[("MAX_CONNECTIONS", "2000")]);
    let before = instance.threads();
    // The kernel completes the handshakes, and the server then finds all of them at once.
    instance.signal("STOP");
    let mut many: Vec<Connection> = (0..MANY).map(|_| Connection::over(connect(instance.addr, 1))).collect();
    let mut one = Connection::over(connect(instance.addr, 2));
    one.write(HEALTH);
    instance.signal("CONT");
    assert_eq!(one.response(false).status, 200);
    let started = instance.threads().saturating_sub(before);
    assert!(started < MANY * 3 / 4, "{started} of {MANY} silent connections were served before it");
    // They are served as well.
    many.iter_mut().for_each(|connection| connection.write(HEALTH));
    assert!(many.iter_mut().all(|connection| connection.response(false).status == 200));
}

/// Redis hangs, so those that are started hold their places, and the others follow at a limited rate.
#[test]
fn an_address_that_opens_many_connections_has_few_started_at_a_time() {
    let redis = Redis::start();
    let settings = [("MAX_CONNECTIONS", "2000"), ("TRUSTED_PROXIES", "0"), ("ADDRESS_CONNECTION_RATE", "40")];
    let instance = Instance::on(&redis, &settings);
    redis.freeze();
    let before = instance.threads();
    instance.signal("STOP");
    let _many: Vec<Connection> = (0..MANY)
        .map(|n| {
            let mut connection = Connection::over(connect(instance.addr, 1));
            let join = json!({"type": "join", "name": format!("N{n}"), "client": unique("a-secret")}).to_string();
            let mut bytes = format!("GET /ws/tea HTTP/1.1\r\nHost: test\r\n{UPGRADE}\r\n").into_bytes();
            bytes.extend(text_frame(&join));
            connection.write(bytes);
            connection
        })
        .collect();
    let start = Instant::now();
    instance.signal("CONT");
    std::thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed()));
    let started = instance.threads().saturating_sub(before);
    let most = 20.0 + 120.0 * start.elapsed().as_secs_f64();
    assert!(started > 5 && (started as f64) < most, "{started} were started, more than {most:.0}");
    // Somebody else has a place at once.
    assert_eq!(Connection::over(connect(instance.addr, 2)).request("GET", "/healthz", "").status, 200);
}

#[test]
fn nobody_behind_a_proxy_waits_behind_hundreds_from_one_address() {
    let named = |n: u8| forwarded(&format!("203.0.113.{n}"));
    let two_origins = named(1) + "Origin: http://a.example\r\nOrigin: http://b.example\r\n";
    // The proxy itself, whose health checks name nobody, does not wait either.
    for (of_many, of_one, address) in [
        (named(1), named(2), "203.0.113.2"),
        (named(1), String::new(), "127.0.0.1"),
        (two_origins, String::new(), "127.0.0.1"),
        ("X-Forwarded-For: \u{e9}, 203.0.113.1\r\n".to_owned(), String::new(), "127.0.0.1"),
    ] {
        let started = started_before(&of_many, &of_one, address);
        // On a busy machine, accepting all of them takes a while, in which some are started.
        assert!(started < MANY * 3 / 4, "{started} of {MANY} were started before {address} beside {of_many:?}");
    }
}

/// Opens [`MANY`] connections through a proxy whose requests have these header lines, and then one WebSocket with those. Returns how
/// many were started before the last one.
fn started_before(of_many: &str, of_one: &str, address: &str) -> usize {
    let redis = Redis::start();
    let settings = [("MAX_CONNECTIONS", "2000"), ("RUST_LOG", "debug"), ("TRUSTED_PROXIES", "127.0.0.1")];
    let instance = Instance::on(&redis, &settings);
    // The threads that read from a Redis that hangs hold their places, so that the others start at a limited rate.
    redis.freeze();
    instance.signal("STOP");
    let open = |path, lines: &str| {
        let mut connection = Connection::over(connect(instance.addr, 1));
        connection.write(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n"));
        connection
    };
    let _many: Vec<Connection> = (0..MANY).map(|_| open("/r/tea/messages", of_many)).collect();
    let mut one = open("/ws/tea", &format!("{UPGRADE}{of_one}"));
    instance.signal("CONT");
    assert_eq!(one.response(false).status, 101);
    drop(one);
    // "… [bobbin::session@conn-17] session 0 in tea from 203.0.113.2: …", numbered in the order of their starts.
    let line = poll("the end of its session", PATIENCE, || {
        instance.log().lines().find(|line| line.contains(&format!("tea from {address}"))).map(str::to_owned)
    });
    let number = line.split_once("@conn-").and_then(|(_, rest)| rest.split(']').next()).expect("a thread");
    number.parse().expect("a number")
}

#[test]
fn new_connections_of_an_address_have_a_rate() {
    let instance = Instance::start(&[("ADDRESS_CONNECTION_RATE", "1")]);
    let start = Instant::now();
    let taken = (0..30).filter(|_| upgrade(instance.addr, 1, "tea", "").is_ok()).count();
    let most = 11 + start.elapsed().as_secs() as usize;
    assert!((10..=most).contains(&taken), "a burst of 10, then 1 per second: {taken}");
    let refusal = poll("a refusal", PATIENCE, || upgrade(instance.addr, 1, "tea", "").err());
    later(Err(refusal), 429);
    assert!(upgrade(instance.addr, 2, "tea", "").is_ok());
    assert!(limited(&instance, "connection_rate") >= 1.0);
    // Plain requests may be ten times as frequent, and a health check is never refused.
    let mut connection = Connection::open(instance.addr);
    let mut requests = (0..10_000).map(|n| (n, connection.request("GET", "/", "")));
    let (served, refusal) = requests.find(|(_, answer)| answer.status != 200).expect("a refusal");
    assert!(served >= 60, "a burst of 100, less the upgrades refused above: {served}");
    assert!(refusal.status == 429 && refusal.header("retry-after").is_some());
    let mut connection = Connection::open(instance.addr);
    // Past the rate, each takes a connection of its own.
    for _ in 0..50 {
        let answer = connection.request("GET", "/healthz", "");
        assert_eq!(answer.status, 200);
        if answer.header("connection") == Some("close") {
            connection = Connection::open(instance.addr);
        }
    }
}

#[test]
fn joins_of_an_address_have_a_rate() {
    let instance = Instance::start(&[("ADDRESS_JOINS", "30")]);
    // A burst of ten; on a busy machine some more are allowed meanwhile.
    let (joined, mut late, answer) = (0..40)
        .find_map(|n| {
            let mut client = upgrade(instance.addr, 1, "tea", "").expect("a connection");
            let answer = client.try_enter(&format!("N{n}"), None);
            (answer["type"] == "error").then_some((n, client, answer))
        })
        .expect("a refusal");
    assert!(joined >= 10 && answer["code"] == "rate_limited", "{joined}: {answer}");
    assert_eq!(limited(&instance, "joins"), 1.0);
    let wait = answer["retry_ms"].as_u64().expect("a time to wait");
    assert!((1..=2_100).contains(&wait), "{wait}");
    join(instance.addr, 2, "tea", "Bob");
    std::thread::sleep(Duration::from_millis(wait + 20));
    late.enter("Late", None);
}

#[test]
fn a_flood_costs_its_address_joins() {
    let instance = Instance::start(&[("ADDRESS_JOINS", "10")]); // ten at once, and one per 6 s
    let mut mallory = join(instance.addr, 1, "tea", "Mallory");
    // More pings than any burst allows.
    mallory.send_raw(&[0x89, 0x80, 0, 0, 0, 0].repeat(10_000));
    mallory.expect_close(1008);
    // Six joins of ten are left, nine if the flood cost nothing; even a busy machine takes less than 18 s to try them.
    let mut joins = (0..9).map(|n| {
        let mut client = upgrade(instance.addr, 1, "tea", "").expect("a connection");
        client.try_enter(&format!("N{n}"), None)
    });
    assert!(joins.any(|answer| answer["code"] == "rate_limited"), "the flood cost nothing");
    join(instance.addr, 2, "tea", "Bob");
}

#[test]
fn wrong_passphrases_make_an_address_wait() {
    let token = "the-token-of-the-host";
    let instance =
        Instance::start(&[("PASSPHRASE", "sesame"), ("ADDRESS_WRONG_PASSPHRASES", "3"), ("ADMIN_TOKEN", token)]);
    let guess = |n: u8, word: &str| {
        let mut client = upgrade(instance.addr, n, "tea", "").expect("a connection");
        client.send(json!({"type": "join", "name": format!("N{n}"), "passphrase": word}));
        client.until("an answer", |f| f["type"] == "welcome" || f["type"] == "error")
    };
    // After a change of the passphrase, everybody's page tries the old one, and is told to ask for the new one.
    for _ in 0..30 {
        assert_eq!(guess(3, "the old one")["code"], "unauthorized");
    }
    assert_eq!(guess(3, "sesame")["type"], "welcome");
    for n in 0..4 {
        assert_eq!(guess(1, &format!("open {n}"))["code"], "unauthorized");
    }
    // The right passphrase is refused too; otherwise guessing would still work.
    let refused = guess(1, "sesame");
    assert_eq!(refused["code"], "rate_limited", "{refused}");
    assert!(refused["retry_ms"].as_u64().is_some_and(|wait| (1..=1_100).contains(&wait)), "{refused}");
    assert_eq!(guess(2, "sesame")["type"], "welcome");
    let basic = |word: &str| format!("Authorization: Bearer {word}\r\n");
    assert_eq!(request(instance.addr, "GET", "/r/tea/messages", &basic("sesame")).status, 429);
    assert_eq!(request(instance.addr, "GET", "/r/tea/messages", &basic(token)).status, 200, "the host need not wait");
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(guess(1, "sesame")["type"], "welcome");
    assert_eq!(request(instance.addr, "GET", "/r/tea/messages", &basic("wrong")).status, 401);
    assert_eq!(guess(1, "sesame")["code"], "rate_limited", "the wait is the same for both ways");
    instance.logged("127.0.0.3 was refused: wrong passphrase");
    instance.logged("too many wrong passphrases from this address");
    assert!(limited(&instance, "passphrases") >= 2.0);
}

#[test]
fn new_rooms_of_an_address_are_counted() {
    let instance = Instance::start(&[("ADDRESS_NEW_ROOMS", "5")]);
    let mut bob = join(instance.addr, 2, "tea", "Bob");
    bob.say("a room that is there");
    // A refused join creates no room.
    for _ in 0..10 {
        let answer = upgrade(instance.addr, 1, "tea", "").expect("a connection").try_enter("Bob", None);
        assert_eq!(answer["code"], "name_taken", "{answer}");
    }
    for n in 0..5 {
        join(instance.addr, 1, &format!("room-{n}"), "Ada");
    }
    let mut more = upgrade(instance.addr, 1, "room-6", "").expect("a connection");
    let answer = more.try_enter("Ada", None);
    assert!(answer["code"] == "rate_limited" && answer["retry_ms"].is_u64(), "{answer}");
    assert!(limited(&instance, "rooms") >= 1.0);
    join(instance.addr, 1, "tea", "Ada").say("a room that was there");
    assert_eq!(join(instance.addr, 3, "room-6", "Cyd").welcome["participants"], 1, "who was refused is not in it");
}

#[test]
fn a_few_addresses_cannot_take_the_last_rooms() {
    // An address may open six while a room stays, and the last 15 are for those that have opened none of them.
    let instance = Instance::start(&[("ADDRESS_NEW_ROOMS", "6"), ("MAX_ROOMS", "60")]);
    let mut held = Vec::new();
    let mut open = |from: u8| {
        let mut client = upgrade(instance.addr, from, &format!("room-{}", held.len()), "").expect("a connection");
        let answer = client.try_enter("Ada", None);
        if answer["type"] == "welcome" {
            held.push(client);
        }
        answer
    };
    for from in 1..=9 {
        (0..5).for_each(|_| assert_eq!(open(from)["type"], "welcome"));
    }
    assert_eq!(open(1)["code"], "full");
    for from in 11..=25 {
        assert_eq!(open(from)["type"], "welcome", "from 127.0.0.{from}, which has opened none");
    }
    assert_eq!(open(26)["code"], "full", "no room is left for anybody");
    instance.logged("127.0.0.26: no more rooms can be opened here (MAX_ROOMS)");
    assert_eq!(limited(&instance, "all_rooms"), 2.0);
    let instance = Instance::start(&[("MAX_ROOMS", "0"), ("HISTORY_BYTES", "0"), ("ADDRESS_NEW_ROOMS", "0")]);
    let both = [1, 2].map(|n| join(instance.addr, n, &format!("room-{n}"), "Ada").say("0 is no limit"));
    assert!(both.iter().all(|message| message["text"] == "0 is no limit"));
}

#[test]
fn the_addresses_of_an_ipv6_network_share_ten_times_the_limits() {
    let instance = Instance::start(&[("ADDRESS_CONNECTIONS", "2")]);
    let from = |address: &str| {
        let header = format!("X-Forwarded-For: {address}\r\n");
        upgrade(instance.addr, 1, "tea", &header).map_err(|answer| answer.status)
    };
    let held: Vec<_> = (0..30).map(|n| from(&format!("2001:db8:7:{}::1", n / 2))).collect();
    assert_eq!(held.iter().filter(|one| one.is_ok()).count(), 20, "ten times two");
    assert!(held[20..].iter().all(|one| one.as_ref().is_err_and(|status| *status == 429)));
    from("2001:db8:8::1").expect("another network");
    from("192.0.2.1").expect("an IPv4 address");
    let instance = Instance::start(&[("ADDRESS_NEW_ROOMS", "6"), ("MAX_ROOMS", "60")]);
    let opened: Vec<_> = (0..20)
        .map(|n| {
            let header = format!("X-Forwarded-For: 2001:db8:7:{n}::1\r\n");
            let mut client = upgrade(instance.addr, 1, &format!("room-{n}"), &header).expect("a connection");
            let is_open = client.try_enter("Ada", None)["type"] == "welcome";
            (is_open, client)
        })
        .collect();
    assert_eq!(opened.iter().filter(|(is_open, _)| *is_open).count(), 7, "an eighth of all rooms at once");
}

#[test]
fn reading_the_log_has_a_rate_in_bytes() {
    let instance = Instance::start(&[("ADDRESS_HISTORY_RATE", "10000")]);
    let mut ada = join(instance.addr, 1, "tea", "Ada");
    let texts: Vec<_> = (0..15).map(|n| ada.say(&format!("{n} {}", "x".repeat(4000)))["id"].clone()).collect();
    let ask = json!({"type": "history", "before": texts.last(), "limit": 100});
    let mut bytes = 0;
    let refused = loop {
        ada.send(ask.clone());
        let answer = ada.until("an answer", |f| f["type"] == "history" || f["type"] == "error");
        if answer["type"] == "error" {
            break answer;
        }
        bytes += answer.to_string().len();
        assert!(bytes < 400_000, "{bytes} bytes and no end");
    };
    assert!(
        refused["code"] == "rate_limited" && refused["retry_ms"].as_u64().is_some_and(|ms| ms < 20_000),
        "{refused}"
    );
    let mut other = join(instance.addr, 2, "tea", "Bob");
    other.send(ask);
    other.expect("history");
    assert_eq!(request(instance.addr, "GET", "/r/tea/messages", "").status, 429);
    assert!(limited(&instance, "history") >= 1.0);
    // A join reads the log too. The first address has nothing left to read; on a busy machine, enough for one join may
    // have come back.
    for (from, expected) in [(1, 0..=1), (3, 1..=20)] {
        let (joined, refused) = (0..100)
            .find_map(|n| {
                let mut client = upgrade(instance.addr, from, "tea", "").expect("a connection");
                let answer = client.try_enter(&format!("N{from}-{n}"), Some("1-1"));
                (answer["type"] == "error").then_some((n, answer))
            })
            .unwrap_or_else(|| panic!("100 joins of 127.0.0.{from} and no end"));
        assert!(expected.contains(&joined), "{joined} joins of 127.0.0.{from}");
        assert!(refused["code"] == "rate_limited" && refused["retry_ms"].is_u64(), "{refused}");
    }
}

#[test]
fn waiting_requests_of_an_address_are_counted() {
    let instance = Instance::start(&[("ADDRESS_CONNECTIONS", "100")]);
    let wait = |n: u8, seconds: u8| {
        let mut waiting = Connection::over(connect(instance.addr, n));
        waiting.write(format!("GET /r/tea/messages?after=9-0&wait={seconds} HTTP/1.1\r\nHost: test\r\n\r\n"));
        waiting
    };
    let before = instance.threads();
    let mut held: Vec<Connection> = (0..32).map(|_| wait(1, 50)).collect();
    poll_until("they wait", PATIENCE, || instance.threads() >= before + 32);
    poll_until("all of them are counted", PATIENCE, || {
        let mut more = wait(1, 1);
        let answer = more.response(false);
        if answer.status == 429 {
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        } else {
            held.push(wait(1, 50)); // this probe came before one of them, which was refused in its stead
        }
        answer.status == 429
    });
    assert_eq!(wait(2, 1).response(false).status, 200, "another address does not notice");
    held.remove(0);
    poll_until("there is a place again", PATIENCE, || wait(1, 1).response(false).status == 200);
}

/// All requests arrive before the first is charged for what it reads.
#[test]
fn requests_sent_together_do_not_exceed_the_rate_of_reading() {
    const READERS: usize = 60;
    let instance = Instance::start(&[("ADDRESS_HISTORY_RATE", "10000"), ("RATE_LIMIT", "0")]);
    let mut ada = join(instance.addr, 2, "tea", "Ada");
    for n in 0..60 {
        ada.post(&format!("{n} {}", "x".repeat(4000)));
    }
    ada.fence();
    let mut readers: Vec<Connection> = (0..READERS).map(|_| Connection::over(connect(instance.addr, 1))).collect();
    assert!(
        readers.iter_mut().all(|reader| reader.request("GET", "/healthz", "").status == 200),
        "each has its thread"
    );
    instance.signal("STOP");
    readers.iter_mut().for_each(|reader| reader.write("GET /r/tea/messages HTTP/1.1\r\nHost: test\r\n\r\n"));
    instance.signal("CONT");
    let answers: Vec<u16> = readers.iter_mut().map(|reader| reader.response(false).status).collect();
    let read = answers.iter().filter(|status| **status == 200).count();
    assert!((1..=4).contains(&read), "{read} pages of 240 kB, of 80 kB at once: {answers:?}");
    assert!(answers.iter().all(|status| matches!(status, 200 | 429 | 503)), "{answers:?}");
}

#[test]
fn a_waiting_request_is_charged_for_what_it_reads_again() {
    let instance = Instance::start(&[("ADDRESS_HISTORY_RATE", "10000")]);
    let mut ada = join(instance.addr, 2, "tea", "Ada");
    for n in 0..15 {
        ada.say(&format!("{n} {}", "x".repeat(4000)));
    }
    let page = request(instance.addr, "GET", "/r/tea/messages", "");
    let known = format!("If-None-Match: {}\r\n", page.header("etag").expect("an ETag"));
    let start = Instant::now();
    let answer = request(instance.addr, "GET", "/r/tea/messages?wait=25", &known);
    assert_eq!(answer.status, 304, "{}", answer.text());
    assert!(start.elapsed() < Duration::from_secs(20), "it read 60 kB twice per second for {:?}", start.elapsed());
}

#[test]
fn refused_upgrades_count_as_requests() {
    let instance = Instance::start(&[("ADDRESS_CONNECTION_RATE", "1")]);
    let mut connection = Connection::open(instance.addr);
    assert_eq!(connection.request("GET", "/ws/tea", "").status, 426);
    assert!((0..10_000).any(|_| connection.request("GET", "/ws/tea", "").status == 429));
}

#[test]
fn texts_have_a_rate_in_bytes() {
    let instance = Instance::start(&[("TEXT_RATE", "1000"), ("RATE_LIMIT", "100")]);
    let mut ada = join(instance.addr, 1, "tea", "Ada");
    let text = "x".repeat(3000);
    let (mut taken, start) = (0, Instant::now());
    let refused = loop {
        let key = ada.post(&text);
        let answer = ada.until("an answer", |f| f["ref"] == key.as_str());
        if answer["type"] == "error" {
            break answer;
        }
        taken += 1;
        assert!(taken < 100 && start.elapsed() < PATIENCE, "{taken} texts and no end");
    };
    assert!((4..10).contains(&taken), "16 seconds' worth at once: {taken}");
    assert!(
        refused["code"] == "rate_limited" && refused["retry_ms"].is_u64() && refused["ref"].is_string(),
        "{refused}"
    );
    // Other frames are charged too, even for fields that are ignored.
    for kind in ["ping", "typing", "history", "join"] {
        let mut client = join(instance.addr, 1, "tea", kind);
        let padded = json!({"type": kind, "active": true, "before": "1-1", "name": kind, "x": "x".repeat(15_000)});
        (0..4).for_each(|_| client.send(padded.clone()));
        client.until("a refusal", |f| f["code"] == "rate_limited" && f["retry_ms"].is_u64());
    }
    // All connections of an address also share a limit.
    let instance = Instance::start(&[("ADDRESS_TEXT_RATE", "2000")]);
    let mut some: Vec<Client> = (0..5).map(|n| join(instance.addr, 1, "tea", &format!("N{n}"))).collect();
    let keys: Vec<String> = some.iter_mut().map(|one| one.post(&text)).collect();
    let answers = some.iter_mut().zip(&keys).map(|(one, key)| one.until("an answer", |f| f["ref"] == key.as_str()));
    assert!((1..5).contains(&answers.filter(|answer| answer["type"] == "error").count()));
    assert!(limited(&instance, "text") >= 1.0);
    join(instance.addr, 2, "tea", "Bob").say(&text);
}

#[test]
fn texts_that_an_address_sends_together_do_not_arrive_together() {
    let instance = Instance::start(&[("ADDRESS_TEXT_RATE", "40000")]);
    let mut some: Vec<Client> = (0..15).map(|n| join(instance.addr, 1, "tea", &format!("N{n}"))).collect();
    let keys: Vec<String> = some.iter_mut().map(|one| one.post(&"x".repeat(4000))).collect();
    let receipts = some.iter_mut().zip(&keys).map(|(one, key)| {
        let receipt = one.until("a receipt", |f| f["ref"] == key.as_str());
        receipt["at"].as_u64().unwrap_or_else(|| panic!("{receipt}"))
    });
    let times: Vec<u64> = receipts.collect();
    let span = times.iter().max().expect("some") - times.iter().min().expect("some");
    // 60 kB, of which 10 kB are passed on at once; each of the others waits for a random time of up to 200 ms.
    assert!(span >= 25, "within {span} ms");
}

#[test]
fn those_who_are_refused_together_are_not_asked_to_come_back_together() {
    let instance = Instance::start(&[("ADDRESS_TEXT_RATE", "20000"), ("ADDRESS_CONNECTION_RATE", "3")]);
    let mut some: Vec<Client> = (0..20).map(|n| join(instance.addr, 1, "tea", &format!("N{n}"))).collect();
    let keys: Vec<String> = some.iter_mut().map(|one| one.post(&"x".repeat(4000))).collect();
    let answers = some.iter_mut().zip(&keys).map(|(one, key)| one.until("an answer", |f| f["ref"] == key.as_str()));
    let waits: Vec<u64> = answers.filter_map(|answer| answer["retry_ms"].as_u64()).collect();
    // 40 kB of 80 are accepted at once, and there is space for the next text after 200 ms. But refusals have a rate of 3 per second.
    assert!(waits.iter().max() > Some(&400), "{waits:?}");
}

#[test]
fn an_address_that_is_refused_often_is_read_more_slowly_and_closed_nevertheless() {
    let instance = Instance::start(&[("ADDRESS_CONNECTION_RATE", "20"), ("ADDRESS_CONNECTIONS", "100")]);
    let mut some: Vec<Client> = (0..40).map(|n| join(instance.addr, 1, "tea", &format!("N{n}"))).collect();
    let start = Instant::now();
    for client in &mut some {
        (0..20).for_each(|_| client.send(json!({"type": "message", "text": ""})));
    }
    // 800 refusals, at 20 per second after a burst of 120; a pause takes up to four seconds.
    for client in &mut some {
        let refused = (0..20).filter(|_| client.until("a refusal", |f| f["type"] == "error")["code"] == "text_invalid");
        assert_eq!(refused.count(), 20);
        client.expect_close(1008);
    }
    assert!(start.elapsed() >= Duration::from_secs(15), "all were refused within {:?}", start.elapsed());
    instance.logged("127.0.0.1: too many refused frames from this address (ADDRESS_CONNECTION_RATE)");
    assert!(limited(&instance, "refusals") >= 40.0);
}

#[test]
fn who_leaves_in_such_a_pause_is_read_to_the_end() {
    let instance = Instance::start(&[("ADDRESS_CONNECTION_RATE", "20"), ("ADDRESS_CONNECTIONS", "100")]);
    let mut bob = join(instance.addr, 2, "tea", "Bob");
    let mut some: Vec<Client> = (0..4).map(|n| join(instance.addr, 1, "tea", &format!("N{n}"))).collect();
    let mut ada = join(instance.addr, 1, "tea", "Ada");
    for client in &mut some {
        (0..18).for_each(|_| client.send(json!({"type": "message", "text": ""})));
        client.until("a refusal", |f| f["code"] == "text_invalid");
    }
    // Refused often enough to pause for longer than 100 ms.
    (0..8).for_each(|_| ada.send(json!({"type": "message", "text": ""})));
    ada.send(json!({"type": "message", "text": "her last words"}));
    ada.send_raw(&[0x88, 0x80, 0, 0, 0, 0]);
    let start = Instant::now();
    ada.tcp().shutdown(std::net::Shutdown::Write).expect("it is open");
    bob.hear("her last words");
    bob.see_leave("Ada");
    assert!(start.elapsed() < Duration::from_secs(10), "she left after {:?}", start.elapsed());
}

#[test]
fn clients_behind_a_proxy_are_counted_apart() {
    let instance = Instance::start(&[("ADDRESS_CONNECTIONS", "2")]);
    let behind = |who: &str| upgrade(instance.addr, 1, "tea", &forwarded(who));
    let held: Vec<Client> = (1..=20).filter_map(|n| behind(&format!("203.0.113.{n}")).ok()).collect();
    assert_eq!(held.len(), 20, "nobody behind a proxy is locked out because it was not configured");
    let _second = behind("203.0.113.1").expect("a second one");
    later(behind("203.0.113.1"), 429);
    later(behind("198.51.100.9, 203.0.113.1"), 429);
    let _six = [behind("2001:db8:1:2::1").expect("one"), behind("2001:db8:1:2:ffff::9").expect("the same network")];
    later(behind("2001:db8:1:2:3::3"), 429);
    assert!(behind("2001:db8:1:3::1").is_ok());
    instance.logged("203.0.113.1: too many connections");
}

#[test]
fn forged_headers_are_ignored_and_told_of_once() {
    let instance = Instance::start(&[("TRUSTED_PROXIES", "127.0.0.9, 10.0.0.0/8"), ("ADDRESS_CONNECTIONS", "2")]);
    let forge = |n: u8| upgrade(instance.addr, 5, "tea", &forwarded(&format!("203.0.113.{n}")));
    let held = [forge(1).expect("one"), forge(2).expect("two")];
    later(forge(3), 429);
    // Six times as many others may be open besides, so that pages load. The next one is refused before its head is read.
    poll_until("one is refused", PATIENCE, || {
        // The third may not have given its place back yet, so that this takes a second turn.
        let _silent: Vec<_> = (0..12).map(|_| connect(instance.addr, 5)).collect();
        let mut answer = String::new();
        connect(instance.addr, 5).read_to_string(&mut answer).expect("an answer and an end");
        answer.starts_with("HTTP/1.1 429") && answer.contains("Retry-After: ")
    });
    drop(held);
    let through = |n: u8| upgrade(instance.addr, 9, "tea", &forwarded(&format!("203.0.113.{n}")));
    let _others: Vec<Client> = (1..=10).map(|n| through(n).expect("behind the proxy")).collect();
    instance.logged("TRUSTED_PROXIES=127.0.0.9,10.0.0.0/8,127.0.0.5");
    assert_eq!(instance.log().matches("TRUSTED_PROXIES=").count(), 1, "{}", instance.log());
}

#[test]
fn a_class_behind_one_public_address_loads_the_page_and_joins() {
    // No proxy is trusted, so each connection counts against the peer's address at once. A browser opens up to six for a
    // page, and keeps them open.
    let instance = Instance::start(&[
        ("TRUSTED_PROXIES", "192.0.2.1"),
        ("ADDRESS_CONNECTIONS", ""),
        ("ADDRESS_CONNECTION_RATE", ""),
        ("ADDRESS_JOINS", ""),
    ]);
    let mut held = Vec::new();
    for n in 0..30 {
        let mut page: Vec<Connection> = (0..6).map(|_| Connection::over(connect(instance.addr, 1))).collect();
        for connection in &mut page {
            assert_eq!(connection.request("GET", "/r/tea", "").status, 200, "pupil {n}");
        }
        held.push((page, join(instance.addr, 1, "tea", &format!("N{n}"))));
    }
    held[0].1.say("everybody is here");
    held[29].1.hear("everybody is here");
    assert_eq!(limited(&instance, "connections") + limited(&instance, "connection_rate"), 0.0);
}

#[test]
fn hops_are_counted_from_the_end() {
    let instance = Instance::start(&[("TRUSTED_PROXIES", "2"), ("ADDRESS_CONNECTIONS", "1")]);
    let through = |list: &str| upgrade(instance.addr, 1, "tea", &forwarded(list));
    let _one = through("1.1.1.1, 203.0.113.1, 192.0.2.1").expect("one");
    later(through("9.9.9.9, 203.0.113.1, 192.0.2.1"), 429);
    // A proxy may append a line of its own instead.
    let lines = ["9.9.9.9, 203.0.113.1", "192.0.2.1"].map(forwarded).concat();
    later(upgrade(instance.addr, 1, "tea", &lines), 429);
    assert!(through("9.9.9.9, 203.0.113.2, 192.0.2.1").is_ok());
}

#[test]
fn a_trusted_proxy_names_the_user() {
    let instance = Instance::start(&[("USER_HEADER", "Remote-User"), ("TRUSTED_PROXIES", "127.0.0.9")]);
    let as_user = |from: u8, user: &str| upgrade(instance.addr, from, "tea", &format!("Remote-User: {user}\r\n"));
    let mut ada = as_user(9, "Ada").expect("a connection");
    ada.send(json!({"type": "join", "client": ada.secret, "name": "Eve"}));
    assert_eq!(ada.expect("welcome")["name"], "Ada", "nobody chooses another");
    let mut bob = as_user(9, "B\u{f6}b").expect("a connection");
    bob.send(json!({"type": "join"}));
    assert_eq!(bob.expect("welcome")["name"], "B\u{f6}b", "and none has to be given");
    for answer in [as_user(5, "Ada"), as_user(9, ""), upgrade(instance.addr, 9, "tea", "")] {
        assert_eq!(answer.err().expect("a refusal").status, 401);
    }
    // Invalid UTF-8, two users, or nothing visible: the refusal names the header.
    for (value, status, why) in [
        (&b"B\xf6b"[..], 401, "remote-user: not in UTF-8"),
        (b"Ada\r\nremote-user: Eve", 400, "more than one remote-user line"),
        (b"\xe2\x80\x8b", 401, "remote-user: nothing that can be shown"),
    ] {
        let mut connection = Connection::over(connect(instance.addr, 9));
        connection.write([b"GET /r/tea HTTP/1.1\r\nHost: test\r\nRemote-User: ", value, b"\r\n\r\n"].concat());
        let answer = connection.response(false);
        assert!(answer.status == status && answer.text().starts_with(why), "{} {}", answer.status, answer.text());
    }
    // The same user on a second device is the same person.
    let mut phone = as_user(9, "Ada").expect("a connection");
    phone.send(json!({"type": "join", "client": phone.secret}));
    assert_eq!(phone.expect("welcome")["participants"], 2);
    ada.expect_close(4001);
    // Names too long to be shown whole may look alike, but remain different people.
    let long = |end: &str| format!("department-of-something-long-name.{end}@example.com");
    let mut alice = as_user(9, &long("alice")).expect("a connection");
    alice.send(json!({"type": "join"}));
    alice.expect("welcome");
    let mut other = as_user(9, &long("bob")).expect("a connection");
    other.send(json!({"type": "join"}));
    other.expect_error("name_taken");
    let mut through = Connection::over(connect(instance.addr, 9));
    assert_eq!(through.request("GET", "/r/tea", "Remote-User: Ada\r\n").status, 200);
    for (path, status) in [("/", 401), ("/r/tea/messages", 401), ("/healthz", 200), ("/readyz", 200)] {
        assert_eq!(get(instance.addr, path).status, status, "{path}");
    }
}

#[test]
fn a_foreign_origin_is_told_both_sides() {
    let instance = Instance::start(&[("ALLOWED_ORIGINS", "https://blog.example, http://localhost:8080")]);
    let from = |origin: &str| upgrade(instance.addr, 1, "tea", &format!("Origin: {origin}\r\n"));
    for origin in ["http://test", "https://blog.example", "https://Blog.example", "http://localhost:8080"] {
        assert!(from(origin).is_ok(), "{origin}");
    }
    assert_eq!(from("https://b\u{fc}se.example").err().expect("a refusal").status, 403);
    for origin in ["http://blog.example", "https://evil.example", "null"] {
        let refusal = from(origin).err().expect("a refusal");
        let wanted =
            format!("Origin {origin} does not match Host test; forward the Host header, or set ALLOWED_ORIGINS\n");
        assert_eq!((refusal.status, refusal.text()), (403, wanted));
    }
    instance.logged("127.0.0.1 was refused: Origin https://evil.example does not match Host test");
}

#[test]
fn a_few_addresses_cannot_fill_the_server() {
    let instance = Instance::start(&[("MAX_CONNECTIONS", "80"), ("ADDRESS_CONNECTIONS", "20")]);
    let mut held: Vec<Client> = Vec::new();
    for n in 1..=8 {
        for m in 0..20 {
            let Ok(mut client) = upgrade(instance.addr, n, "tea", "") else { break };
            client.enter(&format!("N{n}-{m}"), None);
            held.push(client);
        }
    }
    assert!((60..75).contains(&held.len()), "{}", held.len());
    join(instance.addr, 20, "tea", "Newcomer").say("there is a place for those who have none");
    assert_eq!(get(instance.addr, "/healthz").status, 200);
}
