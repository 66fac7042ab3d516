//! What counts against an address only as long as its owner keeps it.

use std::sync::Arc;
use std::time::Instant;

use super::account::Account;
use super::usage::Usage;

/// A connection counted against its address until this is dropped, and where it is counted.
pub struct Connected(pub(super) Arc<Account>, pub(super) fn(&mut Usage) -> &mut usize);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.usages(Instant::now()).iter_mut().for_each(|usage| *self.1(usage) -= 1);
    }
}

/// A waiting request counted against its address until this is dropped. See [`Account::poll`].
pub struct Polling(pub(super) Arc<Account>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.usages(Instant::now()).iter_mut().for_each(|usage| usage.polls -= 1);
    }
}

/// A room counted against an address, unless this is dropped. See [`Account::new_room`].
pub struct NewRoom {
    room: String,
    /// Not those that knew the room already.
    pub(super) counted_by: Vec<Arc<Account>>,
}

impl NewRoom {
    /// Not counted yet.
    pub(super) fn new(room: &str) -> NewRoom {
        NewRoom { room: room.to_owned(), counted_by: Vec::new() }
    }

    /// The room was opened.
    pub fn keep(mut self) {
        let now = Instant::now();
        self.counted_by.drain(..).for_each(|account| account.usage(now).rooms.keep(&self.room));
    }
}

impl Drop for NewRoom {
    fn drop(&mut self) {
        let now = Instant::now();
        self.counted_by.iter().for_each(|account| account.usage(now).rooms.take_back());
    }
}
