//! Many clients at once, and clients that do not read.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::common::{Instance, PATIENCE, Redis};
use crate::strangers;

together! {
    /// Clients that do not read, read one byte per second, or stop within a frame are cut, and the others do not
    /// notice.
    fn slow_clients_are_cut_and_the_others_do_not_notice() {
        // Few, so that even a busy machine admits the slow ones, but talkative: unread data soon fills the buffers.
        let arena = calm(&[Talk::one("talk", 8, 50, 2)], &[("RATE_LIMIT", "0")]);
        let addr = arena.stage.instances.lock().unwrap()[0];
        let until = clock::now() + 60_000;
        let start = clock::now();
        let kinds = [Fault::SlowStalled, Fault::SlowSip, Fault::SlowHalf];
        let slow = kinds.map(|kind| (kind, strangers::start(kind, &arena.stage, addr, "talk".into(), format!("{kind:?}"), until)));
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
            // A client that waited for one that does not read would wait for the 10 s after which that is cut.
            assert!(worst < 9000, "{} waited {worst} ms for a receipt", book.name);
        }
    }
}

/// An instance dies with 600 people in one room. A client that joins after 20 s finds none of them, in the list or in
/// the count, and may use one of their names.
#[test]
fn six_hundred_who_die_at_once_are_gone_within_20_s() {
    const CROWD: usize = 600;
    let redis = Redis::start();
    let (mut dying, other) = (Instance::on(&redis, &[]), Instance::on(&redis, &[]));
    let mut witness = Client::join(other.addr, "hall", "witness");
    let mut crowd: Vec<Client> = Vec::new();
    for n in 0..CROWD {
        crowd.push(Client::join(dying.addr, "hall", &format!("c{n}")));
        // On a busy machine the joins take longer than the 45 s after which a client that answers no ping is dropped.
        if n % 50 == 0 {
            crowd.iter_mut().chain([&mut witness]).for_each(Client::still_open);
        }
    }
    poll_until("the witness counts all", PATIENCE * 2, || {
        witness.still_open();
        witness.participants() == CROWD as u64 + 1
    });
    dying.kill();
    let died = Instant::now();
    poll_until("the witness is alone", Duration::from_millis(20_500), || {
        witness.ended();
        witness.participants() == 1
    });
    println!("{CROWD} were gone after {:?}", died.elapsed());
    std::thread::sleep(Duration::from_secs(20).saturating_sub(died.elapsed()));
    let heir = Client::join(other.addr, "hall", "c300");
    assert_eq!(heir.welcome["participants"], 2, "{}", heir.welcome);
    assert_eq!(heir.welcome["names"], crate::common::json!(["c300", "witness"]));
    drop(crowd);
}

/// 300 rooms, while connections to Redis are cut, an instance is frozen and one killed: all promises hold in each of
/// them, and each is served again.
#[test]
fn hundreds_of_rooms_come_back_as_one_does() {
    let many = Talk { name: "room", clients: 1, pace: 1500, at_home: 0, rooms: 300 };
    let mut arena = Arena::start(Backplane::Redis, &[many, Talk::one("talk", 9, 300, 3)], 1, &[]);
    let all = |fault, from| Planned { fault, from, to: from, instance: None };
    let plan = [
        all(Fault::PubsubCut, 1000),
        fault(Fault::InstanceFreeze, 1, 3000, 2000),
        all(Fault::WireReset, 6000),
        fault(Fault::InstanceKill, 0, 9000, 500),
    ];
    arena.cluster.run(&plan, 12_000);
    all_held(&arena.finish());
}

/// 2,000 clients join one room within seconds. Notices are gathered: each client receives at most one frame for each of
/// the first 50, and then one per second, so the number of frames does not grow with the square of the clients.
#[test]
fn a_join_storm_costs_each_client_a_notice_a_second() {
    const CLIENTS: usize = 2000;
    const THREADS: usize = 8;
    let redis = Redis::start();
    let instances: Vec<Instance> = (0..2).map(|_| Instance::on(&redis, &[("MAX_CONNECTIONS", "1500")])).collect();
    let start = Instant::now();
    let addrs: Vec<_> = instances.iter().map(|instance| instance.addr).collect();
    let still_joining = AtomicUsize::new(CLIENTS);
    let join_some = |thread: usize| -> Vec<Client> {
        let names = (thread..CLIENTS).step_by(THREADS);
        let mut some: Vec<Client> = Vec::new();
        // On a busy machine this takes longer than the 45 s after which a client that answers no ping is dropped.
        let read_all = |some: &mut [Client]| some.iter_mut().for_each(Client::still_open);
        for n in names {
            some.push(Client::join(addrs[n % addrs.len()], "storm", &format!("c{n}")));
            still_joining.fetch_sub(1, SeqCst);
            if some.len().is_multiple_of(25) {
                read_all(&mut some);
            }
        }
        while still_joining.load(SeqCst) > 0 {
            read_all(&mut some);
        }
        some
    };
    let mut clients: Vec<Client> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let join_some = &join_some;
                    move || join_some(thread)
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("all joined")).collect()
    });
    let joined = start.elapsed();
    let mut deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Reading the frames of 2,000 clients takes a while; the deadline applies to what had arrived before.
        let asked = Instant::now();
        std::thread::scope(|scope| {
            for some in clients.chunks_mut(CLIENTS / THREADS) {
                scope.spawn(|| some.iter_mut().for_each(|client| assert_eq!(client.ended(), None)));
            }
        });
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
    println!("{CLIENTS} joined in {joined:?}; {all} notices in {seconds} s, {most} for one client at most");
    assert!(most <= 50 + seconds + 2, "one client got {most} notices in {seconds} s");
    assert!(all <= 50 * 50 + CLIENTS as u64 * (seconds + 2), "{all} notices in {seconds} s");
}
