//! Redis's own CPU time per message, beside the bare commands that any chat through Redis needs. The commands are
//! Bobbin's own, recorded with `MONITOR` while it runs, so the measurement follows every change of the script and its
//! arguments. Nobody is subscribed: delivery is measured elsewhere.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::process::{self, Recipe, Redis, Server};
use crate::stacks::Probe;

/// Commands sent before their replies are read.
const IN_FLIGHT: usize = 64;
const SIZE: usize = 150;

/// The parts of a command that differ between messages; each is replaced by a number of the same length.
const REF: &[u8] = b"ref-0000000000";
/// Identifies a recorded command.
const TEXT_WITH_REF: &str = "this-has-a-reference";
const TEXT_WITHOUT: &str = "this-has-none";

/// A command as its words.
type Command = Vec<Vec<u8>>;

/// What is sent for one message.
struct Variant {
    name: String,
    commands: Vec<Command>,
}

/// Measures the bare commands and those of each of `recipes`, alternately. Figures are medians over the rounds.
pub fn measure(redis: &Redis, recipes: &[&Recipe], rounds: usize, messages: usize) -> io::Result<Value> {
    let body = vec![b'x'; SIZE + 60];
    let publish = words(&[b"PUBLISH", b"bench:live", &body]);
    let add = words(&[b"XADD", b"bench:log", b"MAXLEN", b"1000", b"*", b"m", &body]);
    let mut variants = vec![
        Variant { name: "PUBLISH".to_owned(), commands: vec![publish.clone()] },
        Variant { name: "XADD and PUBLISH".to_owned(), commands: vec![add, publish] },
    ];
    for recipe in recipes {
        variants.extend(record(redis, recipe)?);
    }
    let mut connection = TcpStream::connect(("127.0.0.1", redis.port))?;
    let mut samples = vec![Vec::new(); variants.len()];
    let mut sent = 0;
    for round in 0..=rounds {
        for (number, variant) in variants.iter().enumerate() {
            let before = process::cpu(redis.pid());
            send(&mut connection, variant, messages, &mut sent)?;
            let used = process::cpu(redis.pid()) - before;
            // The first round fills the logs to their limit.
            if round > 0 {
                samples[number].push(used.as_secs_f64() * 1e6 / messages as f64);
            }
        }
    }
    let mut result = Map::new();
    for (variant, mut samples) in variants.iter().zip(samples) {
        samples.sort_by(f64::total_cmp);
        let median = samples[samples.len() / 2];
        let figures = json!({
            "redis_us_per_message": (median * 100.0).round() / 100.0,
            "least_us": (samples[0] * 100.0).round() / 100.0,
            "messages_per_s_and_core": (1e6 / median).round(),
        });
        result.insert(variant.name.clone(), figures);
    }
    Ok(Value::Object(result))
}

/// Records what a server sends to Redis for a message without a reference and for one with it.
fn record(redis: &Redis, recipe: &Recipe) -> io::Result<Vec<Variant>> {
    // The name may still be leased to the client of the previous build.
    redis.cli(&["flushall"])?;
    let server = Server::start(recipe)?;
    let mut monitor = TcpStream::connect(("127.0.0.1", redis.port))?;
    monitor.set_read_timeout(Some(Duration::from_secs(5)))?;
    monitor.write_all(b"MONITOR\r\n")?;
    let mut lines = BufReader::new(monitor);
    lines.read_line(&mut String::new())?;
    let padded = |text: &str| format!("{text}{}", "x".repeat(SIZE - text.len()));
    let frames = [
        format!(r#"{{"type":"message","text":"{}"}}"#, padded(TEXT_WITHOUT)),
        format!(r#"{{"type":"message","text":"{}","ref":"{}"}}"#, padded(TEXT_WITH_REF), String::from_utf8_lossy(REF)),
    ];
    let _client = Probe::chat(server.address, 1, &frames)?;
    let mut variants = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut line = Vec::new();
    while variants.len() < frames.len() && Instant::now() < deadline {
        line.clear();
        lines.read_until(b'\n', &mut line)?;
        let Some(command) = monitored(&line) else { continue };
        let holds = |text: &str| command.iter().any(|word| memchr::memmem::find(word, text.as_bytes()).is_some());
        let kind = match () {
            () if holds(TEXT_WITHOUT) => "without ref",
            () if holds(TEXT_WITH_REF) => "with ref",
            () => continue,
        };
        variants.push(Variant { name: format!("{}, {kind}", recipe.name), commands: vec![command] });
    }
    if variants.len() < frames.len() {
        return Err(io::Error::other("what the server sends for a message was not seen by MONITOR"));
    }
    Ok(variants)
}

/// A client's command from a line of `MONITOR`: `+1732412345.123456 [0 127.0.0.1:4711] "PUBLISH" "a" "b\n"`.
fn monitored(line: &[u8]) -> Option<Command> {
    let start = memchr::memmem::find(line, b"] \"")?;
    if memchr::memmem::find(&line[..start], b" lua").is_some() {
        return None;
    }
    let mut bytes = line[start + 2..].iter().copied();
    let mut command = Command::new();
    while let Some(b'"') = bytes.next() {
        let mut word = Vec::new();
        loop {
            match bytes.next()? {
                b'"' => break,
                b'\\' => word.push(match bytes.next()? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    b'x' => {
                        let digits = [bytes.next()?, bytes.next()?];
                        u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                    }
                    escaped => escaped,
                }),
                byte => word.push(byte),
            }
        }
        command.push(word);
        bytes.next();
    }
    Some(command)
}

/// Sends a variant for `messages` messages, `IN_FLIGHT` at a time.
fn send(connection: &mut TcpStream, variant: &Variant, messages: usize, sent: &mut u64) -> io::Result<()> {
    let (packed, places) = pack(&variant.commands);
    let mut answers = Answers { connection: connection.try_clone()?, buffer: vec![0; 1 << 16], start: 0, end: 0 };
    let mut left = messages;
    while left > 0 {
        let count = left.min(IN_FLIGHT);
        let mut batch = packed.repeat(count);
        for number in 0..count {
            *sent += 1;
            let reference = format!("ref-{sent:010}");
            for place in &places {
                let place = number * packed.len() + place;
                batch[place..place + REF.len()].copy_from_slice(reference.as_bytes());
            }
        }
        connection.write_all(&batch)?;
        for _ in 0..count * variant.commands.len() {
            answers.skip()?;
        }
        left -= count;
    }
    Ok(())
}

/// Commands in Redis's protocol, and the offsets of the reference in them.
fn pack(commands: &[Command]) -> (Vec<u8>, Vec<usize>) {
    let mut packed = Vec::new();
    for command in commands {
        packed.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
        for word in command {
            packed.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            packed.extend_from_slice(word);
            packed.extend_from_slice(b"\r\n");
        }
    }
    let places = memchr::memmem::find_iter(&packed, REF).collect();
    (packed, places)
}

fn words(words: &[&[u8]]) -> Command {
    words.iter().map(|word| word.to_vec()).collect()
}

/// Reads replies and fails on errors.
struct Answers {
    connection: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Answers {
    fn skip(&mut self) -> io::Result<()> {
        let mut values = 1;
        while values > 0 {
            values -= 1;
            let line = self.line()?;
            let number = || String::from_utf8_lossy(&line[1..]).parse::<i64>().map_err(io::Error::other);
            match line[0] {
                b'-' => return Err(io::Error::other(String::from_utf8_lossy(&line).into_owned())),
                b'*' => values += number()?.max(0),
                b'$' if number()? >= 0 => self.take(number()? as usize + 2)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(length) = memchr::memmem::find(&self.buffer[self.start..self.end], b"\r\n") {
                let line = self.buffer[self.start..self.start + length].to_vec();
                self.start += length + 2;
                return Ok(line);
            }
            self.more()?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<()> {
        while self.end - self.start < length {
            self.more()?;
        }
        self.start += length;
        Ok(())
    }

    fn more(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match self.connection.read(&mut self.buffer[self.end..])? {
            0 => Err(io::Error::other("Redis closed the connection")),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }
}
