//! Single scenarios out of the fault test's world, each with its own sharp question: what do the others notice of a
//! rolling restart, of a frozen or killed task, of a drain under full talk, of slow clients, of 2,000 who come at once?
//!
//! The fault test asks whether everything is right in the end; these ask what was seen meanwhile.

#![allow(dead_code)] // each of the two programs takes what it needs of the modules

mod arena;
mod checker;
mod client;
mod clock;
mod cluster;
mod inspect;
mod ledger;
mod process;
mod proxy;
mod report;
mod resp;
mod rng;
mod schedule;
mod session;
mod slow;
mod stage;
mod story;
mod wire;

#[path = "../common/mod.rs"]
#[macro_use]
mod common;

use arena::{Arena, Outcome, Talk};
use clock::At;
use common::{Client, PATIENCE, Redis, Task, poll_until};
use ledger::Book;
use schedule::{Fault, Planned};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

together! {
    /// Three tasks restarted one after the other under load: nobody is seen leaving or coming, nothing is refused.
    fn a_rolling_restart_is_invisible_but_for_the_reconnect() {
        let mut arena = calm(&[Talk { name: "talk", clients: 30, pace: 500, at_home: 2 }], &[]);
        let drain = |task: usize| fault(Fault::TaskDrain, task, 1000 + 4000 * task as At, 2500);
        arena.cluster.run(&[drain(0), drain(1), drain(2)], 13_000);
        let outcome = arena.finish();
        all_held(&outcome);
        nobody_noticed(&outcome, &["close 1012"]);
    }

    /// The same for one task, with 400 messages a second on the way when the signal comes.
    fn a_drain_under_full_talk_loses_nothing() {
        let talk = Talk { name: "talk", clients: 24, pace: 60, at_home: 1 };
        let mut arena = calm(&[talk], &[("RATE_LIMIT", "0")]);
        arena.cluster.run(&[fault(Fault::TaskDrain, 0, 2000, 2500)], 6000);
        let outcome = arena.finish();
        all_held(&outcome);
        nobody_noticed(&outcome, &["close 1012"]);
    }

    /// kill -9: within 20 s everybody else knows who went with it.
    fn the_count_is_right_20_s_after_a_task_died() {
        let mut arena = calm(&[Talk { name: "talk", clients: 15, pace: 500, at_home: 3 }], &[]);
        let kill = fault(Fault::TaskKill, 1, 0, 0);
        let window = arena.cluster.strike(&kill);
        gone_within_20_s(&arena, 1, &[]);
        arena.cluster.heal(&kill, window);
        all_held(&arena.finish());
    }

    /// SIGSTOP for 30 s: the same, and when it goes on it must not show those again who went meanwhile.
    fn a_frozen_task_never_shows_a_ghost() {
        let mut arena = calm(&[Talk { name: "talk", clients: 15, pace: 500, at_home: 3 }], &[]);
        let addr = arena.stage.tasks.lock().unwrap()[1];
        let ghosts = ["ghost-1", "ghost-2", "ghost-3"];
        let visitors = ghosts.map(|name| Client::join(addr, "talk", name));
        poll_until("all see the three", PATIENCE, || {
            books(&arena).all(|book| book.names.contains(ghosts[2]))
        });
        let start = Instant::now();
        let freeze = fault(Fault::TaskFreeze, 1, 0, 0);
        let window = arena.cluster.strike(&freeze);
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

    /// Clients that do not read, read a byte a second, or stop within a frame: they are cut, and nobody else notices.
    fn slow_clients_are_cut_and_the_others_do_not_notice() {
        let arena = calm(&[Talk { name: "talk", clients: 24, pace: 50, at_home: 2 }], &[("RATE_LIMIT", "0")]);
        let addr = arena.stage.tasks.lock().unwrap()[0];
        let until = clock::now() + 60_000;
        let start = clock::now();
        let kinds = [Fault::SlowDeaf, Fault::SlowSip, Fault::SlowHalf];
        let slow = kinds.map(|kind| (kind, slow::start(kind, addr, "talk".into(), format!("{kind:?}"), until)));
        for (kind, thread) in slow {
            let cut = thread.join().unwrap().unwrap_or_else(|| panic!("{kind:?} was not cut within 60 s"));
            println!("{kind} was cut after {}", clock::show(cut - start));
        }
        let outcome = arena.finish();
        all_held(&outcome);
        for book in outcome.stage.ledger.clients.iter().map(|c| c.lock().unwrap()) {
            assert_eq!(book.connections.len(), 1, "{} was cut too", book.name);
            let waits = book.attempts.iter().filter_map(|a| Some(a.answer?.0 - a.at));
            let worst = waits.max().unwrap_or_default();
            assert!(worst < 1500, "{} waited {worst} ms for a receipt", book.name);
        }
    }
}

/// 2,000 join one room within seconds. Notices are gathered: each client gets a frame for each of the first 50 at the most, and
/// then one a second, so the frames grow with the clients and not with their square.
#[test]
fn a_join_storm_costs_each_client_a_notice_a_second() {
    const CLIENTS: usize = 2000;
    const THREADS: usize = 8;
    let redis = Redis::start();
    let tasks: Vec<Task> = (0..2).map(|_| Task::on(&redis, &[("MAX_CONNECTIONS", "1500")])).collect();
    let start = Instant::now();
    let addrs: Vec<_> = tasks.iter().map(|task| task.addr).collect();
    let join_some = |thread: usize| -> Vec<Client> {
        let names = (thread..CLIENTS).step_by(THREADS);
        names.map(|n| Client::join(addrs[n % addrs.len()], "storm", &format!("c{n}"))).collect()
    };
    let mut clients: Vec<Client> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || join_some(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("all joined")).collect()
    });
    let joined = start.elapsed();
    let mut deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Reading what came for 2,000 takes a while; the deadline is for what had come before it.
        let asked = Instant::now();
        clients.iter_mut().for_each(|client| _ = client.ended());
        let right = clients.iter().filter(|client| client.participants() == CLIENTS as u64).count();
        if right == CLIENTS {
            break;
        }
        assert!(asked < deadline, "{right} of {CLIENTS} count {CLIENTS}");
        deadline += asked.elapsed();
    }
    let seconds = start.elapsed().as_secs() + 1;
    let notices = |client: &Client| client.received.iter().filter(|f| f["type"] == "presence").count() as u64;
    let most = clients.iter().map(notices).max().unwrap_or_default();
    let all: u64 = clients.iter().map(notices).sum();
    println!("{CLIENTS} joined in {joined:?}; {all} notices in {seconds} s, {most} for one client at the most");
    assert!(most <= 50 + seconds + 2, "one client got {most} notices in {seconds} s");
    assert!(all <= 50 * 50 + CLIENTS as u64 * (seconds + 2), "{all} notices in {seconds} s");
}

/// An arena where everybody has joined, knows who is here, and the book of notices is empty.
fn calm(rooms: &[Talk], settings: &[(&str, &str)]) -> Arena {
    let arena = Arena::start(rooms, 1, settings);
    let right = inspect::wait_until_none(10_000, || inspect::wrong_counts(&arena.stage));
    right.unwrap_or_else(|wrong| panic!("at the start: {}", wrong.join("\n")));
    for client in &arena.stage.ledger.clients {
        client.lock().unwrap().changes.clear();
    }
    arena
}

fn fault(fault: Fault, task: usize, from: At, length: At) -> Planned {
    Planned { fault, from, to: from + length, task: Some(task) }
}

#[track_caller]
fn all_held(outcome: &Outcome) {
    outcome.print();
    assert!(outcome.verdict.broken.is_empty(), "promises were broken: see above");
}

/// No notice of any client but the visitors at the end, and no error or close but these.
#[track_caller]
fn nobody_noticed(outcome: &Outcome, but: &[&str]) {
    for book in outcome.stage.ledger.clients.iter().map(|c| c.lock().unwrap()) {
        let names = book.changes.iter().flat_map(|c| c.joined.iter().chain(&c.left));
        let seen: BTreeSet<_> = names.filter(|name| !name.starts_with("visitor")).collect();
        assert!(seen.is_empty(), "{} was told that these came or left: {seen:?}", book.name);
        let others: Vec<_> = book.errors.keys().filter(|code| !but.contains(&code.as_str())).collect();
        assert!(others.is_empty(), "{} met {others:?}", book.name);
    }
}

/// Waits until all clients on the other tasks know that those on this one, and `more`, are gone.
#[track_caller]
fn gone_within_20_s(arena: &Arena, task: usize, more: &[&str]) {
    let on_it = |book: &Book| book.connections.last().is_some_and(|c| c.task == task);
    let start = Instant::now();
    poll_until("those on the task are gone for all others", Duration::from_millis(20_500), || {
        // Those who came back on another task meanwhile are rightly here.
        let away: BTreeSet<String> = books(arena).filter(|b| on_it(b)).map(|b| b.name.clone()).collect();
        books(arena).filter(|b| !on_it(b)).all(|book| {
            book.names.is_disjoint(&away)
                && more.iter().all(|name| !book.names.contains(*name))
                && book.participants == book.names.len() as u64
        })
    });
    println!("gone for all others after {:?}", start.elapsed());
}

fn books(arena: &Arena) -> impl Iterator<Item = std::sync::MutexGuard<'_, Book>> {
    arena.stage.ledger.clients.iter().map(|client| client.lock().unwrap())
}

/// A close frame, and gone: a frozen task answers nothing.
fn close_without_waiting(mut client: Client) {
    client.send_raw(&[0x88, 0x80, 0, 0, 0, 0]);
    client.cut();
}

// The fault test's own tools.

#[test]
fn replies_are_found_and_told_apart() {
    let published = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n";
    let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
    for reply in [&published[..], subscribed, b"+OK\r\n", b"$-1\r\n", b"*0\r\n"] {
        assert_eq!(resp::reply_len(&[reply, b"+next"].concat()), Some(reply.len()));
        for part in 0..reply.len() {
            assert_eq!(resp::reply_len(&reply[..part]), None, "{part} bytes of {reply:?}");
        }
    }
    assert!(resp::is_published(published));
    assert!(!resp::is_published(subscribed));
}

#[test]
fn a_minute_has_every_kind_and_a_seed_repeats_it() {
    for seed in 0..50 {
        let first = schedule::plan(seed, 60_000, &[]);
        let kinds: BTreeSet<Fault> = first.iter().map(|planned| planned.fault).collect();
        assert_eq!(kinds.len(), 19, "seed {seed}");
        assert!(first.iter().all(|planned| planned.to <= 60_000));
        assert_eq!(format!("{first:?}"), format!("{:?}", schedule::plan(seed, 60_000, &[])));
    }
}
