//! The checker: evaluates the ledger of all clients and determines which promises were broken.
//!
//! **Once, by all, in one order.** Each client records ids that do not grow, within a connection and beyond its
//! `since`; and one id never stands for two messages. So all clients of a room see the same messages in the same order,
//! and what remains to check is that none is missing and none has two ids:
//!
//! - *lost*: every message that anyone has seen, or that is in the log at the end, was seen by every client of the room
//!   whose first welcome was older than it, whether or not its sender had a receipt: what is in the log must be
//!   delivered.
//! - *twice*: one ref of one client has one id.
//! - *forgotten*: what anyone has seen is in the log at the end.
//! - *vanished*: every message that was sent has a receipt in the end, or its sender accepted an error as the answer.
//!   Half of the clients send again only after an error or on a new connection, so a missing answer stays missing.
//!
//! **What Redis itself loses.** Redis may come back without its data, or a replica without the latest data may be
//! promoted. Each such [`Loss`] records the period whose messages may be gone; those of them that are not in the log at
//! the end are, and no promise about them can be kept. So exactly three exceptions hold, for these messages only:
//!
//! - *forgotten* does not apply.
//! - *lost* is excused if the client could not have received the message. It could if it saw a later message from
//!   before the loss (except for what it was still fetching page by page); or if, between one second after the message
//!   and the loss, there was a moment at which it had been joined for a second on an instance that no fault had touched
//!   for [`SETTLE`]. (Redis may die after it published to one instance and before it published to the next; and what a
//!   cut client would have fetched from the log is no longer there.)
//! - *twice* is excused if the first of the two was lost while the sender had no receipt and so had to send again; or
//!   if the message was in flight at that moment, so that an instance may have repeated it to Redis by itself.
//!
//! In return, `gap` must be true in exactly those welcomes whose `since` was lost.

use super::arena::Backplane;
use super::clock::{At, show};
use super::inspect::Log;
use super::ledger::{Book, Broken, Connection, Id, Ledger, Loss, Outcome, Window};
use super::story;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Time within which, after a fault, an instance's clients must be up to date again: a reconnect delay of up to 5 s, or
/// a stale subscription, which the probe detects within 9 s.
pub const SETTLE: At = 14_000;
/// `unavailable` is promised within 2 s; the margin is for a busy machine.
const REFUSED_WITHIN: At = 3500;
/// A lease is 15 s; this is less, because a busy machine may record the end of a connection late.
const LEASE: At = 14_000;
/// How long an instance may hold a message before it must refuse it.
const UNDER_WAY: At = 5000;

/// After a promotion, an instance may still read from the replaced server for this long.
const OPEN: At = 3000;

pub struct Verdict {
    pub broken: Vec<Broken>,
    /// Deliveries that a client could not have received before the data was lost.
    pub excused: usize,
    /// The longest wait for a refusal while no message could be kept.
    pub slowest_refusal: At,
}

pub fn judge(backplane: Backplane, ledger: &Ledger, logs: &BTreeMap<String, Log>) -> Verdict {
    let windows = ledger.windows.lock().expect("all is over").clone();
    let losses = Losses(ledger.losses.lock().expect("all is over").clone());
    let mut verdict = Verdict { broken: Vec::new(), excused: 0, slowest_refusal: 0 };
    for remark in ledger.remarks.lock().expect("all is over").iter() {
        verdict.broken.push(Broken { what: "a process misbehaved", story: remark.clone() });
    }
    let books: Vec<_> = ledger.clients.iter().map(|c| c.lock().expect("all is over")).collect();
    for book in &books {
        verdict.broken.extend(book.broken.iter().cloned());
        vanished(&mut verdict, book, &windows);
        refusals(&mut verdict, book, &windows);
        gaps(&mut verdict, book, &losses, logs.get(&book.room));
        let all: Vec<&Book> = books.iter().map(|b| &**b).collect();
        match backplane {
            Backplane::Redis => seen_leaving(&mut verdict, book, &all, &windows),
            Backplane::File => seen_leaving_at_all(&mut verdict, book, &all),
        }
    }
    impostures(&mut verdict, ledger, &books.iter().map(|b| &**b).collect::<Vec<_>>(), &windows);
    marks(&mut verdict, &books.iter().map(|b| &**b).collect::<Vec<_>>());
    for (room, log) in logs {
        let empty = Log::new();
        let facts = ledger.facts();
        let known = facts.get(room).unwrap_or(&empty);
        let here: Vec<&Book> = books.iter().map(|b| &**b).filter(|b| b.room == *room).collect();
        let judge = Room { room, log, known, here, losses: &losses, windows: &windows };
        judge.lost(&mut verdict);
        judge.twice(&mut verdict);
        judge.forgotten(&mut verdict);
    }
    verdict
}

/// All losses of data.
pub struct Losses(pub Vec<Loss>);

impl Losses {
    /// When a message was lost that is not in the log at the end, if a loss explains that.
    pub fn lost_at(&self, id: Id, log: &Log) -> Option<At> {
        self.may_have_lost(id, log).first().copied()
    }

    /// When the message may have been lost: at any loss that covers it. A promoted replica may have had the message and a
    /// later loss may have taken it; a Redis that restarts empty has lost everything.
    fn may_have_lost(&self, id: Id, log: &Log) -> Vec<At> {
        let explains = |loss: &&Loss| loss.from <= id.at() && id.at() <= loss.at && !log.contains_key(&id);
        let losses: Vec<&Loss> = self.0.iter().filter(explains).collect();
        let count = losses.iter().position(|loss| loss.from == 0).map_or(losses.len(), |total| total + 1);
        losses[..count].iter().map(|loss| loss.at).collect()
    }
}

/// A room, with what is needed to check it.
pub struct Room<'a> {
    pub room: &'a str,
    pub log: &'a Log,
    /// All messages that anyone has seen.
    pub known: &'a Log,
    pub here: Vec<&'a Book>,
    pub losses: &'a Losses,
    pub windows: &'a [Window],
}

impl Room<'_> {
    fn lost(&self, verdict: &mut Verdict) {
        let all: BTreeSet<Id> = self.known.keys().chain(self.log.keys()).copied().collect();
        for id in all {
            let lost = self.losses.lost_at(id, self.log);
            let mut missed_by = Vec::new();
            for book in self.here.iter().filter(|b| id > b.began && !b.seen.contains_key(&id)) {
                if lost.is_some_and(|lost| !self.had_a_chance(book, id, lost)) {
                    verdict.excused += 1;
                } else {
                    missed_by.push(*book);
                }
            }
            if !missed_by.is_empty() {
                verdict.broken.push(Broken { what: "lost", story: story::lost(self, id, &missed_by) });
            }
        }
    }

    /// Whether a client could have received a message before the data was lost; see the module's documentation.
    fn had_a_chance(&self, book: &Book, id: Id, lost: At) -> bool {
        let fetching = book.connections.iter().filter_map(|c| c.hole).any(|(since, before)| since < id && id < before);
        let later = book.seen.range(id..).next().is_some_and(|(later, _)| later.at() < lost);
        if later && !fetching {
            return true;
        }
        let joined = book.connections.iter().filter_map(|c| Some((c.welcome?, c)));
        joined.into_iter().any(|(welcome, connection)| {
            let from = (welcome + 1000).max(id.at() + 1000);
            let to = connection.end().min(lost);
            let faults = || self.windows.iter().filter(|w| w.withholds && w.touches(connection.instance));
            let settled = |w: &Window| w.to.saturating_add(SETTLE);
            // If there is an undisturbed moment at all, then the beginning is one, or the moment at which a fault has
            // just settled.
            let mut moments = faults().map(settled).chain([from]).filter(|m| from <= *m && *m < to);
            moments.any(|m| faults().all(|w| m < w.from || settled(w) <= m))
        })
    }

    fn twice(&self, verdict: &mut Verdict) {
        let mut by_key: HashMap<(&str, &str), Vec<Id>> = HashMap::new();
        for (id, facts) in self.known.iter().chain(self.log.iter().filter(|(id, _)| !self.known.contains_key(id))) {
            if let Some(key) = &facts.key {
                by_key.entry((&facts.by, key)).or_default().push(*id);
            }
        }
        for ((by, key), mut ids) in by_key.into_iter().filter(|(_, ids)| ids.len() > 1) {
            ids.sort();
            if ids.windows(2).any(|pair| !self.said_again_rightly(by, key, pair[0])) {
                verdict.broken.push(Broken { what: "said twice", story: story::twice(self, by, key, &ids) });
            }
        }
    }

    fn said_again_rightly(&self, by: &str, key: &str, first: Id) -> bool {
        let Some(lost) = self.losses.lost_at(first, self.log) else { return false };
        let own = self.here.iter().filter(|b| b.by == by);
        let receipt = own.flat_map(|b| &b.messages).find(|m| &*m.key == key).and_then(|m| m.receipt);
        receipt.is_none_or(|(at, ..)| at >= lost) || first.at() + UNDER_WAY > lost
    }

    fn forgotten(&self, verdict: &mut Verdict) {
        for id in self.known.keys().filter(|id| !self.log.contains_key(id)) {
            if self.losses.lost_at(*id, self.log).is_none() {
                let story = story::message(self, *id);
                verdict.broken.push(Broken { what: "seen, but not in the log", story });
            }
        }
    }
}

fn vanished(verdict: &mut Verdict, book: &Book, windows: &[Window]) {
    for (i, message) in book.messages.iter().enumerate() {
        if message.receipt.is_none() && !message.given_up {
            let story = story::sending(book, i, windows);
            verdict.broken.push(Broken { what: "vanished: neither receipt nor error", story });
        }
    }
}

/// During an outage of Redis that lasted long enough, every message must have been refused in time, unless its
/// connection ended or its instance was frozen.
fn refusals(verdict: &mut Verdict, book: &Book, windows: &[Window]) {
    for (i, attempt) in book.attempts.iter().enumerate() {
        let connection = &book.connections[attempt.connection];
        let due = attempt.at + REFUSED_WITHIN;
        let touching = || windows.iter().filter(|w| w.touches(connection.instance));
        let away = touching().any(|w| w.refuses && w.from + 100 < attempt.at && due < w.to);
        let stopped = touching().any(|w| w.stops && w.from < due && attempt.at < w.to);
        if !away || stopped || connection.end() < due {
            continue;
        }
        let waited = attempt.answer.map_or(At::MAX, |(at, _)| at - attempt.at);
        if waited > REFUSED_WITHIN {
            let story = story::sending(book, book.attempts[i].message, windows);
            verdict.broken.push(Broken { what: "not refused in time", story });
        } else {
            verdict.slowest_refusal = verdict.slowest_refusal.max(waited);
        }
    }
}

fn gaps(verdict: &mut Verdict, book: &Book, losses: &Losses, log: Option<&Log>) {
    let joined = |c: &Connection| Some((c.since.filter(|id| id.ms > 0)?, c.welcome?, c.opened, c.gap));
    for (since, welcome, opened, gap) in book.connections.iter().filter_map(joined) {
        let lost = log.map(|log| losses.may_have_lost(since, log)).unwrap_or_default();
        // At the moment of a loss, either value is correct.
        let open = losses.0.iter().any(|loss| opened < loss.at + OPEN && loss.at < welcome);
        let (before, after) = (lost.iter().any(|at| *at < welcome), lost.iter().any(|at| *at >= welcome));
        if !open && if gap { !before } else { before && !after } {
            let lost: Vec<String> = lost.into_iter().map(show).collect();
            let at = show(welcome);
            let story =
                format!("{} joined at {at} with since={since}, lost at one of {lost:?}: gap is {gap}", book.name);
            verdict.broken.push(Broken { what: "gap is wrong", story });
        }
    }
}

/// No stranger may take a name whose owner certainly held a lease: the owner had joined just before, or was on an
/// instance that no fault had touched. (Redis may have lost the lease.)
fn impostures(verdict: &mut Verdict, ledger: &Ledger, books: &[&Book], windows: &[Window]) {
    let losses = ledger.losses.lock().expect("all is over");
    let impostures = ledger.impostures.lock().expect("all is over");
    for imposture in impostures.iter().filter(|imposture| imposture.outcome == Outcome::Accepted) {
        let at = imposture.at;
        let book = books[imposture.client];
        let Some(owner) = book.connections.iter().rev().find(|c| c.welcome.is_some_and(|w| w + 100 < at)) else {
            continue;
        };
        let welcome = owner.welcome.unwrap_or_default();
        let fresh = welcome + 12_000 > at;
        let touched = |w: &Window| w.withholds && w.touches(owner.instance) && w.from < at && w.to + SETTLE > at;
        let calm = owner.end() + 5000 > at && !windows.iter().any(touched);
        let left = book.departures.iter().any(|left| welcome <= *left && *left <= at + 3000);
        let lost = losses.iter().any(|loss| loss.at > at.saturating_sub(20_000) && loss.at < at + 3000);
        if (fresh || calm) && !left && !lost {
            let story =
                format!("{:?} at {}, while {} was here since {}", imposture.name, show(at), book.name, show(welcome));
            verdict.broken.push(Broken { what: "a name was given to a second client", story });
        }
    }
}

/// Each mark belongs to one client.
fn marks(verdict: &mut Verdict, books: &[&Book]) {
    let mut owners: HashMap<&str, &str> = HashMap::new();
    for book in books.iter().filter(|b| !b.by.is_empty()) {
        if let Some(other) = owners.insert(&book.by, &book.name) {
            let story = format!("{other} and {} are both {}", book.name, book.by);
            verdict.broken.push(Broken { what: "two clients have one mark", story });
        }
    }
}

/// Nobody may see someone leave who was on an undisturbed instance all the time.
fn seen_leaving(verdict: &mut Verdict, book: &Book, all: &[&Book], windows: &[Window]) {
    for change in &book.changes {
        for name in &change.left {
            let long = change.at.saturating_sub(20_000);
            let here = |c: &&Connection| c.welcome.is_some_and(|w| w <= long) && c.end() > change.at + 500;
            let Some(other) = all.iter().find(|b| b.name == *name && b.room == book.room) else {
                continue;
            };
            let Some(connection) = other.connections.iter().find(here) else {
                continue;
            };
            let touched = |w: &Window| {
                w.withholds && w.touches(connection.instance) && w.from < change.at && w.to + SETTLE > long
            };
            if !windows.iter().any(touched) {
                let story = format!(
                    "{} was told at {} that {name} left, who sat on instance {} since {}",
                    book.name,
                    show(change.at),
                    connection.instance,
                    show(connection.welcome.unwrap_or_default())
                );
                verdict.broken.push(Broken { what: "seen leaving, but here", story });
            }
        }
    }
}

/// On a data file, nobody may see someone leave who sent no close frame and was away for less than the lease, whatever
/// happened to the process.
fn seen_leaving_at_all(verdict: &mut Verdict, book: &Book, all: &[&Book]) {
    for change in &book.changes {
        for name in &change.left {
            let Some(other) = all.iter().find(|b| b.name == *name && b.room == book.room) else {
                continue;
            };
            let recently = change.at.saturating_sub(LEASE)..=change.at;
            let here = |c: &Connection| c.welcome.is_some_and(|w| w <= change.at) && c.end() > *recently.start();
            if other.connections.iter().any(here) && !other.departures.iter().any(|left| recently.contains(left)) {
                let at = show(change.at);
                let story = format!("{} was told at {at} that {name} left, who had not", book.name);
                verdict.broken.push(Broken { what: "seen leaving, but here", story });
            }
        }
    }
}
