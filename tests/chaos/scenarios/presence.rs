//! Who is here, while instances die, freeze or receive late what was published.

use super::*;
use crate::common::client::has;
use crate::common::http::get;
use crate::common::{Instance, PATIENCE, Redis};
use crate::proxy::{Proxy, Which};

together! {
    /// kill -9: within 20 s everybody else knows who went with it.
    fn the_count_is_right_20_s_after_an_instance_died() {
        let mut arena = calm(&[Talk::one("talk", 15, 500, 3)], &[]);
        let (kill, window) = arena.cluster.strike_one(Fault::InstanceKill, 1);
        gone_within_20_s(&arena, 1, &[]);
        arena.cluster.heal(&kill, window);
        all_held(&arena.finish());
    }

    /// SIGSTOP for 30 s: the same, and when it goes on it must not show those again who went meanwhile.
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
        // They go while it is frozen: one with a close frame, two without. It will find out when it goes on.
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

    /// An instance that has just connected compares whom its clients know with who is here. What was published meanwhile
    /// and reaches it only after that is no news any more: a join is told once.
    fn a_notice_that_is_late_is_not_told_twice() {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.addr());
        let other = Instance::on(&redis, &[]);
        let late = Instance::start(&[("REDIS_ENDPOINT", &*proxy.addr.to_string())]);
        poll_until("ready", PATIENCE, || get(late.addr, "/readyz").status == 200);
        let mut ada = Client::join(late.addr, "tea", "Ada");
        proxy.hold(None, Some(Which::Pubsub));
        let bob = Client::join(other.addr, "tea", "Bob");
        // Until the comparison has told of Bob; where the connection's other answers are held too, there is none.
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
}

/// A close frame, and gone: a frozen instance answers nothing.
fn close_without_waiting(mut client: Client) {
    client.send_raw(&[0x88, 0x80, 0, 0, 0, 0]);
    client.cut();
}
