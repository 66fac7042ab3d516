//! Connections that have not joined: all plain HTTP connections, and WebSockets before their `welcome`.
//!
//! They have a share of the slots. When it is used up, a new connection replaces the one that has been silent longest,
//! so that idle connections cannot lock anyone out, health checks included. A request that waits for messages counts as
//! silent too; its client sends it again. A WebSocket is not replaced while its `join` may be on its way, if there are others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Shutdown};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fanout::socket::SharedSocket;

/// A WebSocket gets this long to join before another connection may replace it, and another connection this long to send its
/// request: enough for a health check. If none has had that time, the one silent longest is replaced nevertheless.
const GRACE: Duration = Duration::from_millis(500);
const SHORT_GRACE: Duration = Duration::from_millis(50);

/// Connections that have not joined, ordered by their last activity.
pub struct Lobby {
    places: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Keyed by a number that grows with each activity: the first entry has been silent longest.
    guests: BTreeMap<u64, Entry>,
    next: u64,
}

struct Entry {
    wire: Arc<SharedSocket>,
    peer: IpAddr,
    since: Instant,
    /// Whether it is a WebSocket, which holds a session slot.
    upgraded: bool,
    /// Whether its join is waiting, or being carried out.
    joins: bool,
}

impl Lobby {
    /// A lobby with this many places.
    pub fn new(places: usize) -> Arc<Lobby> {
        Arc::new(Lobby { places, waiting: Mutex::default() })
    }

    /// Adds a connection. If the lobby is full, closes the one silent for longest and returns that one's address.
    pub fn enter(self: &Arc<Lobby>, wire: &Arc<SharedSocket>, peer: IpAddr) -> (Guest, Option<IpAddr>) {
        let mut waiting = self.waiting();
        let gone = if waiting.guests.len() >= self.places { waiting.dismiss_any() } else { None };
        let entry = Entry { wire: wire.clone(), peer, since: Instant::now(), upgraded: false, joins: false };
        let number = waiting.add(entry);
        drop(waiting);
        (Guest { lobby: self.clone(), number }, gone)
    }

    /// Closes the connection that has been silent longest and returns its address.
    pub fn dismiss(&self) -> Option<IpAddr> {
        self.waiting().dismiss_any()
    }

    /// Closes the WebSocket that has waited longest to join and returns its address.
    pub fn dismiss_session(&self) -> Option<IpAddr> {
        self.waiting().dismiss(|entry| entry.upgraded && entry.has_had_time())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether it has had the time to send its request or its join, and no join of it waits.
    fn has_had_time(&self) -> bool {
        !self.joins && self.since.elapsed() >= if self.upgraded { GRACE } else { SHORT_GRACE }
    }
}

impl Waiting {
    fn add(&mut self, entry: Entry) -> u64 {
        self.next += 1;
        self.guests.insert(self.next, entry);
        self.next
    }

    fn dismiss_any(&mut self) -> Option<IpAddr> {
        self.dismiss(Entry::has_had_time).or_else(|| self.dismiss(|_| true))
    }

    fn dismiss(&mut self, which: impl Fn(&Entry) -> bool) -> Option<IpAddr> {
        let number = *self.guests.iter().find(|(_, entry)| which(entry))?.0;
        let entry = self.guests.remove(&number)?;
        // Its thread is blocked in a read, which returns now.
        let _ = entry.wire.tcp.shutdown(Shutdown::Both);
        Some(entry.peer)
    }
}

/// A connection's place in the lobby, given up when dropped.
pub struct Guest {
    lobby: Arc<Lobby>,
    number: u64,
}

impl Guest {
    /// Records activity: the connection moves to the end of the order.
    pub fn touch(&mut self) {
        self.renew(false);
    }

    /// Records that the connection is now a WebSocket.
    pub fn upgrade(&mut self) {
        self.renew(true);
    }

    /// Records whether its join is waiting or being carried out: meanwhile it is not replaced if there are others.
    pub fn set_joins(&mut self, joins: bool) {
        if let Some(entry) = self.lobby.waiting().guests.get_mut(&self.number) {
            entry.joins = joins;
        }
    }

    fn renew(&mut self, upgraded: bool) {
        let mut waiting = self.lobby.waiting();
        // Absent if the connection was dismissed.
        if let Some(entry) = waiting.guests.remove(&self.number) {
            self.number = waiting.add(Entry { since: Instant::now(), upgraded, ..entry });
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.lobby.waiting().guests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    /// A client's end of a new connection, its place, and whose place that was.
    fn arrive_at(lobby: &Arc<Lobby>) -> (TcpStream, Guest, Option<IpAddr>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (server, peer) = listener.accept().expect("connected");
        let (guest, gone) = lobby.enter(&SharedSocket::new(server), peer.ip());
        (client, guest, gone)
    }

    #[test]
    fn the_one_silent_longest_makes_place() {
        let lobby = Lobby::new(2);
        let arrive = || arrive_at(&lobby);
        let (mut one, mut first, gone) = arrive();
        let (mut two, second, _) = arrive();
        assert_eq!(gone, None);
        first.touch();
        let (_three, third, gone) = arrive();
        assert_eq!((gone.is_some(), two.read(&mut [0]).expect("its end")), (true, 0));
        assert_eq!(lobby.dismiss_session(), None, "none is a WebSocket");
        drop(second);
        drop(third);
        let (mut four, mut fourth, gone) = arrive();
        assert_eq!(gone, None, "the third gave its place back");
        fourth.upgrade();
        assert_eq!(lobby.dismiss_session(), None, "it has only just come");
        first.touch();
        std::thread::sleep(SHORT_GRACE);
        assert!(lobby.dismiss().is_some() && one.read(&mut [0]).expect("its end") == 0, "the fourth has to join first");
        assert!(lobby.dismiss().is_some() && four.read(&mut [0]).expect("its end") == 0, "there is no other");
    }

    #[test]
    fn a_join_that_waits_is_kept() {
        let lobby = Lobby::new(2);
        let [(_one, mut joining, _), (_two, mut silent, _)] = [(); 2].map(|()| arrive_at(&lobby));
        joining.upgrade();
        silent.upgrade();
        joining.set_joins(true);
        std::thread::sleep(GRACE);
        assert!(lobby.dismiss_session().is_some(), "the other one, which was silent");
        assert_eq!(lobby.dismiss_session(), None, "its join waits");
        joining.set_joins(false);
        assert!(lobby.dismiss_session().is_some(), "it was refused");
    }
}
