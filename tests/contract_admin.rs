//! Proves the admin operations: listing people, removing messages, and bans, over HTTP and from a shell.

#[macro_use]
mod common;

use common::http::{Connection, Response, get, metric};
use common::*;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const TOKEN: &str = "the-token-of-the-host";
const SETTINGS: &[(&str, &str)] = &[("ADMIN_TOKEN", TOKEN), ("RATE_LIMIT", "0")];

#[track_caller]
fn admin_as(token: &str, addr: SocketAddr, method: &str, path: &str, body: &str) -> Response {
    let mut connection = Connection::open(addr);
    connection.write(format!(
        "{method} /admin/{path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    connection.response(method == "HEAD")
}

#[track_caller]
fn admin(addr: SocketAddr, method: &str, path: &str, body: &str) -> Value {
    let answer = admin_as(TOKEN, addr, method, path, body);
    assert!(matches!(answer.status, 200 | 201), "{method} {path}: {} {}", answer.status, answer.text());
    answer.json()
}

#[track_caller]
fn refused(response: &Response, status: u16) {
    let text = response.text();
    assert_eq!(response.status, status, "{text}");
    assert!(text.ends_with('\n') && text.trim_end().lines().count() == 1, "not one line: {text:?}");
}

#[track_caller]
fn removed(client: &mut Client) -> Value {
    client.until("a removed frame", |frame| frame["type"] == "removed")
}

/// The texts in a log.
#[track_caller]
fn texts(addr: SocketAddr, room: &str) -> Vec<Value> {
    let log = get(addr, &format!("/r/{room}/messages")).text();
    log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["text"].clone()).collect()
}

fn by(client: &Client) -> String {
    client.welcome["by"].as_str().expect("a mark").to_owned()
}

/// Sends this many messages, and reads now and then, because a client that does not is cut.
#[track_caller]
fn talk(client: &mut Client, count: usize) {
    for n in 1..=count {
        if n % 50 == 0 { drop(client.say("talk")) } else { drop(client.post("talk")) }
    }
}

both! {
    fn the_host_sees_rooms_and_who_is_in_them(at) {
        let server = at.start(SETTINGS);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let _bob = Client::join(server.addr, "tea", "Bob");
        let _cleo = Client::join(server.addr, "quiet", "Cleo");
        ada.say("hi");
        let rooms = admin(server.addr, "GET", "rooms", "");
        let rooms = rooms.as_array().expect("a list");
        assert_eq!(rooms.len(), 2, "{rooms:?}");
        assert_eq!((&rooms[0]["room"], &rooms[0]["people"], &rooms[0]["messages"]), (&json!("tea"), &json!(2), &json!(1)));
        assert!(rooms[0]["last_activity"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{rooms:?}");
        assert_eq!((&rooms[1]["people"], &rooms[1]["messages"]), (&json!(1), &json!(0)));
        let tea = admin(server.addr, "GET", "rooms/tea", "");
        let people = tea["people"].as_array().expect("a list");
        assert_eq!(people.iter().map(|p| &p["name"]).collect::<Vec<_>>(), ["Ada", "Bob"]);
        assert_eq!(people[0]["by"], by(&ada).as_str());
        assert_eq!(people[0]["address"], "127.0.0.1");
        assert!(people[0]["since"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{people:?}");
        assert_eq!(admin(server.addr, "GET", "rooms/nobody", "")["people"], json!([]));
    }

    fn a_removed_message_is_gone_from_pages_histories_and_resumes(at) {
        let server = at.start(&[SETTINGS, &[("HISTORY_MESSAGES", "5")]].concat());
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        ada.say("one");
        let two = ada.say("two")["id"].as_str().expect("an id").to_owned();
        let path = format!("rooms/tea/messages/{two}");
        assert_eq!(admin(server.addr, "DELETE", &path, "")["removed"], 1);
        for client in [&mut ada, &mut bob] {
            assert_eq!(removed(client)["ids"], json!([two]));
        }
        assert_eq!(texts(server.addr, "tea"), ["one"]);
        refused(&admin_as(TOKEN, server.addr, "DELETE", &path, ""), 404);
        let newcomer = Client::join(server.addr, "tea", "Cleo");
        assert_eq!(newcomer.welcome["messages"].as_array().map(Vec::len), Some(1));
        // A client that saw it last has no gap, and receives what followed it.
        ada.say("three");
        let (name, secret) = ("Bob", bob.secret.clone());
        drop(bob);
        let mut bob = Client::back(server.addr, "tea", name, &secret, Some(&two));
        assert_eq!((&bob.welcome["gap"], &bob.welcome["messages"][0]["text"]), (&json!(false), &json!("three")));
        assert_eq!(bob.welcome["messages"].as_array().map(Vec::len), Some(1));
        assert_eq!(removed(&mut bob)["ids"], json!([two]), "it may not have been there when the message was removed");
        // Nor has a client whose last message was removed while it was the newest.
        let four = ada.say("four")["id"].as_str().expect("an id").to_owned();
        admin(server.addr, "DELETE", &format!("rooms/tea/messages/{four}"), "");
        let dora = Client::back(server.addr, "tea", "Dora", &unique("secret-of-a-test"), Some(&four));
        assert_eq!((&dora.welcome["gap"], &dora.welcome["messages"]), (&json!(false), &json!([])));
        // Both have a gap once messages that followed are no longer kept.
        talk(&mut ada, 50);
        for id in [two, four] {
            let eve = Client::back(server.addr, "tea", "Eve", &unique("secret-of-a-test"), Some(&id));
            assert_eq!(eve.welcome["gap"], true);
            eve.leave();
        }
    }

    fn all_that_one_person_said_is_one_command(at) {
        let server = at.start(&[SETTINGS, &[("HISTORY_MESSAGES", "2000")]].concat());
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut bob = Client::join(server.addr, "tea", "Bob");
        let ids: Vec<Value> = (0..3).map(|n| {
            bob.say(&format!("b{n}"));
            ada.say(&format!("a{n}"))["id"].clone()
        }).collect();
        let path = format!("rooms/tea/messages?by={}", by(&ada));
        assert_eq!(admin(server.addr, "DELETE", &path, "")["removed"], 3);
        assert_eq!(removed(&mut bob)["ids"], json!(ids));
        assert_eq!(texts(server.addr, "tea"), ["b0", "b1", "b2"]);
        assert_eq!(admin(server.addr, "DELETE", &path, "")["removed"], 0);
        for wrong in ["by=", "by=x", "id=1-0", "BY=abcdefgh234567ab"] {
            refused(&admin_as(TOKEN, server.addr, "DELETE", &format!("rooms/tea/messages?{wrong}"), ""), 400);
        }
        assert_eq!(texts(server.addr, "tea").len(), 3, "a misspelt query removes nothing");
        // A long log is searched in parts.
        ada.say("early");
        for _ in 0..11 {
            talk(&mut bob, 100);
            ada.fence();
        }
        ada.say("late");
        assert_eq!(admin(server.addr, "DELETE", &path, "")["removed"], 2);
        let newcomer = Client::join(server.addr, "tea", "Cleo");
        assert_eq!(newcomer.welcome["messages"][49]["text"], "talk");
    }

    fn a_room_is_emptied(at) {
        let server = at.start(SETTINGS);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.say("one");
        let last = ada.say("two")["id"].clone();
        assert_eq!(admin(server.addr, "DELETE", "rooms/tea/messages", "")["removed"], 2);
        assert_eq!(removed(&mut ada)["upto"], last);
        assert_eq!(texts(server.addr, "tea").len(), 0);
        assert_eq!(admin(server.addr, "GET", "rooms", "")[0]["messages"], 0);
        // Ids still grow, nobody sees a gap, and the room continues.
        let three = ada.say("three");
        assert!(three["id"].as_str() > last.as_str(), "{three} {last}");
        let bob = Client::back(server.addr, "tea", "Bob", &unique("secret-of-a-test"), last.as_str());
        assert_eq!((&bob.welcome["gap"], &bob.welcome["messages"][0]["text"]), (&json!(false), &json!("three")));
        assert_eq!(texts(server.addr, "tea"), ["three"]);
    }

    fn an_emptied_room_begins_anew(at) {
        let server = at.start(&[SETTINGS, &[("HISTORY_MESSAGES", "5")]].concat());
        let mut ada = Client::join(server.addr, "tea", "Ada");
        // Some are trimmed before the rest is removed.
        for n in 0..300 {
            ada.say(&format!("m{n}"));
        }
        admin(server.addr, "DELETE", "rooms/tea/messages", "");
        let bob = Client::join(server.addr, "tea", "Bob");
        assert_eq!((&bob.welcome["last"], &bob.welcome["messages"]), (&json!("0-0"), &json!([])));
        let (one, two) = (ada.say("one"), ada.say("two"));
        // A client that resumes from that cursor has missed nothing that is still kept.
        let bob = Client::back(server.addr, "tea", "Bob", &bob.secret, Some("0-0"));
        assert_eq!((&bob.welcome["gap"], &bob.welcome["messages"]), (&json!(false), &json!([one, two])));
        assert_eq!(bob.welcome["last"], two["id"]);
        // If only the newest was removed, the one before it is the newest again.
        let path = format!("rooms/tea/messages/{}", two["id"].as_str().expect("an id"));
        admin(server.addr, "DELETE", &path, "");
        let cleo = Client::join(server.addr, "tea", "Cleo");
        assert_eq!(cleo.welcome["last"], one["id"]);
        let cleo = Client::back(server.addr, "tea", "Cleo", &cleo.secret, one["id"].as_str());
        assert_eq!((&cleo.welcome["gap"], &cleo.welcome["last"]), (&json!(false), &one["id"]));
    }

    fn a_client_is_sent_away_and_kept_out(at) {
        let server = at.start(SETTINGS);
        let mut mallory = Client::join(server.addr, "tea", "Mallory");
        let mut other = Client::connect(server.addr, "lobby");
        other.secret = mallory.secret.clone();
        other.enter("Mallory", None);
        let ada = Client::join(server.addr, "tea", "Ada");
        let ban = admin(server.addr, "POST", "bans", &json!({"by": by(&mallory), "minutes": 5}).to_string());
        assert!(ban["until"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{ban}");
        assert_eq!(mallory.end(), End::Close(4004));
        assert_eq!(other.end(), End::Close(4004), "from all rooms");
        let mut again = Client::connect(server.addr, "tea");
        again.secret = mallory.secret.clone();
        let answer = again.try_enter("Somebody", None);
        assert_eq!(answer["code"], "banned");
        let wait = answer["retry_ms"].as_u64().expect("a time");
        assert!((280_000..=300_001).contains(&wait), "{wait}");
        let mut newcomer = Client::connect(server.addr, "tea");
        newcomer.enter("Bob", None);
        let bans = admin(server.addr, "GET", "bans", "");
        assert_eq!((bans.as_array().map(Vec::len), &bans[0]["id"]), (Some(1), &ban["id"]));
        let path = format!("bans/{}", ban["id"].as_str().expect("an id"));
        admin(server.addr, "DELETE", &path, "");
        refused(&admin_as(TOKEN, server.addr, "DELETE", &path, ""), 404);
        again.enter("Mallory", None);
        drop(ada);
    }

    fn no_page_of_history_has_a_message_that_its_reader_knows_to_be_removed(at) {
        let server = at.start(SETTINGS);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let said: Vec<Value> = (0..90).map(|n| ada.say(&format!("{n}{}", "x".repeat(1000)))["id"].clone()).collect();
        let addr = server.addr;
        let read = move |n: usize| {
            let mut reader = Client::join(addr, "tea", &format!("Reader {n}"));
            let (mut gone, mut left) = (HashSet::new(), true);
            while left {
                reader.send(json!({"type": "history", "before": "99999999999999-0", "limit": 100}));
                let page = loop {
                    let frame = reader.next();
                    gone.extend(frame["ids"].as_array().into_iter().flatten().map(Value::to_string));
                    if matches!(frame["type"].as_str(), Some("history" | "error")) {
                        break frame;
                    }
                };
                let shown = page["messages"].as_array().cloned().unwrap_or_default();
                let back: Vec<_> = shown.iter().filter(|m| gone.contains(&m["id"].to_string())).collect();
                assert!(back.is_empty(), "{} were removed", back.len());
                left = page["type"] == "error" || !shown.is_empty();
            }
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4).map(|n| scope.spawn(move || read(n))).collect();
            for id in said.iter().rev().filter_map(Value::as_str) {
                admin(addr, "DELETE", &format!("rooms/tea/messages/{id}"), "");
            }
            readers.into_iter().for_each(|reader| reader.join().expect("no removed message came back"));
        });
    }

    fn who_joins_while_the_newest_message_is_removed_is_let_in(at) {
        let server = at.start(SETTINGS);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let (addr, done) = (server.addr, AtomicBool::new(false));
        std::thread::scope(|scope| {
            let joins = scope.spawn(|| {
                for n in 0.. {
                    Client::join(addr, "tea", &format!("Bob {n}")).leave();
                    if done.load(SeqCst) {
                        break;
                    }
                }
            });
            for n in 0..60 {
                let id = ada.say(&n.to_string())["id"].as_str().expect("an id").to_owned();
                admin(addr, "DELETE", &format!("rooms/tea/messages/{id}"), "");
            }
            done.store(true, SeqCst);
            joins.join().expect("each is welcome");
        });
    }

    fn an_address_is_kept_out(at) {
        let server = at.start(SETTINGS);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let mut waiting = Connection::open(server.addr);
        waiting.write("GET /r/tea/messages?after=9-0&wait=30 HTTP/1.1\r\nHost: test\r\n\r\n");
        poll_until("it waits", PATIENCE, || metric(server.addr, "bobbin_polls") == 1.0);
        admin(server.addr, "POST", "bans", r#"{"address":"127.0.0.1"}"#);
        refused(&waiting.response(false), 403);
        assert_eq!(ada.end(), End::Close(4004));
        let mut again = Client::connect(server.addr, "tea");
        assert_eq!(again.try_enter("Bob", None)["code"], "banned");
        let answer = get(server.addr, "/r/tea/messages");
        refused(&answer, 403);
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        // The admin API still works from there.
        admin(server.addr, "DELETE", "bans/127.0.0.1", "");
        assert_eq!(get(server.addr, "/r/tea/messages").status, 200);
        again.enter("Bob", None);
        // Scripts encode the colons of an IPv6 address.
        admin(server.addr, "POST", "bans", r#"{"address":"2001:db8:1:2::9"}"#);
        admin(server.addr, "DELETE", "bans/2001%3Adb8%3a1:2%3A%3A", "");
        assert_eq!(admin(server.addr, "GET", "bans", ""), json!([]));
    }

    fn what_is_no_ban_is_refused(at) {
        let server = at.start(SETTINGS);
        for wrong in ["", "{}", "[]", r#"{"by":"short"}"#, r#"{"address":"nowhere"}"#, r#"{"by":7}"#,
            r#"{"by":"abcdefgh234567ab","minutes":-1}"#, r#"{"by":"abcdefgh234567ab","minutes":0}"#,
            r#"{"by":"abcdefgh234567ab","minutes":525601}"#, r#"{"by":"abcdefgh234567ab","address":"127.0.0.1"}"#] {
            refused(&admin_as(TOKEN, server.addr, "POST", "bans", wrong), 400);
        }
        assert_eq!(admin(server.addr, "GET", "bans", ""), json!([]));
    }
}

/// Redis only marks the entries of a stream as deleted.
#[test]
fn what_is_removed_is_not_in_a_copy_of_redis() {
    let redis = Redis::start();
    let server = Instance::on(&redis, SETTINGS);
    let mut ada = Client::join(server.addr, "tea", "Ada");
    let mut bob = Client::join(server.addr, "tea", "Bob");
    bob.say("first");
    ada.say("xyzzy, in confidence");
    let last = bob.say("last")["id"].as_str().expect("an id").to_owned();
    let is_there = || {
        let copy: Vec<u8> = redis.cmd("DUMP bobbin:{tea}:log");
        copy.windows(5).any(|part| part == b"xyzzy")
    };
    assert!(is_there());
    // An entry of another program may have more fields than a script can pass on.
    let foreign: String = redis.cmd(&format!("XADD bobbin:{{tea}}:log * {}", ["field value"; 10_000].join(" ")));
    admin(server.addr, "DELETE", &format!("rooms/tea/messages?by={}", by(&ada)), "");
    assert!(is_there() && texts(server.addr, "tea") == ["first", "last"]);
    redis.cmd::<i64>(&format!("XDEL bobbin:{{tea}}:log {foreign}"));
    let more = ada.say("more")["id"].as_str().expect("an id").to_owned();
    admin(server.addr, "DELETE", &format!("rooms/tea/messages/{more}"), "");
    assert!(!is_there() && texts(server.addr, "tea") == ["first", "last"]);
    assert!(redis.cmd::<i64>("TTL bobbin:{tea}:log") > 0);
    let cleo = Client::back(server.addr, "tea", "Cleo", &unique("secret-of-a-test"), Some(&last));
    assert_eq!((&cleo.welcome["gap"], &cleo.welcome["messages"]), (&json!(false), &json!([])));
    assert!(bob.say("goes on")["id"].as_str() > Some(&more), "ids grow");
}

#[test]
fn removals_and_bans_hold_on_every_instance_and_over_restarts() {
    let redis = Redis::durable();
    let (mut one, two) = (Instance::on(&redis, SETTINGS), Instance::on(&redis, SETTINGS));
    let mut ada = Client::join(one.addr, "tea", "Ada");
    let mut bob = Client::join(two.addr, "tea", "Bob");
    let id = ada.say("hi")["id"].as_str().expect("an id").to_owned();
    bob.until("the message", |frame| frame["type"] == "message");
    admin(one.addr, "DELETE", &format!("rooms/tea/messages/{id}"), "");
    assert_eq!(removed(&mut bob)["ids"], json!([id]));
    let people = admin(one.addr, "GET", "rooms/tea", "");
    assert_eq!(people["people"].as_array().map(Vec::len), Some(2), "{people}");
    let secret = bob.secret.clone();
    admin(one.addr, "POST", "bans", &json!({"by": by(&bob)}).to_string());
    assert_eq!(bob.end(), End::Close(4004));
    one.kill();
    let three = Instance::on(&redis, SETTINGS);
    for addr in [two.addr, three.addr] {
        let mut again = Client::connect(addr, "tea");
        again.secret = secret.clone();
        assert_eq!(again.try_enter("Bob", None)["code"], "banned", "{addr}");
    }
    admin(three.addr, "DELETE", &format!("bans/{}", by(&bob)), "");
    poll_until("it is lifted everywhere", PATIENCE, || {
        let mut again = Client::connect(two.addr, "tea");
        again.secret = secret.clone();
        again.try_enter("Bob", None)["type"] == "welcome"
    });
    // Redis keeps all bans until the last of them ends, in whatever order they were added.
    for order in [[60, 1], [1, 60]] {
        for minutes in order {
            let ban = json!({"address": format!("192.0.2.{minutes}"), "minutes": minutes});
            admin(three.addr, "POST", "bans", &ban.to_string());
        }
        let left: i64 = redis.cmd("PTTL bobbin:bans");
        assert!(left > 50 * 60_000, "{order:?}: {left} ms");
        for minutes in order {
            admin(three.addr, "DELETE", &format!("bans/192.0.2.{minutes}"), "");
        }
    }
}

#[test]
fn removals_and_bans_outlive_the_process_in_its_file() {
    let dir = std::env::temp_dir().join(unique("bobbin-admin"));
    std::fs::create_dir(&dir).expect("a directory");
    let file = dir.join("chat.db");
    let settings = [SETTINGS, &[("DATA_FILE", file.to_str().expect("a plain path"))]].concat();
    let mut first = Instance::start(&settings);
    let mut ada = Client::join(first.addr, "tea", "Ada");
    ada.say("a secret of Ada's");
    let two = ada.say("a second one")["id"].as_str().expect("an id").to_owned();
    admin(first.addr, "DELETE", &format!("rooms/tea/messages?by={}", by(&ada)), "");
    admin(first.addr, "POST", "bans", &json!({"by": by(&ada)}).to_string());
    // While pages are filled and divided, SQLite copies messages.
    let mut talkers = ["a", "b", "c"].map(|room| Client::join(first.addr, room, "Bob"));
    for n in 0..400 {
        let word = if n % 3 == 1 { "a secret of" } else { "no secret of" };
        talkers[n % 3].say(&format!("{word} mine, {n:04} {}", "lorem ipsum ".repeat(8)));
    }
    admin(first.addr, "DELETE", &format!("rooms/b/messages?by={}", by(&talkers[1])), "");
    let found = |ending: &str| {
        let bytes = std::fs::read(format!("{}{ending}", file.display())).expect("a file");
        bytes.windows(11).any(|part| part == b"a secret of")
    };
    assert!(!["", "-wal"].into_iter().any(found), "the text is still on disk");
    drop(talkers);
    first.signal("TERM");
    first.wait(PATIENCE);
    assert!(!found(""), "the text is in the file again");
    let second = Instance::start(&settings);
    assert_eq!(texts(second.addr, "tea").len(), 0);
    let mut again = Client::connect(second.addr, "tea");
    again.secret = ada.secret.clone();
    assert_eq!(again.try_enter("Ada", None)["code"], "banned");
    let bob = Client::back(second.addr, "tea", "Bob", &unique("secret-of-a-test"), Some(&two));
    assert_eq!(bob.welcome["gap"], false);
    drop(second);
    std::fs::remove_dir_all(&dir).expect("our own directory");
}

#[test]
fn without_the_token_there_is_nothing_and_with_a_wrong_one_no_entry() {
    let closed = Instance::start(&[]);
    let answer = admin_as(TOKEN, closed.addr, "GET", "rooms", "");
    refused(&answer, 404);
    assert_eq!(answer.text(), get(closed.addr, "/nowhere").text());
    let server = Instance::start(SETTINGS);
    refused(&admin_as("another-token-of-a-host", server.addr, "GET", "rooms", ""), 401);
    refused(&get(server.addr, "/admin/rooms"), 401);
    refused(&admin_as(TOKEN, server.addr, "GET", "nowhere", ""), 404);
    refused(&admin_as(TOKEN, server.addr, "GET", "rooms/NoRoom", ""), 404);
    for (path, allow) in [
        ("rooms", "GET, HEAD"),
        ("rooms/tea", "GET, HEAD"),
        ("rooms/tea/messages", "DELETE"),
        ("rooms/tea/messages/1-0", "DELETE"),
        ("bans", "GET, HEAD, POST"),
        ("bans/127.0.0.1", "DELETE"),
    ] {
        let answer = admin_as(TOKEN, server.addr, "PUT", path, "");
        refused(&answer, 405);
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
    }
    assert_eq!(admin_as(TOKEN, server.addr, "HEAD", "rooms", "").status, 200);
}

/// Runs `bobbin` with these arguments against a server.
#[track_caller]
fn tool(addr: SocketAddr, settings: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Instance::command();
    command.envs(settings.iter().copied()).args(args).args(["--url", &format!("http://{addr}")]);
    command.output().expect("the binary starts")
}

#[track_caller]
fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_same_tools_work_from_a_shell() {
    let server = Instance::start(SETTINGS);
    let token = &[("ADMIN_TOKEN", TOKEN)];
    let run = |args: &[&str]| lines(&tool(server.addr, token, args));
    let mut ada = Client::join(server.addr, "tea", "Ada");
    let id = ada.say("one")["id"].as_str().expect("an id").to_owned();
    ada.say("two");
    assert_eq!(run(&["admin", "rooms"])[0]["room"], "tea");
    assert_eq!(run(&["admin", "people", "tea"])[0]["name"], "Ada");
    assert_eq!(run(&["admin", "remove", "tea", &id])[0]["removed"], 1);
    assert_eq!(run(&["admin", "remove", "tea", "--by", &by(&ada)])[0]["removed"], 1);
    ada.say("three");
    assert_eq!(run(&["admin", "remove", "tea", "--all"])[0]["removed"], 1);
    ada.say("four");
    Client::back(server.addr, "coffee", "Ada", &ada.secret, None).say("five");
    let everywhere = run(&["admin", "remove", "--by", &by(&ada)]);
    assert_eq!(everywhere, [json!({"removed": 2, "rooms": 2})]);
    let ban = run(&["admin", "ban", &by(&ada), "--minutes", "5"]);
    assert_eq!(ada.end(), End::Close(4004));
    assert_eq!(run(&["admin", "bans"]), ban);
    run(&["admin", "lift", &by(&ada)]);
    run(&["admin", "ban", "192.0.2.7"]);
    run(&["admin", "lift", "192.0.2.7"]);
    assert_eq!(run(&["admin", "bans"]).len(), 0);

    for (settings, args, says) in [
        (&token[..], &["admin", "lift", "192.0.2.7"][..], "no such ban"),
        (&[], &["admin", "rooms"], "ADMIN_TOKEN"),
        (&[("ADMIN_TOKEN", "another-token-of-a-host")], &["admin", "rooms"], "ADMIN_TOKEN"),
    ] {
        let output = tool(server.addr, settings, args);
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.contains(says), "{line}");
    }
    // Arguments that would empty a room by mistake are rejected.
    for args in [&["admin", "remove", "tea"][..], &["admin", "remove", "--all"]] {
        let output = tool(server.addr, token, args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    // Without --url it connects to PORT on this machine.
    let mut command = Instance::command();
    command.envs(token.iter().copied()).env("PORT", server.addr.port().to_string()).args(["admin", "rooms"]);
    assert!(command.output().expect("the binary starts").status.success());
}

/// A moment ago the log was read, with the message, for somebody who joined on the same instance.
#[test]
fn who_joins_elsewhere_right_after_a_removal_does_not_see_the_message() {
    let redis = Redis::start();
    let (here, there) = (Instance::on(&redis, SETTINGS), Instance::on(&redis, SETTINGS));
    let mut ada = Client::join(there.addr, "tea", "Ada");
    // While somebody else is in the room here, and while nobody is.
    for is_empty in [false, true] {
        let _bob = (!is_empty).then(|| Client::join(here.addr, "tea", "Bob"));
        for _ in 0..5 {
            let said = ada.say("to be removed");
            let cleo = Client::join(here.addr, "tea", "Cleo");
            assert_eq!(cleo.welcome["messages"], json!([said]));
            cleo.leave();
            admin(there.addr, "DELETE", &format!("rooms/tea/messages/{}", said["id"].as_str().expect("an id")), "");
            let dora = Client::join(here.addr, "tea", "Dora");
            assert_eq!(dora.welcome["messages"], json!([]));
            dora.leave();
        }
    }
}

#[test]
fn a_room_is_exported_whole() {
    let free = [("RATE_LIMIT", "0"), ("TEXT_RATE", "0"), ("ADDRESS_TEXT_RATE", "0")];
    let server = Instance::start(&[&[("ADMIN_TOKEN", TOKEN), ("PASSPHRASE", "open sesame")], &free[..]].concat());
    let mut ada = Client::connect(server.addr, "tea");
    ada.send(json!({"type": "join", "name": "Ada", "client": ada.secret, "passphrase": "open sesame"}));
    ada.until("a welcome", |frame| frame["type"] == "welcome");
    let long = "x".repeat(1000);
    for n in 0..700 {
        let text = format!("{n} {long}");
        // Reads now and then, because a client that does not is cut.
        if n % 50 == 49 { drop(ada.say(&text)) } else { drop(ada.post(&text)) }
    }
    ada.say("last");
    for settings in [("ADMIN_TOKEN", TOKEN), ("PASSPHRASE", "open sesame")] {
        let log = lines(&tool(server.addr, &[settings], &["export", "tea"]));
        assert_eq!(log.len(), 701);
        assert!(log[..700].iter().enumerate().all(|(n, m)| m["text"] == format!("{n} {long}")), "in their order");
        assert_eq!(log[700]["text"], "last");
    }
    let refused = tool(server.addr, &[], &["export", "tea"]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && why.contains("ADMIN_TOKEN") && why.contains("PASSPHRASE"), "{why}");
    assert_eq!(lines(&tool(server.addr, &[("ADMIN_TOKEN", TOKEN)], &["export", "nobody-was-here"])).len(), 0);
}
