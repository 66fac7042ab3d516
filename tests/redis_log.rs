//! Proves the properties of a room's log in Redis, whoever else writes to it: pages are bounded, limits are kept,
//! foreign entries are skipped, and ids only grow.

mod common;

use common::http::get;
use common::*;
use std::time::Duration;

const KIB: usize = 1024;

fn size(frame: &Value) -> usize {
    frame["messages"].to_string().len()
}

#[test]
fn pages_are_bounded_in_bytes() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[("RATE_LIMIT", "0")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let first = ada.say("first");
    for n in 0..100 {
        ada.post(&format!("{n:03}{}", "x".repeat(4_000)));
    }
    let last = ada.say("last");
    let mut bob = Client::back(instance.addr, "tea", "Bob", &unique("a-secret-for-bob"), first["id"].as_str());
    assert!(size(&bob.welcome) < 280 * KIB, "{} bytes", size(&bob.welcome));
    assert_eq!((&bob.welcome["more"], &bob.welcome["gap"]), (&json!(true), &json!(false)));
    let messages = bob.welcome["messages"].as_array().expect("messages").clone();
    assert_eq!(messages.last(), Some(&last), "the newest are kept");
    assert!(messages.len() > 50);
    // The rest arrives page by page, until it meets `since`.
    bob.send(json!({"type": "history", "before": last["id"], "limit": 100}));
    let page = bob.expect("history");
    assert!(size(&page) < 280 * KIB && page["more"] == true, "{} bytes", size(&page));
    let mut before = messages[0]["id"].clone();
    let mut pages = 0;
    loop {
        bob.send(json!({"type": "history", "before": before, "limit": 100}));
        let page = bob.expect("history");
        before = page["messages"][0]["id"].clone();
        pages += 1;
        assert!(pages < 5);
        if before == first["id"] {
            break;
        }
    }
}

/// Each message wakes those who wait, but they wait for an id that is far ahead.
#[test]
fn a_request_that_waits_for_the_far_future_reads_rarely() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[("RATE_LIMIT", "0")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("first");
    redis.cmd::<String>("CONFIG RESETSTAT");
    let waiting = std::thread::spawn(move || get(instance.addr, "/r/tea/messages?after=99999999999999-0&wait=3"));
    let mut said = 0;
    while !waiting.is_finished() {
        ada.say(&format!("number {said}"));
        said += 1;
    }
    assert_eq!(waiting.join().expect("no panic").status, 200);
    let reads = redis.calls("xrange") + redis.calls("xrevrange");
    assert!(said > 50 && reads <= 20, "{reads} reads beside {said} messages within 3 s");
}

/// A script would cost Redis four times as much.
#[test]
fn histories_run_no_script() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let said = ada.say("hi");
    redis.cmd::<String>("CONFIG RESETSTAT");
    for _ in 0..20 {
        ada.send(json!({"type": "history", "before": "99999999999999-0", "limit": 50}));
        assert_eq!(ada.expect("history")["messages"], json!([said]));
    }
    assert!(redis.calls("xrevrange") >= 20);
    assert!(redis.calls("evalsha") < 20, "only heartbeats");
}

/// Taking a seat reads the newest id, which counts as a read too.
#[test]
fn one_read_of_the_log_serves_all_who_come_within_a_second() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let said = ada.say("hi");
    redis.cmd::<String>("CONFIG RESETSTAT");
    let join = |thread: usize| {
        for n in 0..10 {
            let client = Client::join(instance.addr, "tea", &format!("Newcomer {thread} {n}"));
            assert_eq!(client.welcome["messages"], json!([said]));
            client.leave();
        }
    };
    std::thread::scope(|scope| (0..6).for_each(|thread| drop(scope.spawn(move || join(thread)))));
    assert!(redis.calls("xrevrange") < 60 + 40, "{} reads for 60 joins", redis.calls("xrevrange"));
}

#[test]
fn a_log_keeps_to_its_bytes() {
    let redis = Redis::start();
    let instance =
        Instance::on(&redis, &[("RATE_LIMIT", "0"), ("HISTORY_BYTES", "131072"), ("HISTORY_MESSAGES", "100000")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    for n in 0..100 {
        ada.post(&format!("{n:03}{}", "x".repeat(4_000)));
    }
    let last = ada.say("last");
    poll_until("it is trimmed", PATIENCE, || redis.cmd::<usize>("XLEN bobbin:{tea}:log") <= 32);
    let kept: usize = redis.cmd("XLEN bobbin:{tea}:log");
    assert!(kept >= 16, "not to much less than 32 messages of 4 KiB: {kept}");
    let trims = "bobbin_limited_total{limit=\"room_bytes\"}";
    poll_until("it is counted", PATIENCE, || common::http::metric(instance.addr, trims) >= 1.0);
    let bob = Client::join(instance.addr, "tea", "Bob");
    assert_eq!(bob.messages().last(), Some(&last));
}

/// Strangers fill room after room until Redis refuses everything. The chat must go on, and a small room keeps its log.
#[test]
fn a_redis_that_strangers_have_filled_refuses_nobody_for_long() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[("RATE_LIMIT", "0")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let said: Vec<Value> = (0..20).map(|n| ada.say(&format!("m{n}"))).collect();
    let used: String = redis.cmd("INFO memory");
    let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("a number");
    redis.cmd::<String>(&format!("CONFIG SET maxmemory {}", used.parse::<u64>().expect("a number") + (12 << 20)));
    let text = "x".repeat(4000);
    let mut strangers: Vec<Client> = (0..6).map(|n| Client::join(instance.addr, &format!("room-{n}"), "Bob")).collect();
    poll_until("the logs are trimmed", Duration::from_secs(60), || {
        for stranger in &mut strangers {
            let last = (0..20).map(|_| stranger.post(&text)).last().expect("20");
            // Its receipt, or a refusal once Redis is full.
            stranger.until("an answer", |frame| frame["ref"] == last.as_str());
        }
        instance.log().contains("(STORAGE_BYTES)")
    });
    poll_until("Ada is heard again", Duration::from_secs(30), || {
        ada.post("still here");
        ada.take(Duration::from_secs(1)).iter().any(|frame| frame["text"] == "still here")
    });
    let bob = Client::back(instance.addr, "tea", "Bob", "a-secret-of-bobs", Some("0-0"));
    assert_eq!((&bob.messages()[..20], &bob.welcome["gap"]), (&said[..], &json!(false)));
    assert!(common::http::metric(instance.addr, "bobbin_storage_trims_total") >= 1.0);
}

/// Redis's clock alone decides what is too old: an instance whose own clock is a month ahead trims nothing.
#[test]
fn an_instance_that_is_a_month_ahead_trims_nothing() {
    let redis = Redis::start();
    let right = Instance::on(&redis, &[]);
    let mut ada = Client::join(right.addr, "tea", "Ada");
    for n in 0..10 {
        ada.say(&format!("m{n}"));
    }
    let clock =
        [("LD_PRELOAD", common::faulty::libfaketime()), ("FAKETIME", "+31d"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let ahead = Instance::on(&redis, &clock);
    // The instance's log shows its clock.
    let today =
        |instance: &Instance| instance.log().lines().next().map(|line| line.chars().take(10).collect::<String>());
    assert_ne!(today(&ahead), today(&right), "its clock is wrong");
    let mut bob = Client::join(ahead.addr, "tea", "Bob");
    let said = bob.say("from the month to come");
    assert_eq!(ada.hear("from the month to come"), said);
    std::thread::sleep(Duration::from_secs(7)); // long enough for two heartbeats, which trim
    assert_eq!(redis.cmd::<usize>("XLEN bobbin:{tea}:log"), 11);
    let cyd = Client::back(right.addr, "tea", "Cyd", &unique("a-secret-for-cyd"), Some("0-0"));
    assert_eq!((cyd.messages().len(), &cyd.welcome["gap"]), (11, &json!(false)));
    assert_eq!(cyd.messages().last(), Some(&said));
}

#[test]
fn what_others_wrote_is_passed_over_and_harms_no_other_room() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let mut bob = Client::join(instance.addr, "milk", "Bob");
    ada.say("before");
    let mut connection = redis.connection().expect("it runs");
    let bodies: [&[u8]; 4] = [b"\xFF\xFE", b"{\"by\":[[[[[[[[[[[[[]]]]]]]]]]]]]}", b"", b"{\"text\":\"hi\"}"];
    for body in bodies {
        let add = |field: &[u8]| {
            let mut command = ::redis::cmd("XADD");
            command.arg("bobbin:{tea}:log").arg("*").arg(field).arg(body);
            command
        };
        add(b"m").query::<String>(&mut connection).expect("an entry");
        add(b"\xFF").query::<String>(&mut connection).expect("an entry");
    }
    // A new connection reads the log from where it was.
    redis.cmd::<i64>("CLIENT KILL TYPE pubsub");
    ada.until("down", |f| f["backplane"] == "down");
    ada.until("up", |f| f["backplane"] == "up");
    poll_until("ready", Duration::from_secs(3), || get(instance.addr, "/readyz").status == 200);
    bob.until("up", |f| f["backplane"] == "up");
    bob.say("here all is well");
    ada.say("after");
    let cyd = Client::join(instance.addr, "tea", "Cyd");
    let texts: Vec<_> = cyd.messages().iter().map(|m| m["text"].clone()).collect();
    assert_eq!(texts, ["before", "after"]);
    instance.logged("skipping");
    assert!(instance.log().matches("skipping").count() < 4, "said once: {}", instance.log());
}

#[test]
fn what_strangers_publish_reaches_no_client() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let mut connection = redis.connection().expect("it runs");
    for payload in [
        &b"t"[..],
        b"tnonsense",
        b"t{\"type\":\"typing\",\"name\":\"Eve\",\"active\":true,\"x\":[[[[[[[]]]]]]]}",
        b"t{\"type\":\"close\"}",
        b"t\xFF",
        b"m9-9\nnonsense",
        b"m99999999999999-0\n{\"by\":\"x\"}",
        b"p1 1 -\nA\x07b\n",
        b"p1 99 -",
        b"",
    ] {
        let mut command = ::redis::cmd("PUBLISH");
        let receivers: i64 = command.arg("bobbin:{tea}:live").arg(payload).query(&mut connection).expect("a count");
        assert_eq!(receivers, 1);
    }
    let said = ada.say("still here");
    ada.fence();
    assert_eq!(ada.messages(), [said]);
    ada.never("anything from a stranger", |f| f["type"] == "typing" || f["type"] == "presence");
}

#[test]
fn what_others_wrote_behind_a_ref_is_no_receipt() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let by = ada.welcome["by"].as_str().expect("a mark").to_owned();
    let mut connection = redis.connection().expect("it runs");
    for body in ["nonsense", "{\"by\":[[[[[[[[[]]]]]]]]]}", "{}"] {
        let mut add = ::redis::cmd("XADD");
        let id: String = add.arg("bobbin:{tea}:log").arg("*").arg("m").arg(body).query(&mut connection).expect("an id");
        let mut know = ::redis::cmd("SET");
        let () = know.arg(format!("bobbin:{{tea}}:ref:{by}:r")).arg(id).query(&mut connection).expect("OK");
        ada.send(json!({"type": "message", "text": "hi", "ref": "r"}));
        let answer = ada.until("an answer", |f| f["ref"] == "r");
        assert_eq!(answer["code"], "unavailable", "{answer}");
    }
    ada.say("still here");
}

#[test]
fn a_ref_that_is_known_costs_nothing_and_makes_no_gap() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[("RATE_LIMIT", "0"), ("HISTORY_MESSAGES", "5")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let mut first = Value::Null;
    for n in 0..5 {
        ada.send(json!({"type": "message", "text": format!("m{n}"), "ref": format!("r{n}")}));
        let said = ada.hear(&format!("m{n}"));
        first = if n == 0 { said } else { first };
    }
    for _ in 0..20 {
        ada.send(json!({"type": "message", "text": "another text", "ref": "r0"}));
        assert_eq!(ada.expect("message"), first, "the first one's frame");
    }
    let bob = Client::back(instance.addr, "tea", "Bob", &unique("a-secret-for-bob"), Some("0-0"));
    assert_eq!(bob.welcome["gap"], false);
    assert_eq!(bob.messages().len(), 5, "sending it again pushes nothing out");
}

/// Redis lost its newest data and its clock is behind: new ids still exceed those that clients have seen.
#[test]
fn ids_grow_even_if_redis_has_forgotten_the_newest() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let said = ada.say("before");
    // A message with an id one hour ahead, kept and published like ours, is lost.
    let ahead = said["at"].as_u64().expect("a time") + 3_600_000;
    let body = r#"{"by":"abcdefgh234567ab","name":"Eve","text":"from ahead"}"#;
    let mut connection = redis.connection().expect("it runs");
    let mut command = ::redis::cmd("PUBLISH");
    command.arg("bobbin:{tea}:live").arg(format!("m{ahead}-0\n{body}")).query::<i64>(&mut connection).expect("a count");
    ada.hear("from ahead");
    ada.send(json!({"type": "message", "text": "after", "ref": "mine"}));
    let after = ada.hear("after");
    assert_eq!(after["at"].as_u64(), Some(ahead + 1));
    ada.send(json!({"type": "message", "text": "after", "ref": "mine"}));
    assert_eq!(ada.expect("message"), after, "its ref knows the new id");
}
