//! Bobbin: a realtime chat server that a person can read in an afternoon.
//!
//! No async runtime. One OS thread a connection, a few lanes that write to all sockets, Redis between any number of
//! copies, one port, one binary with the page inside. It is not a framework and not a message broker: it keeps rooms,
//! people and messages, and the six promises of its wire contract (see the README).
//!
//! The way of a message: [`session`] reads it and hands it to the [`backplane`]; that keeps it and tells all tasks;
//! each task's [`lanes`] write it to their sessions' [`outbox`]es. The modules stand in the order in which a newcomer
//! should read them; each uses only those below it.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

// Wires the parts, waits for a signal, ends in order.
pub mod server;

// Accepts connections and reads request heads.
pub mod door;

// What is answered over plain HTTP.
pub mod pages;

// One client, from its join to its end.
pub mod session;

// The socket as tungstenite sees it.
pub mod stream;

// Evens the load out after a scale-out.
pub mod shedding;

// What every connection's thread needs.
pub mod shared;

// Fan-out: the threads that write.
pub mod lanes;

// One of those threads.
pub mod lane;

// Goodbyes, spread over a time.
pub mod drain;

// One client's write side.
pub mod outbox;

// A socket that two threads share.
pub mod wire;

// Where rooms are kept, and how tasks hear of each other.
pub mod backplane;

// The frames of the wire contract.
pub mod protocol;

// The settings, checked.
pub mod settings;

// Counters, and how they are told.
pub mod metrics;

// Named threads, their stacks, and what their panic means.
pub mod threads;

// Rates, slots and what the machine can bear.
pub mod limits;
