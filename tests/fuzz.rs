//! Proves that nothing a stranger, or a broken Redis, can send crashes the server: randomly damaged heads, frames and
//! replies, for FUZZ_SECONDS (5) each. SEED=… repeats a run.

mod common;

use common::from::try_connect;
use common::http::get;
use common::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// A small random number generator: xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(what: &str) -> Dice {
        let by_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64);
        let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(by_time);
        println!("{what}: SEED={seed}");
        Dice(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, some: &'a [T]) -> &'a T {
        &some[self.below(some.len())]
    }

    /// Changes a few bytes: replaces, inserts or deletes one, duplicates a part, or truncates.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                _ if bytes.is_empty() => bytes.push(self.next() as u8),
                0 => bytes[at] = self.next() as u8,
                1 => bytes.insert(at, *self.one_of(b"\r\n\0 :;,{}[]\"\xff\x80-9")),
                2 => drop(bytes.remove(at)),
                3 => {
                    let piece = bytes[at..bytes.len().min(at + 40)].to_vec();
                    let times = self.below(20);
                    bytes.splice(at..at, piece.repeat(times));
                }
                4 => bytes.truncate(at),
                _ => bytes[at] ^= 1 << self.below(8),
            }
        }
    }
}

fn seconds() -> Duration {
    Duration::from_secs(std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5))
}

/// Repeats `act`, and checks now and then that the server is alive.
fn throughout(instance: &mut Instance, mut act: impl FnMut()) -> usize {
    let end = Instant::now() + seconds();
    let mut count = 0;
    while Instant::now() < end {
        act();
        count += 1;
        if count % 500 == 0 {
            assert_eq!(get(instance.addr, "/healthz").status, 200);
            assert_eq!(instance.try_wait(), None, "it ended; its log:\n{}", instance.log());
        }
    }
    assert_eq!(get(instance.addr, "/healthz").status, 200);
    Client::join(instance.addr, "calm", "Ada").say("all is well");
    assert!(!instance.log().contains("panicked"), "{}", instance.log());
    count
}

#[test]
fn heads() {
    let mut dice = Dice::new("heads");
    let mut instance = Instance::start(&[("ADDRESS_WRONG_PASSPHRASES", "0")]);
    let addr = instance.addr;
    let lines = [
        "Host: test",
        "Connection: Upgrade",
        "Connection: close",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Content-Length: 5",
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "X-Forwarded-For: 203.0.113.9, [2001:db8::1]:80",
        "Origin: http://test",
        "If-None-Match: \"x\"",
        "Expect: 100-continue",
        "Authorization: Basic QWRhOm9wZW46c2VzYW1l",
        "Authorization: Bearer x",
        "Accept-Encoding: gzip, br;q=0",
    ];
    let paths = [
        "/",
        "/ws/tea",
        "/r/tea",
        "/r/tea/messages?after=1-1&limit=9",
        "/healthz",
        "/metrics",
        "*",
        "http://a/b",
        "/%ff",
    ];
    let count = throughout(&mut instance, || {
        let mut head =
            format!("{} {} HTTP/1.1\r\n", dice.one_of(&["GET", "HEAD", "POST", "OPTIONS"]), dice.one_of(&paths));
        for _ in 0..dice.below(12) {
            head.push_str(dice.one_of::<&str>(&lines));
            head += "\r\n";
        }
        let mut bytes = (head + "\r\nhello").into_bytes();
        dice.damage(&mut bytes);
        let from = 1 + dice.below(30) as u8;
        let Ok(mut stream) = try_connect(addr, from, PATIENCE) else { return };
        let _ = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{:?}", String::from_utf8_lossy(&answer));
    });
    println!("{count} heads");
}

#[test]
fn frames() {
    let mut dice = Dice::new("frames");
    let mut instance = Instance::start(&[("RATE_LIMIT", "0")]);
    let addr = instance.addr;
    let texts = [
        r#"{"type":"join","name":"Ada","client":"0123456789abcdef","since":"1-1","passphrase":"x"}"#,
        r#"{"type":"message","text":"hi \ud83d\ude00 \"\\","ref":"r1"}"#,
        r#"{"type":"typing","active":true}"#,
        r#"{"type":"history","before":"18446744073709551615-18446744073709551615","limit":100}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"message","text":"x","a":[[[[[[{}]]]]]]}"#,
    ];
    let count = throughout(&mut instance, || {
        let Ok((client, _)) = Client::upgrade(addr, "tea", "") else { return };
        let mut stream = client.tcp().try_clone().expect("a socket");
        let mut bytes = Vec::new();
        for number in 0..1 + dice.below(8) {
            let text = if number == 0 { texts[0] } else { *dice.one_of(&texts) };
            let mut payload = text.as_bytes().to_vec();
            if dice.below(2) == 0 {
                dice.damage(&mut payload);
            }
            let first = *dice.one_of(&[0x81, 0x81, 0x81, 0x81, 0x01, 0x80, 0x00, 0x89, 0x8A, 0x82, 0x88, 0xC1]);
            bytes.push(first);
            match payload.len() {
                short @ 0..126 => bytes.push(0x80 | short as u8),
                long => bytes.extend([0xFE, (long >> 8) as u8, long as u8]),
            }
            bytes.extend([0; 4]);
            bytes.extend(payload);
        }
        if dice.below(3) == 0 {
            dice.damage(&mut bytes);
        }
        let _ = stream.write_all(&bytes);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
        let mut scrap = [0; 4096];
        while stream.read(&mut scrap).is_ok_and(|count| count > 0) {}
    });
    println!("{count} connections");
}

/// Proxies between the server and a Redis, and damages one in a few replies.
fn damaged(client: TcpStream, redis: TcpStream, mut dice: Dice, count: &AtomicUsize) {
    let (mut from_client, mut to_redis) = (client.try_clone().expect("a socket"), redis.try_clone().expect("a socket"));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_redis);
        let _ = to_redis.shutdown(Shutdown::Both);
    });
    let (mut client, mut redis) = (client, redis);
    let mut chunk = [0; 16 * 1024];
    while let Ok(size) = redis.read(&mut chunk)
        && size > 0
    {
        let mut bytes = chunk[..size].to_vec();
        if dice.below(12) == 0 {
            dice.damage(&mut bytes);
            count.fetch_add(1, Relaxed);
        }
        if client.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

#[test]
fn replies_of_redis() {
    let mut dice = Dice::new("replies");
    let redis = Redis::start();
    let (listener, behind) = (TcpListener::bind("127.0.0.1:0").expect("a free port"), redis.addr());
    let endpoint = common::redis::endpoint(listener.local_addr().expect("bound"));
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, seed) = (count.clone(), dice.next());
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().flatten().enumerate() {
            let Ok(redis) = TcpStream::connect(behind) else { continue };
            let dice = Dice((seed ^ (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
            let counted = counted.clone();
            std::thread::spawn(move || damaged(client, redis, dice, &counted));
        }
    });
    let mut instance = Instance::start(&[("REDIS_ENDPOINT", &endpoint)]);
    let end = Instant::now() + seconds();
    for number in 0.. {
        if Instant::now() > end {
            break;
        }
        assert_eq!(instance.try_wait(), None, "it ended; its log:\n{}", instance.log());
        assert_eq!(get(instance.addr, "/healthz").status, 200);
        if let Ok((mut ada, _)) = Client::upgrade(instance.addr, "tea", "") {
            ada.send_or_end(json!({"type": "join", "name": format!("N{number}"), "since": "1-1"}));
            ada.send_or_end(json!({"type": "message", "text": "hi", "ref": "1"}));
            ada.send_or_end(json!({"type": "history", "before": "9999999999999-9"}));
            ada.take(Duration::from_millis(50));
        }
    }
    assert!(!instance.log().contains("panicked"), "{}", instance.log());
    println!("{} damaged replies", count.load(Relaxed));
}
