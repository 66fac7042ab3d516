//! Proves that systemd is notified of the process's life cycle (`Type=notify`): "ready" is sent once it listens and
//! "stopping" when it drains, to a socket in the file system and to an abstract one, and a missing manager makes no
//! difference. Nor does suspending the process (`SIGSTOP`, `SIGCONT`), or a log reader that hangs.

mod common;

use common::http::{Connection, get};
use common::*;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

fn receive(manager: &UnixDatagram) -> String {
    manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut buffer = [0; 512];
    let length = manager.recv(&mut buffer).expect("a report within the time");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Starts and ends a server under a service manager that listens on this socket.
#[track_caller]
fn lives_and_ends(manager: &UnixDatagram, name: &str) {
    let mut instance = Instance::start(&[("NOTIFY_SOCKET", name), ("DRAIN_SECONDS", "1")]);
    assert_eq!(receive(manager), format!("READY=1\nSTATUS=listening on http://{}", instance.addr));
    assert_eq!(get(instance.addr, "/healthz").status, 200, "ready means that it answers");
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    instance.signal("TERM");
    assert_eq!(receive(manager), "STOPPING=1\nSTATUS=draining 1 sessions over 1 s");
    ada.expect_close(1012);
    assert!(instance.wait(PATIENCE).success());
}

#[test]
fn systemd_is_told_of_the_start_and_the_end() {
    let path = std::env::temp_dir().join(unique("notify"));
    let manager = UnixDatagram::bind(&path).expect("a socket in the file system");
    lives_and_ends(&manager, path.to_str().expect("a plain name"));
    std::fs::remove_file(&path).expect("its file");

    let name = unique("bobbin-notify");
    let address = SocketAddr::from_abstract_name(&name).expect("an abstract name");
    let manager = UnixDatagram::bind_addr(&address).expect("an abstract socket");
    lives_and_ends(&manager, &format!("@{name}"));
}

#[test]
fn a_manager_that_is_not_there_is_a_warning() {
    for name in ["/nowhere/at/all", "@nobody-listens-here", "relative"] {
        let instance = Instance::start(&[("NOTIFY_SOCKET", name)]);
        instance.logged("can't notify the service manager");
        assert_eq!(get(instance.addr, "/healthz").status, 200);
    }
    let instance = Instance::start(&[("NOTIFY_SOCKET", "")]);
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    assert!(!instance.log().contains("service manager"));
}

#[test]
fn a_process_that_is_stopped_and_continued_keeps_its_connections() {
    let redis = Redis::start();
    for instance in [Instance::start(&[]), Instance::on(&redis, &[])] {
        let mut ada = Client::join(instance.addr, "tea", "Ada");
        let mut bob = Client::join(instance.addr, "tea", "Bob");
        let state = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", instance.pid())).expect("its status");
            status.lines().find_map(|line| line.strip_prefix("State:")?.trim().chars().next()).expect("a state")
        };
        instance.signal("STOP");
        poll_until("the process is stopped", PATIENCE, || state() == 'T');
        instance.signal("CONT");
        poll_until("the process continues", PATIENCE, || state() != 'T');
        ada.post("still here");
        bob.hear("still here");
        assert!(!instance.log().contains("redis is down"));
    }
}

#[test]
fn a_log_reader_that_hangs_stops_nothing() {
    const SETTINGS: &[(&str, &str)] =
        &[("RUST_LOG", "debug"), ("ADDRESS_CONNECTION_RATE", "0"), ("LOG_FORMAT", "json")];
    let instance = Instance::with_log_reader(SETTINGS);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    instance.signal_log_reader("STOP");
    // Some 200 bytes are logged for each request, and a pipe holds 64 KiB.
    let mut connection = Connection::open(instance.addr);
    for _ in 0..1000 {
        assert_eq!(connection.request("GET", "/healthz", "").status, 200);
    }
    ada.say("still here");
    instance.signal_log_reader("CONT");
    poll_until("the log goes on and says what is missing", PATIENCE, || {
        let status = connection.request("GET", "/healthz", "").status;
        status == 200 && instance.log().contains(" log lines were dropped, because stderr was blocked")
    });
}

#[test]
fn no_line_is_so_long_that_it_waits_for_a_log_reader_that_hangs() {
    // A pipe holds 16 pages of 4 KiB. Lines of two pages each, after one of a single page or after none, leave one free.
    for (format, first) in [("text", 1500), ("text", 1), ("json", 1500), ("json", 1)] {
        let settings = [("RUST_LOG", "debug"), ("ADDRESS_CONNECTION_RATE", "0"), ("LOG_FORMAT", format)];
        let instance = Instance::with_log_reader(&settings);
        instance.signal_log_reader("STOP");
        let mut connection = Connection::open(instance.addr);
        for length in [[first].as_slice(), &[6900; 12], &[1; 1000]].concat() {
            let path = format!("/no-such-page/{}", "x".repeat(length));
            assert_eq!(connection.request("GET", &path, "").status, 404);
        }
        instance.signal_log_reader("CONT");
        poll_until("the log goes on", PATIENCE, || {
            let status = connection.request("GET", "/healthz", "").status;
            status == 200 && instance.log().contains(" log lines were dropped")
        });
    }
}
