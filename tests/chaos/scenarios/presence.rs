//! Presence, while instances die, freeze or receive publications late.

use super::*;
use crate::common::client::has;
use crate::common::http::get;
use crate::common::redis::endpoint;
use crate::common::{Instance, PATIENCE, Redis};
use crate::proxy::{Proxy, Which};

together! {
    /// kill -9: within 20 s everyone else knows who has gone.
    fn the_count_is_right_20_s_after_an_instance_died() {
        let mut arena = calm(&[Talk::one("talk", 15, 500, 3)], &[]);
        let (kill, window) = arena.cluster.strike_one(Fault::InstanceKill, 1);
        gone_within_20_s(&arena, 1, &[]);
        arena.cluster.heal(&kill, window);
        all_held(&arena.finish());
    }

    /// SIGSTOP for 30 s: the same, and when it continues it must not show those again who have gone meanwhile.
    fn a_frozen_instance_never_shows_a_ghost() {
        let mut arena = calm(&[Talk::one("talk", 15, 500, 3)], &[]);
        let addr = arena.stage.instances.lock().unwrap()[1];
        let ghosts = ["ghost-1", "ghost-2", "ghost-3"];
        let visitors = ghosts.map(|name| Client::join(addr, "talk", name));
        poll_until("all see the three", PATIENCE, || {
            books(&arena).all(|book| book.names.contains(ghosts[2]))
        });
        let start = Instant::now();
        let (freeze, window) = arena.cluster.strike_one(Fault::InstanceFreeze, 1);
        // They leave while it is frozen: one with a close frame, two without. It finds out when it continues.
        for (number, visitor) in visitors.into_iter().enumerate() {
            if number == 0 {
                visitor.tcp().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                close_without_waiting(visitor);
            } else {
                visitor.cut();
            }
        }
        gone_within_20_s(&arena, 1, &ghosts);
        std::thread::sleep(Duration::from_secs(30).saturating_sub(start.elapsed()));
        let thawed = clock::now();
        arena.cluster.heal(&freeze, window);
        let stage = std::sync::Arc::clone(&arena.stage);
        all_held(&arena.finish());
        for book in stage.ledger.clients.iter().map(|c| c.lock().unwrap()) {
            let later = book.changes.iter().filter(|c| c.at >= thawed);
            for name in later.flat_map(|c| &c.joined) {
                assert!(!ghosts.contains(&name.as_str()), "{} saw the ghost {name} come", book.name);
            }
        }
    }

    /// SIGSTOP under a high message rate: the accumulated frames arrive at once and some are refused, but no connection
    /// is closed for that.
    fn a_frozen_instance_closes_nobody() {
        let mut arena = calm(&[Talk::one("talk", 24, 300, 8)], &[]);
        let full = Planned { fault: Fault::RedisFull, from: 500, to: 8000, instance: None };
        arena.cluster.run(&[full, fault(Fault::InstanceFreeze, 1, 7900, 11_000)], 19_500);
        all_held(&arena.finish());
    }

    /// A reconnected instance compares the presence its clients know with the actual one. Publications sent before that
    /// comparison but received after it are ignored: a join is announced once.
    fn a_notice_that_is_late_is_not_told_twice() {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.addr());
        let other = Instance::on(&redis, &[]);
        let late = Instance::start(&[("REDIS_ENDPOINT", &endpoint(proxy.addr))]);
        poll_until("ready", PATIENCE, || get(late.addr, "/readyz").status == 200);
        let mut ada = Client::join(late.addr, "tea", "Ada");
        proxy.hold(None, Some(Which::Pubsub));
        let bob = Client::join(other.addr, "tea", "Bob");
        // Waits until the comparison has announced Bob; if the connection's other replies are held too, there is none.
        let told = |ada: &mut Client| {
            ada.ended();
            ada.received.iter().filter(|frame| has(&frame["joined"], "Bob")).count()
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while told(&mut ada) == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        proxy.release();
        poll_until("Ada knows of Bob", PATIENCE, || told(&mut ada) > 0);
        bob.leave();
        ada.patience = Duration::from_secs(25);
        ada.see_leave("Bob");
        assert_eq!(told(&mut ada), 1, "Bob joined once");
    }

    /// A client that returns with another spelling of its name is still one person, and gone when it leaves.
    fn another_spelling_leaves_nobody_behind() {
        let redis = Redis::start();
        let (here, there) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
        let mut witness = Client::join(here.addr, "tea", "Witness");
        let ada = Client::join(there.addr, "tea", "Ada");
        witness.see_join("Ada");
        let secret = ada.secret.clone();
        let back = Client::back(here.addr, "tea", "ADA", &secret, None);
        assert_eq!(back.welcome["participants"], 2);
        let mut after = Client::join(there.addr, "tea", "After");
        assert_eq!(after.welcome["names"].as_array().map(Vec::len), Some(3), "{}", after.welcome);
        back.leave();
        for client in [&mut witness, &mut after] {
            let shown = roster_of(client, |names| names.len() == 2);
            assert!(shown, "{} still shows one who left", client.room);
        }
    }

    /// Someone leaves while only the connection with the subscription is down: announced once, as soon as it is back.
    fn a_leave_without_pubsub_is_told_once() {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.addr());
        let other = Instance::on(&redis, &[]);
        let cut = Instance::start(&[("REDIS_ENDPOINT", &endpoint(proxy.addr))]);
        poll_until("ready", PATIENCE, || get(cut.addr, "/readyz").status == 200);
        let (mut ada, mut bob) = (Client::join(other.addr, "tea", "Ada"), Client::join(cut.addr, "tea", "Bob"));
        let (cid, dee) = (Client::join(cut.addr, "tea", "Cid"), Client::join(other.addr, "tea", "Dee"));
        ada.see_join("Cid");
        bob.see_join("Dee");
        proxy.cut(Which::Pubsub);
        cid.leave();
        dee.leave();
        let told = |client: &Client, name: &str| client.received.iter().filter(|f| has(&f["left"], name)).count();
        for client in [&mut ada, &mut bob] {
            poll_until("both are known to have left", Duration::from_secs(12), || {
                client.ended();
                told(client, "Cid") > 0 && told(client, "Dee") > 0
            });
        }
        // Any further announcement would come with the next comparison at the latest.
        std::thread::sleep(Duration::from_secs(4));
        for client in [&mut ada, &mut bob] {
            client.ended();
            assert_eq!((told(client, "Cid"), told(client, "Dee")), (1, 1), "each left once");
        }
    }
}

/// Waits until the names that a client would show satisfy `wanted`.
fn roster_of(client: &mut Client, wanted: impl Fn(&BTreeSet<String>) -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        client.ended();
        let mut names = BTreeSet::new();
        for frame in &client.received {
            let list = |field: &str| -> Vec<String> {
                let list = frame[field].as_array().cloned().unwrap_or_default();
                list.iter().filter_map(|name| name.as_str().map(Into::into)).collect()
            };
            names.extend(list("names"));
            for name in list("left") {
                names.remove(&name);
            }
            names.extend(list("joined"));
        }
        if wanted(&names) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Sends a close frame without waiting: a frozen instance answers nothing.
fn close_without_waiting(mut client: Client) {
    client.send_raw(&[0x88, 0x80, 0, 0, 0, 0]);
    client.cut();
}
