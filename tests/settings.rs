//! Proves that each setting is read, and that an invalid one stops the start with one line that names it. (Redis's
//! address is in redis_access.rs.)

mod common;

use common::http::get;
use common::*;
use std::process::Output;
use std::time::{Duration, Instant};

/// Every documented setting.
const NAMES: &[&str] = &[
    "PORT",
    "BIND",
    "REDIS_ENDPOINT",
    "DATA_FILE",
    "REDIS_TLS",
    "REDIS_PASSWORD",
    "REDIS_PASSWORD_FILE",
    "REDIS_CA_FILE",
    "HISTORY_MESSAGES",
    "HISTORY_DAYS",
    "HISTORY_BYTES",
    "MAX_ROOMS",
    "STORAGE_BYTES",
    "RATE_LIMIT",
    "ROOM_PEOPLE",
    "TYPING_NAMES",
    "TEXT_RATE",
    "ADDRESS_CONNECTIONS",
    "ADDRESS_CONNECTION_RATE",
    "ADDRESS_JOINS",
    "ADDRESS_NEW_ROOMS",
    "ADDRESS_WRONG_PASSPHRASES",
    "ADDRESS_TEXT_RATE",
    "ADDRESS_HISTORY_RATE",
    "TRUSTED_PROXIES",
    "USER_HEADER",
    "ALLOWED_ORIGINS",
    "MAX_CONNECTIONS",
    "LOBBY_PERCENT",
    "JOINS_AT_ONCE",
    "READS_AT_ONCE",
    "DRAIN_SECONDS",
    "PASSPHRASE",
    "PASSPHRASE_FILE",
    "POST_TOKEN",
    "POST_TOKEN_FILE",
    "POST_TOKENS_FILE",
    "ADMIN_TOKEN",
    "ADMIN_TOKEN_FILE",
    "METRICS_TOKEN",
    "METRICS_TOKEN_FILE",
    "BASE_PATH",
    "FRAME_ANCESTORS",
    "METRICS_EMF",
    "REBALANCE",
    "LOG_FORMAT",
    "RUST_LOG",
];

/// Runs the binary until it exits.
#[track_caller]
fn run(settings: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Instance::command();
    command.envs([("PORT", "0"), ("BIND", "127.0.0.1")]).envs(settings.iter().copied()).args(args);
    let mut child = command.spawn().expect("the binary starts");
    let pid = child.id();
    let ended = std::time::Instant::now();
    loop {
        if child.try_wait().expect("our own child").is_some() {
            return child.wait_with_output().expect("its output");
        }
        if ended.elapsed() > PATIENCE {
            let _ = child.kill();
            let output = child.wait_with_output().expect("its output");
            panic!("process {pid} did not end with {settings:?} {args:?}: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn flag(name: &str) -> String {
    format!("--{}", name.to_lowercase().replace('_', "-"))
}

#[test]
fn nonsense_ends_the_start_with_code_2_and_one_line_that_names_it() {
    for (name, values) in [
        ("PORT", &["x", "70000", "-1", "80.5"][..]),
        ("BIND", &["not an address", "300.1.1.1"]),
        ("REDIS_ENDPOINT", &["http://host", "host:port", "host:99999", ":6379", "redis://", "two words"]),
        ("REDIS_TLS", &["maybe", "2"]),
        ("REDIS_PASSWORD_FILE", &["/nowhere/at/all"]),
        ("REDIS_CA_FILE", &["/nowhere/at/all", "/etc/hostname"]),
        ("DATA_FILE", &["chat.db"]), // with a Redis
        ("HISTORY_MESSAGES", &["many", "-5", "1.5", "99999999999999999999"]),
        ("HISTORY_DAYS", &["long", "-1", "99999999999999999999"]),
        ("HISTORY_BYTES", &["much", "1000"]),
        ("MAX_ROOMS", &["all", "-1"]),
        ("STORAGE_BYTES", &["all", "1.5", "-1", "512"]),
        ("RATE_LIMIT", &["fast", "-1", "0.5", "NaN", "inf"]),
        ("ROOM_PEOPLE", &["many", "-1"]),
        ("TYPING_NAMES", &["all", "-1"]),
        ("TEXT_RATE", &["slow", "-1"]),
        ("ADDRESS_CONNECTIONS", &["few", "-1", "1.5"]),
        ("ADDRESS_CONNECTION_RATE", &["fast", "-1"]),
        ("ADDRESS_JOINS", &["x", "-1"]),
        ("ADDRESS_NEW_ROOMS", &["x", "-1"]),
        ("ADDRESS_WRONG_PASSPHRASES", &["x", "-1"]),
        ("ADDRESS_TEXT_RATE", &["x", "-1"]),
        ("ADDRESS_HISTORY_RATE", &["x", "99999999999999999999"]),
        ("TRUSTED_PROXIES", &["everybody", "10.0.0.0/33", "10.0.0.1,", "99", "-1"]),
        ("USER_HEADER", &["Remote User", "Remote-User"]), // the second because TRUSTED_PROXIES is missing
        ("ALLOWED_ORIGINS", &["chat.example", "https://", "ftp://chat.example", "https://chat.example/path"]),
        ("MAX_CONNECTIONS", &["all", "-1"]),
        ("LOBBY_PERCENT", &["half", "-1", "101"]),
        ("JOINS_AT_ONCE", &["many", "-1"]),
        ("READS_AT_ONCE", &["many", "-1"]),
        ("DRAIN_SECONDS", &["soon", "-3", "99999999999999999999"]),
        ("PASSPHRASE_FILE", &["/nowhere/at/all", "/dev/null"]),
        ("POST_TOKEN", &["short", "with spaces in between", "0123456789abcdé"]),
        ("POST_TOKEN_FILE", &["/nowhere/at/all", "/dev/null"]),
        ("POST_TOKENS_FILE", &["/nowhere/at/all", "/etc/hostname"]),
        ("ADMIN_TOKEN", &["short"]),
        ("ADMIN_TOKEN_FILE", &["/nowhere/at/all"]),
        ("METRICS_TOKEN", &["short"]),
        ("METRICS_TOKEN_FILE", &["/nowhere/at/all"]),
        ("METRICS_EMF", &["1", "Bobbin/chat", "Bobbin//chat"]),
        ("REBALANCE", &["x", "-1"]),
        ("LOG_FORMAT", &["xml"]),
        ("RUST_LOG", &["shout"]),
    ] {
        for value in values {
            let endpoint = ("REDIS_ENDPOINT", "127.0.0.1:1"); // some are read only with a Redis
            let output = run(&[endpoint, (name, value)], &[]);
            let lines = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{name}={value}: {lines}");
            assert_eq!(lines.trim_end().lines().count(), 1, "{name}={value}, not one line: {lines}");
            assert!(lines.contains(name), "{name}={value}: {lines}");
        }
    }
}

#[test]
fn users_are_named_by_listed_proxies_only() {
    for proxies in ["", "0", "1", "2"] {
        let output = run(&[("USER_HEADER", "Remote-User"), ("TRUSTED_PROXIES", proxies)], &[]);
        let wanted = "bobbin: USER_HEADER: requires TRUSTED_PROXIES with networks, or whoever reaches the port could claim any name\n";
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(2), wanted), "{proxies}");
    }
}

#[test]
fn rooms_in_memory_have_a_largest_size() {
    let output = run(&[("STORAGE_BYTES", "1610612737"), ("REDIS_ENDPOINT", ""), ("DATA_FILE", "")], &[]);
    let wanted = "bobbin: STORAGE_BYTES: at most 1610612736 in memory; set DATA_FILE for more\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(2), wanted));
}

#[test]
fn a_token_that_is_none_is_refused_by_what_a_token_is() {
    for name in ["POST_TOKEN", "ADMIN_TOKEN", "METRICS_TOKEN"] {
        let output = run(&[(name, "short")], &[]);
        let wanted = format!("bobbin: {name}: a token must have at least 16 visible ASCII characters\n");
        assert_eq!(text(&output.stderr), wanted);
    }
}

#[test]
fn nonsense_in_a_flag_is_told_the_same_way() {
    for args in [&["--port", "x"][..], &["--rate-limit", "fast"], &["--drain-seconds=-1"]] {
        let output = run(&[], args);
        let lines = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {lines}");
        assert_eq!(lines.trim_end().lines().count(), 1, "{args:?}, not one line: {lines}");
        let option = args[0].split('=').next().expect("a flag");
        let name = option.trim_start_matches('-').replace('-', "_").to_uppercase();
        assert!(lines.contains(&name) || lines.contains(option), "{args:?}: {lines}");
    }
    for args in [&["--no-such-flag"][..], &["stray"], &["--port"]] {
        let output = run(&[], args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_secret_is_never_told() {
    let output = run(&[("REDIS_PASSWORD", "hush-hush"), ("PASSPHRASE", "sesame"), ("PORT", "x")], &[]);
    let all = text(&output.stderr) + &text(&output.stdout);
    assert!(!all.contains("hush-hush") && !all.contains("sesame"), "{all}");
    let help = run(&[("REDIS_PASSWORD", "hush-hush"), ("PASSPHRASE", "sesame")], &["--help"]);
    let all = text(&help.stderr) + &text(&help.stdout);
    assert!(!all.contains("hush-hush") && !all.contains("sesame"), "{all}");
    let url = run(&[("REDIS_ENDPOINT", "redis://user:hush-hush@host:99999")], &[]);
    assert!(!text(&url.stderr).contains("hush-hush"), "{}", text(&url.stderr));
}

#[test]
fn help_names_every_setting_and_its_flag() {
    let output = run(&[], &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for name in NAMES {
        assert!(help.contains(name), "no {name} in\n{help}");
        let secret = ["PASSPHRASE", "PASSWORD", "TOKEN"].iter().any(|ending| name.ends_with(ending));
        let line = format!("{} <", flag(name));
        assert_eq!(help.contains(&line), !secret, "{line} in\n{help}");
    }
}

#[test]
fn secrets_are_read_from_files() {
    let dir = std::env::temp_dir().join(unique("bobbin-secrets"));
    std::fs::create_dir(&dir).expect("a directory");
    let path = dir.join("passphrase");
    std::fs::write(&path, "sesame\n").expect("a small file");
    let instance = Instance::start(&[("PASSPHRASE_FILE", path.to_str().expect("a plain path"))]);
    std::fs::remove_dir_all(&dir).expect("our own directory");
    let mut ada = Client::connect(instance.addr, "tea");
    assert_eq!(ada.try_enter("Ada", None)["code"], "unauthorized");
    ada.send(json!({"type": "join", "name": "Ada", "passphrase": "sesame"}));
    ada.until("a welcome", |frame| frame["type"] == "welcome");
}

#[test]
fn version_is_that_of_the_package() {
    let output = run(&[], &["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout).trim(), format!("bobbin {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn healthcheck_asks_the_local_server() {
    let instance = Instance::start(&[]);
    let port = instance.addr.port().to_string();
    assert_eq!(run(&[("PORT", &port)], &["--healthcheck"]).status.code(), Some(0));
    assert_eq!(run(&[], &["--healthcheck", "--port", &port]).status.code(), Some(0));
    // If bound to all addresses, as in a container, it is reached through loopback.
    assert_eq!(run(&[("PORT", &port), ("BIND", "0.0.0.0")], &["--healthcheck"]).status.code(), Some(0));
    drop(instance);
    assert_eq!(run(&[("PORT", &port)], &["--healthcheck"]).status.code(), Some(1));
}

#[test]
fn healthcheck_does_not_wait_for_a_server_that_hangs() {
    let instance = Instance::start(&[]);
    let port = instance.addr.port().to_string();
    instance.signal("STOP");
    assert_eq!(run(&[("PORT", &port)], &["--healthcheck"]).status.code(), Some(1)); // within `run`'s timeout
    instance.signal("CONT");
}

#[test]
fn a_port_that_is_taken_ends_the_start() {
    let instance = Instance::start(&[]);
    let output = run(&[("PORT", &instance.addr.port().to_string())], &[]);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    let lines = text(&output.stderr);
    assert!(lines.contains(&instance.addr.port().to_string()), "{lines}");
    assert!(!lines.contains("panicked"), "{lines}");
}

#[test]
fn flags_win_over_the_environment() {
    let mut command = Instance::command();
    command.envs([("PORT", "1"), ("BIND", "127.0.0.1"), ("RATE_LIMIT", "1")]);
    command.args(["--port", "0", "--rate-limit=0"]);
    let instance = Instance::spawn(command);
    assert_ne!(instance.addr.port(), 1);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    for n in 0..60 {
        ada.post(&format!("m{n}"));
    }
    ada.say("no limit");
}

#[test]
fn an_empty_value_is_as_good_as_none() {
    // Templates that fill in nothing produce empty variables.
    let empty: Vec<(&str, &str)> =
        NAMES.iter().filter(|n| !matches!(**n, "PORT" | "BIND")).map(|name| (*name, "")).collect();
    let instance = Instance::start(&empty);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("alone and open");
    assert_eq!(get(instance.addr, "/readyz").status, 200);
}

#[test]
fn bind_chooses_the_address() {
    let mut command = Instance::command();
    command.envs([("PORT", "0"), ("BIND", "127.0.0.2")]);
    let instance = Instance::spawn(command);
    assert_eq!(instance.addr.ip().to_string(), "127.0.0.2");
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    // Not 127.0.0.1, where the servers of other tests may have the same port.
    let elsewhere = ([127, 0, 0, 3], instance.addr.port()).into();
    assert!(std::net::TcpStream::connect_timeout(&elsewhere, Duration::from_secs(1)).is_err());
}

#[test]
fn rate_limit_is_read() {
    let instance = Instance::start(&[("RATE_LIMIT", "1")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let start = Instant::now();
    let refused = (0..100).find(|n| {
        let key = ada.post(&format!("m{n}"));
        ada.until("an answer", |f| f["ref"] == key.as_str())["code"] == "rate_limited"
    });
    let most = 5 + start.elapsed().as_secs();
    assert!(refused.is_some_and(|n| (4..=most).contains(&n)), "a burst of 4, then 1 per second: {refused:?}");
}

#[test]
fn history_days_lets_a_log_expire() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[("HISTORY_DAYS", "2")]);
    Client::join(instance.addr, "tea", "Ada").say("hi");
    let seconds = || redis.cmd::<i64>("TTL bobbin:{tea}:log");
    let two_days = 2 * 86_400 - 60..=2 * 86_400;
    assert!(two_days.contains(&seconds()), "{}", seconds());
    // While somebody is there, the log never expires as a whole; single messages do.
    let [now, _]: [u64; 2] = redis.cmd("TIME");
    let age = |seconds: u64| format!("{}-0", (now - seconds) * 1000);
    for id in [age(3 * 86_400), age(86_400), age(3600)] {
        redis.cmd::<String>(&format!("XADD bobbin:{{milk}}:log {id} m nonsense"));
    }
    redis.cmd::<i64>("EXPIRE bobbin:{tea}:log 100");
    let _bob = [Client::join(instance.addr, "tea", "Bob"), Client::join(instance.addr, "milk", "Bob")];
    poll_until("what is too old is deleted", PATIENCE, || redis.cmd::<i64>("XLEN bobbin:{milk}:log") == 2);
    poll_until("the log may stay", PATIENCE, || two_days.contains(&seconds()));
    holds("the others stay", Duration::from_secs(4), || redis.cmd::<i64>("XLEN bobbin:{milk}:log") == 2); // a heartbeat
}

#[test]
fn history_messages_is_read() {
    for (count, kept) in [("5", 5..6), ("1000", 160..161)] {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[("HISTORY_MESSAGES", count), ("RATE_LIMIT", "0")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        for n in 0..159 {
            ada.post(&format!("m{n}"));
        }
        ada.say("last");
        let length: i32 = redis.cmd("XLEN bobbin:{tea}:log");
        assert!(kept.contains(&length), "HISTORY_MESSAGES={count} kept {length}");
    }
}

#[test]
fn rust_log_chooses_what_is_told() {
    let info = Instance::start(&[]);
    Client::join(info.addr, "tea", "Ada").leave();
    let debug = Instance::start(&[("RUST_LOG", "debug")]);
    Client::join(debug.addr, "tea", "Ada").leave();
    poll_until("a client's doings at debug", PATIENCE, || debug.log().lines().count() > info.log().lines().count());
}

#[test]
fn log_format_chooses_lines_of_json() {
    let mut json = Instance::command();
    json.envs([("PORT", "0"), ("BIND", "127.0.0.1"), ("LOG_FORMAT", "json"), ("RUST_LOG", "debug")]);
    let instance = Instance::spawn(json);
    Client::join(instance.addr, "tea", "Ada").leave();
    get(instance.addr, "/nowhere");
    instance.logged("the client closed");
    instance.logged("GET /nowhere");
    for line in instance.log().lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["time", "level", "target", "thread", "message"] {
            assert!(entry[field].is_string(), "no {field} in {line}");
        }
    }
}

#[test]
fn ipv6_is_spoken_too() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // not on this machine
    }
    let mut command = Instance::command();
    command.envs([("PORT", "0"), ("BIND", "::1")]);
    let instance = Instance::spawn(command);
    assert!(instance.addr.is_ipv6(), "{}", instance.addr);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("over IPv6");
    let port = instance.addr.port().to_string();
    assert_eq!(run(&[("PORT", &port), ("BIND", "::1")], &["--healthcheck"]).status.code(), Some(0));

    let mut command = Instance::command();
    command.envs([("PORT", "0"), ("BIND", "::")]);
    let both = Instance::spawn(command);
    for host in ["127.0.0.1", "::1"] {
        let addr = (host.parse::<std::net::IpAddr>().expect("an address"), both.addr.port()).into();
        assert_eq!(get(addr, "/healthz").status, 200, "{host}");
    }
}
