//! Proves the part of the wire contract used by scripts: messages over HTTP, their tokens, and long polling.

#[macro_use]
mod common;

use common::http::{Connection, Response, get, metric, request};
use common::*;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TOKEN: &str = "a-token-of-the-tests-1";
const MESSAGES: &str = "/r/tea/messages";

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Posts a body with these headers.
#[track_caller]
fn post(addr: SocketAddr, path: &str, headers: &str, body: &str) -> Response {
    let mut connection = Connection::open(addr);
    let length = body.len();
    connection.write(format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{headers}\r\n{body}"));
    connection.response(false)
}

/// Posts a text as the script of [`TOKEN`] and returns its id.
#[track_caller]
fn say(addr: SocketAddr, text: &str) -> String {
    let kept = post(addr, MESSAGES, &bearer(TOKEN), text);
    assert_eq!(kept.status, 201, "{}", kept.text());
    kept.json()["id"].as_str().expect("an id").to_owned()
}

/// The messages in an answer.
#[track_caller]
fn messages(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, 200, "{}", response.text());
    response.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[track_caller]
fn texts(response: &Response) -> Vec<String> {
    messages(response).iter().map(|m| m["text"].as_str().expect("a text").to_owned()).collect()
}

/// Asserts a refusal: this status and one line of plain text.
#[track_caller]
fn refused(response: &Response, status: u16) {
    let text = response.text();
    assert_eq!(response.status, status, "{text}");
    assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{response:?}");
    assert!(text.ends_with('\n') && text.trim_end().lines().count() == 1, "not one line: {text:?}");
}

both! {
    fn the_log_of_a_room_in_which_nobody_is_keeps_to_its_bytes(at) {
        let settings = [("POST_TOKEN", TOKEN), ("HISTORY_BYTES", "131072"), ("HISTORY_MESSAGES", "100000"), ("RATE_LIMIT", "0")];
        let server = at.start(&settings);
        (0..50).for_each(|n| drop(say(server.addr, &format!("{n:02}{}", "x".repeat(4_000)))));
        poll_until("it is trimmed", PATIENCE, || texts(&get(server.addr, MESSAGES)).len() <= 32);
        let kept = texts(&get(server.addr, MESSAGES));
        assert!(kept.len() >= 16 && kept.last().is_some_and(|text| text.starts_with("49")), "{}", kept.len());
    }

    fn a_posted_message_reaches_the_room_and_the_log(at) {
        let server = at.start(&[("POST_TOKEN", TOKEN)]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        let json = r#"{"text":"v1.2 is out","name":"Deploy"}"#;
        let headers = bearer(TOKEN) + "Content-Type: application/json\r\n";
        let kept = post(server.addr, MESSAGES, &headers, json);
        assert_eq!(kept.status, 201, "{}", kept.text());
        let seen = ada.until("the message", |frame| frame["type"] == "message");
        assert_eq!((&seen["text"], &seen["name"]), (&json!("v1.2 is out"), &json!("Deploy")));
        assert_eq!((&seen["id"], &seen["by"]), (&kept.json()["id"], &kept.json()["by"]));
        let by = seen["by"].as_str().expect("a mark");
        assert!(by.len() == 16 && by.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')), "{by}");
        assert_eq!(messages(&get(server.addr, MESSAGES)), [seen]);
    }

    fn a_repeated_key_posts_nothing_twice(at) {
        let server = at.start(&[("POST_TOKEN", TOKEN)]);
        let headers = bearer(TOKEN) + "Idempotency-Key: build-7\r\n";
        let first = post(server.addr, MESSAGES, &headers, "once");
        let second = post(server.addr, MESSAGES, &headers, "once again");
        assert_eq!((first.status, second.status), (201, 201));
        assert_eq!(first.json()["id"], second.json()["id"]);
        assert_eq!(texts(&get(server.addr, MESSAGES)), ["once"]);
    }

    fn the_log_is_read_in_both_directions(at) {
        let server = at.start(&[("POST_TOKEN", TOKEN), ("RATE_LIMIT", "0")]);
        let ids: Vec<String> = (0..10).map(|n| say(server.addr, &format!("m{n}"))).collect();
        let read = |query: &str| texts(&get(server.addr, &format!("{MESSAGES}?{query}")));
        assert_eq!(read("limit=3"), ["m7", "m8", "m9"]);
        assert_eq!(read(&format!("before={}&limit=2", ids[7])), ["m5", "m6"]);
        assert_eq!(read(&format!("after={}&limit=2", ids[1])), ["m2", "m3"]);
        assert_eq!(read(&format!("after={}&before={}", ids[1], ids[4])), ["m2", "m3"]);
        assert_eq!(read("after=0-0").len(), 10);
        assert_eq!(read(&format!("after={}", ids[9])).len(), 0);
        assert_eq!(get(server.addr, "/r/nobody-was-here/messages").text(), "");
        for wrong in ["after=x", "before=7", "limit=-1", "limit=all", "wait=x"] {
            refused(&get(server.addr, &format!("{MESSAGES}?{wrong}")), 400);
        }
    }

    fn an_etag_names_the_newest_message(at) {
        let server = at.start(&[("POST_TOKEN", TOKEN)]);
        let id = say(server.addr, "one");
        let first = get(server.addr, MESSAGES);
        let etag = first.header("etag").expect("an ETag").to_owned();
        assert!(etag.contains(&id), "{etag}");
        let known = format!("If-None-Match: {etag}\r\n");
        let mut connection = Connection::open(server.addr);
        let again = connection.request("GET", MESSAGES, &known);
        assert_eq!((again.status, again.header("etag")), (304, Some(etag.as_str())));
        let head = connection.request("HEAD", MESSAGES, "");
        assert_eq!((head.status, head.header("content-length")), (200, first.header("content-length")));
        // An empty answer has one too: the reader knows it from `after`.
        let empty = connection.request("GET", &format!("{MESSAGES}?after={id}"), "");
        assert!(empty.header("etag").is_some_and(|etag| etag.contains(&id)), "{empty:?}");
        say(server.addr, "two");
        assert_eq!(texts(&connection.request("GET", MESSAGES, &known)), ["one", "two"]);
    }

    fn a_request_waits_for_the_next_message(at) {
        let server = at.start(&[("POST_TOKEN", TOKEN)]);
        let id = say(server.addr, "one");
        let path = format!("{MESSAGES}?after={id}&wait=30");
        let mut waiting = Connection::open(server.addr);
        waiting.write(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        waiting.patience(Duration::from_millis(300));
        assert!(!waiting.closed(), "it waits");
        waiting.patience(PATIENCE);
        let start = Instant::now();
        say(server.addr, "two");
        assert_eq!(texts(&waiting.response(false)), ["two"]);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        // Existing messages are returned at once, and an empty answer when the time is over.
        assert_eq!(texts(&get(server.addr, &path)), ["two"]);
        let newest = say(server.addr, "three");
        let start = Instant::now();
        assert_eq!(get(server.addr, &format!("{MESSAGES}?after={newest}&wait=1")).text(), "");
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(5), "{waited:?}");
        // With an ETag it waits for another version.
        let etag = get(server.addr, MESSAGES).header("etag").expect("an ETag").to_owned();
        let known = format!("If-None-Match: {etag}\r\n");
        assert_eq!(request(server.addr, "GET", &format!("{MESSAGES}?wait=1"), &known).status, 304);
    }

    fn a_script_is_bound_by_the_rate_of_a_person(at) {
        let server = at.start(&[("POST_TOKEN", TOKEN), ("RATE_LIMIT", "1")]);
        let mut answers = (0..100).map(|_| post(server.addr, MESSAGES, &bearer(TOKEN), "hi"));
        let limited = answers.find(|answer| answer.status != 201).expect("a refusal");
        refused(&limited, 429);
        let seconds: u64 = limited.header("retry-after").and_then(|text| text.parse().ok()).expect("Retry-After");
        assert!((1..=2).contains(&seconds), "{seconds}");
        server.logged("script with POST_TOKEN was refused: too many messages per second (RATE_LIMIT)");
    }

    fn latencies_are_measured(at) {
        let server = at.start(&[("POST_TOKEN", TOKEN)]);
        let mut ada = Client::join(server.addr, "tea", "Ada");
        ada.say("hi");
        say(server.addr, "hello");
        ada.until("the second message", |frame| frame["text"] == "hello");
        poll_until("both are counted", PATIENCE, || metric(server.addr, "bobbin_keep_seconds_count") == 2.0);
        poll_until("both are counted", PATIENCE, || metric(server.addr, "bobbin_delivery_seconds_count") >= 1.0);
        assert!(metric(server.addr, "bobbin_keep_seconds_sum") < 2.0);
        assert!(metric(server.addr, "bobbin_oldest_unacknowledged_seconds") < 2.0);
    }

    fn no_person_can_take_the_name_of_a_script(at) {
        let tokens = Tokens::write("Deploy Bot other-token-of-tests tea,ops\n");
        let server = at.start(&[("POST_TOKENS_FILE", tokens.path())]);
        let mut mallory = Client::connect(server.addr, "tea");
        for name in ["Deploy Bot", "deploy  BOT"] {
            assert_eq!(mallory.try_enter(name, None)["code"], "name_taken", "{name}");
        }
        mallory.enter("Mallory", None);
    }
}

/// A POST_TOKENS_FILE.
struct Tokens(std::path::PathBuf);

impl Tokens {
    fn write(lines: &str) -> Tokens {
        let path = std::env::temp_dir().join(unique("bobbin-tokens"));
        std::fs::write(&path, lines).expect("a small file");
        Tokens(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn tokens_have_names_and_rooms() {
    let tokens =
        Tokens::write("# scripts\n\nDeploy Bot other-token-of-tests tea,ops\nEverywhere third-token-of-tests *\n");
    let server = Instance::start(&[("POST_TOKENS_FILE", tokens.path()), ("POST_TOKEN", TOKEN)]);
    let name_in = |path: &str| messages(&get(server.addr, path)).last().map(|m| m["name"].clone());
    let bot = bearer("other-token-of-tests");
    assert_eq!(post(server.addr, MESSAGES, &bot, "hi").status, 201);
    assert_eq!(name_in(MESSAGES), Some(json!("Deploy Bot")));
    refused(&post(server.addr, "/r/lobby/messages", &bot, "hi"), 403);
    assert_eq!(post(server.addr, "/r/lobby/messages", &bearer("third-token-of-tests"), "hi").status, 201);
    // A token without a name lets each message name its sender, but not with another token's name.
    assert_eq!(post(server.addr, MESSAGES, &bearer(TOKEN), r#"{"text":"hi","name":"CI"}"#).status, 201);
    assert_eq!(name_in(MESSAGES), Some(json!("CI")));
    refused(&post(server.addr, MESSAGES, &bearer(TOKEN), r#"{"text":"hi","name":"EVERYWHERE"}"#), 400);
    refused(&post(server.addr, MESSAGES, &bot, r#"{"text":"hi","name":"Ada"}"#), 400);
}

#[test]
fn each_refusal_has_its_status() {
    let server = Instance::start(&[("POST_TOKEN", TOKEN), ("RATE_LIMIT", "0")]);
    let json = bearer(TOKEN) + "Content-Type: application/json\r\n";
    for headers in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic YTpi\r\n"] {
        let answer = post(server.addr, MESSAGES, headers, "hi");
        refused(&answer, 401);
        assert!(answer.header("www-authenticate").is_some_and(|what| what.starts_with("Bearer")), "{answer:?}");
    }
    for body in ["hi", "[]", "{}", r#"{"text":""}"#, r#"{"text":"  "}"#, r#"{"text":7}"#, &"[".repeat(100)] {
        refused(&post(server.addr, MESSAGES, &json, body), 400);
    }
    let long = json!({ "text": "x".repeat(4097) }).to_string();
    refused(&post(server.addr, MESSAGES, &json, &long), 400);
    refused(&post(server.addr, MESSAGES, &json, r#"{"text":"hi","name":"a\u202eb"}"#), 400);
    refused(&post(server.addr, MESSAGES, &(json.clone() + "Idempotency-Key: \r\n"), r#"{"text":"hi"}"#), 400);
    refused(&post(server.addr, MESSAGES, &bearer(TOKEN), &"x".repeat(70_000)), 413);
    let chunked = bearer(TOKEN) + "Transfer-Encoding: chunked\r\n";
    refused(&request(server.addr, "POST", MESSAGES, &chunked), 411);
    refused(&post(server.addr, "/r/no.room/messages", &bearer(TOKEN), "hi"), 404);
    let method = request(server.addr, "DELETE", MESSAGES, "");
    refused(&method, 405);
    assert_eq!(method.header("allow"), Some("GET, HEAD, POST"));
    assert_eq!(get(server.addr, MESSAGES).text(), "", "nothing was kept");
    // Without a token in the settings, nobody can post.
    refused(&post(Instance::start(&[]).addr, MESSAGES, &bearer(TOKEN), "hi"), 404);
}

#[test]
fn a_body_may_come_slowly_or_on_demand_and_the_connection_stays() {
    let server = Instance::start(&[("POST_TOKEN", TOKEN)]);
    let mut connection = Connection::open(server.addr);
    let head = format!("POST {MESSAGES} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n{}", bearer(TOKEN));
    connection.write(format!("{head}\r\n"));
    for byte in b"hello" {
        connection.write([*byte]);
    }
    assert_eq!(connection.response(false).status, 201);
    connection.write(format!("{head}Expect: 100-continue\r\n\r\n"));
    assert_eq!(connection.response(false).status, 100);
    connection.write("again");
    assert_eq!(connection.response(false).status, 201);
    // Two requests in one write: the second is not taken for the first one's body.
    connection.write(format!("{head}\r\nthirdGET {MESSAGES} HTTP/1.1\r\nHost: test\r\n\r\n"));
    assert_eq!(connection.response(false).status, 201);
    assert_eq!(texts(&connection.response(false)), ["hello", "again", "third"]);
}

#[test]
fn the_log_is_behind_the_passphrase() {
    let server = Instance::start(&[("POST_TOKEN", TOKEN), ("PASSPHRASE", "open sesame")]);
    say(server.addr, "hi");
    let read = |headers: &str| request(server.addr, "GET", MESSAGES, headers);
    for wrong in ["", &bearer("wrong"), &bearer(TOKEN), "Authorization: Basic YWRhOndyb25n\r\n"] {
        refused(&read(wrong), 401);
    }
    assert_eq!(texts(&read(&bearer("open sesame"))), ["hi"]);
    // The same as the password of Basic authentication, with any user name: "ada:open sesame".
    assert_eq!(texts(&read("Authorization: Basic YWRhOm9wZW4gc2VzYW1l\r\n")), ["hi"]);
}

#[test]
fn where_a_proxy_names_the_user_the_log_is_for_users_and_for_the_host() {
    let proxy = [("TRUSTED_PROXIES", "127.0.0.1"), ("USER_HEADER", "Remote-User")];
    let server = Instance::start(&[&proxy[..], &[("POST_TOKEN", TOKEN), ("ADMIN_TOKEN", TOKEN)]].concat());
    say(server.addr, "hi");
    let read = |headers: &str| request(server.addr, "GET", MESSAGES, headers);
    refused(&read(""), 401);
    refused(&read(&bearer("another-token-of-tests")), 401);
    assert_eq!(texts(&read("Remote-User: ada\r\n")), ["hi"]);
    assert_eq!(texts(&read(&bearer(TOKEN))), ["hi"]);
}

#[test]
fn no_answer_says_which_version_this_is() {
    let server = Instance::start(&[]);
    let missing = request(server.addr, "POST", "/nowhere", "");
    let paths = ["/", "/r/tea", "/healthz", "/readyz", "/nowhere", "/ws/tea", MESSAGES, "/admin/rooms"];
    let answers = paths.map(|path| get(server.addr, path)).into_iter().chain([missing]);
    for answer in answers {
        let all = format!("{:?} {}", answer.headers, answer.text());
        assert!(!all.contains(env!("CARGO_PKG_VERSION")), "{all}");
    }
}

#[test]
fn without_redis_a_post_is_told_to_come_again() {
    let mut redis = Redis::start();
    let server = Instance::on(&redis, &[("POST_TOKEN", TOKEN)]);
    redis.kill();
    let answer = poll("a refusal", PATIENCE, || {
        Some(post(server.addr, MESSAGES, &bearer(TOKEN), "hi")).filter(|answer| answer.status != 201)
    });
    refused(&answer, 503);
    assert!(answer.header("retry-after").is_some());
    refused(&get(server.addr, MESSAGES), 503);
    // Strangers do not see Redis's address or its errors.
    let told = |headers: &str| request(server.addr, "GET", "/readyz", headers).text();
    assert!(told("").contains("redis"), "{}", told(""));
    let stranger = told("X-Forwarded-For: 203.0.113.9\r\n");
    assert!(!stranger.contains("redis") && stranger.contains("backplane"), "{stranger}");
}

#[test]
fn waiting_requests_end_with_the_process_and_with_their_client() {
    let mut server = Instance::start(&[]);
    let wait = |addr| {
        let mut waiting = Connection::open(addr);
        waiting.write(format!("GET {MESSAGES}?after=0-0&wait=50 HTTP/1.1\r\nHost: test\r\n\r\n"));
        waiting
    };
    let before = server.threads();
    let mut gone: Vec<Connection> = (0..5).map(|_| wait(server.addr)).collect();
    poll_until("they wait", PATIENCE, || metric(server.addr, "bobbin_polls") == 5.0);
    // The start of another request, which the server does not read meanwhile.
    gone.iter_mut().for_each(|waiting| waiting.write("G"));
    drop(gone);
    poll_until("their threads are gone", PATIENCE, || server.threads() <= before);
    let mut waiting = wait(server.addr);
    poll_until("it waits", PATIENCE, || metric(server.addr, "bobbin_polls") == 1.0);
    server.signal("TERM");
    let answer = waiting.response(false);
    assert!(matches!(answer.status, 200 | 503), "{answer:?}");
    server.wait(PATIENCE);
}

#[test]
fn a_webhook_of_alertmanager_is_one_message() {
    let server = Instance::start(&[("POST_TOKEN", TOKEN)]);
    let hook = json!({
        "version": "4", "status": "firing", "groupKey": "{}:{}",
        "alerts": [
            {"status": "firing", "labels": {"alertname": "DiskFull", "instance": "db1"}, "annotations": {"summary": "90 %"}},
            {"status": "resolved", "labels": {"alertname": "Down"}, "annotations": {}},
        ],
    });
    let path = "/r/tea/alertmanager";
    for _ in 0..2 {
        let answer = post(server.addr, path, &bearer(TOKEN), &hook.to_string());
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    assert_eq!(texts(&get(server.addr, MESSAGES)), ["FIRING: DiskFull db1 90 %\nRESOLVED: Down"]);
    for wrong in ["hi", "{}", r#"{"alerts":[]}"#, r#"{"alerts":7}"#] {
        refused(&post(server.addr, path, &bearer(TOKEN), wrong), 400);
    }
    refused(&post(server.addr, path, "", &hook.to_string()), 401);
    refused(&get(server.addr, path), 405);
}

#[test]
fn promtool_finds_nothing_to_say_against_the_metrics() {
    let redis = Redis::start();
    let server = Instance::on(&redis, &[("POST_TOKEN", TOKEN)]);
    let mut ada = Client::join(server.addr, "tea", "Ada");
    ada.say("hi");
    refused(&get(server.addr, "/nowhere"), 404);
    let text = get(server.addr, "/metrics").text();
    for series in ["bobbin_build_info{version=", "bobbin_http_refused_total{status=\"404\"} 1", "process_threads "] {
        assert!(text.lines().any(|line| line.starts_with(series)), "no {series} in\n{text}");
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool is installed (apt-get install prometheus)");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("its verdict");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn metrics_are_for_private_addresses_or_with_a_token() {
    let server = Instance::start(&[("METRICS_TOKEN", TOKEN)]);
    assert_eq!(get(server.addr, "/metrics").status, 200, "the test is at a private address");
    let forwarded = "X-Forwarded-For: 203.0.113.9\r\n";
    refused(&request(server.addr, "GET", "/metrics", forwarded), 403);
    assert_eq!(request(server.addr, "GET", "/metrics", &(forwarded.to_owned() + &bearer(TOKEN))).status, 200);
    refused(&request(server.addr, "GET", "/metrics", &(forwarded.to_owned() + &bearer("wrong"))), 403);
}
