//! The ledger: each client's own record of what it sent and received, the faults and their times, and the contents of
//! each message. The clients and the director only write; `checker` reads at the end.

use super::clock::{self, At};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// A message's id, in the order of the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Id {
    pub ms: u64,
    pub seq: u64,
}

impl Id {
    pub fn parse(text: &str) -> Option<Id> {
        let (ms, seq) = text.split_once('-')?;
        Some(Id { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
    }

    /// When Redis assigned it.
    pub fn at(self) -> At {
        clock::from_unix(self.ms)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Everything that a run records.
pub struct Ledger {
    pub clients: Vec<Mutex<Book>>,
    /// The contents of each message, by room and id, as first received.
    facts: Mutex<HashMap<String, BTreeMap<Id, Facts>>>,
    pub windows: Mutex<Vec<Window>>,
    /// When Redis itself lost data, in order.
    pub losses: Mutex<Vec<Loss>>,
    /// Strangers who joined under a name that looks like this client's.
    pub impostures: Mutex<Vec<Imposture>>,
    /// Violations that no client can see: an instance that ended by itself, or a stale subscription that was not
    /// detected.
    pub remarks: Mutex<Vec<String>>,
}

/// Redis lost data: it came back empty, or a replica without the latest data was promoted. What was kept between the
/// two times may be gone.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub from: At,
    pub at: At,
}

/// A stranger's join under a name that is a client's, and that was not refused.
#[derive(Clone, Debug)]
pub struct Imposture {
    pub at: At,
    pub name: String,
    /// The client whose name it looks like.
    pub client: usize,
    pub outcome: Outcome,
}

/// What a stranger knows of its join.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It has the `welcome`.
    Accepted,
    /// The connection ended, or there was no answer in time: the join may have been executed.
    Unknown,
}

/// The contents of a message, which are the same for everyone who receives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub by: String,
    pub name: String,
    pub key: Option<Arc<str>>,
    pub text: String,
}

/// One fault, from its start to its end.
#[derive(Clone, Debug)]
pub struct Window {
    pub what: String,
    /// The affected instance; `None` for all (Redis itself).
    pub instance: Option<usize>,
    pub from: At,
    /// `At::MAX` while it lasts.
    pub to: At,
    /// Whether nothing can be kept while it lasts, so that messages must be refused.
    pub refuses: bool,
    /// Whether it stops the instance itself.
    pub stops: bool,
    /// Whether it can keep messages from an instance's clients (client faults cannot).
    pub withholds: bool,
}

impl Window {
    pub fn touches(&self, instance: usize) -> bool {
        self.instance.is_none_or(|own| own == instance)
    }
}

/// One client's book.
#[derive(Default)]
pub struct Book {
    pub name: String,
    /// Its mark, from its first welcome.
    pub by: String,
    pub room: String,
    pub connections: Vec<Connection>,
    pub messages: Vec<Message>,
    pub attempts: Vec<Attempt>,
    pub seen: BTreeMap<Id, Seen>,
    /// The newest id in the log when it first joined; it need not receive earlier messages.
    pub began: Id,
    /// Who is present according to the frames it received, and the latest count.
    pub names: BTreeSet<String>,
    /// Whether it received all names since the last welcome: a welcome has at most 100, a notice 20.
    pub all_named: bool,
    pub participants: u64,
    pub changes: Vec<Change>,
    /// When it left voluntarily with a close frame.
    pub departures: Vec<At>,
    pub backplane_down: bool,
    /// How many `status` frames it received.
    pub statuses: u64,
    pub errors: BTreeMap<String, u64>,
    pub presence_frames: u64,
    pub pages: u64,
    /// Violations that the client itself detected.
    pub broken: Vec<Broken>,
}

/// An attempted connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub instance: usize,
    pub opened: At,
    pub since: Option<Id>,
    pub welcome: Option<At>,
    pub gap: bool,
    /// Messages missing from the welcome and not fetched yet: newer than the first id, older than the second.
    pub hole: Option<(Id, Id)>,
    pub ended: Option<(At, String)>,
}

impl Connection {
    /// When it ended, or `At::MAX`.
    pub fn end(&self) -> At {
        self.ended.as_ref().map_or(At::MAX, |end| end.0)
    }
}

/// A message that it sent under one ref, until its outcome was known.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its `ref`, unique among the client's refs, but not necessarily among those of all clients.
    pub key: Arc<str>,
    /// The first word of its text, which is unique.
    pub token: Arc<str>,
    pub first_sent: At,
    pub receipt: Option<(At, Id, usize)>,
    /// Whether it accepted an error as the answer and did not try again.
    pub given_up: bool,
}

/// One attempt to send a message.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub message: usize,
    pub connection: usize,
    pub at: At,
    pub answer: Option<(At, Answer)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Receipt,
    Refused,
}

/// The first receipt of a message by this client.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub at: At,
    pub connection: usize,
}

/// A presence frame.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: At,
    pub joined: Vec<String>,
    pub left: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Broken {
    pub what: &'static str,
    pub story: String,
}

impl Ledger {
    pub fn new(clients: usize) -> Ledger {
        Ledger {
            clients: (0..clients).map(|_| Mutex::default()).collect(),
            facts: Mutex::default(),
            windows: Mutex::default(),
            losses: Mutex::default(),
            impostures: Mutex::default(),
            remarks: Mutex::default(),
        }
    }

    pub fn book(&self, client: usize) -> MutexGuard<'_, Book> {
        self.clients[client].lock().expect("nobody panics holding it")
    }

    pub fn remark(&self, remark: String) {
        self.remarks.lock().expect("nobody panics holding it").push(remark);
    }

    /// Records a message's contents, or returns the earlier ones if they differ.
    pub fn learn(&self, room: &str, id: Id, facts: Facts) -> Result<(), Facts> {
        let mut all = self.facts.lock().expect("nobody panics holding it");
        let known = all.entry(room.to_string()).or_default().entry(id).or_insert_with(|| facts.clone());
        if *known == facts { Ok(()) } else { Err(known.clone()) }
    }

    pub fn facts(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<Id, Facts>>> {
        self.facts.lock().expect("nobody panics holding it")
    }

    /// The newest id that anyone has seen in a room.
    pub fn newest(&self, room: &str) -> Option<Id> {
        Some(*self.facts().get(room)?.last_key_value()?.0)
    }

    /// Whether a stranger has recently joined under this client's name, or may have, rightly or not.
    pub fn was_impersonated(&self, client: usize) -> bool {
        let impostures = self.impostures.lock().expect("nobody panics holding it");
        // A frozen instance executes the join when it continues, and the lease may then have to expire.
        let lasts = |outcome| if outcome == Outcome::Accepted { 25_000 } else { 45_000 };
        impostures.iter().any(|i| i.client == client && i.at + lasts(i.outcome) > clock::now())
    }

    /// Records that Redis has just lost what it kept since `from`.
    pub fn lose(&self, from: At) {
        let loss = Loss { from, at: clock::now() };
        self.losses.lock().expect("nobody panics holding it").push(loss);
    }

    /// Records the start of a fault; returns a number for [`Ledger::close`].
    pub fn open(&self, window: Window) -> usize {
        let mut windows = self.windows.lock().expect("nobody panics holding it");
        windows.push(window);
        windows.len() - 1
    }

    pub fn close(&self, window: usize) {
        self.windows.lock().expect("nobody panics holding it")[window].to = clock::now();
    }
}
