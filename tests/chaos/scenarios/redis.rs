//! A Redis that rejects writes, and one that is replaced by its replica.

use super::*;
use crate::common::http::{get, request};
use crate::common::redis::endpoint;
use crate::common::{Instance, PATIENCE, Redis, poll};
use crate::ledger::Message;
use crate::proxy::{Proxy, Which};

/// Longer than a lease.
const LONG: At = 19_000;

together! {
    /// `maxmemory` for longer than a lease: nothing can be renewed, and yet no lease is cleared and nobody is
    /// disconnected.
    fn nobody_is_cleared_away_while_redis_is_full() {
        refuses_for_long(Fault::RedisFull);
    }

    /// The same on a read-only primary; and clients do not receive a `status` at every attempt to reconnect.
    fn nobody_is_cleared_away_while_redis_is_read_only() {
        refuses_for_long(Fault::RedisReadOnly);
    }

    /// Redis rejects reading a log for a moment, just when a gap is to be filled from it: it is filled later.
    fn a_log_that_cannot_be_read_for_a_moment_is_read_later() {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.addr());
        let other = Instance::on(&redis, &[]);
        let cut = Instance::start(&[("REDIS_ENDPOINT", &endpoint(proxy.addr))]);
        poll_until("ready", PATIENCE, || get(cut.addr, "/readyz").status == 200);
        let (mut ada, mut bob) = (Client::join(cut.addr, "tea", "Ada"), Client::join(other.addr, "tea", "Bob"));
        ada.see_join("Bob");
        redis.cmd::<()>("ACL SETUSER bobbin -xrange");
        proxy.hold(None, Some(Which::All));
        bob.say("in the hole");
        proxy.cut(Which::All);
        proxy.release();
        ada.until("up again", |f| f["backplane"] == "up");
        std::thread::sleep(Duration::from_secs(1)); // for the attempt that is rejected
        bob.say("after the hole");
        redis.cmd::<()>("ACL SETUSER bobbin +xrange");
        ada.patience = Duration::from_secs(20);
        ada.hear("after the hole");
        let heard: Vec<_> = ada.messages().iter().map(|m| m["text"].clone()).collect();
        assert_eq!(heard, ["in the hole", "after the hole"]);
    }

    /// A message is removed while an instance is cut off from Redis: its clients are notified when it is back.
    fn a_removal_during_a_lost_connection_is_told_afterwards() {
        let (redis, settings) = (Redis::start(), [("ADMIN_TOKEN", "the-token-of-the-host")]);
        let proxy = Proxy::start(redis.addr());
        let other = Instance::on(&redis, &settings);
        let cut = Instance::start(&[&settings[..], &[("REDIS_ENDPOINT", &endpoint(proxy.addr))]].concat());
        poll_until("ready", PATIENCE, || get(cut.addr, "/readyz").status == 200);
        let mut ada = Client::join(cut.addr, "tea", "Ada");
        let (one, two) = (ada.say("one"), ada.say("two"));
        proxy.hold(None, Some(Which::All));
        let remove = |message: &serde_json::Value| {
            let path = format!("/admin/rooms/tea/messages/{}", message["id"].as_str().expect("an id"));
            request(other.addr, "DELETE", &path, "Authorization: Bearer the-token-of-the-host\r\n").status
        };
        assert_eq!((remove(&one), remove(&two)), (200, 200));
        proxy.cut(Which::All);
        proxy.release();
        let removed = ada.until("what was removed", |f| f["type"] == "removed");
        let ids = removed["ids"].as_array().expect("ids");
        assert!(ids.len() == 2 && ids.contains(&one["id"]) && ids.contains(&two["id"]), "{removed}");
    }

    /// The replica takes over without the latest messages: those are lost and reported as a gap, and no others are.
    fn a_promoted_replica_loses_what_it_lacked_and_no_more() {
        let mut arena = calm(&[Talk::one("talk", 15, 200, 2)], &[]);
        let fault = |fault, from, length| Planned { fault, from, to: from + length, instance: None };
        let away = |from| Planned { fault: Fault::ClientAway, from, to: from + 2000, instance: None };
        let plan = [
            away(900),
            fault(Fault::RedisPromote, 1000, 1000),
            away(4900),
            fault(Fault::RedisDemote, 5000, 1000),
            away(8900),
            fault(Fault::RedisPromote, 9000, 1000),
        ];
        arena.cluster.run(&plan, 14_000);
        let outcome = arena.finish();
        all_held(&outcome);
        assert_eq!(outcome.stage.ledger.losses.lock().unwrap().len(), 3, "the replica took over each time");
    }
}

fn refuses_for_long(refusal: Fault) {
    // In the second room nobody sends anything: its log is empty, so a script that trims it first writes nothing.
    let mut arena = calm(&[Talk::one("talk", 15, 500, 3), Talk::one("silent", 9, 3_600_000, 3)], &[]);
    let (planned, window) = arena.cluster.strike_one(refusal, 0);
    // Meanwhile somebody tries to join: that must not clear the others' leases.
    std::thread::sleep(Duration::from_millis(LONG - 1000));
    let addr = arena.stage.instances.lock().unwrap()[0];
    let newcomers = ["talk", "silent"].map(|room| {
        let mut newcomer = Client::connect(addr, room);
        newcomer.send(crate::common::json!({"type": "join", "name": "newcomer", "client": newcomer.secret}));
        newcomer
    });
    std::thread::sleep(Duration::from_millis(1000));
    for mut newcomer in newcomers {
        newcomer.expect("error");
        newcomer.cut();
    }
    arena.cluster.heal(&planned, window);
    let healed = clock::now();
    poll("a receipt for everybody who waited", PATIENCE + Duration::from_secs(10), || {
        let answered = |m: &Message| m.first_sent > healed || m.receipt.is_some() || m.given_up;
        books(&arena).all(|book| book.messages.iter().all(answered)).then_some(())
    });
    let outcome = arena.finish();
    all_held(&outcome);
    nobody_left(&outcome);
    for book in outcome.stage.ledger.clients.iter().map(|c| c.lock().unwrap()) {
        assert_eq!(book.connections.len(), 1, "{} was sent away", book.name);
        assert!(book.statuses <= 6, "{} was told {} times that the backplane went or came", book.name, book.statuses);
    }
}
