//! Proves that clients that flood the server, or send nothing at all, do not affect the others: endless control frames
//! and fragments, silent connections, pages that are not read. And that the server survives the loss of its log's
//! reader.

mod common;

use common::from::{connect, join, upgrade};
use common::http::{Connection, get, metric};
use common::wire::text_frame;
use common::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::protocol::frame::coding::Data;

/// Sends the same bytes repeatedly until the server ends the connection, and returns how often.
#[track_caller]
fn flood(client: &mut Client, bytes: &[u8]) -> usize {
    let mut tcp = client.tcp().try_clone().expect("a socket");
    tcp.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let start = Instant::now();
    let mut sent = 0;
    while tcp.write_all(bytes).is_ok() {
        sent += 1;
        assert!(start.elapsed() < PATIENCE, "{sent} times and no end");
        if sent % 50 == 0 && client.ended().is_some() {
            break;
        }
    }
    sent
}

#[test]
fn control_frames_and_fragments_count_against_the_rate() {
    let instance = Instance::start(&[]);
    let mut bob = Client::join(instance.addr, "tea", "Bob");
    for (name, frame) in [
        ("pings", &[0x89, 0x80, 0, 0, 0, 0][..]),
        ("pongs", &[0x8A, 0x80, 0, 0, 0, 0]),
        ("pings with a payload", &[0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4]),
    ] {
        for joined in [true, false] {
            let mut client = Client::connect(instance.addr, "tea");
            if joined {
                client.enter(&format!("Flood {name}"), None);
            }
            let sent = flood(&mut client, frame);
            assert!(sent >= 200, "{name}: {sent} were too many");
            client.expect_close(1008);
        }
    }
    let mut client = Client::join(instance.addr, "tea", "Ada");
    client.send_raw(&[0x01, 0x80, 0, 0, 0, 0]);
    let sent = flood(&mut client, &[0x00, 0x80, 0, 0, 0, 0]);
    assert!(sent >= 200, "empty fragments: {sent} were too many");
    client.expect_close(1008);
    // The number that a browser and a careful client send is not too many.
    for _ in 0..150 {
        bob.send_ping();
    }
    bob.fence();
    assert_eq!(bob.pongs, 150);
    bob.say("still here");
    assert!(metric(instance.addr, "bobbin_limited_total{limit=\"frames\"}") >= 7.0);
    instance.logged("127.0.0.1: too many frames per second");
}

#[test]
fn a_frame_in_small_pieces_does_not_extend_the_time_to_join() {
    let instance = Instance::start(&[]);
    let frame = text_frame(&json!({"type": "join", "name": "x".repeat(8000)}).to_string());
    let fragments = [&[0x01, 0x80, 0, 0, 0, 0], &[0x00, 0x80, 0, 0, 0, 0].repeat(1000)[..]].concat();
    for (what, bytes, size) in [("a frame", frame, 1), ("fragments", fragments, 6)] {
        let mut client = Client::connect(instance.addr, "tea");
        let start = Instant::now();
        for piece in bytes.chunks(size) {
            client.send_raw(piece);
            if client.ended().is_some() || start.elapsed() > Duration::from_secs(30) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let ended = client.ended();
        assert!(ended.is_some() && start.elapsed() < Duration::from_secs(30), "{what}: {ended:?}");
    }
}

#[test]
fn a_client_that_is_closed_and_sends_on_has_to_stop() {
    let instance = Instance::start(&[]);
    let mut refused = Client::join(instance.addr, "tea", "Bob");
    refused.send_data(Data::Binary, b"no");
    refused.expect_close(1003);
    let replaced = Client::join(instance.addr, "tea", "Ada");
    let _newer = Client::back(instance.addr, "tea", "Ada", &replaced.secret, None);
    // Without reading it, because an answer to the close frame would end the session.
    poll_until("the close frame", PATIENCE, || {
        let mut arrived = [0; 4096];
        let count = replaced.tcp().peek(&mut arrived).expect("it is open");
        arrived[..count].windows(2).any(|code| code == 4001_u16.to_be_bytes())
    });
    for (client, frame) in [(refused, [0x89, 0x80, 0, 0, 0, 0]), (replaced, [0x81, 0x80, 0, 0, 0, 0])] {
        // More than the buffers of both sockets hold. A server that read on would have taken it within a second.
        let most = 8 << 20;
        let mut tcp = client.tcp().try_clone().expect("a socket");
        tcp.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let frames = frame.repeat(1000);
        let mut taken = 0;
        while let Ok(count) = tcp.write(&frames) {
            taken += count;
            assert!(taken < most, "{taken} bytes, and no end");
        }
    }
}

/// The connections of a server that it has closed, and whose data the system still tries to deliver.
fn undelivered(server: SocketAddr) -> usize {
    let (port, fin_wait_1) = (format!(":{:04X}", server.port()), "04");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[1].ends_with(&port) && fields[3] == fin_wait_1).count()
}

#[test]
fn what_nobody_reads_does_not_stay_in_the_systems_memory() {
    let instance = Instance::start(&[]);
    let ask = "GET /chat.js HTTP/1.1\r\nHost: test\r\n\r\n";
    let last = "GET /chat.js HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let held: Vec<TcpStream> = (0..20)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(2048).expect("a small buffer");
            socket.connect(&instance.addr.into()).expect("a connection");
            let mut stream = TcpStream::from(socket);
            stream.write_all(format!("{}{last}", ask.repeat(4)).as_bytes()).expect("it is taken");
            stream
        })
        .collect();
    poll_until("the server has closed most", PATIENCE * 2, || undelivered(instance.addr) >= 10);
    poll_until("they are gone", PATIENCE * 3, || undelivered(instance.addr) == 0);
    drop(held);
}

#[test]
fn silence_locks_nobody_out() {
    let instance = Instance::start(&[("MAX_CONNECTIONS", "100")]);
    let silent: Vec<TcpStream> = (0..400).map(|n| connect(instance.addr, 2 + (n % 30) as u8)).collect();
    let halves: Vec<TcpStream> = (0..400)
        .map(|n| {
            let mut half = connect(instance.addr, 2 + (n % 30) as u8);
            half.write_all(b"GET /healthz HTTP/1.1\r\nHos").expect("it is taken");
            half
        })
        .collect();
    // This health check waits until all of them have been accepted.
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(get(instance.addr, "/healthz").status, 200);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    let mut ada = join(instance.addr, 1, "tea", "Ada");
    ada.say("nobody was in the way");
    assert!(instance.threads() < 300, "{}", instance.threads());
    assert!(metric(instance.addr, "bobbin_limited_total{limit=\"idle\"}") >= 500.0);
    drop((silent, halves));
    ada.say("and nobody is");
}

#[test]
fn idle_requests_cost_no_session_its_place() {
    let instance = Instance::start(&[("MAX_CONNECTIONS", "100")]);
    let mut idle: Vec<Connection> = (0..100).map(|_| Connection::open(instance.addr)).collect();
    for connection in &mut idle {
        connection.write("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    let clients: Vec<Client> = (0..100).map(|n| Client::join(instance.addr, "tea", &format!("N{n}"))).collect();
    assert_eq!(clients.len(), 100);
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    let refusal = Client::upgrade(instance.addr, "tea", "").err().expect("the cap");
    assert_eq!(refusal.status, 503);
}

#[test]
fn a_session_that_has_not_joined_makes_place_at_the_cap() {
    let instance = Instance::start(&[("MAX_CONNECTIONS", "10")]);
    let _quiet: Vec<Client> = (0..10).map(|_| Client::connect(instance.addr, "tea")).collect();
    poll_until("one of them has had its time", PATIENCE, || upgrade(instance.addr, 2, "tea", "").is_ok());
    let start = Instant::now();
    let mut ada = poll("a place", PATIENCE, || upgrade(instance.addr, 2, "tea", "").ok());
    ada.enter("Ada", None);
    assert!(start.elapsed() < Duration::from_secs(5));
    // Clients that have joined stay.
    let mut more: Vec<Client> = Vec::new();
    for n in 0..9 {
        let mut client = poll("a place", PATIENCE, || upgrade(instance.addr, 2, "tea", "").ok());
        client.enter(&format!("N{n}"), None);
        more.push(client);
    }
    assert_eq!(upgrade(instance.addr, 2, "tea", "").err().expect("the cap").status, 503);
    ada.say("all ten are in");
}

#[test]
fn two_lengths_are_none() {
    let instance = Instance::start(&[]);
    let mut connection = Connection::open(instance.addr);
    connection.write("GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(connection.response(false).status, 400);
    assert!(connection.closed());
}

#[test]
fn a_client_without_a_secret_is_no_stranger_to_itself() {
    let redis = Redis::start();
    let instance = Instance::on(&redis, &[]);
    let mut ada = Client::connect(instance.addr, "tea");
    redis.freeze();
    ada.send(json!({"type": "join", "name": "Ada"}));
    ada.expect_error("unavailable");
    redis.thaw();
    // Redis executes the first attempt as soon as it wakes; its answer was lost.
    poll_until("ready again", PATIENCE, || get(instance.addr, "/readyz").status == 200);
    ada.send(json!({"type": "join", "name": "Ada"}));
    let answer = ada.until("an answer", |f| f["type"] == "welcome" || f["type"] == "error");
    assert_eq!((&answer["type"], &answer["participants"]), (&json!("welcome"), &json!(1)), "{answer}");
}

/// Starts the server with a log whose reader exits once it listens.
fn without_a_log(settings: &[(&str, &str)]) -> (std::process::Child, SocketAddr) {
    let mut command = Instance::command();
    command.envs([("PORT", "0"), ("BIND", "127.0.0.1"), ("RUST_LOG", "debug")]).envs(settings.iter().copied());
    let mut child = command.spawn().expect("the binary starts");
    let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("listening on http://") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a line") > 0, "it ended");
    }
    let addr = line.split("http://").nth(1).expect("an address").trim().parse().expect("an address");
    (child, addr)
}

#[test]
fn a_log_that_nobody_reads_is_all_that_is_lost() {
    let mut redis = Redis::start();
    let endpoint = redis.endpoint();
    let (mut child, addr) = without_a_log(&[("REDIS_ENDPOINT", &endpoint), ("DRAIN_SECONDS", "1")]);
    poll_until("ready", PATIENCE, || get(addr, "/readyz").status == 200);
    Client::join(addr, "tea", "Bob").leave();
    // The log lines about lost connections have no reader either.
    redis.kill();
    poll_until("not ready", PATIENCE, || get(addr, "/readyz").status == 503);
    redis.up();
    poll_until("ready again", PATIENCE, || get(addr, "/readyz").status == 200);
    let (mut ada, mut bob) = (Client::join(addr, "tea", "Ada"), Client::join(addr, "tea", "Bob"));
    ada.say("it is published");
    bob.hear("it is published");
    signal(child.id(), "TERM");
    ada.expect_close(1012);
    bob.expect_close(1012);
    let status = poll("it ends", PATIENCE, || child.try_wait().expect("our own child"));
    assert!(status.success(), "{status}");
    let mut out = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut out).expect("text");
    assert!(out.is_empty(), "{out}");
}
