//! Proves that an instance shuts down in order: SIGTERM closes every session with 1012 after its queue is written,
//! loses no message that had a receipt, shows nobody leaving, and ends with exit code 0.

#[macro_use]
mod common;

use common::http::{get, request};
use common::*;
use std::time::{Duration, Instant};

const SHORT: &[(&str, &str)] = &[("DRAIN_SECONDS", "2"), ("RATE_LIMIT", "0")];

/// Sends the signal and waits for the end, because [`both::Server`] lends its instance only as a shared reference.
fn processes_end(pid: u32, patience: Duration) {
    poll_until("the process ends", patience, || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
}

both! {
    fn sigterm_closes_every_session_with_1012(at) {
        let server = at.start(SHORT);
        let mut clients: Vec<Client> =
            (0..20).map(|n| Client::join(server.addr, "tea", &format!("N{n}"))).collect();
        let mut early = Client::connect(server.addr, "tea"); // has not joined yet
        let start = Instant::now();
        server.signal("TERM");
        for client in &mut clients {
            client.expect_close(1012);
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        let end = early.end();
        assert!(matches!(end, End::Close(1012) | End::Cut), "{end:?}");
        processes_end(server.pid(), PATIENCE);
    }

    fn all_that_was_sent_before_the_close_has_its_answer(at) {
        let server = at.start(SHORT);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let refs: Vec<String> = (0..300).map(|n| ada.post(&format!("m{n}"))).collect();
        bob.hear("m9");
        server.signal("TERM");
        ada.expect_close(1012);
        bob.expect_close(1012);
        // Frames that the server had not read when it closed have no answer; those before them have theirs, in order.
        let receipts: Vec<Value> = ada.messages();
        assert!(!receipts.is_empty());
        for (receipt, key) in receipts.iter().zip(&refs) {
            assert_eq!(receipt["ref"], key.as_str());
        }
        if let Some(redis) = &server.redis {
            let kept: usize = redis.cmd("XLEN bobbin:{tea}:log");
            assert!(kept >= receipts.len(), "{kept} kept, {} with a receipt", receipts.len());
        }
    }
}

#[test]
fn it_exits_with_0_and_soon_when_nobody_is_there() {
    for name in ["TERM", "INT"] {
        let mut instance = Instance::start(&[]);
        let start = Instant::now();
        instance.signal(name);
        let status = instance.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "SIG{name}; its log:\n{}", instance.log());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[test]
fn it_exits_with_0_when_all_have_gone() {
    let redis = Redis::start();
    let mut instance = Instance::on(&redis, SHORT);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    instance.signal("TERM");
    ada.expect_close(1012);
    assert_eq!(instance.wait(PATIENCE).code(), Some(0), "its log:\n{}", instance.log());
}

#[test]
fn clients_that_ignore_the_close_do_not_hold_it_up() {
    let mut instance = Instance::start(SHORT);
    let _stuck: Vec<Client> = (0..5).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
    let _half = http::Connection::open(instance.addr);
    instance.signal("TERM"); // nobody reads or answers
    assert_eq!(instance.wait(Duration::from_secs(12)).code(), Some(0), "its log:\n{}", instance.log());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut instance = Instance::start(&[("DRAIN_SECONDS", "60")]);
    let mut clients: Vec<Client> = (0..20).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
    instance.signal("TERM");
    poll_until("it drains", PATIENCE, || get(instance.addr, "/readyz").status == 503);
    assert_eq!(instance.try_wait(), None, "it takes its time");
    instance.signal("TERM");
    instance.wait(PATIENCE);
    let cut = clients.iter_mut().map(Client::end).filter(|end| *end == End::Cut).count();
    assert!(cut > 10, "only {cut} of 20 were cut; the others were closed in order");
}

#[test]
fn the_closes_are_spread_over_the_time() {
    let mut instance = Instance::start(&[("DRAIN_SECONDS", "4")]);
    let mut clients: Vec<Client> = (0..40).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
    let start = Instant::now();
    instance.signal("TERM");
    let mut ends: Vec<Option<Duration>> = vec![None; clients.len()];
    poll_until("all are closed", PATIENCE, || {
        for (client, end) in clients.iter_mut().zip(&mut ends) {
            if end.is_none() && client.ended().is_some() {
                *end = Some(start.elapsed());
            }
        }
        ends.iter().all(Option::is_some)
    });
    for client in &mut clients {
        client.expect_close(1012);
    }
    let mut ends: Vec<Duration> = ends.into_iter().flatten().collect();
    ends.sort();
    let span = ends[39] - ends[0];
    assert!(span > Duration::from_millis(1_500), "not all at once: {ends:?}");
    assert!(ends[39] < Duration::from_secs(6), "{ends:?}");
    assert_eq!(instance.wait(PATIENCE).code(), Some(0));
}

#[test]
fn while_it_drains_it_answers_health_checks_and_refuses_new_sessions() {
    let redis = Redis::start();
    let mut instance = Instance::on(&redis, &[("DRAIN_SECONDS", "4")]);
    let mut clients: Vec<Client> = (0..10).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
    instance.signal("TERM");
    poll_until("not ready", PATIENCE, || get(instance.addr, "/readyz").status == 503);
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    let refusal = match Client::upgrade(instance.addr, "tea", "") {
        Err(refusal) => refusal,
        Ok(_) => panic!("a new session in an instance that goes away"),
    };
    assert_eq!(refusal.status, 503);
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(request(instance.addr, "GET", "/metrics", "").status, 200);
    for client in &mut clients {
        client.expect_close(1012);
    }
    assert_eq!(instance.wait(PATIENCE).code(), Some(0));
}

#[test]
fn those_still_waiting_for_their_close_can_talk() {
    let redis = Redis::start();
    let first = Instance::on(&redis, &[("DRAIN_SECONDS", "4"), ("RATE_LIMIT", "0")]);
    let second = Instance::on(&redis, &[("RATE_LIMIT", "0")]);
    let mut bob = Client::join(second.addr, "tea", "Bob");
    let mut ada = Client::join(first.addr, "tea", "Ada");
    let _others: Vec<Client> = (0..10).map(|n| Client::join(first.addr, "tea", &format!("N{n}"))).collect();
    first.signal("TERM");
    let mut refs = Vec::new();
    while ada.ended().is_none() {
        let key = unique("ref");
        ada.send_or_end(json!({"type": "message", "text": "still talking", "ref": key}));
        refs.push(key);
    }
    ada.expect_close(1012);
    // Messages with a receipt are delivered; the others she sends again elsewhere, and then each is there once. (She
    // may be the first to be closed, without any receipt.)
    let receipts = ada.messages();
    let mut back = Client::back(second.addr, "tea", "Ada", &ada.secret, None);
    for key in refs.iter().filter(|key| !receipts.iter().any(|r| r["ref"] == key.as_str())) {
        back.send(json!({"type": "message", "text": "still talking", "ref": key}));
        back.until("an answer", |f| f["ref"] == key.as_str());
    }
    let receipts = receipts.len();
    for _ in 0..receipts {
        bob.hear("still talking");
    }
    bob.never("anybody leaving", |f| f["type"] == "presence" && f["left"] != json!([]));
}

#[test]
fn a_deployment_shows_nobody_leaving_and_loses_nothing() {
    let redis = Redis::start();
    let mut old = Instance::on(&redis, &[("DRAIN_SECONDS", "3"), ("RATE_LIMIT", "0")]);
    let new = Instance::on(&redis, &[("RATE_LIMIT", "0")]);
    let mut watcher = Client::join(new.addr, "tea", "Watcher");
    let mut crowd: Vec<Client> = (0..12).map(|n| Client::join(old.addr, "tea", &format!("N{n}"))).collect();
    watcher.see_join("N11");
    watcher.take(Duration::from_millis(200));
    old.signal("TERM");
    // The watcher keeps sending, and each client that is closed reconnects with its last id.
    let mut back: Vec<Client> = Vec::new();
    let mut count = 0;
    poll_until("all have moved", Duration::from_secs(15), || {
        count += 1;
        watcher.say(&format!("m{count}"));
        for n in (0..crowd.len()).rev() {
            if let Some(end) = crowd[n].ended() {
                assert_eq!(end, End::Close(1012));
                let gone = crowd.remove(n);
                let name = gone.welcome["name"].as_str().unwrap().to_owned();
                let seen = gone.messages().last().map(|m| m["id"].as_str().unwrap().to_owned());
                let since = seen.unwrap_or_else(|| gone.welcome["last"].as_str().unwrap().into());
                let mut client = Client::back(new.addr, "tea", &name, &gone.secret, Some(&since));
                client.received.splice(0..0, gone.received.iter().cloned());
                back.push(client);
            }
        }
        crowd.is_empty()
    });
    assert_eq!(old.wait(PATIENCE).code(), Some(0));
    watcher.say("the end");
    for client in &mut back {
        client.hear("the end");
        let texts: Vec<String> = client.messages().iter().map(|m| m["text"].as_str().unwrap().into()).collect();
        let wanted: Vec<String> = (1..=count).map(|n| format!("m{n}")).chain(["the end".into()]).collect();
        assert_eq!(texts, wanted, "each once, in order");
    }
    watcher.fence();
    watcher.never("anybody coming or going", |f| f["type"] == "presence");
    assert_eq!(Client::join(new.addr, "tea", "Late").welcome["participants"], 14);
}
