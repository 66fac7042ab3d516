//! Proves that a single process loses nothing with `DATA_FILE` set: over restarts and `kill -9`, beside a second
//! process, with a file that is not its own, and while others read the file. (Failing disks are in disk_faults.rs.)

mod common;

use common::*;
use std::process::Output;
use std::time::{Duration, Instant};

/// Starts an instance that is expected to exit by itself.
#[track_caller]
fn refused(path: &str) -> Output {
    let mut command = Instance::command();
    command.envs([("PORT", "0"), ("BIND", "127.0.0.1"), ("DATA_FILE", path)]);
    let mut child = command.spawn().expect("the binary starts");
    poll("the server ends", PATIENCE, || child.try_wait().expect("our own child"));
    child.wait_with_output().expect("its output")
}

/// Asserts that startup ends with exit code 2 and one line that contains `why`.
#[track_caller]
fn is_refused(path: &str, why: &str) {
    let output = refused(path);
    let lines = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{lines}");
    assert_eq!(lines.trim_end().lines().count(), 1, "not one line: {lines}");
    assert!(lines.contains("DATA_FILE") && lines.contains(why), "{why:?} is not in: {lines}");
}

#[test]
fn a_restart_keeps_messages_and_shows_nobody_leaving() {
    let file = DataFile::new();
    let mut instance = file.start(&[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let bob = Client::join(instance.addr, "tea", "Bob");
    let first = ada.say("kept");
    let key = ada.post("said once");
    let second = ada.hear("said once");
    instance.kill();

    let instance = file.start(&[]);
    let mut ada = Client::back(instance.addr, "tea", "Ada", &ada.secret, first["id"].as_str());
    assert_eq!(ada.welcome["participants"], 2, "Bob has his lease: {}", ada.welcome);
    assert_eq!(ada.welcome["names"], json!(["Ada", "Bob"]));
    assert_eq!(ada.welcome["messages"], json!([second]));
    assert_eq!(ada.welcome["gap"], false);
    ada.send(json!({"type": "message", "text": "said once", "ref": key}));
    assert_eq!(ada.hear("said once"), second, "the first one's frame is the receipt");
    // The name still belongs to its owner.
    let answer = Client::connect(instance.addr, "tea").try_enter("Bob", None);
    assert_eq!(answer["code"], "name_taken", "{answer}");
    let mut bob = Client::back(instance.addr, "tea", "Bob", &bob.secret, None);
    assert_eq!(bob.welcome["messages"], json!([first, second]));
    let third = bob.say("and on");
    ada.hear("and on");
    ada.never("somebody comes or goes", |frame| frame["type"] == "presence");
    assert!(third["id"].as_str() > second["id"].as_str(), "{third} after {second}");
}

#[test]
fn a_drained_restart_shows_nobody_leaving_either_and_leaves_one_file() {
    let file = DataFile::new();
    let mut instance = file.start(&[("DRAIN_SECONDS", "0")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let said = ada.say("kept");
    instance.signal("TERM");
    ada.expect_close(1012);
    assert_eq!(instance.wait(PATIENCE).code(), Some(0));
    assert!(!std::path::Path::new(&file.beside("-wal")).exists(), "its log was taken back into the file");
    let instance = file.start(&[]);
    let bob = Client::join(instance.addr, "tea", "Bob");
    assert_eq!(bob.welcome["messages"], json!([said]));
    assert_eq!(bob.welcome["names"], json!(["Ada", "Bob"]));
}

#[test]
fn whoever_does_not_come_back_after_a_restart_leaves_with_the_lease() {
    let file = DataFile::new();
    let mut instance = file.start(&[]);
    let _ada = Client::join(instance.addr, "tea", "Ada");
    instance.kill();
    let start = Instant::now();
    let instance = file.start(&[]);
    let mut bob = Client::join(instance.addr, "tea", "Bob");
    assert_eq!(bob.participants(), 2);
    let lease = Duration::from_secs(13).saturating_sub(start.elapsed());
    bob.quiet("Ada leaves too soon", lease, |frame| frame["type"] == "presence");
    bob.patience = Duration::from_secs(7);
    assert_eq!(bob.see_leave("Ada")["participants"], 1);
    poll_until("her seat is gone from the file", PATIENCE, || file.sql("SELECT name FROM seats") == "Bob");
}

#[test]
fn a_second_process_on_the_same_file_ends_at_once() {
    let file = DataFile::new();
    let instance = file.start(&[]);
    is_refused(&file.path(), "another process");
    let link = file.beside("-link");
    std::os::unix::fs::symlink(file.path(), &link).expect("a link");
    is_refused(&link, "another process");
    Client::join(instance.addr, "tea", "Ada").say("undisturbed");
}

#[test]
fn a_file_that_is_not_bobbins_is_refused_and_left_as_it_is() {
    for (sql, why) in [
        ("CREATE TABLE theirs (x)", "it belongs to another program"),
        ("PRAGMA application_id = 7; CREATE TABLE theirs (x)", "it belongs to another program"),
        ("PRAGMA application_id = 1114595938; PRAGMA user_version = 99; CREATE TABLE theirs (x)", "version 99"),
    ] {
        let file = DataFile::new();
        file.sql(sql);
        let before = std::fs::read(file.path()).expect("the file");
        is_refused(&file.path(), why);
        assert!(std::fs::read(file.path()).expect("the file") == before, "{sql}: changed");
    }
}

#[test]
fn a_damaged_file_is_refused_and_left_as_it_is() {
    let file = DataFile::new();
    let instance = file.start(&[("RATE_LIMIT", "0")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    for _ in 0..100 {
        ada.say(&"x".repeat(500));
    }
    drop(instance);
    assert_eq!(file.sql("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA integrity_check"), "0|0|0\nok");
    let whole = std::fs::read(file.path()).expect("the file");
    let cut = whole[..whole.len() / 2].to_vec();
    let mut torn = whole.clone();
    let middle = torn.len() / 2 / 4096 * 4096;
    torn[middle..middle + 4096].fill(0xA5);
    let mut headless = whole.clone();
    headless[..16].fill(0);
    let text = b"this is no database, but it is long enough to be looked at as if it were one".repeat(20);
    for (what, bytes) in [("cut", cut), ("torn", torn), ("headless", headless), ("text", text)] {
        std::fs::write(file.path(), &bytes).expect("the file");
        is_refused(&file.path(), "corrupt");
        assert!(std::fs::read(file.path()).expect("the file") == bytes, "{what}: changed");
    }
    std::fs::write(file.path(), &whole).expect("the file");
    let instance = file.start(&[]);
    assert_eq!(Client::join(instance.addr, "tea", "Bob").welcome["messages"].as_array().map(Vec::len), Some(50));
}

#[test]
fn a_path_that_cannot_be_a_file_is_refused() {
    let file = DataFile::new();
    is_refused(&file.dir().display().to_string(), "is not a regular file");
    is_refused("/dev/full", "/dev/full is not a regular file");
    is_refused(&format!("{}/not/there/chat.db", file.dir().display()), "/not/there");
    is_refused("/", "DATA_FILE");
}

#[test]
fn an_empty_file_is_taken_and_others_cannot_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let file = DataFile::new();
    let instance = file.start(&[]);
    instance.logged("rooms are in /");
    for ending in ["", "-wal", "-shm"] {
        let mode = std::fs::metadata(file.beside(ending)).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{ending}");
    }
    let empty = DataFile::new();
    std::fs::write(empty.path(), "").expect("an empty file");
    Client::join(empty.start(&[]).addr, "tea", "Ada").say("taken");
    assert!(Instance::start(&[]).log().contains("rooms are in memory"));
}

#[test]
fn backups_of_the_live_file_are_whole() {
    let file = DataFile::new();
    let instance = file.start(&[("RATE_LIMIT", "0"), ("HISTORY_MESSAGES", "100000")]);
    let addr = instance.addr;
    let talker = std::thread::spawn(move || {
        let mut ada = Client::join(addr, "tea", "Ada");
        (0..1000)
            .map(|n| ada.say(&format!("message {n}"))["id"].as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    });
    let count = |path: &str| -> usize {
        assert_eq!(data_file::shell(path, "PRAGMA integrity_check"), "ok");
        data_file::shell(path, "SELECT count(*) FROM messages").parse().expect("a number")
    };
    let mut seen = 0;
    for round in 0.. {
        let (backup, vacuum) = (file.beside(&format!("-b{round}")), file.beside(&format!("-v{round}")));
        file.sql(&format!(".backup {backup}"));
        let copied = count(&backup);
        file.sql(&format!("VACUUM INTO '{vacuum}'"));
        assert!(seen <= copied && copied <= count(&vacuum), "a later backup has no fewer messages");
        seen = copied;
        if talker.is_finished() {
            break;
        }
    }
    let ids = talker.join().expect("every message got its receipt");
    // A backup is an ordinary data file.
    let restored = DataFile::new();
    file.sql(&format!(".backup {}", restored.path()));
    drop(instance);
    let instance = restored.start(&[("HISTORY_MESSAGES", "100000")]);
    let mut bob = Client::join(instance.addr, "tea", "Bob");
    let last: Vec<&str> =
        bob.welcome["messages"].as_array().expect("messages").iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(last, ids[950..], "all of it is there");
    bob.say("and on");
}

/// What Litestream does to the file it replicates: tables of its own, a read transaction held open to keep the log,
/// reading the log directly, and checkpoints of its own.
#[test]
fn a_replicator_disturbs_nothing_and_gets_everything() {
    let file = DataFile::new();
    let mut instance = file.start(&[("RATE_LIMIT", "0")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let replicator = rusqlite::Connection::open(file.path()).expect("the file");
    replicator.busy_timeout(PATIENCE).expect("a time");
    let make = "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER); CREATE TABLE _litestream_lock (id)";
    replicator.execute_batch(make).expect("tables");
    for round in 1..=5 {
        replicator.execute_batch("BEGIN; SELECT count(*) FROM _litestream_seq").expect("a read transaction");
        (0..100).for_each(|n| drop(ada.say(&format!("message {round}-{n}"))));
        let copy = DataFile::new();
        for ending in ["", "-wal"] {
            std::fs::copy(file.beside(ending), copy.beside(ending)).expect("a copy");
        }
        assert_eq!(copy.sql("PRAGMA integrity_check; SELECT count(*) FROM messages"), format!("ok\n{}", round * 100));
        let next = "COMMIT; PRAGMA wal_checkpoint(TRUNCATE); INSERT OR REPLACE INTO _litestream_seq VALUES (1, 1)";
        replicator.execute_batch(next).expect("a checkpoint");
    }
    ada.fence();
    ada.never("an error", |frame| frame["type"] == "error");
    drop(replicator);
    instance.kill();
    let instance = file.start(&[]);
    assert_eq!(Client::join(instance.addr, "tea", "Bob").welcome["messages"][49]["text"], "message 5-99");
}

#[test]
fn a_log_keeps_to_its_bytes_in_memory_and_on_a_file() {
    let file = DataFile::new();
    let settings = [("RATE_LIMIT", "0"), ("HISTORY_BYTES", "131072"), ("HISTORY_MESSAGES", "100000")];
    for instance in [Instance::start(&settings), file.start(&settings)] {
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let said: Vec<Value> = (0..50).map(|n| ada.say(&format!("{n:03}{}", "x".repeat(4_000)))).collect();
        // As many of the newest as fit: 32 of 4,003 bytes would, without the names and marks in their bodies.
        let log = common::http::get(instance.addr, "/r/tea/messages?after=0-0&limit=500").text();
        let kept: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!((30..=32).contains(&kept.len()), "{} kept", kept.len());
        assert_eq!(said[50 - kept.len()..], kept);
        assert!(common::http::metric(instance.addr, "bobbin_limited_total{limit=\"room_bytes\"}") >= 1.0);
        let bob = Client::back(instance.addr, "tea", "Bob", "a-secret-of-bobs", said[0]["id"].as_str());
        assert_eq!(bob.welcome["gap"], true);
    }
    assert!(file.sql("SELECT bytes FROM rooms").parse::<usize>().expect("a number") <= 131_072);
}

/// The bytes of a whole log as JSON lines, read page by page.
fn size(instance: &Instance, room: usize) -> usize {
    let (mut after, mut bytes) = ("0-0".to_owned(), 0);
    loop {
        let page = common::http::get(instance.addr, &format!("/r/room-{room}/messages?after={after}&limit=500")).text();
        let Some(newest) = page.lines().last() else { return bytes };
        let newest: Value = serde_json::from_str(newest).expect("JSON");
        after = newest["id"].as_str().expect("an id").to_owned();
        bytes += page.len();
    }
}

/// Sends a message and waits for its receipt or its refusal: on a busy machine, more may be written than is trimmed.
fn answered(client: &mut Client, text: &str) -> Value {
    let key = client.post(text);
    client.until("an answer", |f| f["ref"] == key.as_str())
}

/// Strangers fill several rooms. All together keep to the limit, and a small room keeps its log.
#[test]
fn the_logs_of_all_rooms_keep_to_their_bytes_in_memory_and_on_a_file() {
    let file = DataFile::new();
    let mib = 1 << 20;
    let settings = [("RATE_LIMIT", "0"), ("ADDRESS_HISTORY_RATE", "0"), ("STORAGE_BYTES", "4194304")];
    for instance in [Instance::start(&settings), file.start(&settings)] {
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let said: Vec<Value> = (0..20).map(|n| ada.say(&format!("m{n}"))).collect();
        let text = "x".repeat(4000);
        let mut strangers: Vec<Client> =
            (0..4).map(|n| Client::join(instance.addr, &format!("room-{n}"), "Bob")).collect();
        let firsts: Vec<Value> = strangers.iter_mut().map(|stranger| stranger.say("the first")).collect();
        for _ in 0..20 {
            for stranger in &mut strangers {
                (0..20).for_each(|_| drop(stranger.post(&text)));
                answered(stranger, "that was it");
            }
        }
        let oldest = |n: usize| {
            common::http::get(instance.addr, &format!("/r/room-{n}/messages?after=0-0&limit=1")).json()["id"].clone()
        };
        poll_until("each of the others is trimmed", PATIENCE, || (0..4).all(|n| oldest(n) != firsts[n]["id"]));
        poll_until("the others are small", PATIENCE, || (0..4).map(|n| size(&instance, n)).sum::<usize>() < 4 * mib);
        instance.logged("all rooms together take over 4194304 bytes (STORAGE_BYTES): logs are trimmed to ");
        for n in 0..4 {
            assert!(size(&instance, n) > mib / 4, "to much less than three quarters of it: {}", size(&instance, n));
        }
        let bob = Client::back(instance.addr, "tea", "Bob", "a-secret-of-bobs", Some("0-0"));
        assert_eq!((bob.messages(), &bob.welcome["gap"]), (said, &json!(false)));
        let cyd = Client::back(instance.addr, "room-0", "Cyd", "a-secret-of-cyds", Some("0-0"));
        assert_eq!(cyd.welcome["gap"], true);
        assert!(common::http::metric(instance.addr, "bobbin_storage_trims_total") >= 1.0);
        strangers[0].say("and goes on");
    }
}

/// Strangers fill rooms faster than once per second could keep up with: the file stays within its limit all the same,
/// so that a small disk is never full and there is space to trim.
#[test]
fn a_flood_of_texts_does_not_fill_the_disk() {
    let file = DataFile::new();
    let settings = [("RATE_LIMIT", "0"), ("STORAGE_BYTES", "4194304"), ("DRAIN_SECONDS", "0")];
    let mut instance = file.start(&settings);
    let text = "x".repeat(4000);
    let mut strangers: Vec<Client> = (0..8).map(|n| Client::join(instance.addr, &format!("room-{n}"), "Bob")).collect();
    for _ in 0..30 {
        for stranger in &mut strangers {
            (0..24).for_each(|_| drop(stranger.post(&text)));
        }
        for stranger in &mut strangers {
            answered(stranger, "that was it");
        }
    }
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    poll_until("Ada is not refused", PATIENCE, || answered(&mut ada, "hi")["type"] == "message");
    // Ending merges the write-ahead log into the file.
    instance.signal("TERM");
    assert!(instance.wait(PATIENCE).success());
    let bytes = std::fs::metadata(file.path()).expect("the file").len();
    assert!(bytes <= 4194304 / 4 * 5, "{bytes} bytes of 24 MB written");
}

/// What cannot be trimmed, here the refs of many messages, takes all space. Only messages are refused then: the store is not
/// down, people come and go, and the host can act.
#[test]
fn at_the_limit_only_messages_are_refused() {
    let token = "a-token-of-the-tests-1";
    let settings =
        [("RATE_LIMIT", "0"), ("STORAGE_BYTES", "1048576"), ("HISTORY_MESSAGES", "10"), ("ADMIN_TOKEN", token)];
    let file = DataFile::new();
    for instance in [Instance::start(&settings), file.start(&settings)] {
        let mut mallory = Client::join(instance.addr, "tea", "Mallory");
        let first = mallory.say("the first");
        let refused = poll("a message is refused", PATIENCE * 6, || {
            let keys: Vec<String> = (0..200).map(|_| mallory.post("x")).collect();
            let last = keys.last().expect("200").as_str();
            let answer = mallory.until("an answer", |f| f["ref"] == last);
            (answer["type"] == "error").then_some(answer)
        });
        assert_eq!(refused["code"], "unavailable", "{refused}");
        mallory.send(json!({"type": "message", "text": "the first", "ref": first["ref"]}));
        let again = mallory.until("an answer", |f| f["ref"] == first["ref"]);
        assert_eq!(again["id"], first["id"], "a message that was kept has its receipt: {again}");
        let ada = Client::join(instance.addr, "tea", "Ada");
        let body = json!({"by": mallory.welcome["by"], "minutes": 60}).to_string();
        let mut host = common::http::Connection::open(instance.addr);
        host.write(format!(
            "POST /admin/bans HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let ban = host.response(false);
        assert_eq!(ban.status, 201, "{}", ban.text());
        mallory.expect_close(4004);
        assert_eq!(common::http::get(instance.addr, "/readyz").status, 200);
        assert!(!instance.log().contains("rooms can't be written"), "{}", instance.log());
        ada.leave();
    }
}

/// One message per room takes all space: they are deleted too, the largest first, and nobody is refused.
#[test]
fn rooms_of_one_message_do_not_fill_the_store() {
    let settings = [("RATE_LIMIT", "0"), ("STORAGE_BYTES", "1048576")];
    let file = DataFile::new();
    for instance in [Instance::start(&settings), file.start(&settings)] {
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let said = ada.say("a small room");
        // A control character takes six bytes in JSON.
        let text = "\u{1}".repeat(2600);
        for n in 0..120 {
            Client::join(instance.addr, &format!("room-{n}"), "Mallory").say(&text);
            if n % 4 == 0 {
                ada.say("not refused");
            }
        }
        let oldest = common::http::get(instance.addr, "/r/tea/messages?after=0-0&limit=1").json();
        assert_eq!(oldest["id"], said["id"], "the small room keeps its log");
        let back = Client::back(instance.addr, "room-0", "Cyd", "a-secret-of-cyds", Some("1-1"));
        assert_eq!((&back.welcome["messages"], &back.welcome["gap"]), (&json!([]), &json!(true)));
    }
}

/// A lower limit, or a larger file from another machine: nobody is refused while it is trimmed.
#[test]
fn a_lower_limit_refuses_nobody() {
    let file = DataFile::new();
    let mut instance = file.start(&[("RATE_LIMIT", "0")]);
    let text = "x".repeat(4000);
    for n in 0..5 {
        let mut bob = Client::join(instance.addr, &format!("room-{n}"), "Bob");
        for _ in 0..20 {
            (0..20).for_each(|_| drop(bob.post(&text)));
            bob.say("that was it");
        }
    }
    instance.kill();
    let instance = file.start(&[("RATE_LIMIT", "0"), ("STORAGE_BYTES", "1048576")]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    (0..100).for_each(|n| drop(ada.say(&format!("m{n}"))));
    let oldest =
        |n: usize| common::http::get(instance.addr, &format!("/r/room-{n}/messages?after=0-0&limit=500")).text();
    poll_until("they are trimmed", PATIENCE, || (0..5).map(|n| oldest(n).len()).sum::<usize>() < 1 << 20);
    ada.say("not refused");
}

#[test]
fn past_the_most_rooms_no_new_one_is_opened_on_any_backplane() {
    let (file, redis) = (DataFile::new(), Redis::start());
    let settings = [("MAX_ROOMS", "3")];
    let rooms_full = |instance: &Instance| {
        let mut client = Client::connect(instance.addr, "fourth");
        assert_eq!(client.try_enter("Dan", None)["code"], "full");
    };
    let (memory, mut on_file) = (Instance::start(&settings), file.start(&settings));
    for instance in [&memory, &on_file, &Instance::on(&redis, &settings)] {
        let mut ada = Client::join(instance.addr, "first", "Ada");
        ada.say("this room stays");
        let empty = Client::join(instance.addr, "second", "Bob");
        let _third = Client::join(instance.addr, "third", "Cleo");
        rooms_full(instance);
        // Existing rooms continue, and an empty room without messages makes space for another.
        Client::join(instance.addr, "first", "Eve").say("undisturbed");
        empty.leave();
        poll_until("there is place", PATIENCE, || {
            Client::connect(instance.addr, "fifth").try_enter("Dan", None)["type"] == "welcome"
        });
    }
    on_file.kill();
    let on_file = file.start(&settings);
    assert_eq!(Client::join(on_file.addr, "first", "Fay").welcome["messages"].as_array().map(Vec::len), Some(2));
}

#[test]
fn at_the_most_rooms_one_that_breaks_off_can_come_back_to_its_own() {
    let (file, redis) = (DataFile::new(), Redis::start());
    let settings = [("MAX_ROOMS", "2")];
    for instance in [Instance::start(&settings), file.start(&settings), Instance::on(&redis, &settings)] {
        let _first = Client::join(instance.addr, "first", "Ada");
        let bob = Client::join(instance.addr, "second", "Bob");
        let (secret, connected) = (bob.secret.clone(), instance.threads());
        bob.cut();
        poll_until("it is known", PATIENCE, || instance.threads() < connected);
        assert_eq!(Client::connect(instance.addr, "third").try_enter("Cyd", None)["code"], "full");
        let bob = Client::back(instance.addr, "second", "Bob", &secret, None);
        bob.leave();
        poll_until("there is place", PATIENCE, || {
            Client::connect(instance.addr, "third").try_enter("Cyd", None)["type"] == "welcome"
        });
    }
}

#[test]
fn refs_keep_no_texts_in_memory() {
    let instance = Instance::start(&[("RATE_LIMIT", "0"), ("HISTORY_MESSAGES", "10")]);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", instance.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB")
    };
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let text = "x".repeat(4000);
    let mut say = |count: usize| {
        for _ in 0..count / 10 {
            (0..9).for_each(|_| drop(ada.post(&text)));
            ada.say(&text);
        }
    };
    say(500);
    let before = resident();
    // With their texts, 24 MB.
    say(6000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 12 * 1024, "{grown} KiB for the refs of 6,000 messages, of which 10 are kept");
}

#[test]
fn a_ref_is_known_for_ten_minutes_even_across_the_end_of_a_period() {
    let file = DataFile::new();
    drop(file.start(&[]));
    // Refs are stored by periods of ten minutes of service. This period ends in ten seconds.
    file.sql("UPDATE clock SET ran = 590000");
    let mut instance = file.start(&[]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    let first = ada.say("said once");
    instance.kill();
    file.sql("UPDATE clock SET ran = ran + 590000");
    let instance = file.start(&[]);
    let mut ada = Client::back(instance.addr, "tea", "Ada", &ada.secret, None);
    ada.send(json!({"type": "message", "text": "said once", "ref": first["ref"]}));
    assert_eq!(ada.hear("said once"), first);
}

#[test]
fn a_ref_is_forgotten_after_half_an_hour_even_in_a_silent_room() {
    let file = DataFile::new();
    let mut instance = file.start(&[]);
    Client::join(instance.addr, "tea", "Ada").say("with a ref");
    instance.kill();
    assert_eq!(file.sql("SELECT count(*) FROM refs"), "1");
    // Half an hour of service.
    file.sql("UPDATE clock SET ran = ran + 1800000");
    let _instance = file.start(&[]);
    poll_until("the ref is gone", PATIENCE, || file.sql("SELECT count(*) FROM refs") == "0");
}

/// Old messages are looked for in 100 rooms at a time. The first hundred stay here, with a message each.
#[test]
fn old_messages_are_deleted_in_every_room_however_many_there_are() {
    let file = DataFile::new();
    let mut instance = file.start(&[]);
    for n in 0..150 {
        Client::join(instance.addr, &format!("room-{n}"), "Ada").say("a message");
    }
    instance.kill();
    file.sql("UPDATE messages SET ms = 1 WHERE room > 100");
    assert_eq!(file.sql("SELECT count(*) FROM messages WHERE ms = 1"), "50");
    let _instance = file.start(&[]);
    poll_until("no old message is left", PATIENCE, || file.sql("SELECT count(*) FROM messages WHERE ms = 1") == "0");
    assert_eq!(file.sql("SELECT count(*) FROM messages"), "100");
}
