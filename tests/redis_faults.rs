//! Proves what is promised when Redis fails: nothing with a receipt is lost, nothing that was refused is delivered,
//! everyone is notified, and the server recovers by itself.

mod common;

use common::client::has;
use common::http::{Connection, get};
use common::*;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(2);

fn ready(instance: &Instance) -> bool {
    get(instance.addr, "/readyz").status == 200
}

#[track_caller]
fn until_ready(instances: &[&Instance]) {
    for instance in instances {
        poll_until("ready", Duration::from_secs(15), || ready(instance));
    }
}

/// Sends a message and expects `unavailable` within 2 s (with a margin for a busy machine). Returns its ref.
#[track_caller]
fn refused(client: &mut Client, text: &str) -> String {
    let start = Instant::now();
    let key = client.post(text);
    let error = client.until("an answer", |f| f["ref"] == key.as_str());
    let took = start.elapsed();
    assert_eq!(error["code"], "unavailable", "{error}");
    assert!(took < SOON + Duration::from_millis(800), "refused after {took:?}");
    key
}

/// Sends a message repeatedly, with one ref as the page does, until it has its receipt.
#[track_caller]
fn say_at_last(client: &mut Client, text: &str, key: &str) -> Value {
    poll("a receipt at last", Duration::from_secs(15), || {
        client.send(json!({"type": "message", "text": text, "ref": key}));
        let answer = client.until("an answer", |f| f["ref"] == key);
        if answer["type"] == "error" {
            assert!(answer["code"] == "unavailable" || answer["code"] == "rate_limited", "{answer}");
            std::thread::sleep(Duration::from_millis(answer["retry_ms"].as_u64().unwrap_or(200)));
        }
        (answer["type"] == "message").then_some(answer)
    })
}

#[track_caller]
fn told(client: &mut Client, state: &str) {
    client.until(&format!("status {state}"), |f| *f == json!({"type": "status", "backplane": state}));
}

#[test]
fn a_redis_that_is_killed_and_comes_back_with_its_data() {
    let mut redis = Redis::durable();
    let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
    let mut ada = Client::join(first.addr, "tea", "Ada");
    let mut bob = Client::join(second.addr, "tea", "Bob");
    let kept = ada.say("before");
    redis.kill();
    told(&mut ada, "down");
    told(&mut bob, "down");
    for instance in [&first, &second] {
        poll_until("not ready", PATIENCE, || !ready(instance));
        assert_eq!(get(instance.addr, "/healthz").status, 200, "alive regardless");
    }
    let key = refused(&mut ada, "in between");
    redis.up();
    told(&mut ada, "up");
    told(&mut bob, "up");
    until_ready(&[&first, &second]);
    let late = say_at_last(&mut ada, "in between", &key);
    assert_eq!(bob.hear("in between"), late);
    assert_eq!(bob.say("after"), ada.hear("after"));
    bob.fence();
    assert_eq!(bob.messages().iter().map(|m| m["text"].clone()).collect::<Vec<_>>(), ["before", "in between", "after"]);
    bob.never("anybody leaving", |f| f["type"] == "presence" && f["left"] != json!([]));
    let cyd = Client::join(second.addr, "tea", "Cyd");
    assert_eq!(cyd.welcome["messages"][0], kept);
    assert_eq!(cyd.welcome["participants"], 3);
}

#[test]
fn a_redis_that_comes_back_empty() {
    let mut redis = Redis::start();
    let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
    let mut ada = Client::join(first.addr, "tea", "Ada");
    let mut bob = Client::join(second.addr, "tea", "Bob");
    let lost = ada.say("before");
    bob.hear("before");
    redis.kill();
    told(&mut ada, "down");
    redis.wipe();
    redis.up();
    told(&mut ada, "up");
    told(&mut bob, "up");
    until_ready(&[&first, &second]);
    let key = unique("ref");
    let new = say_at_last(&mut ada, "after", &key);
    assert_eq!(bob.hear("after"), new);
    assert!(new["at"].as_u64() >= lost["at"].as_u64(), "ids go on to grow: they carry the time");
    // A client that was away resumes after a message that is gone.
    let secret = unique("a-secret-for-cyd");
    let cyd = Client::back(second.addr, "tea", "Cyd", &secret, lost["id"].as_str());
    assert_eq!(cyd.welcome["gap"], true);
    assert_eq!(cyd.welcome["messages"], json!([new]));
    // Those who stayed connected are in the room again, with their names.
    poll_until("all three are here", Duration::from_secs(20), || {
        let late = Client::join(first.addr, "tea", &unique("L"));
        let count = late.welcome["participants"].as_u64();
        late.leave();
        count == Some(4)
    });
    let mut eve = Client::connect(second.addr, "tea");
    assert_eq!(eve.try_enter("Ada", None)["code"], "name_taken");
}

#[test]
fn a_redis_that_hangs() {
    let redis = Redis::start();
    let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
    let mut ada = Client::join(first.addr, "tea", "Ada");
    let mut bob = Client::join(second.addr, "tea", "Bob");
    ada.say("before");
    bob.hear("before");
    redis.freeze();
    let key = refused(&mut ada, "while it hangs");
    told(&mut ada, "down");
    told(&mut bob, "down");
    for instance in [&first, &second] {
        poll_until("not ready", PATIENCE, || !ready(instance));
        let body = get(instance.addr, "/readyz").text();
        assert!(body.to_lowercase().contains("redis") || body.contains("backplane"), "says why: {body}");
        assert_eq!(get(instance.addr, "/healthz").status, 200);
    }
    refused(&mut bob, "from the other instance");
    ada.fence(); // what needs no Redis still works
    redis.thaw();
    told(&mut ada, "up");
    told(&mut bob, "up");
    until_ready(&[&first, &second]);
    // The hung Redis may have executed what was refused: resent with the same ref, it still appears once.
    let receipt = say_at_last(&mut ada, "while it hangs", &key);
    assert_eq!(bob.hear("while it hangs"), receipt);
    ada.say("after");
    bob.hear("after");
    assert_eq!(bob.messages().iter().filter(|m| m["ref"] == key.as_str()).count(), 1);
    let ids: Vec<_> = bob.messages().iter().map(|m| m["id"].clone()).collect();
    ada.fence();
    let hers: Vec<_> = ada.messages().iter().map(|m| m["id"].clone()).collect();
    assert!(hers.iter().all(|id| ids.contains(id)), "what she has, he has: {hers:?} {ids:?}");
}

#[test]
fn joins_and_histories_are_refused_while_redis_hangs() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let said = ada.say("hi");
    redis.freeze();
    let mut bob = Client::connect(instance.addr, "tea");
    let start = Instant::now();
    (0..2).for_each(|_| ada.send(json!({"type": "history", "before": said["id"], "limit": 10})));
    refused(&mut ada, "while a page is being read");
    assert_eq!(bob.try_enter("Bob", None)["code"], "unavailable");
    for _ in 0..2 {
        ada.until("the page is refused", |f| f["code"] == "unavailable" && f.get("ref").is_none());
    }
    assert!(start.elapsed() < SOON * 3 + Duration::from_secs(1), "{:?}", start.elapsed());
    redis.thaw();
    until_ready(&[&instance]);
    poll_until("Bob may join on the same connection", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        bob.try_enter("Bob", None)["type"] == "welcome"
    });
    ada.see_join("Bob");
}

#[test]
fn many_refusals_for_a_redis_that_is_away_end_no_connection() {
    let mut redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    redis.kill();
    told(&mut ada, "down");
    for _ in 0..5 {
        let refs: Vec<String> = (0..4).map(|n| ada.post(&format!("m{n}"))).collect();
        for key in refs {
            assert_eq!(ada.until("an answer", |f| f["ref"] == key.as_str())["type"], "error");
        }
    }
    std::thread::sleep(Duration::from_millis(1_500)); // lets the rate limit's bucket refill a little
    for _ in 0..5 {
        let key = ada.post("again");
        ada.until("an answer", |f| f["ref"] == key.as_str());
    }
    ada.fence();
    assert_eq!(ada.ended(), None);
}

#[test]
fn a_redis_that_is_not_there_at_the_start() {
    let mut redis = Redis::absent(&[]);
    let instance = Instance::start(&[("REDIS_ENDPOINT", &redis.endpoint())]);
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    let why = get(instance.addr, "/readyz");
    assert_eq!(why.status, 503);
    assert!(why.json().is_object(), "{}", why.text());
    assert!(instance.log().to_lowercase().contains("redis"), "the log says so:\n{}", instance.log());
    let mut ada = Client::connect(instance.addr, "tea");
    assert_eq!(ada.try_enter("Ada", None)["code"], "unavailable");
    redis.up();
    until_ready(&[&instance]);
    ada.enter("Ada", None);
    ada.say("patience pays");
}

#[test]
fn scripts_that_redis_has_forgotten_are_sent_again() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("before");
    redis.cmd::<String>("SCRIPT FLUSH");
    ada.say("after");
    Client::join(instance.addr, "tea", "Bob").leave();
    ada.see_leave("Bob");
}

#[test]
fn connections_that_redis_ends_are_made_again_and_nothing_is_missed() {
    let redis = Redis::start();
    let (first, second) = (Instance::on(&redis, &[("RATE_LIMIT", "0")]), Instance::on(&redis, &[]));
    let mut ada = Client::join(first.addr, "tea", "Ada");
    let mut bob = Client::join(second.addr, "tea", "Bob");
    let mut said = Vec::new();
    for round in 0..8 {
        let kind = ["pubsub", "normal"][round % 2];
        redis.cmd::<i64>(&format!("CLIENT KILL TYPE {kind} SKIPME yes"));
        for n in 0..5 {
            let text = format!("round {round}, {n}");
            said.push(say_at_last(&mut ada, &text, &unique("ref")));
        }
    }
    for message in &said {
        let heard = bob.until("each of them", |f| f["id"] == message["id"]);
        assert_eq!(heard, *message);
    }
    bob.fence();
    assert_eq!(bob.messages(), said, "each once, in order");
}

#[test]
fn a_redis_without_memory_refuses_and_says_so() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("before");
    redis.cmd::<String>("CONFIG SET maxmemory 1");
    let key = refused(&mut ada, "no room for this");
    redis.cmd::<String>("CONFIG SET maxmemory 0");
    say_at_last(&mut ada, "no room for this", &key);
    assert_eq!(ada.messages().len(), 2);
}

#[test]
fn keys_of_a_wrong_type_harm_one_room_alone() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    redis.cmd::<String>("SET bobbin:{cursed}:log nonsense");
    let mut bob = Client::connect(instance.addr, "cursed");
    let answer = bob.try_enter("Bob", None);
    if answer["type"] == "welcome" {
        let key = bob.post("hello?");
        assert_eq!(bob.until("an answer", |f| f["ref"] == key.as_str())["type"], "error");
    } else {
        assert_eq!(answer["code"], "unavailable", "{answer}");
    }
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("all is well here");
}

#[test]
fn noise_on_the_channel_and_in_the_log_is_survived() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("before");
    for noise in ["", "nonsense", "{}", "[]", "null", "{\"type\":\"message\"}", "{\"id\":7}", "1-1", "m", "\u{7f}"] {
        if noise.is_empty() {
            continue; // redis.cmd splits at spaces
        }
        redis.cmd::<i64>(&format!("PUBLISH bobbin:{{tea}}:live {noise}"));
    }
    redis.cmd::<String>("XADD bobbin:{tea}:log * strange field");
    ada.say("after");
    let bob = Client::join(instance.addr, "tea", "Bob");
    let texts: Vec<_> = bob.welcome["messages"].as_array().unwrap().iter().map(|m| m["text"].clone()).collect();
    assert_eq!(texts, ["before", "after"]);
}

#[test]
fn sigterm_ends_an_instance_whose_redis_hangs() {
    let redis = Redis::start();
    let mut instance = Instance::on(&redis, &[("DRAIN_SECONDS", "1")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    redis.freeze();
    ada.post("into the void"); // no answer is possible too: she sends it again elsewhere
    instance.signal("TERM");
    ada.expect_close(1012);
    assert!(instance.wait(Duration::from_secs(15)).success());
    redis.thaw();
}

#[test]
fn two_rooms_talk_through_a_redis_that_comes_and_goes() {
    let mut redis = Redis::durable();
    let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
    let mut pairs: Vec<(Client, Client)> = ["tea", "milk"]
        .map(|room| (Client::join(first.addr, room, "Ada"), Client::join(second.addr, room, "Bob")))
        .into();
    for round in 0..3 {
        redis.kill();
        let keys: Vec<String> = pairs.iter_mut().map(|(ada, _)| ada.post(&format!("r{round}"))).collect();
        redis.up();
        for ((ada, bob), key) in pairs.iter_mut().zip(&keys) {
            let text = format!("r{round}");
            let answer = ada.until("an answer", |f| f["ref"] == key.as_str());
            let receipt = if answer["type"] == "message" { answer } else { say_at_last(ada, &text, key) };
            assert_eq!(bob.hear(&text), receipt);
        }
    }
    for (ada, bob) in &mut pairs {
        ada.fence();
        assert_eq!(bob.messages().len(), 3, "each once");
        let mut hers: Vec<_> = ada.messages().iter().map(|m| m["id"].to_string()).collect();
        hers.sort();
        hers.dedup();
        assert_eq!(hers.len(), 3);
    }
}

#[test]
fn sigterm_ends_an_instance_whose_redis_was_never_there() {
    let redis = Redis::absent(&[]);
    let mut instance = Instance::start(&[("REDIS_ENDPOINT", &redis.endpoint())]);
    let _waiting = Client::connect(instance.addr, "tea");
    instance.signal("TERM");
    assert_eq!(instance.wait(PATIENCE).code(), Some(0), "its log:\n{}", instance.log());
}

#[test]
fn refs_and_rooms_that_nobody_needs_do_not_stay_for_ever() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[("ADMIN_TOKEN", "the-token-of-the-host")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let removed = ada.say("removed");
    let path = format!("/admin/rooms/tea/messages/{}", removed["id"].as_str().expect("an id"));
    let token = "Authorization: Bearer the-token-of-the-host\r\n";
    assert_eq!(Connection::open(instance.addr).request("DELETE", &path, token).status, 200);
    assert_eq!(redis.cmd::<i64>("EXISTS bobbin:{tea}:gone"), 1);
    ada.send(json!({"type": "message", "text": "hi", "ref": "mine"}));
    ada.hear("hi");
    let seconds: i64 =
        redis.cmd(&format!("TTL bobbin:{{tea}}:ref:{}:mine", ada.welcome["by"].as_str().expect("a mark")));
    assert!((590..=600).contains(&seconds), "10 minutes, not {seconds} s");
    ada.leave();
    poll_until("who was there is forgotten", PATIENCE, || {
        redis.cmd::<i64>("EXISTS bobbin:{tea}:here bobbin:{tea}:who") == 0
    });
    for key in redis.cmd::<Vec<String>>("KEYS *") {
        assert_ne!(redis.cmd::<i64>(&format!("TTL {key}")), -1, "{key} stays for ever");
    }
}

#[test]
fn who_came_and_went_while_an_instance_heard_nothing_is_told_afterwards() {
    let redis = Redis::start();
    let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
    let mut ada = Client::join(first.addr, "tea", "Ada");
    let bob = Client::join(second.addr, "tea", "Bob");
    ada.see_join("Bob");
    // While its subscription is cut repeatedly, one client leaves and one joins on the other instance.
    let cyd = std::thread::scope(|scope| {
        let goes_and_comes = scope.spawn(|| {
            bob.leave();
            poll("Cyd joins", PATIENCE, || {
                let mut client = Client::connect(second.addr, "tea");
                (client.try_enter("Cyd", None)["type"] == "welcome").then_some(client)
            })
        });
        for _ in 0..10 {
            redis.cmd::<i64>("CLIENT KILL TYPE pubsub");
            std::thread::sleep(Duration::from_millis(20));
        }
        goes_and_comes.join().expect("Cyd joins")
    });
    // They may share a frame.
    let told = |ada: &Client, list: &str, name: &str| ada.received.iter().any(|f| has(&f[list], name));
    poll_until("Ada knows", Duration::from_secs(20), || {
        ada.take(Duration::from_millis(50));
        told(&ada, "left", "Bob") && told(&ada, "joined", "Cyd")
    });
    assert_eq!(ada.participants(), 2);
    drop(cyd);
}
