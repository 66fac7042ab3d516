//! How much stack the server's threads use. A page of a stack, once touched, stays in memory, so a stack's resident
//! size is its high-water mark. After the deepest paths have been taken, each thread's stack pointer (from
//! /proc/PID/task/TID/syscall) identifies its mapping, and /proc/PID/smaps has the resident size of that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::dialect::Dialect;
use crate::ws;

/// A mapping in smaps, in bytes.
struct Mapping {
    start: u64,
    end: u64,
    resident: u64,
}

/// The stacks of a process by thread name: their number, their reserved size, and the most and least touched, in kB.
pub fn by_thread(pid: u32) -> io::Result<Value> {
    let mappings = mappings(pid)?;
    let mut threads: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        // Names end in varying numbers; the first word is the kind of thread.
        let name = name.trim().split(['-', ' ', '/']).next().unwrap_or_default().to_owned();
        let syscall = fs::read_to_string(task.join("syscall")).unwrap_or_default();
        let pointer = syscall.split_whitespace().nth_back(1).and_then(|word| word.strip_prefix("0x"));
        let Some(pointer) = pointer.and_then(|word| u64::from_str_radix(word, 16).ok()) else { continue };
        if let Some(stack) = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&pointer)) {
            threads.entry(name).or_default().push((stack.end - stack.start, stack.resident));
        }
    }
    let figures = threads.into_iter().map(|(name, stacks)| {
        let resident = || stacks.iter().map(|stack| stack.1 >> 10);
        let figures = json!({
            "threads": stacks.len(),
            "reserved_kb": stacks.iter().map(|stack| stack.0 >> 10).max(),
            "touched_kb_most": resident().max(),
            "touched_kb_mean": resident().sum::<u64>() as f64 / stacks.len() as f64,
        });
        (name, figures)
    });
    Ok(Value::Object(figures.collect()))
}

fn mappings(pid: u32) -> io::Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(size) = line.strip_prefix("Rss:") {
            if let Some(mapping) = mappings.last_mut() {
                mapping.resident = size.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10;
            }
        } else if let Some((start, end)) = first.split_once('-')
            && let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        {
            mappings.push(Mapping { start, end, resident: 0 });
        }
    }
    Ok(mappings)
}

/// A blocking connection that has taken a path and is still open.
pub struct Probe {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Probe {
    fn connect(address: SocketAddr) -> io::Result<Probe> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Probe { stream, received: Vec::new() })
    }

    /// Requests a page over HTTP and keeps the connection.
    pub fn page(address: SocketAddr, path: &str) -> io::Result<Probe> {
        let mut probe = Probe::connect(address)?;
        write!(probe.stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
        probe.until(b"\r\n\r\n")?;
        Ok(probe)
    }

    /// Joins a room, sends `frames`, and waits until the server has answered a ping after them.
    pub fn chat(address: SocketAddr, client: usize, frames: &[String]) -> io::Result<Probe> {
        let mut probe = Probe::connect(address)?;
        probe.stream.write_all(Dialect::Bobbin.upgrade_request("stacks").as_bytes())?;
        probe.stream.write_all(&Dialect::Bobbin.greet(client).expect("bobbin is greeted"))?;
        probe.until(b"\"welcome\"")?;
        for frame in frames {
            probe.stream.write_all(&ws::from_client(ws::TEXT, frame.as_bytes()))?;
        }
        probe.stream.write_all(&ws::from_client(ws::TEXT, br#"{"type":"ping"}"#))?;
        probe.until(b"\"pong\"")?;
        Ok(probe)
    }

    fn until(&mut self, wanted: &[u8]) -> io::Result<()> {
        let mut buffer = [0; 65536];
        while memchr::memmem::find(&self.received, wanted).is_none() {
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::Error::other("the server closed the connection")),
                read => self.received.extend_from_slice(&buffer[..read]),
            }
        }
        Ok(())
    }
}

/// Frames that make a session's thread go deep, by name.
pub fn paths() -> Vec<(&'static str, Vec<String>)> {
    let nested = |open: &str, close: &str| {
        let depth = 120;
        format!(r#"{{"type":"ping","x":{}1{}}}"#, open.repeat(depth), close.repeat(depth))
    };
    let message = |text: &str, number: usize| format!(r#"{{"type":"message","text":"{text}","ref":"stack-{number}"}}"#);
    vec![
        ("a join", vec![]),
        ("messages", (0..20).map(|number| message("hello", number)).collect()),
        ("the longest message", vec![message(&"x".repeat(4096), 100)]),
        ("a text full of escapes", vec![message(&"\\u00e9\\n".repeat(1000), 101)]),
        ("history", vec![r#"{"type":"history","limit":100}"#.to_owned()]),
        ("typing", vec![r#"{"type":"typing","active":true}"#.to_owned()]),
        ("no JSON", vec!["{".to_owned(), "[]".to_owned(), "nonsense".to_owned()]),
        ("nested arrays", vec![nested("[", "]")]),
        ("nested objects", vec![nested(r#"{"a":"#, "}")]),
        ("nested too deep", vec![format!(r#"{{"type":"ping","x":{}"#, "[".repeat(16_000))]),
    ]
}
