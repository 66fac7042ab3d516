//! What the clients and the director share: the ledger, the instances' addresses, and orders. Threads do not call each
//! other; each reads the shared state when it is ready.

use super::arena::Backplane;
use super::clock::At;
use super::ledger::Ledger;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// State shared by the director and the clients.
pub struct Stage {
    pub ledger: Ledger,
    pub backplane: Backplane,
    pub rooms: Vec<String>,
    /// The current address of each instance.
    pub instances: Mutex<Vec<SocketAddr>>,
    /// Whether clients send new messages.
    pub talking: AtomicBool,
    /// Whether clients leave for good.
    pub ending: AtomicBool,
    pub orders: Vec<Mutex<Option<Order>>>,
}

/// What the director orders a client to do, once it is connected. Times are those at which it may come back: a client that
/// is not connected when the order comes must not stay away after everything is healed.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Its connection breaks, without a close frame.
    Cut,
    /// Its connection breaks and it stays away until then.
    Away(At),
    /// It sends a close frame and stays away until then.
    Leave(At),
}

/// Who a client is.
#[derive(Clone)]
pub struct Role {
    pub index: usize,
    pub name: String,
    pub room: String,
    /// The only instance it connects to, or any.
    pub home: Option<usize>,
    /// The average time between two messages, in milliseconds.
    pub pace: At,
    /// The most messages per second it sends: slightly fewer than the server allows.
    pub most: f64,
}
