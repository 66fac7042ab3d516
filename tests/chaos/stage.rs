//! What the clients and the one who breaks things share: the ledger, where the instances are, and orders. Nobody here calls
//! anybody; each looks when it is time.

use super::arena::Backplane;
use super::clock::At;
use super::ledger::Ledger;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// What the director and the clients share.
pub struct Stage {
    pub ledger: Ledger,
    pub backplane: Backplane,
    pub rooms: Vec<String>,
    /// Where each instance listens at present.
    pub instances: Mutex<Vec<SocketAddr>>,
    /// Clients say new things.
    pub talking: AtomicBool,
    /// Clients leave for good.
    pub ending: AtomicBool,
    pub orders: Vec<Mutex<Option<Order>>>,
}

/// What the director makes a client do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Its connection breaks, without a close frame.
    Cut,
    /// Its connection breaks and it stays away for so many milliseconds.
    Away(At),
    /// It sends a close frame and stays away.
    Leave(At),
}

/// Who a client is.
#[derive(Clone)]
pub struct Role {
    pub index: usize,
    pub name: String,
    pub room: String,
    /// The only instance it goes to, or any.
    pub home: Option<usize>,
    /// Milliseconds between two messages, on average.
    pub pace: At,
    /// How many messages it sends in a second at the most: somewhat less than the server allows.
    pub most: f64,
}
