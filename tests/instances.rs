//! Proves that any number of instances on one Redis are one chat: messages, typing, presence, counts, names and
//! take-overs cross between them, in one order, and rooms are separate.

mod common;

use common::client::has;
use common::*;
use std::collections::HashMap;
use std::time::{Duration, Instant};

fn rank(message: &Value) -> (u64, u64) {
    let (ms, seq) = message["id"].as_str().expect("an id").split_once('-').expect("milliseconds-number");
    (ms.parse().expect("a number"), seq.parse().expect("a number"))
}

/// A Redis and this number of instances on it. (The instances are dropped before it.)
fn instances(count: usize, settings: &[(&str, &str)]) -> (Vec<Instance>, Redis) {
    let redis = Redis::start();
    let instances = (0..count).map(|_| Instance::on(&redis, settings)).collect();
    (instances, redis)
}

#[test]
fn messages_typing_presence_and_counts_cross() {
    let (instances, _redis) = instances(2, &[]);
    let mut ada = Client::join(instances[0].addr, "tea", "Ada");
    let mut bob = Client::join(instances[1].addr, "tea", "Bob");
    assert_eq!(bob.welcome["names"], json!(["Ada", "Bob"]));
    assert_eq!(bob.welcome["participants"], 2);
    assert_eq!(ada.expect("presence"), json!({"type": "presence", "joined": ["Bob"], "left": [], "participants": 2}));
    let receipt = ada.say("hi Bob");
    assert_eq!(bob.expect("message"), receipt);
    let answer = bob.say("hi Ada");
    assert_eq!(ada.expect("message"), answer);
    ada.send(json!({"type": "typing", "active": true}));
    assert_eq!(bob.expect("typing"), json!({"type": "typing", "name": "Ada", "active": true}));
    let cyd = Client::join(instances[0].addr, "tea", "Cyd");
    assert_eq!(cyd.welcome["messages"], json!([receipt, answer]));
    assert_eq!(bob.see_join("Cyd")["participants"], 3);
    cyd.leave();
    assert_eq!(bob.see_leave("Cyd")["participants"], 2);
    ada.leave();
    assert_eq!(bob.see_leave("Ada")["participants"], 1);
}

#[test]
fn a_close_frame_is_a_leave_on_every_instance_within_250_ms() {
    let (instances, _redis) = instances(2, &[]);
    let mut ada = Client::join(instances[0].addr, "tea", "Ada");
    ada.sees_a_leave_within_250_ms(instances[1].addr);
}

#[test]
fn the_order_is_the_same_for_all_on_three_instances() {
    let (instances, _redis) = instances(3, &[("RATE_LIMIT", "0")]);
    let mut clients: Vec<Client> =
        (0..6).map(|n| Client::join(instances[n % 3].addr, "tea", &format!("N{n}"))).collect();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || {
                for n in 0..60 {
                    client.post(&format!("m{n}"));
                    if n % 10 == 0 {
                        client.fence(); // some are ahead of others
                    }
                }
                for _ in 0..360 {
                    client.expect("message");
                }
            });
        }
    });
    let first = clients[0].messages();
    assert_eq!(first.len(), 360, "each once");
    assert!(first.is_sorted_by(|a, b| rank(a) < rank(b)));
    for client in &clients[1..] {
        assert_eq!(client.messages(), first);
    }
    // Each sender's own messages are in the order of sending.
    let mut next: HashMap<&str, usize> = HashMap::new();
    for message in &first {
        let count = next.entry(message["name"].as_str().unwrap()).or_default();
        assert_eq!(message["text"], format!("m{count}"), "of {}", message["name"]);
        *count += 1;
    }
    // The same holds for a client that joins now.
    let late = Client::join(instances[1].addr, "tea", "Late");
    assert_eq!(late.messages(), first[310..]);
}

#[test]
fn rooms_do_not_leak_across_instances() {
    let (instances, _redis) = instances(2, &[]);
    let mut here: Vec<Client> = ["a", "a-b", "b"].map(|room| Client::join(instances[0].addr, room, "Ada")).into();
    let mut there: Vec<Client> = ["a", "a-b", "b"].map(|room| Client::join(instances[1].addr, room, "Bob")).into();
    for client in &mut here {
        client.say(&format!("to {}", client.room.clone()));
    }
    for (ada, bob) in here.iter_mut().zip(&mut there) {
        let text = format!("to {}", bob.room);
        bob.hear(&text);
        bob.say("thanks");
        ada.hear("thanks");
        ada.fence();
        bob.fence();
        assert_eq!(ada.messages().len(), 2);
        assert_eq!(bob.messages().len(), 2);
        assert_eq!(ada.participants(), 2);
    }
}

#[test]
fn one_ref_sent_from_four_connections_on_two_instances_is_one_message() {
    let (instances, _redis) = instances(2, &[("RATE_LIMIT", "0")]);
    let mut watcher = Client::join(instances[0].addr, "tea", "Watcher");
    // One client under four names: refs belong to the secret.
    let secret = unique("secret");
    let join = |n: usize| Client::back(instances[n % 2].addr, "tea", &format!("N{n}"), &secret, None);
    let mut clients: Vec<Client> = (0..4).map(join).collect();
    for round in 0..25 {
        let key = unique("race");
        let gate = std::sync::Barrier::new(clients.len());
        std::thread::scope(|scope| {
            for client in &mut clients {
                let (key, gate) = (&key, &gate);
                scope.spawn(move || {
                    gate.wait();
                    client.send(json!({"type": "message", "text": format!("round {round}"), "ref": key}));
                    client.until("the receipt", |f| f["type"] == "message" && f["ref"] == key.as_str());
                });
            }
        });
    }
    watcher.say("the end");
    let all = watcher.messages();
    assert_eq!(all.len(), 26, "one a round, and the last");
    for client in &mut clients {
        client.hear("the end");
        let mut ids: Vec<String> = client.messages().iter().map(|m| m["id"].to_string()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 26, "the receipts show the very same ids");
    }
    assert_eq!(Client::join(instances[1].addr, "tea", "Late").messages(), all);
}

#[test]
fn a_ref_sent_again_on_another_instance_gets_the_first_frame() {
    let (instances, _redis) = instances(2, &[]);
    let mut bob = Client::join(instances[1].addr, "tea", "Bob");
    let mut ada = Client::join(instances[0].addr, "tea", "Ada");
    let receipt = ada.say("once");
    let secret = ada.secret.clone();
    ada.cut();
    let mut ada = Client::back(instances[1].addr, "tea", "Ada", &secret, receipt["id"].as_str());
    ada.send(json!({"type": "message", "text": "once", "ref": receipt["ref"]}));
    assert_eq!(ada.expect("message"), receipt);
    bob.say("fence");
    bob.fence();
    assert_eq!(bob.messages().len(), 2, "Bob heard it once");
}

#[test]
fn a_name_is_one_person_across_instances() {
    let (instances, _redis) = instances(2, &[]);
    let ada = Client::join(instances[0].addr, "tea", "Ada");
    for instance in &instances {
        let mut eve = Client::connect(instance.addr, "tea");
        assert_eq!(eve.try_enter("ADA", None)["code"], "name_taken");
    }
    Client::join(instances[1].addr, "milk", "Ada").leave();
    ada.leave();
    poll_until("the name is free", PATIENCE, || {
        Client::connect(instances[1].addr, "tea").try_enter("ada", None)["type"] == "welcome"
    });
}

#[test]
fn of_many_who_want_one_name_at_once_one_gets_it() {
    let (instances, _redis) = instances(2, &[]);
    let mut clients: Vec<Client> = (0..8).map(|n| Client::connect(instances[n % 2].addr, "tea")).collect();
    let gate = std::sync::Barrier::new(clients.len());
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let joins: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(|| {
                    gate.wait();
                    client.try_enter("Ada", None)
                })
            })
            .collect();
        joins.into_iter().map(|join| join.join().expect("an answer")).collect()
    });
    let welcome = answers.iter().filter(|a| a["type"] == "welcome").count();
    let taken = answers.iter().filter(|a| a["code"] == "name_taken").count();
    assert_eq!((welcome, taken), (1, 7), "{answers:?}");
}

#[test]
fn the_same_client_takes_over_on_another_instance_in_silence() {
    let (instances, _redis) = instances(2, &[]);
    let mut bob = Client::join(instances[0].addr, "tea", "Bob");
    let mut old = Client::join(instances[0].addr, "tea", "Ada");
    bob.see_join("Ada");
    let secret = old.secret.clone();
    let mut new = Client::back(instances[1].addr, "tea", "Ada", &secret, None);
    old.expect_close(4001);
    assert_eq!(new.welcome["participants"], 2);
    // And back again, with everything sent meanwhile.
    let said = new.say("over here");
    bob.hear("over here");
    let mut back = Client::back(instances[0].addr, "tea", "Ada", &secret, None);
    new.expect_close(4001);
    assert_eq!(back.welcome["messages"], json!([said]));
    back.say("and back");
    bob.hear("and back");
    bob.fence();
    bob.never("a presence", |f| f["type"] == "presence");
    assert_eq!(Client::join(instances[1].addr, "tea", "Cyd").welcome["participants"], 3);
}

#[test]
fn a_client_whose_instance_was_killed_goes_on_elsewhere() {
    let (mut instances, _redis) = instances(2, &[]);
    let mut bob = Client::join(instances[1].addr, "tea", "Bob");
    let mut ada = Client::join(instances[0].addr, "tea", "Ada");
    bob.see_join("Ada");
    let seen = ada.say("before the crash");
    instances[0].kill();
    assert_eq!(ada.end(), End::Cut);
    let missed = bob.say("did you see that?");
    let mut ada = Client::back(instances[1].addr, "tea", "Ada", &ada.secret, seen["id"].as_str());
    assert_eq!(ada.welcome["messages"], json!([missed]));
    assert_eq!(ada.welcome["gap"], false);
    ada.say("I am back");
    bob.hear("I am back");
    bob.never("a presence", |f| f["type"] == "presence");
}

#[test]
fn nothing_is_lost_or_doubled_when_an_instance_is_killed_under_load() {
    let (mut instances, _redis) = instances(2, &[("RATE_LIMIT", "0")]);
    let safe = instances[1].addr;
    let mut watcher = Client::join(safe, "tea", "Watcher");
    let mut senders: Vec<Client> = (0..3).map(|n| Client::join(instances[0].addr, "tea", &format!("N{n}"))).collect();
    // Each sends without waiting; the instance dies in the middle of it.
    let refs: Vec<Vec<String>> =
        senders.iter_mut().map(|s| (0..200).map(|n| s.post(&format!("m{n}"))).collect()).collect();
    watcher.hear("m20");
    instances[0].kill();
    for (sender, refs) in senders.iter_mut().zip(&refs) {
        sender.end();
        let receipts: Vec<Value> = sender.messages();
        let mut back = Client::back(safe, "tea", sender.welcome["name"].as_str().unwrap(), &sender.secret, None);
        // Messages with a receipt are not resent; all others are, with their refs.
        for (n, key) in refs.iter().enumerate() {
            if !receipts.iter().any(|r| r["ref"] == key.as_str()) {
                back.send(json!({"type": "message", "text": format!("m{n}"), "ref": key}));
                back.until("the receipt", |f| f["type"] == "message" && f["ref"] == key.as_str());
                watcher.still_open();
            }
        }
    }
    watcher.say("the end");
    let all = watcher.messages();
    assert!(all.is_sorted_by(|a, b| rank(a) < rank(b)));
    assert_eq!(all.len(), 601, "600 messages, each once, and the last");
    for key in refs.iter().flatten() {
        assert_eq!(all.iter().filter(|m| m["ref"] == key.as_str()).count(), 1, "{key}");
    }
}

#[test]
fn a_reconnect_in_the_midst_of_talk_misses_nothing() {
    let (instances, _redis) = instances(2, &[("RATE_LIMIT", "0")]);
    let mut ada = Client::join(instances[0].addr, "tea", "Ada");
    let talk = std::thread::spawn(move || {
        // Fewer than the 500 that one welcome holds: on a busy machine Bob may be away for all of them.
        for n in 0..480 {
            ada.post(&format!("m{n}"));
            if n % 10 == 0 {
                ada.fence();
            }
        }
        ada.say("the end");
        ada
    });
    // Bob moves between the instances, with the last id he saw.
    let mut bob = Client::join(instances[1].addr, "tea", "Bob");
    let mut seen: Vec<Value> = Vec::new();
    let mut cursor = bob.welcome["last"].as_str().unwrap().to_owned();
    for hop in 0.. {
        let end = |m: &Value| m["text"] == "the end";
        let frames = bob.take(Duration::from_millis(40));
        let done = bob.messages().iter().any(end);
        assert!(bob.welcome["gap"] == false || hop == 0);
        drop(frames);
        seen.extend(bob.messages());
        if let Some(last) = seen.last() {
            cursor = last["id"].as_str().unwrap().to_owned();
        }
        if done {
            break;
        }
        assert!(hop < 500, "Ada never came to the end");
        let secret = bob.secret.clone();
        bob.cut();
        bob = Client::back(instances[hop % 2].addr, "tea", "Bob", &secret, Some(&cursor));
    }
    let ada = talk.join().expect("Ada's thread");
    // Bob may have joined after her first messages: his first welcome holds at most the last 50 of them.
    let said = ada.messages();
    let from = said.iter().position(|m| m["id"] == seen[0]["id"]).expect("one of hers");
    let told: Vec<_> = seen.iter().map(|m| m["text"].clone()).collect();
    let wanted: Vec<_> = said[from..].iter().map(|m| m["text"].clone()).collect();
    assert_eq!(told, wanted, "each once, in order");
}

#[test]
fn in_a_room_over_50_notices_are_gathered() {
    let (instances, _redis) = instances(2, &[]);
    let mut watcher = Client::join(instances[0].addr, "hall", "Watcher");
    let mut crowd: Vec<Client> =
        (0..60).map(|n| Client::join(instances[n % 2].addr, "hall", &format!("N{n:02}"))).collect();
    watcher.see_participants(61);
    watcher.take(Duration::from_millis(1500)); // notices still being gathered
    // Now a burst of 30 more: they are announced in few frames.
    let before = watcher.received.len();
    let start = Instant::now();
    crowd.extend((60..90).map(|n| Client::join(instances[n % 2].addr, "hall", &format!("N{n}"))));
    watcher.see_participants(91);
    watcher.take(Duration::from_millis(1200));
    let frames: Vec<Value> = watcher.received[before..].to_vec();
    let notices: Vec<&Value> = frames.iter().filter(|f| f["type"] == "presence").collect();
    let allowed = 2 + start.elapsed().as_secs() as usize;
    assert!(notices.len() <= allowed, "{} frames in {:?}", notices.len(), start.elapsed());
    for notice in &notices {
        assert!(notice["joined"].as_array().unwrap().len() <= 20, "at most 20 names a list: {notice}");
    }
    // The same when they leave, and the count is right at once for all.
    let before = watcher.received.len();
    let start = Instant::now();
    for client in crowd.drain(60..) {
        client.leave();
    }
    let left = Instant::now();
    watcher.see_participants(61);
    assert!(left.elapsed() < Duration::from_secs(5), "gathered for {:?}", left.elapsed());
    let allowed = 3 + start.elapsed().as_secs() as usize;
    let notices = watcher.received[before..].iter().filter(|f| f["type"] == "presence");
    assert!(notices.clone().count() <= allowed, "{notices:?}");
    let last = Client::join(instances[1].addr, "hall", "Last");
    assert_eq!(last.welcome["participants"], 62);
}

#[test]
fn a_welcome_names_at_most_100_sorted() {
    let (instances, _redis) = instances(2, &[]);
    let _crowd: Vec<Client> =
        (0..110).rev().map(|n| Client::join(instances[n % 2].addr, "hall", &format!("N{n:03}"))).collect();
    let last = Client::join(instances[0].addr, "hall", "Z");
    let names = last.welcome["names"].as_array().unwrap();
    assert_eq!(last.welcome["participants"], 111, "the count is the truth");
    assert_eq!(names.len(), 100);
    assert!(names.is_sorted_by(|a, b| a.as_str() < b.as_str()), "{names:?}");
}

#[test]
fn many_rooms_on_two_instances() {
    let (instances, _redis) = instances(2, &[]);
    let mut pairs: Vec<(Client, Client)> = (0..40)
        .map(|n| {
            let room = format!("room{n}");
            (Client::join(instances[0].addr, &room, "Ada"), Client::join(instances[1].addr, &room, "Bob"))
        })
        .collect();
    for (ada, _) in &mut pairs {
        ada.post("hi");
    }
    for (ada, bob) in &mut pairs {
        bob.hear("hi");
        assert_eq!(bob.messages().len(), 1);
        assert!(has(&bob.welcome["names"], "Ada"));
        ada.see_join("Bob");
    }
    // Rooms that were left can be joined again, and receive messages again.
    let (ada, bob) = pairs.pop().expect("a pair");
    let room = bob.room.clone();
    bob.leave();
    ada.leave();
    // Other names: the close frames are answered a moment before the names are free.
    let mut ada = Client::join(instances[0].addr, &room, "Ann");
    let mut bob = Client::join(instances[1].addr, &room, "Ben");
    ada.say("again");
    bob.hear("again");
}
