//! What counts against an address only as long as its owner keeps it.

use std::sync::Arc;
use std::time::Instant;

use super::account::Account;
use super::limit::{Limit, Refusal};
use super::usage::Usage;

impl Account {
    /// Counts a connection that has just been accepted until the returned value is dropped, which happens when it becomes a
    /// WebSocket. `cap` is the server's total slots.
    ///
    /// # Errors
    /// The address has too many connections, or opens them too fast.
    pub fn accept(self: &Arc<Account>, cap: usize, now: Instant) -> Result<Connected, Refusal> {
        let mut usages = self.usages(now);
        usages.iter_mut().try_for_each(|usage| usage.may_accept(cap, now))?;
        for usage in &mut usages {
            usage.arrivals.charge(1.0);
            usage.guests += 1;
        }
        Ok(Connected(self.clone(), |usage| &mut usage.guests))
    }

    /// Counts a new WebSocket until the returned value is dropped. `free` and `cap` are the server's free and total slots.
    ///
    /// # Errors
    /// The address has too many WebSockets, or opens them too fast.
    pub fn connect(self: &Arc<Account>, free: usize, cap: usize, now: Instant) -> Result<Connected, Refusal> {
        let mut usages = self.usages(now);
        usages.iter_mut().try_for_each(|usage| usage.may_connect(free, cap, now))?;
        for usage in &mut usages {
            usage.new_connections.charge(1.0);
            usage.connections += 1;
        }
        Ok(Connected(self.clone(), |usage| &mut usage.connections))
    }

    /// Counts a room that a join may open. Dropping the returned value takes it back.
    ///
    /// # Errors
    /// The address has opened too many.
    pub fn new_room(self: &Arc<Account>, room: &str, now: Instant) -> Result<NewRoom, Refusal> {
        let mut new_room = NewRoom { room: room.to_owned(), counted_by: Vec::new() };
        for account in std::iter::once(self).chain(&self.network) {
            let counted = account.usage(now).rooms.open(room, now);
            if !counted.map_err(|wait| Refusal { limit: Limit::Rooms, wait })? {
                // Known to the address, so its network is not charged either.
                break;
            }
            new_room.counted_by.push(account.clone());
        }
        Ok(new_room)
    }

    /// Counts a waiting request until the returned value is dropped; `None` if the address already has its share of all
    /// `places`, of which this many are `free`.
    pub fn poll(self: &Arc<Account>, free: usize, places: usize) -> Option<Polling> {
        let mut usages = self.usages(Instant::now());
        if !usages.iter().all(|usage| usage.may_poll(free, places)) {
            return None;
        }
        usages.iter_mut().for_each(|usage| usage.polls += 1);
        Some(Polling(self.clone()))
    }
}

/// A connection counted against its address until this is dropped, and where it is counted.
pub struct Connected(Arc<Account>, fn(&mut Usage) -> &mut usize);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.usages(Instant::now()).iter_mut().for_each(|usage| *self.1(usage) -= 1);
    }
}

/// A waiting request counted against its address until this is dropped. See [`Account::poll`].
pub struct Polling(Arc<Account>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.usages(Instant::now()).iter_mut().for_each(|usage| usage.polls -= 1);
    }
}

/// A room counted against an address, unless this is dropped. See [`Account::new_room`].
pub struct NewRoom {
    room: String,
    /// Not those that knew the room already.
    counted_by: Vec<Arc<Account>>,
}

impl NewRoom {
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
