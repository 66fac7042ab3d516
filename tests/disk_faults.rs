//! Proves what happens when a data file's disk is full, read-only, gone or broken, and when the wall clock jumps:
//! senders are refused, everything else continues, and it recovers by itself. Also after repeated `kill -9`.

mod common;

use common::faulty::{EIO, ENOSPC, EROFS};
use common::http::get;
use common::*;
use std::process::Command;
use std::time::{Duration, Instant};

/// Asserts that an instance refuses messages while everything else continues, and that nothing of them reached the
/// file.
#[track_caller]
fn refuses(instance: &Instance, ada: &mut Client, why: &str) {
    let start = Instant::now();
    let key = poll("a message is refused", PATIENCE, || {
        let key = ada.post("refused");
        let frame = ada.until("a receipt or an error", |f| f["ref"] == key.as_str());
        (frame["type"] == "error").then(|| {
            assert_eq!(frame["code"], "unavailable", "{frame}");
            key
        })
    });
    assert!(start.elapsed() < Duration::from_secs(5), "refused after {:?}", start.elapsed());
    let ready = get(instance.addr, "/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.json()["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{}", ready.text());
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    // A new client joins, reads the log, is seen and leaves.
    let name = unique("N");
    let mut newcomer = Client::join(instance.addr, &ada.room, &name);
    assert!(!newcomer.welcome["messages"].as_array().expect("messages").is_empty());
    ada.see_join(&name);
    newcomer.send(json!({"type": "history", "before": newcomer.welcome["last"]}));
    newcomer.expect("history");
    newcomer.send(json!({"type": "typing", "active": true}));
    ada.until("typing", |f| f["type"] == "typing" && f["name"] == name.as_str());
    newcomer.leave();
    ada.see_leave(&name);
    ada.fence();
    ada.never("the refused message", |f| f["type"] == "message" && f["ref"] == key.as_str());
}

/// Asserts that it recovers by itself, and that a refused message can be sent again.
#[track_caller]
fn recovers(instance: &Instance, ada: &mut Client) {
    poll_until("ready again", Duration::from_secs(12), || get(instance.addr, "/readyz").status == 200);
    ada.until("status up", |f| f["type"] == "status" && f["backplane"] == "up");
    ada.say("it is back");
}

/// Asserts that a restart finds every message that had a receipt, in order, and the people.
#[track_caller]
fn kept(file: &DataFile, mut instance: Instance, ada: &Client) {
    instance.kill();
    let said: Vec<Value> = ada.messages().into_iter().collect();
    let instance = file.start(&[]);
    let back = Client::back(instance.addr, &ada.room, "Ada", &ada.secret, None);
    let kept = back.welcome["messages"].as_array().expect("messages").clone();
    assert_eq!(said[said.len().saturating_sub(50)..], kept);
    assert_eq!(file.sql("PRAGMA integrity_check"), "ok");
}

#[test]
fn a_disk_that_cannot_be_written_refuses_and_recovers() {
    for (error, why) in [(ENOSPC, "full"), (EIO, "I/O"), (EROFS, "I/O")] {
        let (file, faulty) = (DataFile::new(), Faulty::new());
        let instance = faulty.start(&[("DATA_FILE", &file.path())]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        ada.say("before");
        faulty.set(error, 0);
        refuses(&instance, &mut ada, why);
        ada.until("status down", |f| f["type"] == "status" && f["backplane"] == "down");
        let bob = Client::join(instance.addr, "tea", "Bob");
        faulty.set(0, 0);
        recovers(&instance, &mut ada);
        // A client that joined while nothing could be written is in the file now.
        poll_until("Bob's seat", PATIENCE, || file.sql("SELECT name FROM seats ORDER BY name") == "Ada\nBob");
        assert!(instance.log().matches("can't be written").count() == 1, "{}", instance.log());
        drop(bob);
        kept(&file, instance, &ada);
    }
}

/// A rolled-back row's number is assigned again. A room that went on to use it would share another room's log.
#[test]
fn a_room_whose_first_message_is_refused_later_has_a_log_of_its_own() {
    let (file, faulty) = (DataFile::new(), Faulty::new());
    let mut instance = faulty.start(&[("DATA_FILE", &file.path())]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let mut bob = Client::join(instance.addr, "milk", "Bob");
    let mut cyd = Client::join(instance.addr, "sugar", "Cyd");
    // His message must be the first write that fails, because after that none is attempted for a while.
    file.settle(&mut ada);
    faulty.set(ENOSPC, 0);
    poll_until("a message is refused because of the disk", PATIENCE, || {
        bob.post("refused");
        bob.expect_error("unavailable");
        get(instance.addr, "/readyz").status == 503
    });
    faulty.set(0, 0);
    recovers(&instance, &mut ada);
    let (sugar, milk) = (cyd.say("in sugar"), bob.say("in milk"));
    for _ in 0..2 {
        for (room, only) in [("sugar", &sugar), ("milk", &milk)] {
            assert_eq!(Client::join(instance.addr, room, &unique("N")).welcome["messages"], json!([only]), "{room}");
        }
        instance.kill();
        instance = file.start(&[]);
    }
}

#[test]
fn a_disk_that_hangs_is_told_and_what_was_under_way_is_kept() {
    let (file, faulty) = (DataFile::new(), Faulty::new());
    let instance = faulty.start(&[("DATA_FILE", &file.path())]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let mut bob = Client::join(instance.addr, "tea", "Bob");
    let mut cleo = Client::join(instance.addr, "milk", "Cleo");
    file.settle(&mut ada);
    faulty.hang();
    // Promise 2 holds here too, even for messages sent before anyone can know that the disk hangs.
    // They are refused within 2 s; the rest is for a busy machine.
    let first = Instant::now();
    let held = ada.post("under way");
    faulty.until_held();
    let second = Instant::now();
    let waiting = bob.post("behind it");
    for (client, key, since) in [(&mut ada, &held, first), (&mut bob, &waiting, second)] {
        assert_eq!(client.expect_error("unavailable")["ref"], key.as_str());
        assert!(since.elapsed() < Duration::from_secs(3), "refused after {:?}", since.elapsed());
    }
    ada.until("status down", |f| f["type"] == "status" && f["backplane"] == "down");
    // Readers are refused too, and a client that leaves meanwhile has left when the disk is back.
    cleo.send(json!({"type": "history", "before": "9-0"}));
    cleo.expect_error("unavailable");
    bob.leave();
    let key = poll("a message is refused at once", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300)); // within the rate limit
        let key = ada.post("refused");
        ada.take(Duration::from_millis(500)).iter().any(|f| f["ref"] == key.as_str()).then_some(key)
    });
    let ready = get(instance.addr, "/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("disk"), "{}", ready.text());
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    faulty.set(0, 0);
    assert_eq!(ada.hear("under way")["ref"], held.as_str());
    ada.see_leave("Bob");
    recovers(&instance, &mut ada);
    ada.never("a refused message", |f| {
        f["type"] == "message" && (f["ref"] == key.as_str() || f["ref"] == waiting.as_str())
    });
}

#[test]
fn a_receipt_waits_for_a_slow_disk_and_no_refusal_follows_it() {
    let (file, faulty) = (DataFile::new(), Faulty::new());
    let instance = faulty.start(&[("DATA_FILE", &file.path())]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    file.settle(&mut ada);
    // Less than what counts as hanging; but the message, and then the clock, together take longer.
    faulty.set(-1000, 0);
    let start = Instant::now();
    ada.say("slow");
    assert!(start.elapsed() >= Duration::from_secs(1), "a receipt before the disk has synced");
    ada.quiet("a refusal after the receipt", Duration::from_secs(2), |f| f["type"] == "error" || f["type"] == "status");
    assert_eq!(get(instance.addr, "/readyz").status, 200);
}

#[test]
fn a_comeback_that_a_hanging_disk_refuses_shows_nobody_leaving() {
    let (file, faulty) = (DataFile::new(), Faulty::new());
    let instance = faulty.start(&[("DATA_FILE", &file.path())]);
    let ada = Client::join(instance.addr, "tea", "Ada");
    let mut bob = Client::join(instance.addr, "tea", "Bob");
    file.settle(&mut bob);
    faulty.hang();
    let mut back = Client::connect(instance.addr, "tea");
    back.secret.clone_from(&ada.secret);
    // Spelled differently, so that there is something to write.
    assert_eq!(back.try_enter("ADA", None)["code"], "unavailable");
    faulty.set(0, 0);
    poll_until("ready again", PATIENCE, || get(instance.addr, "/readyz").status == 200);
    // The same connection may try again, and is not taken for its own older session.
    back.enter("ADA", None);
    assert_eq!(back.welcome["participants"], 2);
    bob.say("after");
    bob.never("ADA leaves", |f| f["type"] == "presence" && f["participants"] != 2);
    back.fence();
    assert_eq!(back.ended(), None);
}

#[test]
fn a_file_that_may_not_grow_refuses_and_recovers() {
    let file = DataFile::new();
    let mut command = Command::new("prlimit");
    common::instance::bare(&mut command);
    command.args(["--fsize=400000:unlimited", &Instance::binary()]);
    command.envs([("PORT", "0"), ("BIND", "127.0.0.1"), ("RUST_LOG", "info"), ("RATE_LIMIT", "0")]);
    command.env("DATA_FILE", file.path());
    let instance = Instance::spawn(command);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let large = "x".repeat(4000);
    poll_until("the limit", PATIENCE, || {
        let key = ada.post(&large);
        ada.until("a receipt or an error", |f| f["ref"] == key.as_str())["type"] == "error"
    });
    refuses(&instance, &mut ada, "");
    let raised = Command::new("prlimit").args(["--fsize=unlimited", "--pid", &instance.pid().to_string()]).status();
    assert!(raised.expect("prlimit").success());
    recovers(&instance, &mut ada);
    kept(&file, instance, &ada);
}

/// With root, on a real file system that is full; without, it prints that and proves nothing.
#[test]
fn a_full_file_system_refuses_and_recovers() {
    let mount = DataFile::new();
    let dir = mount.dir().display().to_string();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "bobbin", &dir]).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no tmpfs can be mounted here");
        return;
    }
    let test = std::panic::catch_unwind(|| {
        let file = DataFile::below(mount.dir());
        let instance = file.start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        ada.say("before");
        let ballast = mount.beside("-ballast");
        let _ = std::fs::write(&ballast, vec![0_u8; 2 << 20]); // as much as fits
        refuses(&instance, &mut ada, "full");
        std::fs::remove_file(&ballast).expect("the ballast");
        recovers(&instance, &mut ada);
        kept(&file, instance, &ada);
    });
    assert!(Command::new("umount").args(["-l", &dir]).status().expect("umount").success());
    if let Err(panic) = test {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_directory_that_is_gone_refuses_and_recovers_when_it_is_back() {
    let parent = DataFile::new();
    let dir = parent.dir().join("here");
    std::fs::create_dir(&dir).expect("a directory");
    let path = dir.join("chat.db").display().to_string();
    let instance = Instance::start(&[("DATA_FILE", &path)]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("before");
    let away = parent.dir().join("away");
    std::fs::rename(&dir, &away).expect("moved away");
    refuses(&instance, &mut ada, "removed or replaced");
    // Another file in its place is not mistaken for it.
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::copy(away.join("chat.db"), &path).expect("a copy");
    refuses(&instance, &mut ada, "removed or replaced");
    std::fs::remove_dir_all(&dir).expect("the other one");
    std::fs::rename(&away, &dir).expect("moved back");
    recovers(&instance, &mut ada);
}

#[test]
fn a_disk_that_cannot_be_written_at_the_start_ends_it_with_one_line_and_code_1() {
    let (file, faulty) = (DataFile::new(), Faulty::new());
    let instance = file.start(&[]);
    Client::join(instance.addr, "tea", "Bob").say("before");
    drop(instance);
    faulty.set(ENOSPC, 0);
    let mut command = faulty.command(&[("DATA_FILE", &file.path())]);
    let output = command.output().expect("it ends by itself");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{lines}");
    assert!(lines.trim_end().lines().count() == 1 && lines.contains("DATA_FILE: disk"), "{lines}");
    faulty.set(0, 0);
    let instance = faulty.start(&[("DATA_FILE", &file.path())]);
    assert_eq!(Client::join(instance.addr, "tea", "Ada").welcome["messages"][0]["text"], "before");
}

#[test]
fn a_wall_clock_that_jumps_costs_no_message_no_name_and_no_order() {
    let (file, faulty) = (DataFile::new(), Faulty::new());
    let settings = [("DATA_FILE", &*file.path()), ("HISTORY_DAYS", "3")].map(|(name, value)| (name, value.to_owned()));
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut instance = faulty.start(&settings);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let mut bob = Client::join(instance.addr, "tea", "Bob");
    let key = ada.post("said once");
    let first = ada.hear("said once");
    for day in [0, 1, -1, 2, -400, 0] {
        faulty.set(0, day * 86_400);
        ada.say(&format!("day {day}"));
        bob.hear(&format!("day {day}"));
        // Refs expire by the time in service, whatever the date.
        ada.send(json!({"type": "message", "text": "said once", "ref": key}));
        assert_eq!(ada.hear("said once"), first);
        let back = Client::back(instance.addr, "tea", "Ada", &ada.secret, first["id"].as_str());
        assert_eq!(back.welcome["gap"], false, "day {day}");
        ada = back;
    }
    // A client that was cut is gone after its lease, not at a jump.
    let secret = bob.secret.clone();
    bob.cut();
    faulty.set(0, 86_400);
    ada.quiet("Bob leaves at once", Duration::from_secs(3), |f| f["type"] == "presence");
    let bob = Client::back(instance.addr, "tea", "Bob", &secret, None);
    let all = bob.welcome["messages"].as_array().expect("messages").clone();
    assert_eq!(all.len(), 7);
    let rank = |m: &Value| {
        let id = m["id"].as_str().and_then(|id| id.split_once('-')).expect("an id");
        (id.0.parse::<u64>().expect("a number"), id.1.parse::<u64>().expect("a number"))
    };
    assert!(all.is_sorted_by(|a, b| rank(a) < rank(b)), "{all:?}");
    drop(bob);

    // A message is not shown after its lifetime; but a clock that is wrong for a while deletes none.
    faulty.set(0, 40 * 86_400);
    let late = Client::back(instance.addr, "tea", "Late", "a-secret-of-lates", first["id"].as_str());
    assert_eq!(late.welcome["messages"], json!([]));
    assert_eq!(late.welcome["gap"], true, "the messages after `since` are no longer shown");
    instance.kill();
    instance = faulty.start(&settings);
    let late = Client::back(instance.addr, "tea", "Late", &late.secret, None);
    assert_eq!(late.welcome["messages"], json!([]));
    std::thread::sleep(Duration::from_secs(2)); // long enough for two checks for old messages
    faulty.set(0, 0);
    let late = Client::back(instance.addr, "tea", "Late", &late.secret, None);
    assert_eq!(late.welcome["messages"].as_array().map(Vec::len), Some(7), "all are back");
}
