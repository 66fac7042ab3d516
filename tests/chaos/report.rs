//! The table at the end of a run, and the stories of broken promises.

use super::arena::Outcome;
use super::clock::{At, show};
use super::ledger::{Answer, Ledger, Window};
use std::collections::BTreeMap;

/// The most stories printed per kind of violation.
const STORIES: usize = 3;
/// The longest acceptable time from a heal to an instance's first receipt: a reconnect delay of 5 s, the clients' own
/// delay, and the probe.
const RECOVERS_WITHIN: At = 20_000;

pub fn print(outcome: &Outcome) {
    let (ledger, verdict) = (&outcome.stage.ledger, &outcome.verdict);
    let windows = ledger.windows.lock().expect("all is over");
    let recoveries = recoveries(ledger, &windows, outcome.stage.backplane.instances());
    println!("{:<42} {:>5} {:>22}", "fault", "times", "worst time to recover");
    let mut kinds: BTreeMap<&str, (usize, Option<At>)> = BTreeMap::new();
    for (window, recovery) in windows.iter().zip(&recoveries) {
        let kind = kinds.entry(&window.what).or_default();
        kind.0 += 1;
        kind.1 = kind.1.max(*recovery);
    }
    for (what, (times, worst)) in &kinds {
        println!("{what:<42} {times:>5} {:>22}", worst.map_or("-".into(), show));
    }
    let books: Vec<_> = ledger.clients.iter().map(|c| c.lock().expect("all is over")).collect();
    let sum = |count: &dyn Fn(&super::ledger::Book) -> usize| books.iter().map(|b| count(b)).sum::<usize>();
    let messages = sum(&|b| b.messages.len());
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for (code, count) in books.iter().flat_map(|b| &b.errors) {
        *errors.entry(code).or_default() += count;
    }
    println!();
    println!(
        "messages {messages}, receipts {}, resends {}, given up after an error {}",
        sum(&|b| b.messages.iter().filter(|m| m.receipt.is_some()).count()),
        sum(&|b| b.attempts.len()) - messages.min(sum(&|b| b.attempts.len())),
        sum(&|b| b.messages.iter().filter(|m| m.given_up).count())
    );
    println!(
        "deliveries {}, connections {}, of which joined {}, pages of history fetched {}",
        sum(&|b| b.seen.len()),
        sum(&|b| b.connections.len()),
        sum(&|b| b.connections.iter().filter(|c| c.welcome.is_some()).count()),
        sum(&|b| b.pages as usize)
    );
    println!(
        "errors and closes: {}",
        errors.iter().map(|(code, n)| format!("{code} {n}")).collect::<Vec<_>>().join(", ")
    );
    println!(
        "slowest refusal while Redis was away {}; data lost {} times, {} deliveries excused by that",
        show(verdict.slowest_refusal),
        ledger.losses.lock().expect("all is over").len(),
        verdict.excused
    );
    println!(
        "after the last heal: everybody caught up in {}, every count right in {}",
        show(outcome.caught_up_after),
        show(outcome.counts_right_after)
    );
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for broken in &verdict.broken {
        let times = told.entry(broken.what).or_default();
        *times += 1;
        if *times <= STORIES {
            println!("\nBROKEN: {}\n    {}", broken.what, broken.story);
        }
    }
    for (what, times) in told.iter().filter(|(_, times)| **times > STORIES) {
        println!("\n{what}: {} more", times - STORIES);
    }
}

/// Faults from which an instance took too long to recover.
pub fn slow_recoveries(ledger: &Ledger, instances: usize) -> Vec<String> {
    let windows = ledger.windows.lock().expect("all is over");
    let recoveries = recoveries(ledger, &windows, instances);
    let slow = windows.iter().zip(recoveries).filter(|(_, r)| r.is_some_and(|r| r > RECOVERS_WITHIN));
    slow.map(|(w, r)| {
        format!(
            "{} from {} to {}: first receipt after {}",
            w.what,
            show(w.from),
            show(w.to),
            show(r.unwrap_or_default())
        )
    })
    .collect()
}

/// For each fault, the longest time that an affected instance took from the heal to its first receipt; unknown if
/// another fault came in between.
fn recoveries(ledger: &Ledger, windows: &[Window], instances: usize) -> Vec<Option<At>> {
    let mut receipts: Vec<Vec<At>> = vec![Vec::new(); instances];
    for client in &ledger.clients {
        let book = client.lock().expect("all is over");
        for attempt in &book.attempts {
            if let Some((at, Answer::Receipt)) = attempt.answer {
                receipts[book.connections[attempt.connection].instance].push(at);
            }
        }
    }
    receipts.iter_mut().for_each(|at| at.sort());
    let one = |i: usize, instance: usize| -> Option<At> {
        let healed = windows[i].to;
        let first = *receipts[instance].get(receipts[instance].partition_point(|at| *at < healed))?;
        let others = windows.iter().enumerate().filter(|(j, w)| *j != i && w.withholds && w.touches(instance));
        let disturbed = others.into_iter().any(|(_, w)| w.from < first && w.to > healed);
        (!disturbed).then(|| first - healed)
    };
    let all = (0..windows.len()).map(|i| {
        let touched = (0..instances).filter(|instance| windows[i].withholds && windows[i].touches(*instance));
        touched.filter_map(|instance| one(i, instance)).max()
    });
    all.collect()
}
