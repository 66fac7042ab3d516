//! Proves that Redis is reached by each form of its address, with a password, with TLS, and with both, and that a Redis
//! that rejects the credentials, or is not suitable, is never used.

mod common;

use common::http::get;
use common::redis::{PASSWORD, certificates};
use common::*;
use std::time::Duration;

#[test]
fn the_endpoint_is_taken_in_each_form() {
    let redis = Redis::start();
    for endpoint in [
        format!("127.0.0.1:{}", redis.port),
        format!("localhost:{}", redis.port),
        format!("redis://127.0.0.1:{}", redis.port),
        format!("redis://127.0.0.1:{}/", redis.port),
        format!("redis://127.0.0.1:{}/0", redis.port),
    ] {
        let instance = Instance::start(&[("REDIS_ENDPOINT", &endpoint)]);
        poll_until(&format!("ready with {endpoint}"), PATIENCE, || get(instance.addr, "/readyz").status == 200);
    }
    // A bare host, as in the article: the port is Redis's default.
    let instance = Instance::start(&[("REDIS_ENDPOINT", "127.0.0.77")]);
    let log = poll("the log names it", PATIENCE, || Some(instance.log()).filter(|l| l.contains("127.0.0.77")));
    assert!(log.contains("127.0.0.77:6379"), "{log}");
}

#[track_caller]
fn ready_and_talking(instance: &Instance) {
    poll_until("ready", PATIENCE, || get(instance.addr, "/readyz").status == 200);
    let mut ada = Client::join(instance.addr, &unique("room"), "Ada");
    ada.say("hello through the lock");
}

#[track_caller]
fn never_ready(instance: &Instance) {
    holds("not ready", Duration::from_secs(2), || get(instance.addr, "/readyz").status == 503);
    let mut ada = Client::connect(instance.addr, "tea");
    assert_eq!(ada.try_enter("Ada", None)["code"], "unavailable");
}

#[test]
fn a_redis_with_a_password() {
    let redis = Redis::with(&["--requirepass", "hush hush"]);
    let file = redis.dir.join("password");
    std::fs::write(&file, "hush hush\n").expect("a small file"); // editors end a file with a newline
    let file = file.to_str().expect("a plain path");
    ready_and_talking(&Instance::on(&redis, &[("REDIS_PASSWORD", "hush hush")]));
    ready_and_talking(&Instance::on(&redis, &[("REDIS_PASSWORD_FILE", file)]));
    let url = format!("redis://:hush%20hush@{}", redis.addr());
    let instance = Instance::start(&[("REDIS_ENDPOINT", &url)]);
    ready_and_talking(&instance);
    assert!(!instance.log().contains("hush"), "{}", instance.log());
    let plain = redis.endpoint();
    let wrong = Instance::start(&[("REDIS_ENDPOINT", &plain), ("REDIS_PASSWORD", "shout")]);
    never_ready(&wrong);
    assert!(!wrong.log().contains("shout"), "{}", wrong.log());
    never_ready(&Instance::start(&[("REDIS_ENDPOINT", &plain)]));
}

/// A Redis that accepts TLS only, and the file with the authority that signed its certificate.
fn tls_redis(args: &[&str]) -> (Redis, String) {
    let mut redis = Redis::absent(&[]);
    certificates(&redis.dir);
    let path = |name: &str| redis.dir.join(name).to_str().expect("a plain path").to_owned();
    let (ca, cert, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    let port = redis.port.to_string();
    let tls = ["--port", "0", "--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let tls = [&tls[..], &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"], args].concat();
    redis.arguments(&tls);
    redis.up();
    (redis, ca)
}

#[test]
fn a_redis_with_tls() {
    let (redis, ca) = tls_redis(&[]);
    let url = format!("rediss://{}", redis.addr());
    ready_and_talking(&Instance::start(&[("REDIS_ENDPOINT", &url), ("REDIS_CA_FILE", &ca)]));
    ready_and_talking(&Instance::on(&redis, &[("REDIS_TLS", "1"), ("REDIS_CA_FILE", &ca)]));
    let by_name = format!("localhost:{}", redis.port);
    let instance = Instance::start(&[("REDIS_ENDPOINT", &by_name), ("REDIS_TLS", "1"), ("REDIS_CA_FILE", &ca)]);
    ready_and_talking(&instance);
    // An unknown authority is not trusted, and plain text does not work.
    never_ready(&Instance::start(&[("REDIS_ENDPOINT", &url)]));
    never_ready(&Instance::start(&[("REDIS_ENDPOINT", &redis.endpoint())]));
}

#[test]
fn a_redis_with_tls_and_a_password_comes_and_goes() {
    let (mut redis, ca) = tls_redis(&["--requirepass", "hush"]);
    let settings = [("REDIS_TLS", "1"), ("REDIS_CA_FILE", ca.as_str()), ("REDIS_PASSWORD", "hush")];
    let (first, second) = (Instance::on(&redis, &settings), Instance::on(&redis, &settings));
    ready_and_talking(&first);
    ready_and_talking(&second);
    let mut ada = Client::join(first.addr, "tea", "Eve");
    let mut bob = Client::join(second.addr, "tea", "Bob");
    ada.say("across");
    bob.hear("across");
    redis.freeze();
    let key = ada.post("hung");
    assert_eq!(ada.until("an answer", |f| f["ref"] == key.as_str())["code"], "unavailable");
    redis.thaw();
    ada.until("status up", |f| f["type"] == "status" && f["backplane"] == "up");
    redis.kill();
    poll_until("not ready", PATIENCE, || get(first.addr, "/readyz").status == 503);
    redis.up();
    for instance in [&first, &second] {
        poll_until("ready again", PATIENCE, || get(instance.addr, "/readyz").status == 200);
    }
    poll_until("it crosses again", PATIENCE, || {
        let key = ada.post("again");
        let answer = ada.until("an answer", |f| f["ref"] == key.as_str());
        answer["type"] == "message"
    });
    bob.hear("again");
}

#[test]
fn the_documented_user_may_do_all_that_is_needed_and_no_more() {
    let redis = Redis::durable();
    let endpoint = format!("redis://bobbin@{}/2", redis.addr());
    let token = "a-token-of-the-tests-1";
    let settings = [
        ("REDIS_ENDPOINT", endpoint.as_str()),
        ("REDIS_PASSWORD", PASSWORD),
        ("ADMIN_TOKEN", token),
        ("POST_TOKEN", token),
    ];
    let (one, two) = (Instance::start(&settings), Instance::start(&settings));
    for instance in [&one, &two] {
        poll_until("ready", PATIENCE, || http::get(instance.addr, "/readyz").status == 200);
    }
    let mut ada = Client::join(one.addr, "tea", "Ada");
    let mut bob = Client::join(two.addr, "tea", "Bob");
    let id = ada.say("hi")["id"].as_str().expect("an id").to_owned();
    bob.hear("hi");
    bob.send(json!({"type": "typing", "active": true}));
    bob.send(json!({"type": "history", "before": id}));
    bob.expect("history");
    let (name, secret) = ("Bob", bob.secret.clone());
    bob.cut();
    let bob = Client::back(one.addr, "tea", name, &secret, Some(&id));
    let by = bob.welcome["by"].as_str().expect("a mark").to_owned();
    let authorization = format!("Authorization: Bearer {token}\r\nContent-Length: 0\r\n");
    let ask = |method: &str, path: &str| http::request(two.addr, method, path, &authorization).status;
    assert_eq!((ask("GET", "/admin/rooms"), ask("GET", "/admin/rooms/tea")), (200, 200));
    assert_eq!(ask("DELETE", &format!("/admin/rooms/tea/messages/{id}")), 200);
    assert_eq!(ask("DELETE", &format!("/admin/rooms/tea/messages?by={by}")), 200);
    assert_eq!(ask("DELETE", "/admin/rooms/tea/messages"), 200);
    assert_eq!((ask("GET", "/admin/bans"), ask("DELETE", "/admin/bans/192.0.2.7")), (200, 404));
    assert_eq!(http::get(two.addr, "/r/tea/messages?after=0-0").status, 200);
    bob.leave();
    ada.see_leave("Bob");
    // Long enough for two heartbeats, which renew leases and trim the log.
    holds("nothing is refused", std::time::Duration::from_secs(7), || !one.log().contains("refused"));
    for instance in [&one, &two] {
        let log = instance.log();
        assert!(!log.contains("NOPERM") && !log.contains("refused") && !log.contains("WARN"), "{log}");
    }
    // It may not touch any other program's keys.
    let mut cli = std::process::Command::new("redis-cli");
    cli.args(["-p", &redis.port.to_string(), "--user", "bobbin", "--pass", PASSWORD, "--no-auth-warning"]);
    let output = cli.args(["SET", "theirs", "x"]).output().expect("redis-cli");
    assert!(String::from_utf8_lossy(&output.stdout).contains("NOPERM"), "{output:?}");
}

/// Earlier versions needed no `INFO`, so a user may lack it: then Redis is not watched, and all else works.
#[test]
fn a_user_without_info_is_warned_about_once() {
    let redis = Redis::durable();
    let _: String = redis.cmd("ACL SETUSER bobbin -info");
    let endpoint = format!("redis://bobbin@{}/2", redis.addr());
    let instance = Instance::start(&[("REDIS_ENDPOINT", endpoint.as_str()), ("REDIS_PASSWORD", PASSWORD)]);
    poll_until("ready", PATIENCE, || http::get(instance.addr, "/readyz").status == 200);
    instance.logged("the user may not run INFO");
    Client::join(instance.addr, "tea", "Ada").say("hi");
    let log = instance.log();
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
}
