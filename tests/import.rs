//! Proves that `bobbin --import` moves a data file's rooms to Redis, to an empty one and to one in use.

mod common;

use common::*;
use std::process::Output;

fn import(file: &DataFile, redis: &Redis, more: &[&str]) -> Output {
    let mut command = Instance::command();
    // Renaming keys is not among the permissions of the server's own user.
    command.env("REDIS_ENDPOINT", redis.addr().to_string()).args(["--import", &file.path()]).args(more);
    command.output().expect("it runs")
}

#[track_caller]
fn says(output: &Output, code: i32, what: &str) {
    let all = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{all}");
    assert!(all.contains(what) && all.trim_end().lines().count() == 1, "{what:?} expected: {all}");
}

/// Fills a file with two rooms, one of them trimmed; returns their messages.
fn filled(file: &DataFile) -> (Client, Vec<Value>, Vec<Value>) {
    let instance = file.start(&[("RATE_LIMIT", "0"), ("HISTORY_MESSAGES", "30")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let tea = (0..20).map(|n| ada.say(&format!("tea {n} \"é\" 🐙"))).collect();
    let mut bob = Client::join(instance.addr, "coffee", "Bob");
    let coffee = (0..40).map(|n| bob.say(&format!("coffee {n}"))).collect();
    (ada, tea, coffee)
}

#[test]
fn rooms_move_to_an_empty_redis_and_clients_go_on_where_they_were() {
    let (file, redis) = (DataFile::new(), Redis::start());
    let (ada, tea, coffee) = filled(&file);
    let mut eve = Client::join(file.start(&[]).addr, "tea", "Eve");
    let mark = eve.welcome["by"].as_str().expect("a mark");
    let until = "(unixepoch() + 60) * 1000";
    file.sql(&format!("INSERT INTO bans VALUES (NULL, '{mark}', NULL, {until}), (NULL, NULL, '192.0.2.7', 1000)"));
    says(&import(&file, &redis, &[]), 0, "imported 50 messages in 2 rooms; bans: 1");
    let instance = Instance::on(&redis, &[]);
    let mut back = Client::back(instance.addr, "tea", "Ada", &ada.secret, tea[4]["id"].as_str());
    assert_eq!(back.welcome["messages"], json!(tea[5..]));
    assert_eq!(back.welcome["gap"], false);
    // Bans are imported too.
    let secret = eve.secret.clone();
    eve = Client::connect(instance.addr, "tea");
    eve.secret = secret;
    let refusal = eve.try_enter("Eve", None);
    assert_eq!(refusal["code"], "banned", "{refusal}");
    let left: i64 = redis.cmd("PTTL bobbin:bans");
    assert!((0..=61_000).contains(&left), "{left}");
    // Refs are known there too.
    back.send(json!({"type": "message", "text": "again", "ref": tea[19]["ref"]}));
    assert_eq!(back.expect("message"), tea[19]);
    let next = back.say("and on");
    assert!(next["id"].as_str() > tea[19]["id"].as_str(), "{next}");
    let trimmed = Client::back(instance.addr, "coffee", "Bob", "another-secret-of-bob", Some("0-0"));
    assert_eq!(trimmed.welcome["messages"], json!(coffee[10..]));
    assert_eq!(trimmed.welcome["gap"], true, "the first ten are not kept");
    let expiry: i64 = redis.cmd("TTL bobbin:{tea}:log");
    assert!((29 * 86_400..=30 * 86_400).contains(&expiry), "{expiry}");
    assert_eq!(redis.cmd::<Vec<String>>("KEYS *:import"), Vec::<String>::new());
}

#[test]
fn rooms_that_exist_are_refused_unless_they_are_to_be_replaced() {
    let (file, redis) = (DataFile::new(), Redis::start());
    let (_, tea, _) = filled(&file);
    let instance = Instance::on(&redis, &[]);
    let mut eve = Client::join(instance.addr, "tea", "Eve");
    let there = eve.say("there already");
    let elsewhere = Client::join(instance.addr, "elsewhere", "Eve").say("undisturbed");
    says(&import(&file, &redis, &[]), 1, "these rooms exist in redis: tea; --replace");
    let newcomer = Client::join(instance.addr, "coffee", "Cyd");
    assert_eq!(newcomer.welcome["messages"], json!([]), "nothing was imported");
    assert_eq!(Client::join(instance.addr, "tea", "Cyd").welcome["messages"], json!([there]));

    says(&import(&file, &redis, &["--replace"]), 0, "imported 50 messages in 2 rooms");
    assert_eq!(Client::join(instance.addr, "tea", "Dan").welcome["messages"], json!(tea));
    assert_eq!(Client::join(instance.addr, "elsewhere", "Dan").welcome["messages"], json!([elsewhere]));
    eve.say("those who were there talk on");
    says(&import(&file, &redis, &[]), 1, "these rooms exist in redis: ");
}

#[test]
fn what_cannot_be_imported_is_said_in_one_line() {
    let (file, redis) = (DataFile::new(), Redis::start());
    says(&import(&file, &redis, &[]), 1, "no such file");
    let instance = file.start(&[]);
    says(&import(&file, &redis, &[]), 1, "another process is using it");
    drop(instance);
    says(&import(&file, &redis, &[]), 0, "imported 0 messages in 0 rooms");
    let output = Instance::command().args(["--import", &file.path()]).output().expect("it runs");
    says(&output, 2, "REDIS_ENDPOINT");
    let mut command = Instance::command();
    command.env("REDIS_ENDPOINT", "127.0.0.1:1").args(["--import", &file.path()]);
    says(&command.output().expect("it runs"), 1, "can't import into redis");
}
