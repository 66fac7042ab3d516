//! Who the clients here believe to be in a room. Changes of presence are only published, not logged: what happened
//! while the subscription was away was never heard. So a task that has it back compares what it told its clients with
//! who is there, and tells them the difference.

use std::collections::HashSet;
use std::time::Instant;

use crate::backplane::Change;

/// The shown names in one room that any client here may show.
#[derive(Debug, Default)]
pub struct Roster {
    names: HashSet<String>,
    /// When Redis was last asked who is there: changes up to then are in `names`, though they may be read only later.
    asked: u64,
    /// When the newest client was welcomed. What it was told then may be newer than what the others were.
    welcomed: Option<Instant>,
}

impl Roster {
    /// A roster of those who are there, by the answer of that moment.
    pub fn new(names: Vec<String>, stamp: u64) -> Roster {
        Roster { names: names.into_iter().collect(), asked: stamp, welcomed: None }
    }

    /// Adds what a newcomer is told.
    pub fn welcome(&mut self, names: Vec<String>, now: Instant) {
        self.names.extend(names);
        self.welcomed = Some(now);
    }

    /// Whether someone was welcomed after that.
    pub fn welcomed_after(&self, then: Instant) -> bool {
        self.welcomed.is_some_and(|at| at > then)
    }

    /// Follows a change; whether it is news, and so has to be told.
    pub fn follow(&mut self, change: &Change) -> bool {
        if change.stamp <= self.asked {
            return false;
        }
        for name in &change.left {
            self.names.remove(name);
        }
        self.names.extend(change.joined.iter().cloned());
        true
    }

    /// What has to be told so that it is right, if anything. `stamp` is when these were there. Where some clients know
    /// fewer names than others, `all` are told.
    pub fn correct(&mut self, there: Vec<String>, stamp: u64, all: bool) -> Option<Change> {
        let there: HashSet<String> = there.into_iter().collect();
        let joined: Vec<String> = there.iter().filter(|&name| all || !self.names.contains(name)).cloned().collect();
        let left: Vec<String> = self.names.difference(&there).cloned().collect();
        let participants = there.len() as u64;
        (self.names, self.asked) = (there, stamp);
        let news = !joined.is_empty() || !left.is_empty();
        news.then_some(Change { joined, left, participants, stamp, about: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_heard_is_told_later() {
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
        let mut roster = Roster::new(names(&["Ada", "Bob"]), 5);
        let change = Change { joined: names(&["Cid"]), left: names(&["Ada"]), stamp: 6, ..Change::default() };
        assert!(roster.follow(&change));
        assert_eq!(roster.correct(names(&["Bob", "Cid"]), 7, false), None);
        let change = roster.correct(names(&["Cid", "Dee"]), 8, false).expect("one came, one went");
        assert_eq!((change.joined, change.left), (names(&["Dee"]), names(&["Bob"])));
        assert_eq!((change.participants, change.stamp), (2, 8));
        assert!(!roster.follow(&Change { joined: names(&["Dee"]), stamp: 8, ..Change::default() }), "known by then");
        assert_eq!(roster.correct(names(&["Dee", "Cid"]), 9, false), None);
        roster.welcome(names(&["Dee", "Eve"]), Instant::now());
        assert_eq!(roster.correct(names(&["Cid", "Dee"]), 9, false).expect("Eve went").left, names(&["Eve"]));
        assert_eq!(roster.correct(names(&["Dee"]), 10, true).expect("all are named").joined, names(&["Dee"]));
    }
}
