//! The log: one line per entry, on stderr. A line that cannot be written at once is dropped: neither a log reader that
//! has ended nor one that hangs may stop the chat.
//!
//! `info` is for the life cycle of the process, `debug` for what clients do, `warn` for exceeded limits and faults.
//! Message texts are never logged.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use simple_logger::SimpleLogger;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::limits::Bucket;
use crate::protocol;

/// Warnings and errors of one kind written per second, and at once; further ones are counted, so that clients cannot fill
/// the disk by causing them. In a day that is at most 9 MB of each kind.
const LINES: f64 = 0.2;
const LINES_AT_ONCE: f64 = 20.0;
/// The longest message written, in bytes; the rest of a longer one is cut off. A line then takes less than the 4 KiB
/// that [`has_space`] finds, even if JSON escapes each byte with six.
const LONGEST: usize = 512;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Plain text, for people.
    Text,
    /// One JSON object per line, for programs.
    Json,
}

impl FromStr for Format {
    type Err = ();

    fn from_str(text: &str) -> Result<Format, ()> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(()),
        }
    }
}

/// Installs the logger. tungstenite logs every frame, so it is limited to warnings.
pub fn start(level: LevelFilter, format: Format) {
    let inner = SimpleLogger::new()
        .with_level(level)
        .with_module_level("tungstenite", level.min(LevelFilter::Warn))
        .with_utc_timestamps()
        .with_threads(true);
    log::set_max_level(inner.max_level());
    // Where stderr is blocked, the standard hook would block too, and a critical thread would never end the process.
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if has_space(&io::stderr()) {
            print(info);
        }
    }));
    // Fails only if a logger is already installed.
    let (dropped, throttles) = Default::default();
    let _ = log::set_boxed_logger(Box::new(Logger { inner, format, dropped, throttles }));
}

/// simple_logger uses `eprintln!`, which panics if stderr is closed: without this wrapper, a log reader that exits
/// would kill the next thread that logs.
struct Logger {
    inner: SimpleLogger,
    format: Format,
    /// The number of lines dropped since the last one. Locked while a line is written: the space that was found is then
    /// still there.
    dropped: Mutex<u64>,
    throttles: Mutex<HashMap<Kind, Throttle>>,
}

/// The kind of a log line: its target, and the line of the source that wrote it.
type Kind = (String, Option<u32>);

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.inner.enabled(record.metadata()) {
            return;
        }
        if let Some(left_out) = self.admit(record) {
            self.write_unless_blocked(record, left_out);
        }
    }

    /// Reports the lines left out, of each kind from which no other line has been written since.
    fn flush(&self) {
        let now = Instant::now();
        let mut throttles = self.throttles.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = |((target, _), throttle): (&Kind, &mut Throttle)| Some((target.clone(), throttle.report(now)?));
        let all: Vec<(String, u64)> = throttles.iter_mut().filter_map(left_out).collect();
        drop(throttles);
        for (target, count) in all {
            let missing = format_args!("{count} such lines dropped");
            self.write_unless_blocked(&Record::builder().level(Level::Warn).target(&target).args(missing).build(), 0);
        }
    }
}

impl Logger {
    fn write_unless_blocked(&self, record: &Record<'_>, left_out: u64) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if !has_space(&io::stderr()) {
            *dropped += 1 + left_out;
            return;
        }
        if *dropped > 0 {
            let missing = format_args!("{} log lines were dropped, because stderr was blocked", *dropped);
            self.write(&Record::builder().level(Level::Warn).target(module_path!()).args(missing).build(), 0);
            *dropped = 0;
        }
        self.write(record, left_out);
    }

    /// Whether a line may be written now: `Some` with the number of lines of its kind left out since the last one.
    fn admit(&self, record: &Record<'_>) -> Option<u64> {
        if record.level() > Level::Warn {
            return Some(0);
        }
        let (kind, now) = ((record.target().to_owned(), record.line()), Instant::now());
        let mut throttles = self.throttles.lock().unwrap_or_else(PoisonError::into_inner);
        throttles.entry(kind).or_insert_with(|| Throttle::new(now)).admit(now)
    }

    fn write(&self, record: &Record<'_>, left_out: u64) {
        let message = printable(&record.args().to_string());
        let (start, more) = shortened(&message);
        let others = if left_out > 0 { format!("; {left_out} such lines dropped") } else { String::new() };
        let args = format_args!("{start}{more}{others}");
        let record = &Record::builder().metadata(record.metadata().clone()).args(args).build();
        match self.format {
            Format::Text => drop(catch_unwind(AssertUnwindSafe(|| self.inner.log(record)))),
            Format::Json => drop(writeln!(io::stderr(), "{}", json_line(record, OffsetDateTime::now_utc()))),
        }
    }
}

/// The message with control and direction characters escaped, because parts of it may come from strangers and terminals obey
/// them.
fn printable(message: &str) -> String {
    let obeyed = |c: char| protocol::controls_display(c) || matches!(c, '\u{2028}' | '\u{2029}');
    message.chars().fold(String::with_capacity(message.len()), |mut text, c| {
        if obeyed(c) {
            text.extend(c.escape_unicode())
        } else {
            text.push(c)
        }
        text
    })
}

/// The part of a message that is written, and a mark if that is not all of it.
fn shortened(message: &str) -> (&str, &str) {
    let end = (0..=LONGEST.min(message.len())).rev().find(|at| message.is_char_boundary(*at)).unwrap_or_default();
    (&message[..end], if end < message.len() { "…" } else { "" })
}

/// Whether a stream accepts a line without blocking. A pipe that polls as writable has space for 4 KiB (`PIPE_BUF`).
pub fn has_space(stream: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    // An error is left to the write, which ignores it.
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
}

fn json_line(record: &Record<'_>, now: OffsetDateTime) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        level: String,
        target: &'a str,
        thread: Option<&'a str>,
        message: String,
    }
    let thread = std::thread::current();
    let line = Line {
        time: now.format(&Rfc3339).unwrap_or_default(),
        level: record.level().as_str().to_ascii_lowercase(),
        target: record.target(),
        thread: thread.name(),
        message: record.args().to_string(),
    };
    // Only strings, so it can't fail.
    serde_json::to_string(&line).unwrap_or_default()
}

/// Limits log lines of one kind.
struct Throttle {
    lines: Bucket,
    left_out: u64,
}

impl Throttle {
    fn new(now: Instant) -> Throttle {
        Throttle { lines: Bucket::new(LINES, LINES_AT_ONCE, now), left_out: 0 }
    }

    /// Whether a line may be written now: `Some` with the number of lines left out since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.lines.take(now).is_err() {
            self.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }

    /// The number of lines left out, if there are any and a line may be written now.
    fn report(&mut self, now: Instant) -> Option<u64> {
        if self.left_out > 0 && self.lines.take(now).is_ok() { Some(std::mem::take(&mut self.left_out)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use crate::threads;

    #[test]
    fn no_message_controls_a_terminal() {
        assert_eq!(printable("a\u{9b}31m\n\u{202e}ü"), "a\\u{9b}31m\\u{a}\\u{202e}ü");
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        assert_eq!(shortened("short"), ("short", ""));
        let long = format!("{}ü", "x".repeat(LONGEST - 1));
        assert_eq!(shortened(&long), (&long[..LONGEST - 1], "…"));
    }

    /// Runs itself in a second process, whose stderr is full and which has a thread that panics.
    #[test]
    fn a_critical_thread_that_panics_ends_the_process_even_if_stderr_is_blocked() {
        if std::env::var_os("PANIC").is_some() {
            start(LevelFilter::Info, Format::Text);
            let thread = threads::spawn_critical("doomed", || panic!("as planned")).expect("a thread");
            let _ = thread.join();
            return;
        }
        let (_reader, mut full) = io::pipe().expect("a pipe");
        full.write_all(&[b'x'; 64 * 1024]).expect("the size of a pipe");
        let mut again = Command::new(std::env::current_exe().expect("this test"));
        let name = "a_critical_thread_that_panics_ends_the_process_even_if_stderr_is_blocked";
        again.args(["--exact", "--nocapture", &format!("logging::tests::{name}")]).env("PANIC", "1");
        let mut child = again.stdout(Stdio::null()).stderr(full).spawn().expect("it starts");
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.try_wait().expect("our own child").is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        assert_eq!(child.wait().expect("it ended").code(), Some(70));
    }

    #[test]
    fn a_line_of_json_has_time_level_target_thread_and_message() {
        let args = format_args!("a \"b\"\n");
        let record = Record::builder().level(log::Level::Warn).target("bobbin::x").args(args).build();
        let line = json_line(&record, OffsetDateTime::UNIX_EPOCH);
        assert!(line.contains(r#""level":"warn""#) && line.contains(r#""message":"a \"b\"\n""#), "{line}");
        assert!(line.contains(r#""time":"1970-01-01T00:00:00Z""#) && !line.contains('\n'), "{line}");
    }

    #[test]
    fn lines_of_one_kind_are_limited_and_the_others_counted() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        let said: Vec<_> = (0..30).map(|_| throttle.admit(start)).collect();
        assert_eq!(said, [[Some(0); 20].to_vec(), [None; 10].to_vec()].concat());
        assert_eq!(throttle.admit(start + Duration::from_secs(5)), Some(10));
        assert_eq!(throttle.admit(start + Duration::from_secs(5)), None);
        assert_eq!(throttle.report(start + Duration::from_secs(9)), None);
        assert_eq!([10, 15].map(|after| throttle.report(start + Duration::from_secs(after))), [Some(1), None]);
    }
}
