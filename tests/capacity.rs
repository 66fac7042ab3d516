//! Proves that an instance at its limits refuses with 503 and survives, and accepts new connections as soon as others
//! have gone.

mod common;

use common::http::{Connection, get};
use common::wire::{UPGRADE, text_frame};
use common::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Opens a WebSocket and joins; returns the status and the TCP connection. The status is `None` if the connection was
/// cut without an answer. (A connection that does not join would be replaced by others.)
fn open(instance: &Instance) -> (Option<u16>, Option<TcpStream>) {
    let Ok(mut stream) = TcpStream::connect_timeout(&instance.addr, PATIENCE) else {
        return (None, None);
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = [0; 12];
    let done = stream
        .write_all(format!("GET /ws/lobby HTTP/1.1\r\nHost: t\r\n{UPGRADE}\r\n").as_bytes())
        .and_then(|()| stream.read_exact(&mut answer));
    let status = done.ok().and_then(|()| std::str::from_utf8(&answer[9..12]).ok()?.parse().ok());
    if status == Some(101) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let join = json!({"type": "join", "name": COUNT.fetch_add(1, Relaxed).to_string()}).to_string();
        stream.write_all(&text_frame(&join)).expect("it is taken");
        let mut seen = Vec::new();
        while !seen.windows(9).any(|part| part == b"\"welcome\"") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a welcome");
            seen.push(byte[0]);
        }
    }
    (status, Some(stream))
}

/// An instance under lowered kernel limits.
fn limited(limits: &[&str], settings: &[(&str, &str)]) -> Instance {
    let mut command = Command::new("prlimit");
    instance::bare(&mut command);
    command.args(limits).arg(Instance::binary());
    command.envs([("PORT", "0"), ("BIND", "127.0.0.1"), ("RUST_LOG", "info")]).envs(settings.iter().copied());
    Instance::spawn(command)
}

/// Opens connections until one is refused, up to `tries`; then closes all and checks that the instance recovers.
#[track_caller]
fn overrun(instance: &mut Instance, tries: usize) -> usize {
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..tries {
        let (status, stream) = open(instance);
        match status {
            Some(101) => held.extend(stream),
            Some(503) | None => refused += 1,
            Some(other) => panic!("status {other}"),
        }
    }
    assert!(refused > 0, "{tries} connections, none refused");
    assert_eq!(instance.try_wait(), None, "it lives; its log:\n{}", instance.log());
    let taken = held.len();
    drop(held);
    poll_until("it takes as many again", PATIENCE, || {
        let again: Vec<_> = (0..taken.min(20)).map(|_| open(instance)).collect();
        again.iter().all(|(status, _)| *status == Some(101))
    });
    poll_until("it is healthy", PATIENCE, || {
        let (status, _) = open(instance);
        status == Some(101)
    });
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    taken
}

#[test]
fn at_max_connections_it_answers_503_and_recovers() {
    let instance = Instance::start(&[("MAX_CONNECTIONS", "5")]);
    let mut clients: Vec<Client> = (0..5).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
    let Err(refusal) = Client::upgrade(instance.addr, "tea", "") else {
        panic!("a sixth connection");
    };
    assert_eq!(refusal.status, 503);
    assert!(refusal.header("retry-after").is_some_and(|v| v.parse::<u32>().is_ok()), "{refusal:?}");
    assert_eq!(refusal.text().trim_end().lines().count(), 1);
    clients[0].say("those inside do not notice");
    clients[4].hear("those inside do not notice");
    clients.pop().expect("one").leave();
    poll_until("there is room for one", PATIENCE, || Client::upgrade(instance.addr, "tea", "").is_ok());
}

#[test]
fn at_the_cap_it_is_still_healthy_for_the_load_balancer() {
    let instance = Instance::start(&[("MAX_CONNECTIONS", "5")]);
    let _clients: Vec<Client> = (0..5).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
    // If a full instance answered 503 here, it would be killed with all its sessions.
    for _ in 0..10 {
        assert_eq!(get(instance.addr, "/healthz").status, 200);
    }
}

#[test]
fn a_crowd_far_over_the_cap_is_refused_and_recovered_from() {
    let mut instance = Instance::start(&[("MAX_CONNECTIONS", "50")]);
    let taken = overrun(&mut instance, 300);
    assert_eq!(taken, 50);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("as if nothing had been");
}

#[test]
fn idle_http_connections_over_the_cap_are_survived() {
    let instance = Instance::start(&[("MAX_CONNECTIONS", "20")]);
    let idle: Vec<Connection> = (0..100).map(|_| Connection::open(instance.addr)).collect();
    drop(idle);
    poll_until("it answers", PATIENCE, || open(&instance).0 == Some(101));
}

#[test]
fn few_open_files_make_a_lower_cap() {
    let mut instance = limited(&["--nofile=256:256"], &[]);
    let taken = overrun(&mut instance, 400);
    assert!((50..256).contains(&taken), "{taken} of at most 256 files");
}

#[test]
fn accept_survives_running_out_of_files() {
    // Set to accept more than the kernel allows, it must survive EMFILE.
    let mut instance = limited(&["--nofile=64:64"], &[("MAX_CONNECTIONS", "1000")]);
    let mut held = Vec::new();
    for _ in 0..150 {
        held.extend(TcpStream::connect_timeout(&instance.addr, PATIENCE));
    }
    holds("it lives", Duration::from_millis(1500), || instance.try_wait().is_none());
    drop(held);
    let (mut ada, _) = poll("a session again", PATIENCE, || Client::upgrade(instance.addr, "tea", "").ok());
    ada.enter("Ada", None);
    ada.say("as if nothing had been");
}

#[test]
fn little_address_space_makes_a_lower_cap() {
    // Enough for some hundred connections beyond what the program and glibc's heaps take.
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let bytes = (256 + 512 * cores + 40) * 1024 * 1024;
    let mut instance = limited(&[&format!("--as={bytes}")], &[]);
    let taken = overrun(&mut instance, 600);
    assert!((100..600).contains(&taken), "{taken} in {bytes} bytes");
}

#[test]
fn threads_end_with_their_connections() {
    let instance = Instance::start(&[]);
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    poll_until("quiet", PATIENCE, || instance.threads() < 20);
    let before = instance.threads();
    for round in 0..3 {
        let clients: Vec<Client> =
            (0..60).map(|n| Client::join(instance.addr, &format!("r{round}"), &format!("N{n}"))).collect();
        for (n, client) in clients.into_iter().enumerate() {
            if n % 2 == 0 { client.leave() } else { client.cut() }
        }
    }
    poll_until("as few threads as before", PATIENCE, || instance.threads() <= before + 1);
}
