//! Proves the joining half of the chat contract on one instance, with every backplane: welcome, names, secrets, the
//! passphrase, presence, and take-overs.

#[macro_use]
mod common;

use common::client::has;
use common::*;

fn texts(messages: &Value) -> Vec<&str> {
    let messages = messages.as_array().expect("a list of messages");
    messages.iter().map(|m| m["text"].as_str().expect("a text")).collect()
}

fn id(message: &Value) -> &str {
    message["id"].as_str().expect("an id")
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
            json!({"type": "welcome", "name": "Ada", "by": welcome["by"], "room": "tea", "participants": 1, "names": ["Ada"],
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
        let (_one, welcome) = Client::join_with(server.addr, "tea", json!({"name": "  Ada \u{a0} of \t\u{3000} Tea "}));
        assert_eq!(welcome["name"], "Ada of Tea", "{welcome}");
        for (name, shown) in [
            ("x".repeat(32), "x".repeat(32)),
            ("ü".repeat(32), "ü".repeat(32)),
            ("🐙".repeat(32), "🐙".repeat(32)),
            (format!("   {}   ", "y".repeat(32)), "y".repeat(32)),
            ("<b>&\"'".into(), "<b>&\"'".into()),
            ("מיכל".into(), "מיכל".into()),
        ] {
            let (_client, welcome) = Client::join_with(server.addr, &unique("r"), json!({"name": name}));
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
            "\u{3164}".into(),
            "\u{200d}\u{ad}\u{fe0f}".into(),
            "\u{2800}".into(),
        ] {
            let (_client, answer) = Client::join_with(server.addr, "tea", json!({"name": name}));
            assert_eq!(answer["code"], "name_invalid", "{name:?}: {answer}");
        }
        let mut watcher = Client::join(server.addr, "tea", "Ada");
        assert_eq!(watcher.welcome["participants"], 1, "none of them is in the room");
        watcher.fence();
    }

    fn names_that_look_alike_are_taken(at) {
        let server = at.start(&[]);
        let _ada = Client::join(server.addr, "tea", "Ada");
        let _ame = Client::join(server.addr, "tea", "Am\u{e9}lie");
        for name in ["A\u{200d}da", "Ad\u{ad}a", "Ada\u{fe0f}", "\u{ff21}da", "Ada\u{e0041}", "Ame\u{301}lie"] {
            let (_client, answer) = Client::join_with(server.addr, "tea", json!({"name": name}));
            assert_eq!(answer["code"], "name_taken", "{name:?}: {answer}");
        }
        // Some emoji contain joiners.
        let scientist = "\u{1f469}\u{200d}\u{1f52c}";
        assert_eq!(Client::join(server.addr, "tea", scientist).welcome["name"], scientist);
    }

    fn a_room_that_is_full_lets_nobody_else_in(at) {
        let server = at.start(&[("ROOM_PEOPLE", "2")]);
        let (ada, bob) = (Client::join(server.addr, "tea", "Ada"), Client::join(server.addr, "tea", "Bob"));
        let mut cyd = Client::connect(server.addr, "tea");
        assert_eq!(cyd.try_enter("Cyd", None)["code"], "full");
        server.logged("127.0.0.1: this room is full (ROOM_PEOPLE)");
        Client::join(server.addr, "milk", "Cyd").say("another room is not");
        Client::back(server.addr, "tea", "Ada", &ada.secret, None).say("nor is it for those who come back");
        bob.leave();
        poll_until("there is room for one", PATIENCE, || {
            Client::connect(server.addr, "tea").try_enter("Cyd", None)["type"] == "welcome"
        });
    }

    fn a_stranger_at_a_full_room_does_not_keep_those_out_who_come_back(at) {
        let server = at.start(&[("ROOM_PEOPLE", "2"), ("ADDRESS_CONNECTION_RATE", "0"), ("ADDRESS_JOINS", "0")]);
        let (mut ada, mut bob) = (Client::join(server.addr, "tea", "Ada"), Client::join(server.addr, "tea", "Bob"));
        let secret = ada.secret.clone();
        for n in 0..30 {
            let (mut cyd, mut again) = (Client::connect(server.addr, "tea"), Client::connect(server.addr, "tea"));
            cyd.send(json!({"type": "join", "name": format!("Cyd{n}")}));
            again.send(json!({"type": "join", "name": "Ada", "client": secret}));
            assert_eq!(again.next()["type"], "welcome", "round {n}");
            assert_eq!(cyd.next()["code"], "full", "round {n}");
            ada = again;
        }
        ada.say("she is here");
        bob.hear("she is here");
        bob.never("nobody joined or left", |f| f["type"] == "presence");
    }

    fn two_who_join_a_new_room_at_once_are_refused_alike(at) {
        let server = at.start(&[("ADDRESS_NEW_ROOMS", "1")]);
        Client::join(server.addr, "tea", "Ada").say("the only room");
        for n in 0..10 {
            let room = format!("room-{n}");
            let mut both = [(); 2].map(|()| Client::connect(server.addr, &room));
            for (one, name) in both.iter_mut().zip(["Bob", "Cyd"]) {
                one.send(json!({"type": "join", "name": name}));
            }
            for one in &mut both {
                assert_eq!(one.next()["code"], "rate_limited", "{room}");
            }
        }
        Client::join(server.addr, "tea", "Bob").say("this room is not new");
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
            let (_client, answer) = Client::join_with(server.addr, "tea", json!({"name": name}));
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
        // Except a close frame, which is answered.
        Client::connect(server.addr, "tea").leave();
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
        for (n, good) in ["a".repeat(16), "Az09_-".repeat(10), "z".repeat(64)].iter().enumerate() {
            let (_c, answer) = Client::join_with(server.addr, &format!("room{n}"), json!({"name": "Ada", "client": good}));
            assert_eq!(answer["type"], "welcome", "{good}: {answer}");
        }
        for bad in [json!("a".repeat(15)), json!("z".repeat(65)), json!("sixteen chars at all"), json!(16), json!("ümlaut-ümlaut-ümlaut")] {
            let (_c, answer) = Client::join_with(server.addr, "tea", json!({"name": "Ada", "client": bad}));
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
        let (_client, answer) = Client::join_with(server.addr, "tea", json!({"name": "Ada", "passphrase": "whatever"}));
        assert_eq!(answer["type"], "welcome");
    }

    // ---- presence ----

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
        ada.sees_a_leave_within_250_ms(server.addr);
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
        // The end of the older connection does not release the name.
        let (_eve, answer) = Client::join_with(server.addr, "tea", json!({"name": "Ada"}));
        assert_eq!(answer["code"], "name_taken");
        new.leave();
        assert_eq!(bob.see_leave("Ada")["participants"], 1);
    }

    fn a_client_that_comes_back_under_another_spelling_is_shown_by_it(at) {
        let server = at.start(&[]);
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let mut old = Client::join(server.addr, "tea", "Ada");
        bob.see_join("Ada");
        let mut new = Client::back(server.addr, "tea", "ADA", &old.secret.clone(), None);
        old.expect_close(4001);
        assert_eq!((&new.welcome["participants"], &new.welcome["names"]), (&json!(2), &json!(["ADA", "Bob"])));
        let change = bob.until("the new spelling", |f| f["type"] == "presence");
        assert_eq!(change, json!({"type": "presence", "joined": ["ADA"], "left": ["Ada"], "participants": 2}));
        assert_eq!(new.say("hi")["name"], "ADA");
        let cleo = Client::join(server.addr, "tea", "Cleo");
        assert_eq!((&cleo.welcome["participants"], &cleo.welcome["names"]), (&json!(3), &json!(["ADA", "Bob", "Cleo"])));
        new.leave();
        assert_eq!(bob.see_leave("ADA")["participants"], 2);
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
        let (_eve, answer) = Client::join_with(server.addr, "tea", json!({"name": "ada"}));
        assert_eq!(answer["code"], "name_taken", "the lease still holds it");
        let bob = Client::join(server.addr, "tea", "Bob");
        assert!(has(&bob.welcome["names"], "Ada"));
        assert_eq!(bob.welcome["participants"], 2);
    }
}
