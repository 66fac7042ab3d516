//! Proves the chat half of the wire contract on one task: every frame, every error code and every close code that
//! needs no long wait, each in memory and with a Redis.

#[macro_use]
mod common;

use common::client::has;
use common::*;
use std::time::{Duration, Instant, SystemTime};
use tungstenite::protocol::frame::coding::Data;

/// Sends a join with extra fields on a fresh connection and gives the connection and its answer.
fn join_with(task: &Task, room: &str, fields: Value) -> (Client, Value) {
    let mut client = Client::connect(task.addr, room);
    let mut join = json!({"type": "join"});
    for (name, value) in fields.as_object().expect("an object") {
        join[name] = value.clone();
    }
    client.send(join);
    let answer = client.next();
    (client, answer)
}

fn texts(messages: &Value) -> Vec<&str> {
    let messages = messages.as_array().expect("a list of messages");
    messages
        .iter()
        .map(|m| m["text"].as_str().expect("a text"))
        .collect()
}

fn id(message: &Value) -> &str {
    message["id"].as_str().expect("an id")
}

/// An id as what it is compared by.
fn rank(message: &Value) -> (u64, u64) {
    let (ms, seq) = id(message).split_once('-').expect("milliseconds-number");
    (
        ms.parse().expect("a number"),
        seq.parse().expect("a number"),
    )
}

both! {
    // ---- join and welcome ----

    fn welcome_is_complete(at) {
        let server = at.start(&[]);
        let mut ada = Client::connect(server.addr, "tea");
        ada.send(json!({"type": "join", "name": "Ada"}));
        let welcome = ada.next();
        assert_eq!(
            welcome,
            json!({"type": "welcome", "name": "Ada", "room": "tea", "participants": 1, "names": ["Ada"],
                   "messages": [], "last": "0-0", "more": false, "gap": false})
        );
        ada.fence();
        ada.never("a presence about itself", |f| f["type"] == "presence");
    }

    fn welcome_holds_the_last_50_messages_and_the_names_sorted(at) {
        let server = at.start(&[("RATE_LIMIT", "0")]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let _cyd = Client::join(server.addr, "tea", "Cyd");
        for n in 0..60 {
            bob.say(&format!("m{n}"));
        }
        let last = bob.say("m60");
        let ada = Client::join(server.addr, "tea", "Ada");
        let welcome = &ada.welcome;
        assert_eq!(welcome["names"], json!(["Ada", "Bob", "Cyd"]));
        assert_eq!(welcome["participants"], 3);
        let wanted: Vec<String> = (11..=60).map(|n| format!("m{n}")).collect();
        assert_eq!(texts(&welcome["messages"]), wanted, "the last 50, oldest first");
        assert_eq!(welcome["messages"][49], last, "a kept message is the frame that was live");
        assert_eq!(welcome["last"], last["id"]);
        assert_eq!(welcome["more"], true);
        assert_eq!(welcome["gap"], false);
    }

    fn with_few_messages_there_are_no_more(at) {
        let server = at.start(&[("RATE_LIMIT", "0")]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        for n in 0..50 {
            bob.say(&format!("m{n}"));
        }
        let ada = Client::join(server.addr, "tea", "Ada");
        assert_eq!(texts(&ada.welcome["messages"]).len(), 50);
        assert_eq!(ada.welcome["more"], false, "50 of 50");
    }

    fn names_are_trimmed_and_folded(at) {
        let server = at.start(&[]);
        let (_one, welcome) = join_with(&server, "tea", json!({"name": "  Ada \u{a0} of \t\u{3000} Tea "}));
        assert_eq!(welcome["name"], "Ada of Tea", "{welcome}");
        for (name, shown) in [
            ("x".repeat(32), "x".repeat(32)),
            ("ü".repeat(32), "ü".repeat(32)),
            ("🐙".repeat(32), "🐙".repeat(32)),
            (format!("   {}   ", "y".repeat(32)), "y".repeat(32)),
            ("<b>&\"'".into(), "<b>&\"'".into()),
            ("מיכל".into(), "מיכל".into()),
        ] {
            let (_client, welcome) = join_with(&server, &unique("r")[..12].to_lowercase(), json!({"name": name}));
            assert_eq!(welcome["name"], shown.as_str(), "{welcome}");
        }
    }

    fn names_that_cannot_be_are_name_invalid(at) {
        let server = at.start(&[]);
        for name in [
            "".into(),
            "   ".into(),
            "x".repeat(33),
            "🐙".repeat(33),
            "Ada\u{7}".into(),
            "A\u{0}da".into(),
            "A\u{7f}da".into(),
            "A\u{85}\u{9b}da".into(),
            "Ada\u{202e}".into(),
            "\u{202a}Ada".into(),
            "A\u{2066}da".into(),
            "A\u{2069}da".into(),
        ] {
            let (_client, answer) = join_with(&server, "tea", json!({"name": name}));
            assert_eq!(answer["code"], "name_invalid", "{name:?}: {answer}");
        }
        let mut watcher = Client::join(server.addr, "tea", "Ada");
        assert_eq!(watcher.welcome["participants"], 1, "none of them is in the room");
        watcher.fence();
    }

    fn after_a_refused_name_the_connection_may_try_again(at) {
        let server = at.start(&[]);
        let _ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::connect(server.addr, "tea");
        assert_eq!(bob.try_enter("", None)["code"], "name_invalid");
        assert_eq!(bob.try_enter("ada", None)["code"], "name_taken");
        assert_eq!(bob.try_enter("Ada", None)["code"], "name_taken");
        assert_eq!(bob.try_enter("\u{7}", None)["code"], "name_invalid");
        bob.enter("Bob", None);
        bob.say("the fifth try was good");
    }

    fn five_refused_names_end_the_connection(at) {
        let server = at.start(&[]);
        let mut bob = Client::connect(server.addr, "tea");
        for _ in 0..5 {
            assert_eq!(bob.try_enter("", None)["code"], "name_invalid");
        }
        bob.expect_close(1008);
    }

    fn a_name_is_one_person_case_folded(at) {
        let server = at.start(&[]);
        let ada = Client::join(server.addr, "tea", "Ada");
        let _ärne = Client::join(server.addr, "tea", "Ärne");
        for name in ["Ada", "ADA", "aDa", " ada ", "ärne", "ÄRNE"] {
            let (_client, answer) = join_with(&server, "tea", json!({"name": name}));
            assert_eq!(answer["code"], "name_taken", "{name}: {answer}");
        }
        Client::join(server.addr, "milk", "ada").leave();
        ada.leave();
        poll_until("the name is free after the leave", PATIENCE, || {
            let mut client = Client::connect(server.addr, "tea");
            client.try_enter("ADA", None)["type"] == "welcome"
        });
    }

    fn before_the_join_nothing_else_is_taken(at) {
        let server = at.start(&[]);
        let mut ada = Client::connect(server.addr, "tea");
        for frame in [
            json!({"type": "message", "text": "hi", "ref": "early"}),
            json!({"type": "typing", "active": true}),
            json!({"type": "history", "before": "1-0"}),
        ] {
            ada.send(frame);
            ada.expect_error("not_joined");
        }
        ada.enter("Ada", None);
        assert_eq!(ada.welcome["messages"], json!([]), "nothing of it was kept");
    }

    fn a_second_join_is_already_joined(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        assert_eq!(ada.try_enter("Ada", None)["code"], "already_joined");
        assert_eq!(ada.try_enter("Eve", None)["code"], "already_joined");
        ada.say("still Ada");
        assert_eq!(bob.hear("still Ada")["name"], "Ada");
        bob.fence();
        bob.never("Eve", |f| f["type"] == "presence");
    }

    fn a_client_secret_has_its_shape(at) {
        let server = at.start(&[]);
        for good in ["a".repeat(16), "Az09_-".repeat(10), "z".repeat(64)] {
            let (_c, answer) = join_with(&server, &unique("r")[..12], json!({"name": "Ada", "client": good}));
            assert_eq!(answer["type"], "welcome", "{good}: {answer}");
        }
        for bad in [json!("a".repeat(15)), json!("z".repeat(65)), json!("sixteen chars at all"), json!(16), json!("ümlaut-ümlaut-ümlaut")] {
            let (_c, answer) = join_with(&server, "tea", json!({"name": "Ada", "client": bad}));
            assert_eq!(answer["code"], "bad_frame", "{bad}: {answer}");
        }
    }

    fn secrets_are_never_shown_to_others(at) {
        let server = at.start(&[]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.say("hello");
        bob.hear("hello");
        bob.see_join("Ada");
        for frame in &bob.received {
            assert!(!frame.to_string().contains(&ada.secret), "{frame}");
        }
    }

    fn a_passphrase_opens_a_closed_chat(at) {
        let server = at.start(&[("PASSPHRASE", "open sesame"), ("RUST_LOG", "trace")]);
        let mut ada = Client::connect(server.addr, "tea");
        for fields in [json!({}), json!({"passphrase": ""}), json!({"passphrase": "Open Sesame"}), json!({"passphrase": "open sesame "})] {
            let mut join = json!({"type": "join", "name": "Ada"});
            if let Some(passphrase) = fields.get("passphrase") {
                join["passphrase"] = passphrase.clone();
            }
            ada.send(join);
            ada.expect_error("unauthorized");
        }
        ada.send(json!({"type": "join", "name": "Ada", "passphrase": "open sesame"}));
        ada.expect("welcome");
        ada.say("inside");
        assert!(!server.log().contains("sesame"), "a passphrase in the log:\n{}", server.log());
    }

    fn five_wrong_passphrases_are_4003(at) {
        let server = at.start(&[("PASSPHRASE", "open sesame")]);
        let mut eve = Client::connect(server.addr, "tea");
        for n in 0..5 {
            eve.send(json!({"type": "join", "name": "Eve", "passphrase": format!("guess {n}")}));
            eve.expect_error("unauthorized");
        }
        eve.expect_close(4003);
    }

    fn an_open_chat_does_not_mind_a_passphrase(at) {
        let server = at.start(&[]);
        let (_client, answer) = join_with(&server, "tea", json!({"name": "Ada", "passphrase": "whatever"}));
        assert_eq!(answer["type"], "welcome");
    }

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
        assert_eq!(heard.as_object().unwrap().len(), 6, "no other fields: {heard}");

        ada.send(json!({"type": "message", "text": "no ref"}));
        let plain = bob.hear("no ref");
        assert!(plain.get("ref").is_none(), "{plain}");
        assert_eq!(ada.hear("no ref"), plain);
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
            let own = format!("only in {}", client.room);
            client.hear(&own);
            client.never("a message of another room", |f| f["type"] == "message");
            client.never("a presence of another room", |f| f["type"] == "presence");
            assert_eq!(client.welcome["participants"], 1);
        }
        tea.never("typing of another room", |f| f["type"] == "typing");
    }

    // ---- presence and typing ----

    fn presence_says_who_came_and_went(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let bob = Client::join(server.addr, "tea", "Bob");
        assert_eq!(ada.expect("presence"), json!({"type": "presence", "joined": ["Bob"], "left": [], "participants": 2}));
        let mut cyd = Client::join(server.addr, "tea", "Cyd");
        assert_eq!(cyd.welcome["participants"], 3);
        assert_eq!(ada.see_join("Cyd")["participants"], 3);
        bob.leave();
        let left = json!({"type": "presence", "joined": [], "left": ["Bob"], "participants": 2});
        assert_eq!(ada.expect("presence"), left);
        assert_eq!(cyd.expect("presence"), left);
        cyd.fence();
        cyd.never("older presence", |f| f["type"] == "presence");
    }

    fn a_close_frame_is_a_leave_within_250_ms(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut times = Vec::new();
        for _ in 0..7 {
            let bob = Client::join(server.addr, "tea", "Bob");
            ada.see_join("Bob");
            let start = Instant::now();
            bob.leave();
            ada.see_leave("Bob");
            times.push(start.elapsed());
        }
        times.sort();
        assert!(times[3] < Duration::from_millis(250), "the median of {times:?}"); // one may meet a busy machine
    }

    fn typing_is_shown_to_the_room(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        ada.send(json!({"type": "typing", "active": true}));
        assert_eq!(bob.expect("typing"), json!({"type": "typing", "name": "Ada", "active": true}));
        // A stop within the same second may be dropped: clients forget typing by themselves.
        let stop = Instant::now();
        poll_until("the stop is shown", PATIENCE, || {
            ada.send(json!({"type": "typing", "active": false}));
            bob.take(Duration::from_millis(200)).iter().any(|f| f == &json!({"type": "typing", "name": "Ada", "active": false}))
        });
        assert!(stop.elapsed() < Duration::from_secs(3));
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
            let (_bob, answer) = join_with(&server, "tea", json!({"name": "Bob", "since": bad}));
            assert_eq!(answer["code"], "bad_frame", "since {bad}: {answer}");
        }
        ada.say("still here");
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
        let mut bob = Client::back(server.addr, "tea", "Bob", &unique("a-secret-for-bob"), Some(id(&first)));
        assert_eq!(bob.welcome["gap"], true);
        let kept = bob.welcome["messages"].as_array().unwrap().len();
        assert!((20..60).contains(&kept), "about HISTORY_MESSAGES: {kept}");
        assert_eq!(bob.welcome["messages"][kept - 1]["text"], "m101");
        // Those that are no longer kept are not in the history either.
        let oldest = bob.welcome["messages"][0].clone();
        bob.send(json!({"type": "history", "before": id(&oldest), "limit": 100}));
        assert_eq!(bob.expect("history"), json!({"type": "history", "messages": [], "more": false}));
        bob.leave();
        let bob = Client::back(server.addr, "tea", "Bob", &unique("a-secret-for-bob"), Some(id(&recent)));
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

    // ---- ping, frames that are wrong, limits ----

    fn ping_is_answered_with_pong(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.send(json!({"type": "ping", "more": [1, 2, 3]}));
        assert_eq!(ada.next(), json!({"type": "pong"}));
    }

    fn unknown_fields_are_ignored(at) {
        let server = at.start(&[]);
        let (mut ada, welcome) = join_with(&server, "tea", json!({"name": "Ada", "colour": "red", "room": "milk", "id": {}}));
        assert_eq!(welcome["room"], "tea");
        ada.send(json!({"type": "message", "text": "hi", "name": "Eve", "id": "1-1", "at": 1, "extra": {"deep": [null]}}));
        let heard = ada.hear("hi");
        assert_eq!(heard["name"], "Ada", "nobody speaks for another");
        assert_ne!(heard["id"], "1-1");
        assert!(heard.get("extra").is_none());
    }

    fn frames_that_are_wrong_are_bad_frames(at) {
        let server = at.start(&[]);
        for text in [
            "", "hello", "{", "[]", "null", "1", "\"join\"", "{}", r#"{"type":7}"#, r#"{"type":"shout"}"#,
            r#"{"type":"message"}"#, r#"{"type":"message","text":7}"#, r#"{"type":"message","text":null}"#,
            r#"{"type":"typing"}"#, r#"{"type":"typing","active":"yes"}"#, r#"{"type":"history"}{}"#,
            r#"{"type":"welcome"}"#, r#"{"type":"message","text":"\ud800"}"#,
        ] {
            let mut ada = Client::join(server.addr, "tea", "Ada");
            ada.send_text(text);
            ada.expect_error("bad_frame");
            ada.say("still here");
            ada.leave();
        }
        let nested = "[".repeat(8_000);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.send_text(&nested);
        ada.expect_error("bad_frame");
        ada.send_text(&format!(r#"{{"type":"message","text":"hi","x":{}{}}}"#, "[".repeat(4_000), "]".repeat(4_000)));
        ada.until("an answer", |f| f["type"] == "error" || f["type"] == "message");
        ada.say("and still here");
        for join in [json!({"type": "join"}), json!({"type": "join", "name": 7}), json!({"type": "join", "name": null})] {
            let mut client = Client::connect(server.addr, "tea");
            client.send(join);
            let error = client.expect("error");
            assert!(error["code"] == "bad_frame" || error["code"] == "name_invalid", "{error}");
        }
    }

    fn twenty_refused_frames_end_the_connection(at) {
        let server = at.start(&[]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let mut ada = Client::join(server.addr, "tea", "Ada");
        for _ in 0..19 {
            ada.send_text("nonsense");
            ada.expect_error("bad_frame");
        }
        ada.say("nineteen are forgiven");
        ada.send_text("nonsense");
        ada.expect_close(1008);
        bob.hear("nineteen are forgiven");
        bob.say("nothing happened to me");
    }

    fn messages_are_rate_limited(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let start = Instant::now();
        let refs: Vec<String> = (0..30).map(|n| ada.post(&format!("m{n}"))).collect();
        let mut answers = Vec::new();
        for _ in 0..30 {
            answers.push(ada.until("an answer", |f| f["ref"].is_string()));
        }
        let taken = answers.iter().filter(|f| f["type"] == "message").count();
        let most = 20 + 1 + (start.elapsed().as_secs_f64() * 5.0) as usize;
        assert!((20..=most).contains(&taken), "a burst of 20, and 5 a second: {taken} in {:?}", start.elapsed());
        for refused in answers.iter().filter(|f| f["type"] == "error") {
            assert_eq!(refused["code"], "rate_limited");
            assert!(refs.iter().any(|r| refused["ref"] == r.as_str()), "{refused}");
            let wait = refused["retry_ms"].as_u64().expect("a time to wait");
            assert!((1..=10_000).contains(&wait), "{refused}");
        }
        // What was refused can be sent again, after the time it was told.
        let again = answers.iter().find(|f| f["type"] == "error").expect("10 were too many");
        std::thread::sleep(Duration::from_millis(again["retry_ms"].as_u64().unwrap() + 20));
        ada.send(json!({"type": "message", "text": "again", "ref": again["ref"]}));
        let receipt = ada.until("an answer", |f| f["ref"] == again["ref"]);
        assert_eq!(receipt["type"], "message", "{receipt}");
        bob.hear("again");
        assert_eq!(bob.messages().len(), taken + 1, "the refused ones reached nobody");
    }

    fn a_flood_ends_the_connection(at) {
        let server = at.start(&[("RATE_LIMIT", "1")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        for n in 0..60 {
            ada.send_text(&json!({"type": "message", "text": format!("m{n}")}).to_string());
        }
        ada.expect_close(1008);
    }

    fn a_rate_limit_of_zero_is_none(at) {
        let server = at.start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        for n in 0..200 {
            ada.post(&format!("m{n}"));
        }
        ada.say("all of them");
        ada.never("an error", |f| f["type"] == "error");
        assert_eq!(ada.messages().len(), 201);
    }

    fn a_websocket_message_has_at_most_16_kib(at) {
        let server = at.start(&[]);
        let frame = |size: usize| {
            let mut text = r#"{"type":"message","text":"big","filler":""}"#.to_string();
            text.insert_str(text.len() - 2, &"x".repeat(size - text.len()));
            text
        };
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.send_text(&frame(16 * 1024));
        ada.hear("big");
        ada.send_text(&frame(16 * 1024 + 1));
        ada.expect_close(1009);

        // In many fragments, each small.
        let mut cyd = Client::join(server.addr, "tea", "Cyd");
        let mut bytes = Vec::new();
        for n in 0..20 {
            let opcode = if n == 0 { 0x01 } else { 0x00 };
            bytes.extend([opcode, 0x80 | 126, 0x04, 0x00, 0, 0, 0, 0]);
            bytes.extend([b'x'; 1024]);
        }
        cyd.send_raw(&bytes);
        cyd.expect_close(1009);

        // A header that promises more than anyone has.
        let mut dan = Client::join(server.addr, "tea", "Dan");
        dan.send_raw(&[0x81, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        dan.expect_close(1009);
        bob.say("nothing happened to me");
    }

    fn a_message_in_fragments_is_one_message(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let text = r#"{"type":"message","text":"piece by piece"}"#.as_bytes();
        let mut bytes = Vec::new();
        for (n, piece) in text.chunks(5).enumerate() {
            let last = (n + 1) * 5 >= text.len();
            bytes.extend([if last { 0x80 } else { 0 } | u8::from(n == 0), 0x80 | piece.len() as u8, 0, 0, 0, 0]);
            bytes.extend(piece);
            if n == 2 {
                bytes.extend([0x89, 0x80, 0, 0, 0, 0]); // a ping in between
            }
        }
        ada.send_raw(&bytes);
        ada.hear("piece by piece");
    }

    fn wrong_websocket_frames_have_their_close_codes(at) {
        let server = at.start(&[]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let mut binary = Client::join(server.addr, "tea", "Ada");
        binary.send_data(Data::Binary, b"{\"type\":\"ping\"}");
        binary.expect_close(1003);
        let mut latin = Client::join(server.addr, "tea", "Cyd");
        latin.send_data(Data::Text, b"caf\xe9");
        latin.expect_close(1007);
        let mut early = Client::connect(server.addr, "tea");
        early.send_data(Data::Binary, b"hello");
        early.expect_close(1003);
        for bytes in [&[0x81, 0x02, b'h', b'i'][..], &[0xf1, 0x80, 0, 0, 0, 0], &[0x83, 0x80, 0, 0, 0, 0], &[0x80, 0x80, 0, 0, 0, 0]] {
            let mut broken = Client::connect(server.addr, "tea");
            broken.send_raw(bytes);
            let end = broken.end();
            assert!(matches!(end, End::Close(1002 | 1008) | End::Cut), "{bytes:02x?}: {end:?}");
        }
        bob.say("nothing happened to me");
    }

    // ---- taking a place over ----

    fn the_same_client_takes_its_place_over_in_silence(at) {
        let server = at.start(&[]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let mut old = Client::join(server.addr, "tea", "Ada");
        bob.see_join("Ada");
        let said = old.say("before");
        let mut new = Client::back(server.addr, "tea", "Ada", &old.secret.clone(), Some(id(&said)));
        assert_eq!(new.welcome["participants"], 2);
        assert_eq!(new.welcome["names"], json!(["Ada", "Bob"]));
        old.expect_close(4001);
        new.say("after");
        bob.hear("after");
        bob.never("a presence", |f| f["type"] == "presence");
        // The older connection's end does not take the name with it.
        let (_eve, answer) = join_with(&server, "tea", json!({"name": "Ada"}));
        assert_eq!(answer["code"], "name_taken");
        new.leave();
        assert_eq!(bob.see_leave("Ada")["participants"], 1);
    }

    fn taking_over_many_times_in_a_row_leaves_one(at) {
        let server = at.start(&[]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let first = Client::join(server.addr, "tea", "Ada");
        let secret = first.secret.clone();
        let mut all = vec![first];
        for _ in 0..10 {
            all.push(Client::back(server.addr, "tea", "Ada", &secret, None));
        }
        let mut last = all.pop().expect("the last one");
        for client in &mut all {
            client.expect_close(4001);
        }
        last.say("it is me");
        bob.hear("it is me");
        assert_eq!(last.welcome["participants"], 2);
        bob.see_join("Ada");
        bob.never("a presence", |f| f["type"] == "presence");
    }

    fn a_broken_connection_comes_back_in_silence(at) {
        let server = at.start(&[]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let mut ada = Client::join(server.addr, "tea", "Ada");
        bob.see_join("Ada");
        let seen = ada.say("before the cut");
        let secret = ada.secret.clone();
        ada.cut();
        let missed = bob.say("while she was away");
        let mut ada = Client::back(server.addr, "tea", "Ada", &secret, Some(id(&seen)));
        assert_eq!(ada.welcome["messages"], json!([missed]));
        assert_eq!(ada.welcome["participants"], 2);
        ada.say("back");
        bob.hear("back");
        bob.fence();
        bob.never("a presence", |f| f["type"] == "presence");
    }

    fn a_broken_connection_keeps_its_name(at) {
        let server = at.start(&[]);
        Client::join(server.addr, "tea", "Ada").cut();
        let (_eve, answer) = join_with(&server, "tea", json!({"name": "ada"}));
        assert_eq!(answer["code"], "name_taken", "the lease still holds it");
        let bob = Client::join(server.addr, "tea", "Bob");
        assert!(has(&bob.welcome["names"], "Ada"));
        assert_eq!(bob.welcome["participants"], 2);
    }

    // ---- what the log may say ----

    fn the_log_tells_no_texts(at) {
        let server = at.start(&[("RUST_LOG", "trace")]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.say("xyzzy-in-confidence");
        ada.send_text("plugh-is-not-json");
        ada.expect_error("bad_frame");
        let secret = ada.secret.clone();
        ada.leave();
        for private in ["xyzzy-in-confidence", secret.as_str()] {
            assert!(!server.log().contains(private), "{private} in the log:\n{}", server.log());
        }
    }
}
