//! Who the clients here believe to be in a room. Changes of presence are only published, not logged: what happened
//! while the subscription was away was never heard. So a task that has it back compares what it told its clients with
//! who is there, and tells them the difference.

use std::collections::HashSet;

use super::Change;

/// The shown names in one room, as they were told.
#[derive(Debug, Default)]
pub struct Roster {
    names: HashSet<String>,
}

impl Roster {
    /// A roster of those who are there.
    pub fn new(names: Vec<String>) -> Roster {
        Roster { names: names.into_iter().collect() }
    }

    /// Follows a change that is told.
    pub fn follow(&mut self, change: &Change) {
        for name in &change.left {
            self.names.remove(name);
        }
        self.names.extend(change.joined.iter().cloned());
    }

    /// What has to be told so that it is right, if anything. `stamp` is when these were there. After Redis `lost` its
    /// data, clients that joined before all names were taken again know fewer than the others: all are named.
    pub fn correct(&mut self, there: Vec<String>, stamp: u64, lost: bool) -> Option<Change> {
        let there: HashSet<String> = there.into_iter().collect();
        let joined: Vec<String> = there.iter().filter(|&name| lost || !self.names.contains(name)).cloned().collect();
        let left: Vec<String> = self.names.difference(&there).cloned().collect();
        let participants = there.len() as u64;
        self.names = there;
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
        let mut roster = Roster::new(names(&["Ada", "Bob"]));
        roster.follow(&Change { joined: names(&["Cid"]), left: names(&["Ada"]), ..Change::default() });
        assert_eq!(roster.correct(names(&["Bob", "Cid"]), 7, false), None);
        let change = roster.correct(names(&["Cid", "Dee"]), 8, false).expect("one came, one went");
        assert_eq!((change.joined, change.left), (names(&["Dee"]), names(&["Bob"])));
        assert_eq!((change.participants, change.stamp), (2, 8));
        assert_eq!(roster.correct(names(&["Dee", "Cid"]), 9, false), None);
        assert_eq!(roster.correct(names(&["Dee"]), 10, true).expect("all are named").joined, names(&["Dee"]));
    }
}
