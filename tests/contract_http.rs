//! Proves the HTTP half of the wire contract: each path, each refusal, and what a load balancer relies on.

mod common;

use common::http::{Connection, Response, get, metric, request};
use common::wire::{UPGRADE, text_frame};
use common::*;

/// Asserts that a refusal has this status, a one-line plain-text body and a length.
#[track_caller]
fn refused(response: &Response, status: u16) {
    let text = response.text();
    assert_eq!(response.status, status, "{response:?} {text:?}");
    let kind = response.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain"), "{kind:?}");
    let line = text.strip_suffix('\n').unwrap_or(&text);
    assert!(!line.is_empty() && !line.contains('\n'), "not one line: {text:?}");
}

#[test]
fn the_page_and_its_files_are_served() {
    let instance = Instance::start(&[]);
    let longest = format!("/r/{}", "x".repeat(48));
    for (path, kind) in [
        ("/", "text/html"),
        ("/?from=mail", "text/html"),
        ("/r/lobby", "text/html"),
        ("/r/0-a_b", "text/html"),
        (longest.as_str(), "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/favicon.svg", "image/svg+xml"),
    ] {
        let response = get(instance.addr, path);
        assert_eq!(response.status, 200, "{path}");
        let got = response.header("content-type").unwrap_or_default();
        assert!(got.starts_with(kind), "{path}: {got}");
        assert!(!response.body.is_empty(), "{path}");
    }
}

/// The page and its files.
fn all_files() -> Vec<String> {
    let files = [
        "/",
        "/r/lobby",
        "/app.js",
        "/chat.js",
        "/style.css",
        "/favicon.svg",
        "/manifest.webmanifest",
        "/icon-192.png",
    ];
    files.map(str::to_owned).to_vec()
}

#[test]
fn files_have_etags_and_are_not_sent_twice() {
    let instance = Instance::start(&[]);
    for path in &all_files() {
        let first = get(instance.addr, path);
        let etag = first.header("etag").unwrap_or_else(|| panic!("{path}: no ETag")).to_owned();
        assert!(etag.ends_with('"'), "{path}: {etag} is not quoted");
        assert_eq!(first.header("cache-control"), Some("no-cache"), "{path}");
        for known in [etag.clone(), format!("\"other\", {etag}"), "*".into()] {
            let again = request(instance.addr, "GET", path, &format!("If-None-Match: {known}\r\n"));
            assert_eq!(again.status, 304, "{path} with {known}");
            assert_eq!(again.header("etag"), Some(etag.as_str()), "{path}");
        }
        let other = request(instance.addr, "GET", path, "If-None-Match: \"other\"\r\n");
        assert_eq!((other.status, other.body), (200, first.body), "{path}");
    }
    // A 304 has no body: the next answer on the same connection is read from the right place.
    let mut connection = Connection::open(instance.addr);
    let etag = connection.request("GET", "/", "").header("etag").expect("an ETag").to_owned();
    assert_eq!(connection.request("GET", "/", &format!("If-None-Match: {etag}\r\n")).status, 304);
    assert_eq!(connection.request("GET", "/healthz", "").status, 200);
}

#[test]
fn files_carry_the_security_headers() {
    let instance = Instance::start(&[]);
    for path in &all_files() {
        let response = get(instance.addr, path);
        let policy = response.header("content-security-policy").unwrap_or_default();
        for rule in [
            "default-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(rule), "{path}: no {rule} in {policy:?}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(response.header("referrer-policy"), Some("no-referrer"), "{path}");
    }
}

#[test]
fn the_page_names_no_foreign_origin() {
    let instance = Instance::start(&[]);
    for path in &all_files() {
        let text = get(instance.addr, path).text();
        for (at, _) in text.match_indices("://") {
            let rest: String = text[at..].chars().take(60).collect();
            let own = rest.starts_with("://www.w3.org/") || rest.starts_with("://${") || rest.starts_with("://\"");
            let scheme = text[..at].ends_with("http") || text[..at].ends_with("https") || text[..at].ends_with("wss");
            assert!(own || !scheme, "{path} names {rest:?}");
        }
    }
}

#[test]
fn head_works_wherever_get_does() {
    let instance = Instance::start(&[]);
    let mut connection = Connection::open(instance.addr);
    for path in ["/", "/r/lobby", "/app.js", "/style.css", "/favicon.svg", "/healthz", "/readyz"] {
        let get = connection.request("GET", path, "");
        let head = connection.request("HEAD", path, "");
        assert_eq!(head.status, 200, "{path}");
        for name in ["content-type", "content-length", "etag"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
    }
    assert_eq!(connection.request("HEAD", "/metrics", "").status, 200);
    assert_eq!(connection.request("HEAD", "/nowhere", "").status, 404);
    assert_eq!(connection.request("GET", "/healthz", "").status, 200, "no stray body in between");
}

#[test]
fn another_method_is_405_and_says_which_are_allowed() {
    let instance = Instance::start(&[]);
    for path in ["/", "/r/lobby", "/app.js", "/healthz", "/readyz", "/metrics", "/ws/lobby"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let response = request(instance.addr, method, path, "Content-Length: 0\r\n");
            refused(&response, 405);
            let allow = response.header("allow").unwrap_or_default();
            assert!(allow.contains("GET") && allow.contains("HEAD"), "{method} {path}: Allow: {allow:?}");
        }
    }
}

#[test]
fn the_body_of_a_refused_request_is_never_taken_for_a_request() {
    let instance = Instance::start(&[]);
    let hidden = "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";
    for framing in [
        format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
    ] {
        for method in ["POST", "GET"] {
            let mut connection = Connection::open(instance.addr);
            connection.write(format!("{method} /healthz HTTP/1.1\r\nHost: test\r\n{framing}"));
            let response = connection.response(false);
            assert!(matches!(response.status, 200 | 400 | 405 | 411 | 413 | 501), "{response:?}");
            if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                assert!(connection.closed());
            } else {
                let next = connection.request("GET", "/healthz", "");
                assert_eq!(next.status, 200);
                assert!(!next.text().contains("# TYPE"), "the hidden request was answered");
            }
        }
    }
}

#[test]
fn unknown_paths_and_impossible_rooms_are_404() {
    let instance = Instance::start(&[]);
    let long = "x".repeat(49);
    for path in [
        "/nowhere",
        "/index.html",
        "/app.js/",
        "/healthz/x",
        "/../etc/passwd",
        "/r/",
        "/r",
        "/r/-x",
        "/r/_x",
        "/r/a/b",
        "/r/a%20b",
        "/r/caf%C3%A9",
        &format!("/r/{long}"),
    ] {
        refused(&get(instance.addr, path), 404);
    }
    for room in ["", "-x", "a/b", "a.b", "a%62", &long] {
        refused(&request(instance.addr, "GET", &format!("/ws/{room}"), UPGRADE), 404);
    }
}

#[test]
fn a_head_over_8_kib_is_431() {
    let instance = Instance::start(&[]);
    let header = |size: usize| format!("X-Long: {}\r\n", "x".repeat(size));
    assert_eq!(request(instance.addr, "GET", "/healthz", &header(7_900)).status, 200);
    refused(&request(instance.addr, "GET", "/healthz", &header(8_200)), 431);
    refused(&request(instance.addr, "GET", &format!("/{}", "x".repeat(9_000)), ""), 431);
    // Many small headers count too.
    refused(&request(instance.addr, "GET", "/healthz", &"X: 1\r\n".repeat(2_000)), 431);
    // A head that never ends is refused before it ends.
    let mut connection = Connection::open(instance.addr);
    connection.write(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(8_200)));
    refused(&connection.response(false), 431);
    assert!(connection.closed());
}

#[test]
fn up_to_64_headers_within_8_kib_are_taken() {
    let instance = Instance::start(&[]);
    let lines = |count| (0..count).map(|n| format!("X-Header-Number-{n}: {n}\r\n")).collect::<String>();
    // Together with `Host`, 64 lines.
    assert_eq!(request(instance.addr, "GET", "/healthz", &lines(63)).status, 200);
    refused(&request(instance.addr, "GET", "/healthz", &lines(64)), 431);
}

#[test]
fn a_head_that_is_no_http_1_is_400() {
    let instance = Instance::start(&[]);
    for head in [
        "hello\r\n\r\n",
        "GET\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / FTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        "GET / HTTP/1.1\r\nSp ace: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}\r\n\r\n",
    ] {
        let mut connection = Connection::open(instance.addr);
        connection.write(head);
        refused(&connection.response(false), 400);
        assert!(connection.closed(), "{head:?}");
    }
    assert_eq!(get(instance.addr, "/healthz").status, 200);
}

#[test]
fn lines_that_must_be_there_once_are() {
    let instance = Instance::start(&[]);
    for (version, lines, status) in [
        ("1.1", "", 400),
        ("1.0", "", 200),
        ("1.9", "", 400),
        ("1.9", "Host: a\r\n", 200),
        ("1.1", "Host: a\r\nHost: a\r\n", 400),
        ("1.0", "Host: a\r\nhost: b\r\n", 400),
        ("1.1", "Host: a\r\nOrigin: http://a\r\n", 200),
        ("1.1", "Host: a\r\nOrigin: http://a\r\norigin: http://evil.example\r\n", 400),
    ] {
        let mut connection = Connection::open(instance.addr);
        connection.write(format!("GET /healthz HTTP/{version}\r\n{lines}\r\n"));
        let response = connection.response(false);
        assert_eq!(response.status, status, "HTTP/{version} {lines:?}");
        if status == 400 {
            refused(&response, 400);
            assert!(connection.closed());
        }
    }
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let instance = Instance::start(&[]);
    let mut connection = Connection::open(instance.addr);
    for byte in b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n" {
        connection.write([*byte]);
    }
    assert_eq!(connection.response(false).status, 200);
}

#[test]
fn connections_are_kept_alive_and_closed_when_asked() {
    let instance = Instance::start(&[]);
    let mut connection = Connection::open(instance.addr);
    for path in ["/", "/healthz", "/nowhere", "/app.js", "/metrics", "/readyz"] {
        connection.request("GET", path, "");
    }
    assert_eq!(connection.request("GET", "/healthz", "Connection: close\r\n").status, 200);
    assert!(connection.closed());

    let mut two_at_once = Connection::open(instance.addr);
    two_at_once.write("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\nHEAD / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(two_at_once.response(false).status, 200);
    assert_eq!(two_at_once.response(true).status, 200);

    let mut old = Connection::open(instance.addr);
    old.write("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(old.response(false).status, 200);
    assert!(old.closed(), "HTTP/1.0 ends with its answer");
}

#[test]
fn a_path_under_ws_without_a_right_upgrade_is_426_or_400() {
    let instance = Instance::start(&[]);
    let plain = get(instance.addr, "/ws/lobby");
    refused(&plain, 426);
    assert!(plain.header("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket")));
    for leave_out in ["Connection", "Upgrade: ", "Sec-WebSocket-Version", "Sec-WebSocket-Key"] {
        let some: String = UPGRADE.split_inclusive("\r\n").filter(|line| !line.starts_with(leave_out)).collect();
        let response = request(instance.addr, "GET", "/ws/lobby", &some);
        refused(&response, if response.status == 426 { 426 } else { 400 });
    }
    let old = request(instance.addr, "GET", "/ws/lobby", &UPGRADE.replace(": 13", ": 8"));
    refused(&old, if old.status == 426 { 426 } else { 400 });
}

#[test]
fn a_foreign_origin_is_403() {
    let instance = Instance::start(&[]);
    let own = instance.addr;
    for (host, origin, status) in [
        ("chat.example", "http://chat.example", 101),
        ("chat.example", "https://chat.example", 101),
        ("Chat.Example", "https://chat.example", 101),
        ("chat.example:8080", "http://chat.example:8080", 101),
        (&own.to_string(), &format!("http://{own}"), 101),
        ("chat.example", "https://evil.example", 403),
        ("chat.example", "https://chat.example.evil.example", 403),
        ("chat.example", "https://evil.example/chat.example", 403),
        ("chat.example", "http://chat.example:8080", 403),
        ("chat.example", "null", 403),
    ] {
        let mut connection = Connection::open(own);
        connection.write(format!("GET /ws/lobby HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n{UPGRADE}\r\n"));
        let response = connection.response(false);
        assert_eq!(response.status, status, "Host {host}, Origin {origin}: {response:?}");
        if status == 403 {
            refused(&response, 403);
        }
    }
}

#[test]
fn the_upgrade_follows_the_rfc_and_echoes_the_protocol() {
    let instance = Instance::start(&[]);
    let none = request(instance.addr, "GET", "/ws/lobby", UPGRADE);
    assert_eq!(none.status, 101);
    assert_eq!(none.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(none.header("sec-websocket-protocol"), None);
    assert_eq!(none.header("x-content-type-options"), Some("nosniff"), "as every answer");
    for offer in ["bobbin.v1", "other, bobbin.v1", "bobbin.v1, bobbin.v2"] {
        let headers = format!("{UPGRADE}Sec-WebSocket-Protocol: {offer}\r\n");
        let response = request(instance.addr, "GET", "/ws/lobby", &headers);
        assert_eq!(response.header("sec-websocket-protocol"), Some("bobbin.v1"), "{offer}");
    }
    let headers = format!("{UPGRADE}Sec-WebSocket-Protocol: other\r\n");
    let other = request(instance.addr, "GET", "/ws/lobby", &headers);
    assert_ne!(other.header("sec-websocket-protocol"), Some("other"), "never what we do not speak");
    // Firefox sends this form.
    let firefox = UPGRADE.replace("Connection: Upgrade", "Connection: keep-alive, Upgrade");
    assert_eq!(request(instance.addr, "GET", "/ws/lobby", &firefox).status, 101);
}

#[test]
fn frames_sent_together_with_the_upgrade_are_not_lost() {
    let instance = Instance::start(&[]);
    let mut connection = Connection::open(instance.addr);
    let mut bytes = format!("GET /ws/lobby HTTP/1.1\r\nHost: t\r\n{UPGRADE}\r\n").into_bytes();
    bytes.extend(text_frame(r#"{"type":"join","name":"Ada"}"#));
    connection.write(bytes);
    assert_eq!(connection.response(false).status, 101);
    poll_until("the early join is carried out", PATIENCE, || {
        let mut probe = Client::connect(instance.addr, "lobby");
        probe.try_enter("Ada", None)["code"] == "name_taken"
    });
}

#[test]
fn health_and_readiness_of_an_instance_alone() {
    let instance = Instance::start(&[]);
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    let ready = get(instance.addr, "/readyz");
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert!(ready.header("content-type").is_some_and(|v| v.starts_with("application/json")));
    assert!(ready.json().is_object());
}

#[test]
fn readiness_with_redis() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let ready = poll("ready", PATIENCE, || Some(get(instance.addr, "/readyz")).filter(|r| r.status == 200));
    assert!(ready.json().is_object());
}

#[test]
fn metrics_are_prometheus_text() {
    let instance = Instance::start(&[]);
    let mut ada = Client::join(instance.addr, "lobby", "Ada");
    ada.say("one to count");
    let response = get(instance.addr, "/metrics");
    assert_eq!(response.status, 200);
    assert!(response.header("content-type").is_some_and(|v| v.starts_with("text/plain")));
    let text = response.text();
    let mut typed = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed.push(rest.split(' ').next().expect("a name").to_owned());
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            let name = series.split('{').next().expect("a name");
            assert!(value.parse::<f64>().is_ok(), "no number: {line}");
            assert!(typed.iter().any(|t| name.starts_with(t.as_str())), "no type for {line}");
        }
    }
    assert!(typed.iter().any(|name| name.starts_with("bobbin_")), "{text}");
    assert!(!text.contains("one to count"), "texts are nobody's business");
}

#[test]
fn a_draining_instance_is_alive_but_not_ready() {
    let instance = Instance::start(&[("DRAIN_SECONDS", "5")]);
    // Enough sessions for the drain to take some time.
    let _sessions: Vec<Client> = (0..10).map(|n| Client::join(instance.addr, "lobby", &format!("N{n}"))).collect();
    let mut kept = Connection::open(instance.addr);
    assert_eq!(kept.request("GET", "/readyz", "").status, 200);
    instance.signal("TERM");
    let ready = poll("not ready", PATIENCE, || Some(get(instance.addr, "/readyz")).filter(|r| r.status == 503));
    assert!(ready.text().contains("drain"), "the body says why: {}", ready.text());
    assert!(ready.json().is_object());
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    let refusal = request(instance.addr, "GET", "/ws/lobby", UPGRADE);
    refused(&refusal, 503);
    let after = refusal.header("retry-after").unwrap_or_default();
    assert!(after.parse::<u32>().is_ok(), "Retry-After: {after:?}");
}

#[test]
fn a_connection_that_asks_nothing_harms_nobody() {
    let instance = Instance::start(&[]);
    let _idle: Vec<Connection> = (0..50).map(|_| Connection::open(instance.addr)).collect();
    for _ in 0..50 {
        drop(Connection::open(instance.addr));
    }
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    assert!(metric(instance.addr, "bobbin_connections") == 0.0);
}
