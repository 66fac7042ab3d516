//! Proves what the chat contract says about misbehaving clients, on one instance, with every backplane: malformed
//! frames, sizes, rates, and the close codes that need no long wait.

#[macro_use]
mod common;

use common::*;
use std::time::{Duration, Instant};
use tungstenite::protocol::frame::coding::Data;

both! {
    // ---- ping, frames that are wrong, limits ----

    fn ping_is_answered_with_pong(at) {
        let server = at.start(&[]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.send(json!({"type": "ping", "more": [1, 2, 3]}));
        assert_eq!(ada.next(), json!({"type": "pong"}));
    }

    fn a_websocket_ping_is_answered_with_a_pong(at) {
        let server = at.start(&[]);
        let mut ada = Client::connect(server.addr, "tea");
        ada.send_ping();
        ada.enter("Ada", None);
        ada.send_ping();
        ada.fence();
        assert_eq!(ada.pongs, 2, "before the join and after it");
    }

    fn unknown_fields_are_ignored(at) {
        let server = at.start(&[]);
        let (mut ada, welcome) = Client::join_with(server.addr, "tea", json!({"name": "Ada", "colour": "red", "room": "milk", "id": {}}));
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
            // The name of the one before may be free only a moment after its close frame was answered.
            let mut ada = Client::join(server.addr, "tea", &unique("A"));
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
        }
        for _ in 0..19 {
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
        let mut taken = answers.iter().filter(|f| f["type"] == "message").count();
        let most = 20 + 1 + (start.elapsed().as_secs_f64() * 5.0) as usize;
        assert!((20..=most).contains(&taken), "a burst of 20, and 5 a second: {taken} in {:?}", start.elapsed());
        for refused in answers.iter().filter(|f| f["type"] == "error") {
            assert_eq!(refused["code"], "rate_limited");
            assert!(refs.iter().any(|r| refused["ref"] == r.as_str()), "{refused}");
            let wait = refused["retry_ms"].as_u64().expect("a time to wait");
            assert!((1..=10_000).contains(&wait), "{refused}");
        }
        // A refused message can be sent again after the time given in the refusal, if nothing else was sent since.
        let again = (0..100).find_map(|_| {
            let key = ada.post("once more");
            let answer = ada.until("an answer", |f| f["ref"] == key.as_str());
            taken += usize::from(answer["type"] == "message");
            (answer["type"] == "error").then_some(answer)
        });
        let again = again.expect("a refusal");
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

        // A header that announces an enormous payload.
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
