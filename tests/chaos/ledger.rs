//! What happened: each client's own book of what it sent and saw, the faults and their times, and what is known of
//! each message. The clients and the director only write; `checker` reads when all is over.

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

    /// When Redis gave it out.
    pub fn at(self) -> At {
        clock::from_unix(self.ms)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Everything that one run writes down.
pub struct Ledger {
    pub clients: Vec<Mutex<Book>>,
    /// What each message says, by room and id, as the first who saw it tells it.
    facts: Mutex<HashMap<String, BTreeMap<Id, Facts>>>,
    pub windows: Mutex<Vec<Window>>,
    /// Where Redis itself lost data, in their order.
    pub losses: Mutex<Vec<Loss>>,
    /// Strangers who got in under a name like this client's.
    pub impostures: Mutex<Vec<Imposture>>,
    /// What nobody's book holds: an instance that ended by itself, a deaf subscription that was not found.
    pub remarks: Mutex<Vec<String>>,
}

/// Redis lost data: it came back empty, or a replica was promoted that did not have all of it yet. What was kept
/// between the two moments may be gone.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub from: At,
    pub at: At,
}

/// A stranger's join that was welcomed, though the name is a client's.
#[derive(Clone, Debug)]
pub struct Imposture {
    pub at: At,
    pub name: String,
    /// Whose name it looks like.
    pub client: usize,
}

/// What is the same for all who see a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub by: String,
    pub name: String,
    pub key: Option<Arc<str>>,
    pub text: String,
}

/// One fault, as long as it lasted.
#[derive(Clone, Debug)]
pub struct Window {
    pub what: String,
    /// The instance it touched; `None` for all (Redis itself).
    pub instance: Option<usize>,
    pub from: At,
    /// `At::MAX` while it lasts.
    pub to: At,
    /// Nothing can be kept while it lasts: messages have to be refused.
    pub refuses: bool,
    /// It stops the instance itself.
    pub stops: bool,
    /// It can keep messages from an instance's clients (the client faults cannot).
    pub deafens: bool,
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
    /// Its mark, as its first welcome has it.
    pub by: String,
    pub room: String,
    pub connections: Vec<Connection>,
    pub messages: Vec<Message>,
    pub attempts: Vec<Attempt>,
    pub seen: BTreeMap<Id, Seen>,
    /// The newest id in the log when it first joined: what came before is none of its business.
    pub began: Id,
    /// Who is here, as it was told; and the count, as it was told.
    pub names: BTreeSet<String>,
    /// A welcome names at most 100, a notice 20: whether all were named since the last welcome.
    pub all_named: bool,
    pub participants: u64,
    pub changes: Vec<Change>,
    /// When it sent a close frame of its own will.
    pub departures: Vec<At>,
    pub backplane_down: bool,
    /// How often it was told that the backplane went or came.
    pub statuses: u64,
    pub errors: BTreeMap<String, u64>,
    pub presence_frames: u64,
    pub pages: u64,
    /// Broken promises that the client itself noticed.
    pub broken: Vec<Broken>,
}

/// One connection that it tried for.
#[derive(Clone, Debug)]
pub struct Connection {
    pub instance: usize,
    pub opened: At,
    pub since: Option<Id>,
    pub welcome: Option<At>,
    pub gap: bool,
    /// What the welcome left out and it has not fetched yet: newer than the first, older than the second.
    pub hole: Option<(Id, Id)>,
    pub ended: Option<(At, String)>,
}

impl Connection {
    /// When it ended, or `At::MAX`.
    pub fn end(&self) -> At {
        self.ended.as_ref().map_or(At::MAX, |end| end.0)
    }
}

/// Something that it said, under one ref, until it knew what became of it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its `ref`, which is its own among the client's refs and need not be among those of all clients.
    pub key: Arc<str>,
    /// The first word of its text, which no other message has.
    pub token: Arc<str>,
    pub first_sent: At,
    pub receipt: Option<(At, Id, usize)>,
    /// It took an error for an answer and did not try again.
    pub given_up: bool,
}

/// One time that it sent it.
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

/// The first time that it saw a message.
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

    /// Writes down what a message says, or gives back what was said of it before if that differs.
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

    /// Whether a stranger has lately got in under this client's name, rightly or not.
    pub fn was_impersonated(&self, client: usize) -> bool {
        let impostures = self.impostures.lock().expect("nobody panics holding it");
        impostures.iter().any(|i| i.client == client && i.at + 25_000 > clock::now())
    }

    /// Redis has just lost what it had kept since then.
    pub fn lose(&self, from: At) {
        let loss = Loss { from, at: clock::now() };
        self.losses.lock().expect("nobody panics holding it").push(loss);
    }

    /// A fault begins; the number is for [`Ledger::close`].
    pub fn open(&self, window: Window) -> usize {
        let mut windows = self.windows.lock().expect("nobody panics holding it");
        windows.push(window);
        windows.len() - 1
    }

    pub fn close(&self, window: usize) {
        self.windows.lock().expect("nobody panics holding it")[window].to = clock::now();
    }
}
