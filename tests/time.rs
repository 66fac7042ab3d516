//! Proves the promises that take time: leases, heartbeats, idle connections, slow clients. They wait in parallel, so
//! the whole file takes as long as its longest test, the 75 s of an idle connection.

#[macro_use]
mod common;

use common::http::Connection;
use common::*;
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Waits until `watcher` has been notified that `name` left because its lease expired: at least 15 s after the
/// connection broke, or for an instance that died, after the last renewal; and at most 20 s after that.
#[track_caller]
fn leaves_with_its_lease(watcher: &mut Client, name: &str, cut: Instant, at_least: u64) {
    watcher.patience = seconds(30);
    watcher.see_leave(name);
    let took = cut.elapsed();
    assert!(took > seconds(at_least), "{name} left after {took:?}");
    assert!(took < Duration::from_millis(20_500), "{name} left after {took:?}");
}

/// Two instances on one Redis, with a watcher on the second.
fn pair(settings: &[(&str, &str)]) -> (Instance, Instance, Redis, Client) {
    let redis = Redis::start();
    let first = Instance::on(&redis, settings);
    let second = Instance::on(&redis, settings);
    let watcher = Client::join(second.addr, "tea", "Watcher");
    (first, second, redis, watcher)
}

/// Reads a TCP connection to its end without answering, and returns how long that took.
#[track_caller]
fn reads_to_the_end(mut stream: &TcpStream, patience: Duration) -> Duration {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        let left = patience.checked_sub(start.elapsed()).unwrap_or_else(|| panic!("no end within {patience:?}"));
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("a timeout");
        match stream.read(&mut buffer) {
            Ok(0) => return start.elapsed(),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return start.elapsed(),
        }
    }
}

together! {
    fn who_does_not_join_within_10_s_is_closed_with_1008() {
        let instance = Instance::start(&[]);
        let start = Instant::now();
        let mut silent = Client::connect(instance.addr, "tea");
        let mut chatty = Client::connect(instance.addr, "tea");
        silent.patience = seconds(20);
        chatty.patience = seconds(20);
        // Pings do not count as a join.
        while start.elapsed() < seconds(8) {
            chatty.send_ping();
            chatty.take(Duration::from_millis(500));
        }
        silent.expect_close(1008);
        chatty.expect_close(1008);
        let took = start.elapsed();
        assert!((seconds(9)..seconds(14)).contains(&took), "closed after {took:?}");
    }

    fn a_refused_join_may_be_tried_again_for_a_minute() {
        // A person reads "this name is taken" and thinks of another.
        let instance = Instance::start(&[]);
        let start = Instant::now();
        let mut ada = Client::connect(instance.addr, "tea");
        assert_eq!(ada.try_enter("", None)["code"], "name_invalid");
        ada.quiet("anything", seconds(48).saturating_sub(start.elapsed()), |_| true);
        assert_eq!(ada.pings, 2, "one after 10 to 20 s, one 20 s later");
        ada.enter("Ada", None);
        ada.say("found one");
    }

    fn a_head_that_is_not_complete_within_5_s_is_408() {
        let instance = Instance::start(&[]);
        let start = Instant::now();
        let mut half = Connection::open(instance.addr);
        half.write("GET / HTTP/1.1\r\nHost: t\r\n");
        let mut drip = Connection::open(instance.addr);
        drip.write("GET / HTTP/1.1\r\nX: ");
        while start.elapsed() < seconds(4) {
            drip.write("x");
            std::thread::sleep(Duration::from_millis(200));
        }
        for connection in [&mut half, &mut drip] {
            let response = connection.response(false);
            assert_eq!(response.status, 408, "{response:?}");
            assert_eq!(response.text().trim_end().lines().count(), 1);
            assert!(connection.closed());
        }
        let took = start.elapsed();
        assert!((seconds(4)..seconds(9)).contains(&took), "{took:?}");
    }

    fn a_body_that_is_not_complete_within_10_s_is_408() {
        let token = "a-token-of-the-tests-1";
        let instance = Instance::start(&[("POST_TOKEN", token)]);
        let start = Instant::now();
        let mut half = Connection::open(instance.addr);
        let headers = format!("Host: test\r\nAuthorization: Bearer {token}\r\nContent-Length: 5");
        half.write(format!("POST /r/tea/messages HTTP/1.1\r\n{headers}\r\n\r\nhel"));
        half.patience(seconds(20));
        assert_eq!(half.response(false).status, 408);
        assert!(half.closed());
        let took = start.elapsed();
        assert!((seconds(9)..seconds(15)).contains(&took), "{took:?}");
    }

    fn metrics_emf_writes_a_line_of_json_a_minute_to_stdout() {
        let plain = Instance::start(&[]);
        let instance = Instance::start(&[("METRICS_EMF", "Bobbin/test/chat")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        ada.say("to count");
        poll_until("a line", seconds(70), || {
            ada.take(Duration::from_millis(100)); // and answers pings
            instance.out().ends_with('\n')
        });
        let out = instance.out();
        let line: Value = serde_json::from_str(out.lines().next().expect("a line")).expect("JSON");
        let metrics = &line["_aws"]["CloudWatchMetrics"][0];
        assert!(line["_aws"]["Timestamp"].is_u64(), "{line}");
        assert_eq!(metrics["Namespace"], "Bobbin");
        for metric in metrics["Metrics"].as_array().expect("a list of metrics") {
            let name = metric["Name"].as_str().expect("a name");
            assert!(line[name].is_number(), "{name} has no value: {line}");
        }
        assert_eq!((line["Connections"].as_u64(), line["Joins"].as_u64(), line["Messages"].as_u64()), (Some(1), Some(1), Some(1)));
        assert_eq!(plain.out(), "", "without the setting stdout stays empty");
    }

    fn an_idle_http_connection_is_closed_after_75_s() {
        let instance = Instance::start(&[]);
        let mut connection = Connection::open(instance.addr);
        assert_eq!(connection.request("GET", "/healthz", "").status, 200);
        let start = Instant::now();
        connection.patience(seconds(70));
        assert!(!connection.closed(), "a load balancer would still use it");
        connection.patience(seconds(20));
        assert!(connection.closed());
        let took = start.elapsed();
        assert!((seconds(72)..seconds(80)).contains(&took), "closed after {took:?}");
    }

    fn the_server_pings_every_20_s_and_keeps_who_answers() {
        let instance = Instance::start(&[]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        ada.quiet("anything but pings", seconds(65), |_| true);
        assert!((3..=4).contains(&ada.pings), "{} pings in 65 s", ada.pings);
        ada.say("still here");
    }

    fn a_peer_from_which_nothing_came_for_45_s_is_dropped() {
        let instance = Instance::start(&[]);
        let mut watcher = Client::join(instance.addr, "tea", "Watcher");
        let ada = Client::join(instance.addr, "tea", "Ada");
        let start = Instant::now();
        let silent = std::thread::spawn(move || reads_to_the_end(ada.tcp(), seconds(70)));
        watcher.patience = seconds(75);
        watcher.see_leave("Ada");
        assert!(start.elapsed() < seconds(45 + 22), "45 s and a lease");
        let ended = silent.join().expect("it is dropped");
        assert!((seconds(40)..seconds(50)).contains(&ended), "dropped after {ended:?}");
    }

    fn a_broken_connection_leaves_with_its_lease_in_memory() {
        let instance = Instance::start(&[]);
        let mut watcher = Client::join(instance.addr, "tea", "Watcher");
        let ada = Client::join(instance.addr, "tea", "Ada");
        watcher.see_join("Ada");
        let cut = Instant::now();
        ada.cut();
        leaves_with_its_lease(&mut watcher, "Ada", cut, 14);
        assert_eq!(watcher.participants(), 1);
        let mut eve = Client::connect(instance.addr, "tea");
        assert_eq!(eve.try_enter("Ada", None)["type"], "welcome", "the name is free again");
    }

    fn a_broken_connection_leaves_with_its_lease_on_all_instances() {
        let (first, second, _redis, mut watcher) = pair(&[]);
        let mut near = Client::join(first.addr, "tea", "Near");
        let ada = Client::join(first.addr, "tea", "Ada");
        watcher.see_join("Ada");
        let cut = Instant::now();
        ada.cut();
        leaves_with_its_lease(&mut watcher, "Ada", cut, 14);
        near.see_leave("Ada");
        assert_eq!((watcher.participants(), near.participants()), (2, 2));
        watcher.quiet("a second notice", seconds(7), |f| f["type"] == "presence" && f["left"] != json!([]));
        assert_eq!(Client::join(second.addr, "tea", "Late").welcome["participants"], 3);
    }

    fn those_of_a_killed_instance_leave_with_their_leases() {
        let (mut first, second, _redis, mut watcher) = pair(&[]);
        let _lost: Vec<Client> = ["Ada", "Bob", "Cyd"].iter().map(|n| Client::join(first.addr, "tea", n)).collect();
        watcher.see_join("Cyd");
        let cut = Instant::now();
        first.kill();
        leaves_with_its_lease(&mut watcher, "Ada", cut, 9);
        poll_until("the count is right", seconds(20).saturating_sub(cut.elapsed()), || {
            watcher.take(Duration::from_millis(50));
            watcher.participants() == 1
        });
        let mut left: Vec<String> = watcher.received.iter().flat_map(|f| f["left"].as_array().cloned().unwrap_or_default())
            .map(|name| name.as_str().expect("a name").to_owned()).collect();
        left.sort();
        assert_eq!(left, ["Ada", "Bob", "Cyd"], "each once");
        assert_eq!(Client::join(second.addr, "tea", "Late").welcome["names"], json!(["Late", "Watcher"]));
    }

    fn those_of_a_killed_last_instance_are_gone_when_the_next_one_starts() {
        let (mut first, mut second, redis, _watcher) = pair(&[]);
        let _ada = Client::join(first.addr, "tea", "Ada");
        first.kill();
        second.kill();
        let cut = Instant::now();
        let third = Instance::on(&redis, &[]);
        poll_until("nobody is left over", seconds(21), || {
            let late = Client::join(third.addr, "tea", &unique("L"));
            let alone = late.welcome["participants"] == 1;
            late.leave();
            std::thread::sleep(Duration::from_millis(200));
            alone
        });
        assert!(cut.elapsed() > seconds(9), "within the lease they may still come back");
    }

    fn those_of_a_drained_instance_who_stay_away_leave_with_their_leases() {
        let (mut first, _second, _redis, mut watcher) = pair(&[("DRAIN_SECONDS", "2")]);
        let mut ada = Client::join(first.addr, "tea", "Ada");
        watcher.see_join("Ada");
        first.signal("TERM");
        ada.expect_close(1012);
        let cut = Instant::now();
        assert!(first.wait(PATIENCE).success());
        leaves_with_its_lease(&mut watcher, "Ada", cut, 14);
    }

    fn a_comeback_within_the_lease_is_silent_for_good() {
        let (mut first, second, _redis, mut watcher) = pair(&[("DRAIN_SECONDS", "1")]);
        // One whose connection broke, one whose instance dies, one that was drained.
        let broken = Client::join(second.addr, "tea", "Broken");
        let drained = Client::join(first.addr, "tea", "Drained");
        watcher.see_join("Drained");
        let secrets = [broken.secret.clone(), drained.secret.clone()];
        let start = Instant::now();
        broken.cut();
        first.signal("TERM");
        first.wait(PATIENCE);
        watcher.quiet("anybody leaving", seconds(8).saturating_sub(start.elapsed()), |f| f["type"] == "presence" && f["left"] != json!([]));
        let mut back: Vec<Client> = ["Broken", "Drained"].iter().zip(&secrets)
            .map(|(name, secret)| Client::back(second.addr, "tea", name, secret, None)).collect();
        // Their old leases expire now, and must not take the new ones with them.
        watcher.quiet("anybody coming or going", seconds(22), |f| f["type"] == "presence" && f["joined"] != json!(["Broken"]));
        for client in &mut back {
            client.say("I never left");
        }
        assert_eq!(Client::join(second.addr, "tea", "Late").welcome["participants"], 4);
    }

    fn a_lease_that_a_comeback_ended_ends_no_later_one() {
        let file = DataFile::new();
        let redis = Redis::start();
        for instance in [file.start(&[]), Instance::on(&redis, &[])] {
            let mut watcher = Client::join(instance.addr, "tea", "Watcher");
            let ada = Client::join(instance.addr, "tea", "Ada");
            watcher.see_join("Ada");
            let (secret, start) = (ada.secret.clone(), Instant::now());
            ada.cut();
            std::thread::sleep(seconds(5).saturating_sub(start.elapsed()));
            let again = Client::back(instance.addr, "tea", "Ada", &secret, None);
            std::thread::sleep(seconds(10).saturating_sub(start.elapsed()));
            let cut = Instant::now();
            again.cut();
            leaves_with_its_lease(&mut watcher, "Ada", cut, 14);
        }
    }

    fn a_lease_is_renewed_while_its_client_is_there() {
        let (first, second, _redis, mut watcher) = pair(&[]);
        let mut ada = Client::join(first.addr, "tea", "Ada");
        watcher.see_join("Ada");
        let quiet = std::thread::spawn(move || {
            ada.quiet("anybody leaving", seconds(40), |f| f["type"] == "presence");
            ada
        });
        watcher.quiet("anybody leaving", seconds(40), |f| f["type"] == "presence");
        quiet.join().expect("Ada sees nobody leave").say("here");
        assert_eq!(Client::join(second.addr, "tea", "Late").welcome["participants"], 3);
    }

    fn a_frozen_instance_that_thaws_makes_its_people_whole_again() {
        // An instance that is stopped for longer than its leases (a paused virtual machine) loses them; when it
        // continues, clients that are still connected are in the room again and the count is right everywhere.
        let (first, second, _redis, mut watcher) = pair(&[]);
        let mut ada = Client::join(first.addr, "tea", "Ada");
        watcher.see_join("Ada");
        first.signal("STOP");
        watcher.patience = seconds(25);
        watcher.see_leave("Ada");
        first.signal("CONT");
        poll_until("Ada counts again, or was told to come back", seconds(25), || {
            ada.ended().is_some() || {
                let late = Client::join(second.addr, "tea", &unique("L"));
                let count = late.welcome["participants"].as_u64();
                late.leave();
                std::thread::sleep(Duration::from_millis(200));
                count == Some(3)
            }
        });
    }

    fn an_instance_with_too_many_sessions_moves_some_to_the_others() {
        let redis = Redis::start();
        let full = Instance::on(&redis, &[("REBALANCE", "50")]);
        let mut clients: Vec<Client> = Vec::new();
        for n in 0..420 {
            clients.push(Client::join(full.addr, &format!("r{}", n % 30), &format!("N{n}")));
            if n % 50 == 49 {
                clients.iter_mut().for_each(Client::still_open);
            }
        }
        // Each instance's share is 210 now. It slowly asks sessions to leave, until it has no more than that.
        let empty = Instance::on(&redis, &[("REBALANCE", "50")]);
        let (mut told, mut first, mut last) = (0, None, Instant::now());
        let mut move_those_asked = || {
            for n in (0..clients.len()).rev() {
                if let Some(end) = clients[n].ended() {
                    assert_eq!(end, End::Close(1012));
                    let gone = clients.swap_remove(n);
                    let name = gone.welcome["name"].as_str().expect("a name").to_owned();
                    clients.push(Client::back(empty.addr, &gone.room, &name, &gone.secret, None));
                    told += 1;
                    last = Instant::now();
                    first.get_or_insert(last);
                }
            }
        };
        poll_until("it holds its share", seconds(40), || {
            move_those_asked();
            http::metric(full.addr, "bobbin_connections") <= 212.0
        });
        // Those who were asked after this loop had passed them.
        move_those_asked();
        // Sessions moving to the other instance are counted nowhere; the surplus must not include them.
        assert!((200..=215).contains(&told), "{told} were asked to go");
        assert!(last - first.expect("some") > seconds(2), "50 a second");
    }

    fn without_rebalancing_nobody_is_asked_to_go() {
        let redis = Redis::start();
        let full = Instance::on(&redis, &[("REBALANCE", "0")]);
        let mut clients: Vec<Client> = (0..20).map(|n| Client::join(full.addr, "tea", &format!("N{n}"))).collect();
        let _empty = Instance::on(&redis, &[("REBALANCE", "0")]);
        let mut last = clients.pop().expect("one");
        last.quiet("anybody leaving", seconds(30), |f| f["type"] == "presence" && f["left"] != json!([]));
        assert!(clients.iter_mut().all(|client| client.ended().is_none()));
    }

    fn a_client_that_does_not_read_is_cut_and_the_others_do_not_notice() {
        let instance = Instance::start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let mut bob = Client::join(instance.addr, "tea", "Bob");
        let mut slow = slow_client(&instance, "tea", "Slow");
        let text = "x".repeat(4000);
        let start = Instant::now();
        // 12 MB: more than the socket buffers of both sides and the backlog of 256 KiB hold.
        for n in 0..3000 {
            ada.post(&text);
            if n % 50 == 49 {
                let sent = Instant::now();
                let key = format!("fence {n}");
                ada.say(&key);
                bob.hear(&key);
                assert!(sent.elapsed() < seconds(5), "others notice: {:?}", sent.elapsed());
            }
        }
        assert_eq!(bob.messages().len(), 3060);
        slow.patience = seconds(30);
        let end = slow.end();
        assert!(matches!(end, End::Close(1013) | End::Cut), "{end:?}");
        assert!(slow.messages().len() < 3060, "it was cut, not fed");
        assert!(start.elapsed() < seconds(60));
        assert_eq!(http::metric(instance.addr, CUT), 1.0);
    }

    fn a_client_that_does_not_read_its_welcome_is_let_go() {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let first = ada.say("first");
        let text = "x".repeat(4000);
        for _ in 0..600 {
            ada.say(&text);
        }
        let quiet = instance.threads();
        // Each requests 2 MB and reads nothing of it; there are more clients than lanes.
        let since = first["id"].as_str().expect("an id").to_owned();
        let mut stuck: Vec<Client> = (0..8).map(|_| tight_client(&instance, "tea")).collect();
        for (n, client) in stuck.iter_mut().enumerate() {
            client.send(json!({"type": "join", "name": format!("Stuck{n}"), "since": since}));
        }
        let mut bob = Client::join(instance.addr, "tea", "Bob");
        for n in 0..300 {
            let sent = Instant::now();
            let said = ada.say(&format!("m{n}"));
            bob.until("it", |f| f["id"] == said["id"]);
            assert!(sent.elapsed() < seconds(3), "others notice: {:?}", sent.elapsed());
        }
        poll_until("their threads have ended", seconds(60), || {
            ada.take(Duration::from_millis(50));
            instance.threads() <= quiet + 1
        });
        ada.say("still well");
    }

    fn a_client_that_asks_and_asks_and_does_not_read_is_cut() {
        let instance = Instance::start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let text = "x".repeat(4000);
        for _ in 0..100 {
            ada.say(&text);
        }
        let newest = ada.say("newest")["id"].clone();
        let mut greedy = tight_client(&instance, "tea");
        greedy.enter("Greedy", None);
        greedy.tcp().set_write_timeout(Some(seconds(5))).expect("a timeout");
        let ask = json!({"type": "history", "before": newest, "limit": 100});
        poll_until("it is cut", seconds(30), || {
            greedy.send_or_end(ask.clone());
            http::metric(instance.addr, CUT) >= 1.0
        });
        ada.say("still well");
    }

    fn many_leases_that_lapse_at_once_are_all_told() {
        let instance = Instance::start(&[]);
        let mut watcher = Client::join(instance.addr, "tea", "Watcher");
        let crowd: Vec<Client> = (0..45).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
        watcher.see_join("N44");
        let cut = Instant::now();
        crowd.into_iter().for_each(Client::cut);
        poll_until("the count is right", seconds(21), || {
            watcher.take(Duration::from_millis(100));
            watcher.participants() == 1
        });
        assert!(cut.elapsed() > seconds(14));
        // The first of several frames already has the count.
        let lists = poll("all names, in a room that is small", PATIENCE, || {
            watcher.take(Duration::from_millis(100));
            let lengths = watcher.received.iter().filter_map(|f| Some(f["left"].as_array()?.len()));
            let lists: Vec<usize> = lengths.filter(|n| *n > 0).collect();
            (lists.iter().sum::<usize>() >= 45).then_some(lists)
        });
        assert!(lists.iter().sum::<usize>() == 45 && lists.iter().all(|n| *n <= 20), "{lists:?}");
    }

    fn a_backlog_that_does_not_move_for_10_s_is_cut_even_if_small() {
        let instance = Instance::start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let mut slow = slow_client(&instance, "tea", "Slow");
        // Keeps 128 KiB more queued than its socket takes, half of what would be too much, so that it is the time that
        // cuts it. (A unit test with its own clock shows how long that is.)
        let text = "x".repeat(4000);
        let mut said = 0;
        poll_until("it is cut", seconds(60), || {
            let held = queues(&instance, &slow);
            while said < held + 128 * 1024 {
                said += ada.say(&text).to_string().len() + 4;
            }
            ada.take(Duration::from_millis(10));
            http::metric(instance.addr, CUT) == 1.0
        });
        slow.patience = seconds(20);
        let end = slow.end();
        assert!(matches!(end, End::Close(1013) | End::Cut), "{end:?}");
    }
    fn a_client_that_does_not_read_is_out_of_the_room_within_25_s() {
        let redis = Redis::start();
        for instance in [Instance::start(&[("RATE_LIMIT", "0")]), Instance::on(&redis, &[("RATE_LIMIT", "0")])] {
            let mut ada = Client::join(instance.addr, "tea", "Ada");
            let mut slow = slow_client(&instance, "tea", "Slow");
            let text = "x".repeat(4000);
            let (mut said, mut backlog) = (0, None);
            while backlog.is_none() {
                said += ada.say(&text).to_string().len() + 4;
                // Counts as having a backlog only when it certainly has one, so the measured time starts late rather
                // than early.
                backlog = (said > queues(&instance, &slow) + 16 * 1024).then(Instant::now);
            }
            ada.patience = seconds(30);
            ada.see_leave("Slow");
            let took = backlog.expect("it has one").elapsed();
            assert!(took < seconds(25), "{took:?}");
            slow.patience = seconds(5);
            slow.end();
        }
    }

    fn nobody_gets_a_page_before_the_last_one_is_read() {
        let instance = Instance::start(&[("RATE_LIMIT", "0"), ("ADDRESS_HISTORY_RATE", "0")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        (0..70).for_each(|n| drop(ada.say(&format!("{n} {}", "x".repeat(4000)))));
        let mut slow = slow_client(&instance, "tea", "Slow");
        let older = slow.messages().first().expect("a welcome with messages")["id"].clone();
        let refused = |instance: &Instance| http::metric(instance.addr, "bobbin_limited_total{limit=\"history\"}");
        poll_until("a page is refused", seconds(8), || {
            slow.send(json!({"type": "history", "before": older, "limit": 100}));
            std::thread::sleep(Duration::from_millis(50));
            refused(&instance) > 0.0
        });
        let error = slow.expect_error("rate_limited");
        assert!(error["message"] == "the previous page has not been read yet" && error["retry_ms"] == 500, "{error}");
        slow.still_open();
        ada.say("nobody waits");
    }

    fn a_client_that_was_cut_comes_back_unnoticed_and_may_read_why() {
        let instance = Instance::start(&[("RATE_LIMIT", "0")]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let mut slow = slow_client(&instance, "tea", "Slow");
        let text = "x".repeat(4000);
        poll_until("it is cut", seconds(60), || {
            ada.say(&text);
            http::metric(instance.addr, CUT) == 1.0
        });
        // It has five seconds, and uses three.
        ada.quiet("Slow leaving", seconds(3), |f| f["type"] == "presence" && f["left"] != json!([]));
        slow.expect_close(1013);
        instance.logged("127.0.0.1 was closed: it does not read what it is sent");
        let back = Client::back(instance.addr, "tea", "Slow", &slow.secret, None);
        ada.quiet("Slow leaving", seconds(18), |f| f["type"] == "presence" && f["left"] != json!([]));
        assert_eq!(back.welcome["participants"], 2);
    }
}

const CUT: &str = "bobbin_slow_clients_cut_total";

/// Joins with small socket buffers on the client's side, and reads nothing from then on.
fn slow_client(instance: &Instance, room: &str, name: &str) -> Client {
    let mut client = tight_client(instance, room);
    client.enter(name, None);
    client
}

/// Connects with small socket buffers on the client's side.
fn tight_client(instance: &Instance, room: &str) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(&instance.addr.into()).expect("a connection");
    Client::upgrade_on(socket.into(), room, "").expect("an upgrade").0
}

/// The bytes held by the kernel for this client, in the server's send queue and in the client's receive queue.
fn queues(instance: &Instance, client: &Client) -> usize {
    let port = client.tcp().local_addr().expect("it is connected").port();
    let (there, here) = (format!(":{:04X}", instance.addr.port()), format!(":{port:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let bytes = |hex: &str| usize::from_str_radix(hex, 16).unwrap_or_default();
    let held = table.lines().map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (send, receive) = fields.get(4).and_then(|f| f.split_once(':')).unwrap_or_default();
        if fields[1].ends_with(&there) && fields[2].ends_with(&here) {
            bytes(send)
        } else if fields[1].ends_with(&here) && fields[2].ends_with(&there) {
            bytes(receive)
        } else {
            0
        }
    });
    held.sum()
}
