//! Proves the sending half of the chat contract on one instance, with every backplane: messages, receipts, refs,
//! typing, history, `since` and gaps.

#[macro_use]
mod common;

use common::http::metric;
use common::*;
use std::time::{Duration, Instant, SystemTime};

fn texts(messages: &Value) -> Vec<&str> {
    let messages = messages.as_array().expect("a list of messages");
    messages.iter().map(|m| m["text"].as_str().expect("a text")).collect()
}

fn id(message: &Value) -> &str {
    message["id"].as_str().expect("an id")
}

/// The key by which ids are compared.
fn rank(message: &Value) -> (u64, u64) {
    let (ms, seq) = id(message).split_once('-').expect("milliseconds-number");
    (ms.parse().expect("a number"), seq.parse().expect("a number"))
}

both! {
    // ---- messages ----

    fn a_message_reaches_everyone_and_is_the_receipt(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let receipt = ada.say("hi \"there\" <b>&amp; 🐙\nline two");
        let heard = bob.expect("message");
        assert_eq!(receipt, heard, "the same frame for both");
        assert_eq!(heard["name"], "Ada");
        assert_eq!(heard["text"], "hi \"there\" <b>&amp; 🐙\nline two");
        let (ms, _) = rank(&heard);
        let at = heard["at"].as_u64().expect("milliseconds");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(now.abs_diff(at) < 10_000, "at {at}, now {now}");
        assert_eq!(at, ms, "the id carries the time");
        assert_eq!(heard["by"], ada.welcome["by"], "the sender's own mark");
        assert_ne!(heard["by"], bob.welcome["by"]);
        assert_eq!(heard.as_object().unwrap().len(), 7, "no other fields: {heard}");

        ada.send(json!({"type": "message", "text": "no ref"}));
        let plain = bob.hear("no ref");
        assert!(plain.get("ref").is_none(), "{plain}");
        assert_eq!(ada.hear("no ref"), plain);
    }

    fn a_ref_is_its_clients_own(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        ada.send(json!({"type": "message", "text": "Ada's first", "ref": "1"}));
        bob.hear("Ada's first");
        bob.send(json!({"type": "message", "text": "Bob's first", "ref": "1"}));
        let receipt = bob.hear("Bob's first");
        assert_eq!((&receipt["by"], &receipt["ref"]), (&bob.welcome["by"], &json!("1")));
        assert_eq!(ada.hear("Bob's first"), receipt, "nobody's message is lost to another's ref");
    }

    fn the_mark_is_the_same_for_the_same_secret_only(at) {
        let server = at.start(&[]);
        let secret = "0123456789abcdef";
        let one = Client::back(server.addr, "tea", "Ada", secret, None);
        let mark = one.welcome["by"].as_str().expect("a mark").to_owned();
        one.leave();
        let elsewhere = Client::back(server.addr, "coffee", "Eve", secret, None);
        assert_eq!(elsewhere.welcome["by"], mark.as_str(), "whatever room and name");
        let other = Client::back(server.addr, "tea", "Ann", "0123456789abcdeg", None);
        assert_ne!(other.welcome["by"], mark.as_str());
        assert!(mark.len() == 16 && mark.bytes().all(|b| b.is_ascii_alphanumeric()), "{mark}");
    }

    fn ids_grow_strictly_and_all_see_one_order(at) {
        let server = at.start(&[("RATE_LIMIT", "0")]);
        let mut clients: Vec<Client> =
            ["Ada", "Bob", "Cyd"].iter().map(|name| Client::join(server.addr, "tea", name)).collect();
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(move || {
                    for n in 0..40 {
                        client.post(&format!("m{n}"));
                    }
                    for _ in 0..120 {
                        client.expect("message");
                    }
                });
            }
        });
        let orders: Vec<Vec<Value>> = clients.iter().map(Client::messages).collect();
        assert_eq!(orders[0].len(), 120);
        assert!(orders[0].is_sorted_by(|a, b| rank(a) < rank(b)));
        assert_eq!(orders[0], orders[1]);
        assert_eq!(orders[0], orders[2]);
    }

    fn texts_have_their_limits(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        for (text, kept) in [
            ("x".repeat(4096), "x".repeat(4096)),
            ("é".repeat(2048), "é".repeat(2048)),
            (format!("{}   \n", "y".repeat(4096)), "y".repeat(4096)),
            ("a nul \u{0} and lines\r\n apart\u{2028}".into(), "a nul \u{0} and lines\r\n apart".into()),
            ("  the start stays  \n ".into(), "  the start stays".into()),
        ] {
            assert_eq!(ada.say(&text)["text"], kept.as_str());
        }
        for text in ["".into(), " ".into(), "\n\t ".into(), "x".repeat(4097), format!("{}z", "é".repeat(2048))] {
            let key = ada.post(&text);
            let error = ada.expect_error("text_invalid");
            assert_eq!(error["ref"], key.as_str());
        }
    }

    fn refs_have_their_limits(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        for good in ["a".into(), "r".repeat(64), "ü".repeat(64), "a b:{c}\"".to_string()] {
            ada.send(json!({"type": "message", "text": "with a good ref", "ref": good}));
            assert_eq!(ada.hear("with a good ref")["ref"], good.as_str());
        }
        for bad in [json!(""), json!("r".repeat(65)), json!(7)] {
            ada.send(json!({"type": "message", "text": "with a bad ref", "ref": bad}));
            ada.expect_error("bad_frame");
        }
        ada.fence();
        ada.never("a refused one", |f| f["text"] == "with a bad ref");
    }

    fn a_ref_sent_again_is_said_once(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let key = unique("ref");
        let frame = |text: &str| json!({"type": "message", "text": text, "ref": key});
        ada.send(frame("once"));
        let first = ada.hear("once");
        for _ in 0..3 {
            ada.send(frame("once"));
            assert_eq!(ada.expect("message"), first, "the first one's frame again");
        }
        ada.send(frame("another text"));
        assert_eq!(ada.expect("message"), first, "the text does not matter");
        // From another connection of hers too.
        let mut again = Client::back(server.addr, "tea", "Ada", &ada.secret.clone(), None);
        assert_eq!(again.welcome["messages"], json!([first]));
        again.send(frame("once"));
        assert_eq!(again.expect("message"), first);
        again.say("after");
        bob.hear("after");
        let heard: Vec<_> = bob.messages().into_iter().filter(|m| m["ref"] == key.as_str()).collect();
        assert_eq!(heard, [first], "Bob heard it once");
    }

    fn the_same_ref_in_another_room_is_another_message(at) {
        let server = at.start(&[]);
        let mut tea = Client::join(server.addr, "tea", "Ada");
        let mut milk = Client::join(server.addr, "milk", "Ada");
        for client in [&mut tea, &mut milk] {
            client.send(json!({"type": "message", "text": "hi", "ref": "the same"}));
            client.hear("hi");
        }
        assert_eq!(Client::join(server.addr, "milk", "Bob").welcome["messages"].as_array().unwrap().len(), 1);
    }

    fn rooms_do_not_leak(at) {
        let server = at.start(&[]);
        let mut tea = Client::join(server.addr, "tea", "Ada");
        let mut milk = Client::join(server.addr, "tea-", "Bob");
        let mut cup = Client::join(server.addr, "te", "Cyd");
        milk.say("only in tea-");
        milk.send(json!({"type": "typing", "active": true}));
        cup.say("only in te");
        tea.say("only in tea");
        for client in [&mut tea, &mut milk, &mut cup] {
            client.fence();
            let heard = client.messages();
            assert_eq!(heard.len(), 1, "{heard:?}");
            assert_eq!(heard[0]["text"], format!("only in {}", client.room));
            client.never("a presence of another room", |f| f["type"] == "presence");
            assert_eq!(client.welcome["participants"], 1);
        }
        tea.never("typing of another room", |f| f["type"] == "typing");
    }

    // ---- typing ----

    fn typing_is_shown_to_the_room(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        ada.send(json!({"type": "typing", "active": true}));
        assert_eq!(bob.expect("typing"), json!({"type": "typing", "name": "Ada", "active": true}));
        // A stop within the same second may be dropped: clients let typing expire by themselves.
        poll_until("the stop is shown", PATIENCE, || {
            ada.send(json!({"type": "typing", "active": false}));
            bob.take(Duration::from_millis(200)).iter().any(|f| f == &json!({"type": "typing", "name": "Ada", "active": false}))
        });
    }

    fn typing_comes_at_most_once_a_second(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let start = Instant::now();
        for n in 0..30 {
            ada.send(json!({"type": "typing", "active": n % 2 == 0}));
        }
        ada.fence();
        ada.say("done");
        bob.hear("done");
        let allowed = 1 + start.elapsed().as_secs() as usize;
        let shown = bob.received.iter().filter(|f| f["type"] == "typing").count();
        assert!((1..=allowed).contains(&shown), "{shown} in {:?}", start.elapsed());
        ada.never("an error", |f| f["type"] == "error");
    }

    fn typing_in_a_large_room_is_gathered(at) {
        let server = at.start(&[("ADDRESS_CONNECTION_RATE", "0"), ("ADDRESS_JOINS", "0")]);
        let mut many: Vec<Client> = (0..60).map(|n| Client::join(server.addr, "tea", &format!("N{n}"))).collect();
        let (bob, many) = many.split_first_mut().expect("sixty");
        bob.fence();
        let start = Instant::now();
        for client in &mut *many {
            client.send(json!({"type": "typing", "active": true}));
            client.fence();
        }
        bob.until("somebody types", |f| f["type"] == "typing");
        many[0].say("done");
        bob.hear("done");
        // Five names, twice per second.
        let allowed = 5 * (1 + start.elapsed().as_millis() as usize / 500);
        let shown = bob.received.iter().filter(|f| f["type"] == "typing").count();
        assert!((1..=allowed.min(59)).contains(&shown), "{shown} in {:?}", start.elapsed());
        assert!(metric(server.addr, "bobbin_limited_total{limit=\"typing\"}") > 0.0, "those left out are counted");
    }

    fn with_the_limits_off_everybody_who_types_is_named(at) {
        let off = ["TYPING_NAMES", "JOINS_AT_ONCE", "LOBBY_PERCENT", "ADDRESS_CONNECTION_RATE", "ADDRESS_JOINS"];
        let server = at.start(&off.map(|setting| (setting, "0")));
        let mut many: Vec<Client> = (0..60).map(|n| Client::join(server.addr, "tea", &format!("N{n}"))).collect();
        let (bob, many) = many.split_first_mut().expect("sixty");
        many.iter_mut().for_each(|client| client.send(json!({"type": "typing", "active": true})));
        for n in 1..60 {
            bob.until("everybody types", |f| f["type"] == "typing" && f["name"] == format!("N{n}"));
        }
    }

    // ---- history, since, gap ----

    fn history_pages_back_to_the_first_message(at) {
        let server = at.start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let said: Vec<Value> = (0..175).map(|n| ada.say(&format!("m{n}"))).collect();
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let mut have: Vec<Value> = bob.welcome["messages"].as_array().unwrap().clone();
        for (limit, count, more) in [(50, 50, true), (1, 1, true), (100, 74, false)] {
            bob.send(json!({"type": "history", "before": id(&have[0]), "limit": limit}));
            let page = bob.expect("history");
            assert_eq!(page["more"], more, "limit {limit}");
            let mut messages = page["messages"].as_array().unwrap().clone();
            assert_eq!(messages.len(), count, "limit {limit}");
            messages.append(&mut have);
            have = messages;
        }
        assert_eq!(have, said);
        bob.send(json!({"type": "history", "before": id(&have[0]), "limit": 50}));
        assert_eq!(bob.expect("history"), json!({"type": "history", "messages": [], "more": false}));
    }

    fn history_is_answered_in_the_order_of_the_requests(at) {
        // Eight pages at once, each charged 8 KiB, then one per second.
        let server = at.start(&[("RATE_LIMIT", "0"), ("ADDRESS_HISTORY_RATE", "8192")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        for n in 0..30 {
            ada.post(&format!("m{n}"));
        }
        let last = ada.say("last");
        // Neither a page nor an error names its request. The length of a page shows which one it answers.
        (1..=15).for_each(|limit| ada.send(json!({"type": "history", "before": last["id"], "limit": limit})));
        ada.send(json!({"type": "ping"}));
        for limit in 1..=15 {
            let fits = |f: &Value| f["type"] == "history" || f["type"] == "error" || f["type"] == "pong";
            let answer = ada.until("an answer", fits);
            match answer["messages"].as_array() {
                Some(page) => assert_eq!(page.len(), limit),
                None => assert_eq!(answer["code"], "rate_limited", "{answer}"),
            }
        }
    }

    fn history_gives_at_most_100(at) {
        let server = at.start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        for n in 0..120 {
            ada.post(&format!("m{n}"));
        }
        let newest = ada.say("last");
        ada.send(json!({"type": "history", "before": id(&newest), "limit": 100}));
        assert_eq!(ada.expect("history")["messages"].as_array().unwrap().len(), 100);
        for odd in [json!(0), json!(101), json!(1_000_000), json!(-1), json!("many")] {
            ada.send(json!({"type": "history", "before": id(&newest), "limit": odd}));
            let answer = ada.until("a page or a refusal", |f| f["type"] == "history" || f["type"] == "error");
            if answer["type"] == "history" {
                assert!(answer["messages"].as_array().unwrap().len() <= 100, "limit {odd}");
            } else {
                assert_eq!(answer["code"], "bad_frame", "limit {odd}");
            }
        }
        ada.send(json!({"type": "history", "before": id(&newest)}));
        let page = ada.expect("history");
        assert!((1..=100).contains(&page["messages"].as_array().unwrap().len()), "without a limit");
    }

    fn ids_that_are_none_are_bad_frames(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.say("hi");
        for bad in [json!("x"), json!(""), json!("1"), json!("-"), json!("+"), json!("1-x"), json!("$"), json!(5), json!("99999999999999999999-0"), json!("1-0 COUNT 1")] {
            ada.send(json!({"type": "history", "before": bad, "limit": 5}));
            let answer = ada.until("an answer", |f| f["type"] == "error" || f["type"] == "history");
            assert_eq!(answer["code"], "bad_frame", "before {bad}: {answer}");
            let (_bob, answer) = Client::join_with(server.addr, "tea", json!({"name": "Bob", "since": bad}));
            assert_eq!(answer["code"], "bad_frame", "since {bad}: {answer}");
        }
        ada.say("still here");
    }

    fn ids_at_the_edges_are_ids(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let newest = "18446744073709551615-18446744073709551615";
        for (before, more) in [("0-0", false), ("0-1", false), (newest, false)] {
            ada.send(json!({"type": "history", "before": before, "limit": 5}));
            assert_eq!(ada.expect("history"), json!({"type": "history", "messages": [], "more": more}), "{before}");
        }
        let said = ada.say("hi");
        ada.send(json!({"type": "history", "before": "0-0", "limit": 5}));
        assert_eq!(ada.expect("history")["messages"], json!([]));
        ada.send(json!({"type": "history", "before": newest, "limit": 5}));
        assert_eq!(ada.expect("history")["messages"], json!([said]));
        for (since, messages) in [("0-1", json!([said])), (newest, json!([]))] {
            let bob = Client::back(server.addr, "tea", "Bob", &ada.secret, Some(since));
            assert_eq!(bob.welcome["messages"], messages, "{since}");
            assert_eq!(bob.welcome["gap"], true, "{since}");
            assert_eq!(bob.welcome["last"], said["id"], "{since}");
        }
    }

    fn since_brings_all_that_came_after(at) {
        let server = at.start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let said: Vec<Value> = (0..80).map(|n| ada.say(&format!("m{n}"))).collect();
        for seen in [0, 10, 78, 79] {
            let secret = unique("a-secret-for-bob");
            let mut bob = Client::back(server.addr, "tea", "Bob", &secret, Some(id(&said[seen])));
            assert_eq!(bob.welcome["messages"], json!(said[seen + 1..]), "since m{seen}");
            assert_eq!(bob.welcome["gap"], false, "since m{seen}");
            assert_eq!(bob.welcome["last"], said[79]["id"]);
            bob.fence();
            bob.never("a message twice", |f| f["type"] == "message");
            bob.leave();
            ada.see_leave("Bob");
        }
    }

    fn the_cursor_of_an_empty_room_misses_nothing(at) {
        let server = at.start(&[]);
        let bob = Client::join(server.addr, "tea", "Bob");
        assert_eq!(bob.welcome["last"], "0-0");
        let secret = bob.secret.clone();
        bob.cut();
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let said: Vec<Value> = ["one", "two", "three"].iter().map(|t| ada.say(t)).collect();
        let bob = Client::back(server.addr, "tea", "Bob", &secret, Some("0-0"));
        assert_eq!(bob.welcome["messages"], json!(said));
        assert_eq!(bob.welcome["gap"], false, "all that ever came is there");
        assert_eq!(bob.welcome["more"], false);
    }

    fn since_brings_500_at_most_and_history_the_rest(at) {
        let server = at.start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let first = ada.say("the last one that Bob saw");
        for n in 1..640 {
            ada.post(&format!("m{n}"));
        }
        let last = ada.say("m640");
        let mut bob = Client::back(server.addr, "tea", "Bob", &unique("a-secret-for-bob"), Some(id(&first)));
        let mut have = bob.welcome["messages"].as_array().unwrap().clone();
        assert_eq!(have.len(), 500, "the newest 500");
        assert_eq!(have[499], last);
        assert_eq!(bob.welcome["more"], true);
        assert_eq!(bob.welcome["gap"], false, "all are still kept");
        while rank(&have[0]) > rank(&first) {
            bob.send(json!({"type": "history", "before": id(&have[0]), "limit": 100}));
            let mut page = bob.expect("history")["messages"].as_array().unwrap().clone();
            assert!(!page.is_empty());
            page.append(&mut have);
            have = page;
        }
        have.retain(|m| rank(m) > rank(&first));
        assert_eq!(have.len(), 640);
        assert!(have.is_sorted_by(|a, b| rank(a) < rank(b)));
    }

    fn a_trimmed_log_shows_as_a_gap(at) {
        let server = at.start(&[("RATE_LIMIT", "0"), ("HISTORY_MESSAGES", "20")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let first = ada.say("m0");
        for n in 1..100 {
            ada.post(&format!("m{n}"));
        }
        let recent = ada.say("m100");
        ada.say("m101");
        let zoe = Client::back(server.addr, "tea", "Zoe", &unique("a-secret-for-zoe"), Some("0-0"));
        assert_eq!(zoe.welcome["gap"], true, "for a client that was there before the first message");
        let mut bob = Client::back(server.addr, "tea", "Bob", &unique("a-secret-for-bob"), Some(id(&first)));
        assert_eq!(bob.welcome["gap"], true);
        let kept = bob.welcome["messages"].as_array().unwrap().len();
        assert_eq!(kept, 20, "HISTORY_MESSAGES");
        assert_eq!(bob.welcome["messages"][kept - 1]["text"], "m101");
        // Messages that are no longer kept are not in the history either.
        let oldest = bob.welcome["messages"][0].clone();
        bob.send(json!({"type": "history", "before": id(&oldest), "limit": 100}));
        assert_eq!(bob.expect("history"), json!({"type": "history", "messages": [], "more": false}));
        bob.leave();
        let bob = Client::back(server.addr, "tea", "Ben", &unique("a-secret-for-bob"), Some(id(&recent)));
        assert_eq!(bob.welcome["gap"], false, "what is still kept makes no gap");
        assert_eq!(texts(&bob.welcome["messages"]), ["m101"]);
    }

    fn an_id_that_never_was_is_a_gap(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.say("hi");
        let bob = Client::back(server.addr, "tea", "Bob", &unique("a-secret-for-bob"), Some("12345-6"));
        assert_eq!(bob.welcome["gap"], true);
        assert_eq!(texts(&bob.welcome["messages"]), ["hi"]);
    }
}
