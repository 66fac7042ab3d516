//! The ledger of a run: every message sent, its outstanding deliveries, and the time each delivery took. A run counts
//! only if the ledger balances: every client of the room received each message exactly once.

use std::time::Instant;

use hdrhistogram::Histogram;

pub struct Ledger {
    said: Vec<Said>,
    open: usize,
    pub deliveries: u64,
    /// Deliveries beyond those owed: messages received twice.
    pub surplus: u64,
    /// Microseconds from when a message was due to be sent to the recipient's read.
    pub latency: Histogram<u64>,
    /// The same for the last recipient: the time until everyone in the room has the message.
    pub whole: Histogram<u64>,
}

struct Said {
    at: Instant,
    owed: u32,
}

/// The byte that starts the marker in a message; nothing else that a server sends contains it.
const MARK: u8 = b'~';
const DIGITS: usize = 8;

impl Ledger {
    pub fn new() -> Ledger {
        Ledger { said: Vec::new(), open: 0, deliveries: 0, surplus: 0, latency: histogram(), whole: histogram() }
    }

    /// Records a message that `owed` clients must receive and that was due at `at`, and returns its text of `size`
    /// bytes. Latency is measured from when it was due, so that a delayed sender hides nothing.
    pub fn say(&mut self, at: Instant, owed: u32, size: usize) -> String {
        let number = self.said.len();
        self.said.push(Said { at, owed });
        self.open += 1;
        format!("{}{number:0DIGITS$}{}", MARK as char, "x".repeat(size.saturating_sub(1 + DIGITS)))
    }

    /// Records a delivery, if the payload is one.
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

    /// The number of messages not yet delivered to everyone.
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

/// A histogram of microseconds, up to ten minutes.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("these bounds are valid")
}
