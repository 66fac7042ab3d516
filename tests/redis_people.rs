//! Proves that presence stays correct whatever happens to Redis: many leases that end at once, a Redis that is full or
//! read-only, lost replies, and keys that are no longer needed.

#[macro_use]
mod common;

use common::client::has;
use common::http::get;
use common::*;
use std::time::{Duration, Instant};

fn ready(instance: &Instance) -> bool {
    get(instance.addr, "/readyz").status == 200
}

fn threads_stand_still(instance: &Instance) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", instance.pid())).expect("it runs");
    let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses.
    tasks.flatten().map(stat).all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

/// Puts people into a room as a crashed instance leaves them: with expired leases.
fn leave_behind(redis: &Redis, room: &str, count: usize) {
    let mut connection = redis.connection().expect("it runs");
    let now: Vec<u64> = ::redis::cmd("TIME").query(&mut connection).expect("its clock");
    let mut pipeline = ::redis::pipe();
    for number in 0..count {
        let seat = format!("gone/{number} abcdefgh234567ab 127.0.0.1 {}000 Ghost{number}", now[0] - 60);
        pipeline.cmd("HSET").arg(format!("bobbin:{{{room}}}:who")).arg(format!("ghost{number}")).arg(seat);
        pipeline.cmd("ZADD").arg(format!("bobbin:{{{room}}}:here")).arg((now[0] - 1) * 1000);
        pipeline.arg(format!("ghost{number}"));
    }
    pipeline.query::<()>(&mut connection).expect("its keys");
}

together! {
    fn any_number_of_leases_that_ended_is_cleared_away_within_a_heartbeat() {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        std::thread::sleep(Duration::from_secs(18)); // longer than the grace period of a new instance, and two heartbeats
        // Too many to be cleared in PATIENCE by one batch of 1,000 per heartbeat.
        leave_behind(&redis, "tea", 10_000);
        // A new client neither counts them nor is refused their names.
        let bob = Client::join(instance.addr, "tea", "Ghost7");
        assert_eq!(bob.welcome["participants"], 2);
        let names = bob.welcome["names"].as_array().expect("names").len();
        assert_eq!(names, 2, "{}", bob.welcome["names"]);
        poll_until("all are cleared away", PATIENCE, || redis.cmd::<i64>("ZCARD bobbin:{tea}:here") == 2);
        ada.see_participants(2);
        assert_eq!(redis.cmd::<i64>("HLEN bobbin:{tea}:who"), 3, "two people and the stamp");
    }

    /// Renewals are refused meanwhile. The first instance to succeed when there is memory again must not clear the
    /// others' leases.
    fn a_redis_that_was_full_for_longer_than_a_lease_sends_nobody_away() {
        let redis = Redis::start();
        let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
        let mut ada = Client::join(first.addr, "tea", "Ada");
        let mut bob = Client::join(second.addr, "tea", "Bob");
        ada.see_join("Bob");
        std::thread::sleep(Duration::from_secs(14)); // so that expired leases may be cleared
        redis.cmd::<String>("CONFIG SET maxmemory 1");
        std::thread::sleep(Duration::from_secs(19));
        redis.cmd::<String>("CONFIG SET maxmemory 0");
        bob.still_open();
        let mut cyd = poll("Cyd joins", PATIENCE, || {
            let mut client = Client::connect(first.addr, "tea");
            (client.try_enter("Cyd", None)["type"] == "welcome").then_some(client)
        });
        for client in [&mut ada, &mut bob] {
            client.quiet("anybody leaving", Duration::from_secs(8), |f| f["left"] != json!([]) && f["type"] == "presence");
            assert_eq!(client.ended(), None);
            assert_eq!(client.participants(), 3);
        }
        cyd.fence();
    }

    /// Redis is flushed while its instances are healthy: all restore their seats, and nobody is seen leaving.
    fn a_redis_that_is_emptied_sends_nobody_away() {
        let redis = Redis::start();
        let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
        let mut ada = Client::join(first.addr, "tea", "Ada");
        let mut bob = Client::join(second.addr, "tea", "Bob");
        ada.see_join("Bob");
        std::thread::sleep(Duration::from_secs(14)); // until its grace period after connecting is over
        redis.cmd::<String>("FLUSHALL");
        poll_until("both have their names again", Duration::from_secs(5), || {
            redis.cmd::<i64>("ZCARD bobbin:{tea}:here") == 2
        });
        let mut eve = Client::connect(second.addr, "tea");
        assert_eq!(eve.try_enter("Ada", None)["code"], "name_taken");
        let said = ada.say("after");
        assert_eq!(bob.hear("after"), said);
        // Long enough for the rosters to have been compared.
        for client in [&mut ada, &mut bob] {
            client.quiet("anybody leaving", Duration::from_secs(8), |f| f["left"] != json!([]) && f["type"] == "presence");
            assert_eq!(client.ended(), None);
            assert_eq!(client.participants(), 2);
        }
    }

    /// The clock was an hour ahead when the older session joined, as the room's stamp shows, and was set back then.
    fn a_clock_that_is_set_back_gives_no_name_to_an_older_session() {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[]);
        let mut connection = redis.connection().expect("it runs");
        let now: Vec<u64> = ::redis::cmd("TIME").query(&mut connection).expect("its clock");
        let mut ahead = ::redis::cmd("HSET");
        ahead.arg("bobbin:{tea}:who").arg("").arg((now[0] + 3600) * 1_000_000);
        ahead.query::<()>(&mut connection).expect("a stamp");
        let mut older = Client::join(instance.addr, "tea", "Ada");
        let connected = instance.threads();
        let mut newer = Client::back(instance.addr, "tea", "Ada", &older.secret, None);
        older.expect_close(4001);
        older.cut();
        poll_until("the older one has ended", PATIENCE, || instance.threads() <= connected);
        let lease = || redis.cmd::<f64>("ZSCORE bobbin:{tea}:here ada");
        for _ in 0..3 {
            let before = lease();
            poll_until("the newer one's lease is renewed", PATIENCE, || lease() > before);
        }
        newer.still_open();
        newer.say("still here");
    }

    /// Another program has overwritten the keys with the people in a room.
    fn a_room_whose_people_were_overwritten_is_whole_again() {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        redis.cmd::<String>("SET bobbin:{milk}:here nonsense");
        redis.cmd::<String>("SET bobbin:{tea}:who nonsense");
        let eve = Client::join(instance.addr, "milk", "Eve");
        assert_eq!(eve.welcome["participants"], 1);
        poll_until("Ada has her name again", Duration::from_secs(5), || {
            redis.cmd::<i64>("ZCARD bobbin:{tea}:here") == 1 && redis.cmd::<String>("TYPE bobbin:{tea}:who") == "hash"
        });
        let mut bob = Client::join(instance.addr, "tea", "Bob");
        assert_eq!(bob.welcome["names"], json!(["Ada", "Bob"]));
        let said = bob.say("hi");
        assert_eq!(ada.hear("hi"), said);
        assert_eq!(ada.ended(), None);
    }

    /// A failover in progress: a replica accepts connections but no writes.
    fn a_redis_that_only_reads_is_down_once_and_tried_ever_less_often() {
        let redis = Redis::start();
        let other = Redis::start();
        let instance = Instance::on(&redis, &[]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        std::thread::sleep(Duration::from_secs(1));
        redis.cmd::<String>(&format!("REPLICAOF 127.0.0.1 {}", other.port));
        ada.send(json!({"type": "message", "text": "hello?", "ref": "r1"}));
        poll_until("it is down", PATIENCE, || !ready(&instance));
        let connections = || {
            let stats: String = redis.cmd("INFO stats");
            let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
            line.and_then(|number| number.trim().parse::<u64>().ok()).expect("a count")
        };
        holds("it stays down", Duration::from_secs(8), || !ready(&instance));
        let before = connections();
        holds("it stays down", Duration::from_secs(8), || !ready(&instance));
        assert!(connections() - before < 12, "tried {} times in 8 s, our own question included", connections() - before);
        let flips = ada.take(Duration::from_millis(100));
        assert!(flips.is_empty() || ada.received.iter().filter(|f| f["type"] == "status").count() == 1, "{flips:?}");
        redis.cmd::<String>("REPLICAOF NO ONE");
        poll_until("it is up again", PATIENCE, || ready(&instance));
    }

    /// The reply to a join is lost, but Redis executed it: the seat is released rather than left to its lease.
    fn a_join_whose_answer_is_lost_leaves_no_ghost() {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        redis.freeze();
        let mut bob = Client::connect(instance.addr, "tea");
        assert_eq!(bob.try_enter("Bob", None)["code"], "unavailable");
        redis.thaw();
        let start = Instant::now();
        poll_until("another client gets the name", Duration::from_secs(10), || {
            let mut other = Client::connect(instance.addr, "tea");
            other.try_enter("Bob", None)["type"] == "welcome"
        });
        assert!(start.elapsed() < Duration::from_secs(8), "before the lease could have ended");
        ada.patience = Duration::from_secs(5);
        ada.see_join("Bob");
    }

    fn a_leave_while_redis_is_away_is_told_once_when_it_is_back() {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[]);
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let leavers: Vec<Client> = (0..20).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
        ada.see_join("N19");
        redis.freeze();
        poll_until("it is down", PATIENCE, || {
            ada.post("?");
            std::thread::sleep(Duration::from_millis(300));
            !ready(&instance)
        });
        leavers.into_iter().for_each(Client::leave);
        redis.thaw();
        poll_until("it is up", PATIENCE, || ready(&instance));
        let start = Instant::now();
        ada.see_participants(1);
        assert!(start.elapsed() < Duration::from_secs(5), "not by the end of their leases: {:?}", start.elapsed());
        ada.take(Duration::from_secs(4));
        for n in 0..20 {
            let name = format!("N{n}");
            assert_eq!(ada.received.iter().filter(|f| has(&f["left"], &name)).count(), 1, "{name} left once");
        }
    }

    /// Clients close their connections to an instance that stands still, and join on another. Then it goes on and releases
    /// their seats. (It may also learn first that they have moved, so there are twenty.)
    fn a_leave_that_comes_late_takes_no_newer_seat() {
        let redis = Redis::start();
        let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
        let mut bob = Client::join(second.addr, "tea", "Bob");
        let name = |n: usize| format!("N{n}");
        let mut moving: Vec<Client> = (0..20).map(|n| Client::join(first.addr, "tea", &name(n))).collect();
        bob.see_join("N19");
        first.signal("STOP");
        // The signal reaches one thread after the other.
        poll_until("all its threads stand still", PATIENCE, || threads_stand_still(&first));
        moving.iter_mut().for_each(|client| client.send_raw(&[0x88, 0x82, 0, 0, 0, 0, 3, 232]));
        let mut newer: Vec<Client> =
            moving.iter().enumerate().map(|(n, old)| Client::back(second.addr, "tea", &name(n), &old.secret, None)).collect();
        first.signal("CONT");
        for client in &mut moving {
            client.end();
        }
        // What the first one has sent to Redis before is executed before this message.
        Client::join(first.addr, "tea", "Cyd").say("after the leaves");
        bob.hear("after the leaves");
        assert!(bob.received.iter().all(|frame| frame["type"] != "presence" || frame["left"] == json!([])), "somebody has left");
        assert_eq!(Client::join(second.addr, "tea", "Eve").welcome["participants"], 23);
        newer.iter_mut().for_each(Client::still_open);
    }

    /// All names of a large room are read for the first only: the instance remains subscribed for a few seconds.
    fn somebody_who_comes_and_goes_has_no_names_read() {
        let redis = Redis::start();
        let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
        // One more than a join returns.
        let mut there: Vec<Client> = (0..101).map(|n| Client::join(second.addr, "tea", &format!("Guest {n}"))).collect();
        let before = redis.calls("hvals");
        for _ in 0..10 {
            Client::join(first.addr, "tea", "Ada").leave();
        }
        // It knows who has left meanwhile. On a busy machine it may have unsubscribed once or twice.
        there.pop().expect("one").leave();
        there[0].see_participants(100);
        let mut ada = Client::join(first.addr, "tea", "Ada");
        there.pop().expect("one").leave();
        ada.see_participants(100);
        assert!(redis.calls("hvals") - before <= 3, "{} times", redis.calls("hvals") - before);
    }

    /// Without people in the room, the instance does not notice that Redis has lost its data.
    fn a_room_that_was_left_is_read_again_when_redis_has_been_emptied() {
        let redis = Redis::start();
        let (first, second) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
        let _there: Vec<Client> = (0..101).map(|n| Client::join(second.addr, "tea", &format!("Guest {n}"))).collect();
        let before = redis.calls("hvals");
        let mut ada = Client::join(first.addr, "tea", "Ada");
        poll_until("its names are read", PATIENCE, || redis.calls("hvals") > before);
        ada.fence();
        ada.leave();
        redis.cmd::<String>("FLUSHALL");
        let mut ada = Client::join(first.addr, "tea", "Ada");
        ada.see_participants(102);
    }

    /// Ada's room counts until her lease ends, so that she can come back.
    fn a_stranger_who_is_refused_takes_nobodys_room_away() {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[("MAX_ROOMS", "1")]);
        let before = instance.threads();
        let ada = Client::join(instance.addr, "tea", "Ada");
        let secret = ada.secret.clone();
        ada.cut();
        poll_until("her thread has ended", PATIENCE, || instance.threads() <= before);
        assert_eq!(Client::connect(instance.addr, "tea").try_enter("Ada", None)["code"], "name_taken");
        assert_eq!(Client::connect(instance.addr, "pub").try_enter("Bob", None)["code"], "full");
        Client::back(instance.addr, "tea", "Ada", &secret, None).leave();
        poll_until("there is room", PATIENCE, || {
            Client::connect(instance.addr, "pub").try_enter("Bob", None)["type"] == "welcome"
        });
    }

    fn nothing_stays_of_rooms_that_nobody_visits_again() {
        let redis = Redis::start();
        let instance = Instance::on(&redis, &[]);
        let clients: Vec<Client> = (0..300).map(|n| Client::join(instance.addr, &format!("room-{n}"), "Ada")).collect();
        assert_eq!(redis.cmd::<Vec<String>>("PUBSUB CHANNELS bobbin:*:live").len(), 300);
        clients.into_iter().for_each(Client::cut);
        poll_until("all are unsubscribed", 2 * PATIENCE, || {
            redis.cmd::<Vec<String>>("PUBSUB CHANNELS bobbin:*:live").is_empty()
        });
        for key in redis.cmd::<Vec<String>>("KEYS *") {
            assert_ne!(redis.cmd::<i64>(&format!("TTL {key}")), -1, "{key} stays for ever");
        }
    }

    /// Before the first connection to Redis, a join waits for it.
    fn a_join_in_the_first_moment_waits_for_redis() {
        let mut redis = Redis::absent(&[]);
        let instance = Instance::start(&[("REDIS_ENDPOINT", &redis.endpoint())]);
        let mut ada = Client::connect(instance.addr, "tea");
        ada.send(json!({"type": "join", "name": "Ada", "client": unique("a-secret-of-ada")}));
        redis.up();
        assert_eq!(ada.next()["type"], "welcome");
    }

    /// Channels are not separated by database, so their names are.
    fn databases_of_one_redis_do_not_hear_each_other() {
        let redis = Redis::start();
        let endpoint = |db: u8| format!("{}/{db}", redis.endpoint());
        let instances = [1, 1, 2].map(|db| Instance::start(&[("REDIS_ENDPOINT", &endpoint(db))]));
        instances.iter().for_each(|instance| poll_until("ready", PATIENCE, || ready(instance)));
        let mut clients = instances.each_ref().map(|instance| Client::join(instance.addr, "tea", &format!("On{}", instance.addr.port())));
        let said = clients[0].say("in database 1");
        assert_eq!(clients[1].hear("in database 1"), said);
        let other = clients[2].say("in database 2");
        assert_eq!(clients[2].messages(), [other]);
        assert_eq!(clients[2].participants(), 1);
        clients[0].fence();
        assert_eq!(clients[0].messages(), [said]);
    }
}
