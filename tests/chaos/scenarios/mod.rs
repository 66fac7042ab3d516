//! The scenarios by topic, and what they share: an arena at rest, and assertions about its outcome.

mod clocks;
mod crowds;
mod presence;
mod redis;
mod restarts;
mod tools;

use super::arena::{Arena, Backplane, Outcome, Talk};
use super::clock::{self, At};
use super::common::{Client, poll_until};
use super::fault::Fault;
use super::inspect;
use super::ledger::Book;
use super::schedule::Planned;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// An arena in which everyone has joined and knows who is present, and no notices have been recorded.
pub fn calm(rooms: &[Talk], settings: &[(&str, &str)]) -> Arena {
    calm_on(Backplane::Redis, rooms, settings)
}

pub fn calm_on(backplane: Backplane, rooms: &[Talk], settings: &[(&str, &str)]) -> Arena {
    let arena = Arena::start(backplane, rooms, 1, settings);
    let right = inspect::wait_until_none(10_000, || inspect::wrong_counts(&arena.stage));
    right.unwrap_or_else(|wrong| panic!("at the start: {}", wrong.join("\n")));
    for client in &arena.stage.ledger.clients {
        client.lock().unwrap().changes.clear();
    }
    arena
}

pub fn fault(fault: Fault, instance: usize, from: At, length: At) -> Planned {
    Planned { fault, from, to: from + length, instance: Some(instance) }
}

#[track_caller]
pub fn all_held(outcome: &Outcome) {
    outcome.print();
    // Repeated here, because the output of tests that run together is only printed for the first of them.
    let broken: Vec<String> =
        outcome.verdict.broken.iter().map(|one| format!("{}\n    {}", one.what, one.story)).collect();
    assert!(broken.is_empty(), "promises were broken:\n{}", broken.join("\n"));
}

/// Asserts that no presence was published except about the visitors at the end, and that there were no errors or closes
/// except these.
#[track_caller]
pub fn nobody_noticed(outcome: &Outcome, but: &[&str]) {
    let all: Vec<_> = outcome.stage.ledger.clients.iter().map(|c| c.lock().unwrap()).collect();
    // In the end all leave, and those still connected may be notified.
    let end = first_departure(&all);
    for book in &all {
        let names = book.changes.iter().filter(|c| c.at < end).flat_map(|c| c.joined.iter().chain(&c.left));
        let seen: BTreeSet<_> = names.filter(|name| !name.starts_with("visitor")).collect();
        assert!(seen.is_empty(), "{} was told that these came or left: {seen:?}", book.name);
        // A page of history may be refused while the previous one is being written, and a join or a message after 2 s on a
        // busy machine; then they are sent again.
        let again = ["rate_limited", "late join: rate_limited", "late join: unavailable", "late message: unavailable"];
        let allowed = |code: &str| again.contains(&code) || but.contains(&code);
        let others: Vec<_> = book.errors.keys().filter(|code| !allowed(code)).collect();
        assert!(others.is_empty(), "{} met {others:?}", book.name);
    }
}

/// When the first client left.
fn first_departure(all: &[std::sync::MutexGuard<'_, Book>]) -> At {
    all.iter().flat_map(|book| book.departures.iter().copied()).min().unwrap_or(At::MAX)
}

/// Asserts that no client was notified of another leaving before they all did.
#[track_caller]
pub fn nobody_left(outcome: &Outcome) {
    let all: Vec<_> = outcome.stage.ledger.clients.iter().map(|c| c.lock().unwrap()).collect();
    let end = first_departure(&all);
    for book in &all {
        let early = book.changes.iter().filter(|c| c.at < end).flat_map(|c| &c.left);
        let left: Vec<_> = early.filter(|name| !name.starts_with("visitor")).collect();
        assert!(left.is_empty(), "{} was told that these left: {left:?}", book.name);
    }
}

/// Waits until all clients on the other instances know that those on this one, and `more`, are gone.
#[track_caller]
pub fn gone_within_20_s(arena: &Arena, instance: usize, more: &[&str]) {
    let on_it = |book: &Book| book.connections.last().is_some_and(|c| c.instance == instance);
    let start = Instant::now();
    poll_until("those on the instance are gone for all others", Duration::from_millis(20_500), || {
        // Clients that reconnected to another instance meanwhile are rightly present.
        let away: BTreeSet<String> = books(arena).filter(|b| on_it(b)).map(|b| b.name.clone()).collect();
        books(arena).filter(|b| !on_it(b)).all(|book| {
            book.names.is_disjoint(&away)
                && more.iter().all(|name| !book.names.contains(*name))
                && book.participants == book.names.len() as u64
        })
    });
    println!("gone for all others after {:?}", start.elapsed());
}

pub fn books(arena: &Arena) -> impl Iterator<Item = std::sync::MutexGuard<'_, Book>> {
    arena.stage.ledger.clients.iter().map(|client| client.lock().unwrap())
}
