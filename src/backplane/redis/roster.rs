//! The people in a room, as announced to this instance's clients. Changes of presence are published but not logged, so
//! those during a lost connection are missed. After reconnecting, the instance compares the roster with Redis and
//! announces the differences.

use std::collections::HashSet;

use crate::backplane::Change;

/// The shown names in one room, as this instance's clients know them.
#[derive(Debug, Default)]
pub struct Roster {
    /// `None` until they have been read: then all changes pass.
    names: Option<HashSet<String>>,
    /// Whether they are being read.
    is_reading: bool,
}

impl Roster {
    /// Whether the names have been read.
    pub fn is_known(&self) -> bool {
        self.names.is_some()
    }

    /// Whether these can be the names of this many people, one of whom is just joining and may not be among them yet. True if they
    /// are not known.
    pub fn may_be(&self, participants: u64, joining: &str) -> bool {
        let count = |names: &HashSet<String>| names.len() + usize::from(!names.contains(joining));
        self.names.as_ref().is_none_or(|names| count(names) as u64 == participants)
    }

    /// Returns whether the caller must read the names: they are neither known nor being read. Otherwise each of hundreds of
    /// joins to a room of thousands would read all of them.
    pub fn start_reading(&mut self) -> bool {
        !self.is_known() && !std::mem::replace(&mut self.is_reading, true)
    }

    /// The names could not be read.
    pub fn reading_failed(&mut self) {
        self.is_reading = false;
    }

    /// Applies a change and returns the part that is news. A repeated leave, sent again because its first reply was
    /// lost, is not.
    pub fn follow(&mut self, mut change: Change) -> Option<Change> {
        let Some(names) = &mut self.names else { return Some(change) };
        change.left.retain(|name| names.remove(name));
        change.joined.retain(|name| names.insert(name.clone()));
        (!change.joined.is_empty() || !change.left.is_empty()).then_some(change)
    }

    /// Replaces the names with those read from Redis at this stamp, and returns the difference, if any. If they were not known,
    /// there is none. With `all`, every present name counts as joined, because some clients may not know it.
    pub fn correct(&mut self, there: Vec<String>, stamp: u64, all: bool) -> Option<Change> {
        let there: HashSet<String> = there.into_iter().collect();
        let participants = there.len() as u64;
        let before = self.names.replace(there.clone()).or(all.then(HashSet::new))?;
        let joined: Vec<String> = there.iter().filter(|&name| all || !before.contains(name)).cloned().collect();
        let left: Vec<String> = before.difference(&there).cloned().collect();
        let news = !joined.is_empty() || !left.is_empty();
        news.then_some(Change { joined, left, participants, stamp, about: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn change(joined: &[&str], left: &[&str]) -> Change {
        Change { joined: names(joined), left: names(left), ..Change::default() }
    }

    #[test]
    fn what_was_missed_is_told_later() {
        let mut roster = Roster::default();
        assert!(!roster.is_known() && roster.follow(change(&["Zoe"], &[])).is_some());
        assert_eq!([roster.start_reading(), roster.start_reading()], [true, false]);
        roster.reading_failed();
        assert!(roster.start_reading());
        assert_eq!(roster.correct(names(&["Ada", "Bob"]), 5, false), None, "clients have it from their welcome");
        assert!(!roster.start_reading());
        assert_eq!(roster.follow(change(&["Cid"], &["Ada"])), Some(change(&["Cid"], &["Ada"])));
        assert_eq!(roster.correct(names(&["Bob", "Cid"]), 7, false), None);
        let news = roster.correct(names(&["Cid", "Dee"]), 8, false).expect("one came, one went");
        assert_eq!((news.joined, news.left, news.participants, news.stamp), (names(&["Dee"]), names(&["Bob"]), 2, 8));
        let news = roster.correct(names(&["Dee"]), 9, true).expect("all are named");
        assert_eq!((news.joined, news.left, news.participants), (names(&["Dee"]), names(&["Cid"]), 1));
        let news = Roster::default().correct(names(&["Dee"]), 9, true).expect("all are named");
        assert_eq!((news.joined, news.left, news.participants), (names(&["Dee"]), names(&[]), 1));
    }

    #[test]
    fn nothing_is_told_twice() {
        let mut roster = Roster::default();
        roster.correct(names(&["Ada", "Bob"]), 5, false);
        assert_eq!(roster.follow(change(&["Bob"], &[])), None);
        assert_eq!(roster.follow(change(&[], &["Ada"])), Some(change(&[], &["Ada"])));
        assert_eq!(roster.follow(change(&["Cid"], &["Ada"])), Some(change(&["Cid"], &[])));
        assert_eq!(roster.follow(change(&["Cid"], &["Cid"])), Some(change(&["Cid"], &["Cid"])), "another of this name");
    }
}
