//! Proves that no secrets leak: a server runs at the most verbose log level with marked secrets, names and texts
//! wherever these can occur, and everything that it outputs is searched for the marks.

mod common;

use common::http::{Connection, get, request};
use common::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Each is used once, and must not be found anywhere.
const REDIS_PASSWORD: &str = "MARK-redis-password";
const PASSPHRASE: &str = "MARK-passphrase";
const POST_TOKEN: &str = "MARK-post-token-0123456789";
const ADMIN_TOKEN: &str = "MARK-admin-token-0123456789";
const BOT_TOKEN: &str = "MARK-token-of-a-bot-0123456789";
const METRICS_TOKEN: &str = "MARK-metrics-token-0123456789";
const GUESS: &str = "MARK-wrong-guess";
const CLIENT: &str = "MARK-client-secret-0123456789";
const TEXT: &str = "MARK-text-in-confidence";
const JUNK: &str = "MARK-not-json";
const REF: &str = "MARK-ref";

/// The settings that hold some of them.
const SECRETS: [(&str, &str); 4] = [
    ("PASSPHRASE", PASSPHRASE),
    ("POST_TOKEN", POST_TOKEN),
    ("ADMIN_TOKEN", ADMIN_TOKEN),
    ("METRICS_TOKEN", METRICS_TOKEN),
];

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Uses every public input, valid and invalid, with marks wherever something private can occur.
fn use_everything(instance: &Instance) {
    let mut wrong = Client::connect(instance.addr, "tea");
    wrong.send(json!({"type": "join", "name": "Eve", "client": CLIENT, "passphrase": GUESS}));
    wrong.expect_error("unauthorized");
    wrong.send_text(JUNK);
    wrong.expect_error("bad_frame");
    wrong.send_text(&format!(r#"{{"type":"join","name":"Eve","passphrase":"{PASSPHRASE}","since":"MARK-since"}}"#));
    wrong.expect_error("bad_frame");
    let mut ada = Client::connect(instance.addr, "tea");
    ada.send(json!({"type": "join", "name": "Ada", "client": CLIENT, "passphrase": PASSPHRASE}));
    let welcome = ada.expect("welcome");
    ada.send(json!({"type": "message", "text": TEXT, "ref": REF}));
    let id = ada.until("the receipt", |f| f["ref"] == REF)["id"].clone();
    ada.send(json!({"type": "message", "text": format!("{TEXT}{}", "x".repeat(5000))}));
    ada.expect_error("text_invalid");
    ada.send(json!({"type": "history", "before": id}));
    ada.expect("history");
    assert!(!welcome.to_string().contains("MARK"), "{welcome}");
    let post = |token: &str, body: &str| {
        let mut connection = Connection::open(instance.addr);
        let length = body.len();
        connection.write(format!(
            "POST /r/tea/messages HTTP/1.1\r\nHost: t\r\n{}Content-Length: {length}\r\nIdempotency-Key: {REF}\r\n\r\n{body}",
            bearer(token)
        ));
        connection.response(false).status
    };
    assert_eq!(post(POST_TOKEN, TEXT), 201);
    assert_eq!(post(GUESS, TEXT), 401);
    assert_eq!(request(instance.addr, "GET", "/r/tea/messages", &bearer(PASSPHRASE)).status, 200);
    assert_eq!(request(instance.addr, "GET", "/r/tea/messages", &bearer(GUESS)).status, 401);
    assert_eq!(request(instance.addr, "GET", "/metrics", &bearer(METRICS_TOKEN)).status, 200);
    assert_ne!(request(instance.addr, "GET", "/admin/rooms", &bearer(ADMIN_TOKEN)).status, 401);
    assert_eq!(request(instance.addr, "GET", "/admin/rooms", &bearer(GUESS)).status, 401);
    assert!(request(instance.addr, "GET", "/nowhere?MARK-query", "Cookie: MARK-cookie\r\n").status == 404);
    let mut again = Client::connect(instance.addr, "tea");
    again.send(json!({"type": "join", "name": "Ada", "client": CLIENT, "passphrase": PASSPHRASE}));
    again.expect("welcome");
    ada.expect_close(4001);
    again.leave();
}

/// Fails with the place where a mark was found.
#[track_caller]
fn unmarked(place: &str, text: &str) {
    if let Some(line) = text.lines().find(|line| line.contains("MARK")) {
        panic!("{place} shows {line}");
    }
}

fn look_everywhere(instance: &Instance) {
    unmarked("the log", &instance.log());
    unmarked("stdout", &instance.out());
    unmarked("/metrics", &get(instance.addr, "/metrics").text());
    unmarked("/readyz", &get(instance.addr, "/readyz").text());
    let proc = format!("/proc/{}", instance.pid());
    unmarked("the command line", &String::from_utf8_lossy(&fs::read(format!("{proc}/cmdline")).expect("its file")));
    for thread in fs::read_dir(format!("{proc}/task")).expect("its threads").flatten() {
        unmarked("a thread's name", &fs::read_to_string(thread.path().join("comm")).unwrap_or_default());
    }
}

#[test]
fn a_run_at_trace_shows_nothing_private() {
    let redis = Redis::with(&["--appendonly", "no", "--requirepass", REDIS_PASSWORD]);
    let secrets = SECRETS.iter().copied().chain([("REDIS_PASSWORD", REDIS_PASSWORD)]);
    look_at_a_run(&redis, &redis.endpoint(), secrets.collect());
}

/// Writes a file that only its owner can read, and returns its path.
fn secret_file(dir: &Path, name: &str, secret: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, secret).expect("a small file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its owner");
    path.to_string_lossy().into_owned()
}

#[test]
fn nor_does_a_run_with_secrets_in_files_and_in_an_address() {
    let redis = Redis::with(&["--appendonly", "no", "--requirepass", REDIS_PASSWORD]);
    let dir = std::env::temp_dir().join(unique("bobbin-secrets"));
    fs::create_dir(&dir).expect("a directory");
    let files = SECRETS.map(|(name, secret)| (format!("{name}_FILE"), secret_file(&dir, name, secret)));
    let bots = secret_file(&dir, "bots", &format!("Bot {BOT_TOKEN} tea\n"));
    let endpoint = format!("redis://:{REDIS_PASSWORD}@{}", redis.addr());
    let more = [("POST_TOKENS_FILE", bots.as_str()), ("LOG_FORMAT", "json"), ("METRICS_EMF", "Bobbin/test/chat")];
    let settings = files.iter().map(|(name, path)| (name.as_str(), path.as_str())).chain(more);
    look_at_a_run(&redis, &endpoint, settings.collect());
    let _ = fs::remove_dir_all(dir);
}

#[test]
fn a_redis_that_repeats_what_it_does_not_understand_repeats_no_password() {
    let rename = ["--rename-command", "HELLO", "GREET"];
    let redis = Redis::with(&[&["--appendonly", "no", "--requirepass", REDIS_PASSWORD][..], &rename].concat());
    let endpoint = redis.endpoint();
    let instance = Instance::start(&[("REDIS_ENDPOINT", endpoint.as_str()), ("REDIS_PASSWORD", REDIS_PASSWORD)]);
    instance.logged("unknown command");
    let ready = get(instance.addr, "/readyz");
    assert_eq!(ready.status, 503);
    unmarked("/readyz", &ready.text());
    unmarked("the log", &instance.log());
}

/// Uses an instance on this Redis, with and without an answer from it, and looks for marks in all that it puts out.
fn look_at_a_run(redis: &Redis, endpoint: &str, secrets: Vec<(&str, &str)>) {
    let others = [("REDIS_ENDPOINT", endpoint), ("RUST_LOG", "trace"), ("DRAIN_SECONDS", "0")];
    let mut instance = Instance::start(&[&others[..], &secrets].concat());
    poll_until("ready", PATIENCE, || get(instance.addr, "/readyz").status == 200);
    use_everything(&instance);
    // Includes what the Redis connections log.
    redis.freeze();
    poll_until("not ready", PATIENCE, || get(instance.addr, "/readyz").status == 503);
    redis.thaw();
    poll_until("ready again", PATIENCE, || get(instance.addr, "/readyz").status == 200);
    if secrets.iter().any(|(name, _)| *name == "METRICS_EMF") {
        poll_until("a line of metrics", Duration::from_secs(90), || instance.out().ends_with('\n'));
    }
    look_everywhere(&instance);
    let levels = ["TRACE", "DEBUG", r#""level":"trace""#, r#""level":"debug""#];
    assert!(levels.iter().any(|level| instance.log().contains(level)), "it was loud:\n{}", instance.log());
    instance.signal("TERM");
    instance.wait(PATIENCE);
    unmarked("the log", &instance.log());
    unmarked("stdout", &instance.out());
}

#[test]
fn alone_it_shows_nothing_private_either() {
    let file = DataFile::new();
    let path = file.path();
    let instance = Instance::start(&[&[("DATA_FILE", path.as_str()), ("RUST_LOG", "trace")][..], &SECRETS].concat());
    use_everything(&instance);
    look_everywhere(&instance);
    // Texts belong in the file; secrets do not.
    for entry in fs::read_dir(file.dir()).expect("its directory").flatten() {
        let bytes = fs::read(entry.path()).expect("its file");
        for secret in [PASSPHRASE, POST_TOKEN, ADMIN_TOKEN, METRICS_TOKEN, GUESS, CLIENT] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{} holds {secret}", entry.path().display());
        }
    }
}

#[test]
fn a_wrong_setting_is_told_without_its_secret() {
    let dir = std::env::temp_dir().join(unique("bobbin-secret"));
    fs::create_dir(&dir).expect("a directory");
    let path = secret_file(&dir, "token", "MARK short");
    for (name, value) in [
        ("REDIS_ENDPOINT", "redis://user:MARK-password@host:99999"),
        ("POST_TOKEN", "MARK short"),
        ("POST_TOKEN_FILE", &path),
        ("POST_TOKENS_FILE", &path),
        ("ADMIN_TOKEN", "MARK short"),
        ("METRICS_TOKEN_FILE", &path),
    ] {
        let output = Instance::command().env(name, value).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{name}");
        let lines = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(lines.contains(name.trim_end_matches("_FILE")), "{lines}");
        unmarked(name, &lines);
    }
    let _ = fs::remove_dir_all(dir);
}
