//! Proves what `bobbin --check` reports, that its exit code is that of the worst finding, and that it changes nothing.

mod common;

use common::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The exit code, and the lines, each with its verdict.
#[track_caller]
fn check(settings: &[(&str, &str)]) -> (i32, Vec<String>) {
    let mut command = Instance::command();
    command.env("BIND", "127.0.0.1").env("PORT", "0").envs(settings.iter().copied()).arg("--check");
    let output = command.output().expect("the binary starts");
    assert!(output.stderr.is_empty(), "{output:?}");
    let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let worst = |line: &String| match line.split(' ').next() {
        Some("ok") => 0,
        Some("warning") => 1,
        Some("error") => 2,
        _ => panic!("no verdict: {line}"),
    };
    let code = output.status.code().expect("an exit code");
    assert_eq!(lines.iter().map(worst).max(), Some(code), "{lines:?}");
    (code, lines)
}

#[track_caller]
fn finds(lines: &[String], start: &str, text: &str) {
    let fits =
        |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(start) && line.contains(text);
    assert!(lines.iter().any(fits), "no {start} … {text} in {lines:#?}");
}

fn folder() -> PathBuf {
    let dir = std::env::temp_dir().join(unique("bobbin-check"));
    fs::create_dir(&dir).expect("a directory");
    dir
}

#[test]
fn a_wrong_setting_is_an_error() {
    for setting in [("PORT", "x"), ("RATE_LIMIT", "fast"), ("ADMIN_TOKEN", "short")] {
        let (code, lines) = check(&[setting]);
        assert_eq!((code, lines.len()), (2, 1), "{lines:?}");
        finds(&lines, "error settings", setting.0);
    }
}

#[test]
fn rooms_in_memory_and_an_open_port_are_warned_of() {
    let (code, lines) = check(&[]);
    assert_eq!(code, 1, "{lines:?}");
    finds(&lines, "warning data", "DATA_FILE");
    finds(&lines, "ok connections", "limited by");
    finds(&lines, "ok access", "on this machine");
    finds(&check(&[("BIND", "0.0.0.0")]).1, "warning access", "PASSPHRASE");
    finds(&check(&[("BIND", "0.0.0.0"), ("PASSPHRASE", "sesame")]).1, "ok access", "passphrase");
    finds(&check(&[("MAX_CONNECTIONS", "9000000")]).1, "warning connections", "MAX_CONNECTIONS=9000000");
}

#[test]
fn a_port_that_is_in_use_is_found() {
    let instance = Instance::start(&[]);
    finds(&check(&[("PORT", &instance.addr.port().to_string())]).1, "warning port", "in use");
    finds(&check(&[("BIND", "192.0.2.1")]).1, "error port", "BIND");
}

#[test]
fn a_data_file_is_looked_at_and_left_alone() {
    let dir = folder();
    let file = dir.join("chat.db");
    let path = file.to_str().expect("a plain path");
    let data = [("DATA_FILE", path)];
    let (code, lines) = check(&data);
    assert_eq!(code, 0, "{lines:?}");
    finds(&lines, "ok data", "will be created");
    assert_eq!(fs::read_dir(&dir).expect("it is there").count(), 0, "nothing was made");
    let instance = Instance::start(&data);
    Client::join(instance.addr, "tea", "Ada").say("hi");
    finds(&check(&data).1, "ok data", "in use by a running server");
    drop(instance);
    let before = fs::read(&file).expect("the file");
    finds(&check(&data).1, "ok data", "is writable");
    assert!(fs::read(&file).expect("the file") == before, "it changed");
    fs::write(&file, "somebody's diary").expect("our own file");
    let (code, lines) = check(&data);
    assert_eq!(code, 2, "{lines:?}");
    finds(&lines, "error data", "belongs to another program");
    finds(&check(&[("DATA_FILE", "/nowhere/chat.db")]).1, "error data", "/nowhere");
    fs::remove_dir_all(&dir).expect("our own directory");
}

#[test]
fn a_secret_that_all_can_read_is_warned_of() {
    let dir = folder();
    let file = dir.join("token");
    fs::write(&file, "a-token-of-the-tests-1\n").expect("a small file");
    let setting = [("ADMIN_TOKEN_FILE", file.to_str().expect("a plain path"))];
    for (mode, warned) in [(0o644, true), (0o640, false)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("our own file");
        let (_, lines) = check(&setting);
        assert_eq!(lines.iter().any(|line| line.contains("chmod o=")), warned, "{mode:o}: {lines:?}");
        assert!(lines.iter().all(|line| !line.contains("a-token-of-the-tests")), "{lines:?}");
    }
    fs::remove_dir_all(&dir).expect("our own directory");
}

#[test]
fn redis_is_looked_at_and_left_alone() {
    let redis = Redis::start();
    let on = |redis: &Redis, more: &[(&str, &str)]| {
        check(&[&[("REDIS_ENDPOINT", redis.addr().to_string().as_str()), ("PASSPHRASE", "sesame")], more].concat())
    };
    let (code, lines) = on(&redis, &[]);
    assert_eq!(code, 1, "{lines:?}");
    finds(&lines, "ok redis", &redis.addr().to_string());
    finds(&lines, "warning persistence", "appendonly yes");
    finds(&lines, "warning memory", "without maxmemory");
    finds(&lines, "ok round trip", "ms");
    finds(&lines, "ok clock", "ms apart");
    finds(&lines, "ok permissions", "");
    assert_eq!(redis.cmd::<i64>("DBSIZE"), 0, "it has written something");

    let _: () = redis.cmd("CONFIG SET maxmemory 100mb");
    let _: () = redis.cmd("CONFIG SET maxmemory-policy allkeys-lru");
    let (code, lines) = on(&redis, &[]);
    assert_eq!(code, 2, "{lines:?}");
    finds(&lines, "error memory", "noeviction");

    let _: () = redis.cmd("ACL SETUSER bobbin on >open ~bobbin:* &bobbin:* +@all -xsetid -info");
    let endpoint = format!("redis://bobbin@{}", redis.addr());
    let (_, lines) = check(&[("REDIS_ENDPOINT", &endpoint), ("REDIS_PASSWORD", "open")]);
    finds(&lines, "error permissions", "XSETID (NOPERM)");
    finds(&lines, "warning redis", "INFO");
    let (_, lines) = check(&[("REDIS_ENDPOINT", &endpoint), ("REDIS_PASSWORD", "wrong")]);
    finds(&lines, "error redis", "REDIS_PASSWORD");
    assert!(lines.iter().all(|line| !line.contains("wrong")), "{lines:?}");

    // The Redis user in docs/redis.md has all permissions needed.
    finds(&check(&[("REDIS_ENDPOINT", &Redis::start().endpoint())]).1, "ok permissions", "");
}

#[test]
fn a_redis_that_appends_is_as_it_should_be() {
    let redis = Redis::durable();
    let _: () = redis.cmd("CONFIG SET maxmemory 100mb");
    let (code, lines) = check(&[("REDIS_ENDPOINT", &redis.addr().to_string())]);
    assert_eq!(code, 0, "{lines:?}");
    finds(&lines, "ok persistence", "appended");
    finds(&lines, "ok memory", "nothing is evicted");
    let away = check(&[("REDIS_ENDPOINT", "127.0.0.1:1")]);
    assert_eq!(away.0, 2);
    finds(&away.1, "error redis", "REDIS_ENDPOINT");
}
