//! Inspects the healed system: is every client up to date, does it know who is present, and what does the log contain?
//! Waits with a deadline, then returns what is still wrong.

use super::client;
use super::clock::{self, At};
use super::ledger::{Facts, Id};
use super::stage::Stage;
use super::wire::{Got, Wire};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// The log of a room, read from its history pages.
pub type Log = BTreeMap<Id, Facts>;

/// Waits until `missing` returns nothing; returns the time that took, or what is still missing.
pub fn wait_until_none(within: At, missing: impl Fn() -> Vec<String>) -> Result<At, Vec<String>> {
    let start = clock::now();
    loop {
        let now = missing();
        if now.is_empty() {
            return Ok(clock::now() - start);
        }
        if clock::now() > start + within {
            return Err(now);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Clients that never received a welcome.
pub fn never_joined(stage: &Stage) -> Vec<String> {
    let books = stage.ledger.clients.iter().map(|c| c.lock().expect("nobody panics holding it"));
    books.filter(|book| book.participants == 0).map(|book| book.name.clone()).collect()
}

/// Instances that have sent no receipt since then.
pub fn instances_without_receipt(stage: &Stage, since: At) -> Vec<String> {
    let instances = stage.backplane.instances();
    let mut receipts = vec![0; instances];
    for client in &stage.ledger.clients {
        let book = client.lock().expect("nobody panics holding it");
        for (at, _, instance) in book.messages.iter().rev().take(20).filter_map(|m| m.receipt) {
            receipts[instance] += usize::from(at > since);
        }
    }
    let without = (0..instances).filter(|instance| receipts[*instance] == 0);
    without.map(|instance| format!("instance {instance}")).collect()
}

/// Clients that are not connected, have messages without an answer, or lack messages that others have.
pub fn not_caught_up(stage: &Stage) -> Vec<String> {
    let mut missing = Vec::new();
    for client in &stage.ledger.clients {
        let book = client.lock().expect("nobody panics holding it");
        let joined = book.connections.last().filter(|c| c.welcome.is_some() && c.ended.is_none());
        let Some(connection) = joined else {
            let how = book.connections.last().map(|c| format!("{c:?}"));
            missing.push(format!("{} is not joined: {how:?}", book.name));
            continue;
        };
        let waiting = book.messages.iter().filter(|m| m.receipt.is_none() && !m.given_up).count();
        if waiting > 0 {
            missing.push(format!("{} on instance {} waits for {waiting} receipts", book.name, connection.instance));
        }
        let newest = stage.ledger.newest(&book.room);
        if connection.hole.is_some() || newest.is_some_and(|id| id > book.began && !book.seen.contains_key(&id)) {
            missing.push(format!("{} on instance {} has not seen {newest:?}", book.name, connection.instance));
        }
    }
    missing
}

/// Clients whose view of who is present is wrong.
pub fn wrong_counts(stage: &Stage) -> Vec<String> {
    let mut here: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for client in &stage.ledger.clients {
        let book = client.lock().expect("nobody panics holding it");
        here.entry(book.room.clone()).or_default().insert(book.name.clone());
    }
    let mut wrong = Vec::new();
    for client in &stage.ledger.clients {
        let book = client.lock().expect("nobody panics holding it");
        let right = &here[&book.room];
        let instance = book.connections.last().map_or(0, |c| c.instance);
        let named = !book.all_named || book.names == *right;
        if book.participants != right.len() as u64 || !named {
            let ghosts: Vec<_> = book.names.difference(right).collect();
            let unseen: Vec<_> = right.difference(&book.names).collect();
            wrong.push(format!(
                "{} in {} on instance {instance}: count {} for {}, ghosts {ghosts:?}, unseen {unseen:?}",
                book.name,
                book.room,
                book.participants,
                right.len()
            ));
        }
        if book.backplane_down {
            wrong.push(format!("{} on instance {instance}: status says that Redis is down", book.name));
        }
    }
    wrong
}

/// Joins a room as a new client and checks the `welcome`. Retries for up to `within` while it is wrong.
/// After Redis has lost its data, an instance may take 10 s to learn of joins that it missed while disconnected, and clients
/// that disconnected without a close frame stay until their leases expire. Returns the room's log if `read` is set,
/// otherwise an empty log.
pub fn visit(
    stage: &Stage,
    addr: SocketAddr,
    instance: usize,
    room: &str,
    read: bool,
    within: At,
) -> Result<Log, String> {
    let start = clock::now();
    loop {
        let outcome = look_in(stage, addr, instance, room, read);
        if outcome.is_ok() || clock::now() > start + within {
            return outcome;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn look_in(stage: &Stage, addr: SocketAddr, instance: usize, room: &str, read: bool) -> Result<Log, String> {
    let name = format!("visitor-{instance}");
    let mut right: BTreeSet<String> = BTreeSet::from([name.clone()]);
    for client in &stage.ledger.clients {
        let book = client.lock().expect("nobody panics holding it");
        if book.room == room {
            right.insert(book.name.clone());
        }
    }
    let mut wire = Wire::open(addr, room, None)?;
    wire.send(&json!({"type": "join", "name": name, "client": format!("secret-of-the-{name}")}))?;
    let welcome = answer(&mut wire, "welcome")?;
    let names = welcome["names"].as_array().cloned().unwrap_or_default();
    let names: BTreeSet<String> = names.iter().filter_map(|n| n.as_str().map(Into::into)).collect();
    if names != right || welcome["participants"] != right.len() {
        let (ghosts, unseen): (Vec<_>, Vec<_>) =
            (names.difference(&right).collect(), right.difference(&names).collect());
        return Err(format!(
            "welcome in {room} on instance {instance}: count {} for {}, ghosts {ghosts:?}, unseen {unseen:?}",
            welcome["participants"],
            right.len()
        ));
    }
    let log = if read { read_back(&mut wire, welcome)? } else { Log::new() };
    wire.leave();
    Ok(log)
}

/// Pages back from a welcome to the beginning of the log.
fn read_back(wire: &mut Wire, welcome: Value) -> Result<Log, String> {
    let mut log = Log::new();
    let mut page = welcome;
    loop {
        let messages = page["messages"].as_array().cloned().unwrap_or_default();
        for message in &messages {
            let (id, facts) = client::parse(message).ok_or_else(|| format!("not a message: {message}"))?;
            log.insert(id, facts);
        }
        let first = messages.first().and_then(client::parse).map(|(id, _)| id);
        let (true, Some(first)) = (page["more"] == true, first) else {
            return Ok(log);
        };
        // 50 requests per second are allowed, 200 at once; a long log takes more.
        thread::sleep(Duration::from_millis(20));
        wire.send(&json!({"type": "history", "before": first.to_string(), "limit": 100}))?;
        page = answer(wire, "history")?;
    }
}

fn answer(wire: &mut Wire, kind: &str) -> Result<Value, String> {
    let deadline = clock::now() + 10_000;
    while clock::now() < deadline {
        match wire.read(Duration::from_millis(100)) {
            Got::Frame(frame) if frame["type"] == kind => return Ok(frame),
            Got::Frame(frame) if frame["type"] == "error" => return Err(frame.to_string()),
            Got::Frame(_) | Got::Nothing { .. } => {}
            Got::Close(code) => return Err(format!("closed with {code}")),
            Got::Broken(how) => return Err(how),
        }
    }
    Err(format!("no {kind} within 10 s"))
}
