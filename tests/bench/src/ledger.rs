//! The books of a run: every message said, how many deliveries of it are still owed, and how long each one took. A
//! run is only counted if the books balance: each client of the room got each message exactly once.

use std::time::Instant;

use hdrhistogram::Histogram;

pub struct Ledger {
    said: Vec<Said>,
    open: usize,
    pub deliveries: u64,
    /// Deliveries that nobody was owed: a message that came twice.
    pub surplus: u64,
    /// Microseconds from when a message was due to be said to the reader's read.
    pub latency: Histogram<u64>,
    /// The same to the last of the readers: until everybody in the room has the message.
    pub whole: Histogram<u64>,
}

struct Said {
    at: Instant,
    owed: u32,
}

/// The byte that opens the marker in a message; nothing else that a server sends holds it.
const MARK: u8 = b'~';
const DIGITS: usize = 8;

impl Ledger {
    pub fn new() -> Ledger {
        Ledger { said: Vec::new(), open: 0, deliveries: 0, surplus: 0, latency: histogram(), whole: histogram() }
    }

    /// Books a message that `owed` clients shall get and that was due `at` some time, and returns its text of `size`
    /// bytes. Time counts from when it was due, so a sender that is held up hides nothing.
    pub fn say(&mut self, at: Instant, owed: u32, size: usize) -> String {
        let number = self.said.len();
        self.said.push(Said { at, owed });
        self.open += 1;
        format!("{}{number:0DIGITS$}{}", MARK as char, "x".repeat(size.saturating_sub(1 + DIGITS)))
    }

    /// Books a delivery, if the payload is one.
    #[inline]
    pub fn delivered(&mut self, payload: &[u8], now: Instant) -> bool {
        let Some(mark) = memchr::memchr(MARK, payload) else { return false };
        let Some(digits) = payload.get(mark + 1..mark + 1 + DIGITS) else { return false };
        let number = digits.iter().fold(0usize, |number, digit| number * 10 + (digit.wrapping_sub(b'0')) as usize);
        let Some(said) = self.said.get_mut(number) else {
            self.surplus += 1;
            return false;
        };
        if said.owed == 0 {
            self.surplus += 1;
            return false;
        }
        said.owed -= 1;
        self.deliveries += 1;
        let took = (now.saturating_duration_since(said.at).as_micros() as u64).max(1);
        self.latency.saturating_record(took);
        if said.owed == 0 {
            self.open -= 1;
            self.whole.saturating_record(took);
        }
        true
    }

    /// How many messages are still on their way to somebody.
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn said(&self) -> usize {
        self.said.len()
    }

    pub fn owed(&self) -> u64 {
        self.said.iter().map(|said| u64::from(said.owed)).sum()
    }
}

/// For times in microseconds, up to ten minutes.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("these bounds are valid")
}
