//! Bobbin: a realtime chat server that a person can read in an afternoon.
//!
//! No async runtime. One OS thread per connection, a few lanes that write to all sockets, Redis between any number of
//! instances, one port, one binary with the page inside. It is not a framework and not a message broker: it keeps rooms,
//! people and messages, and the six promises of its wire contract, `docs/protocol.md`.
//!
//! The way of a message: [`session`] reads it and hands it to the [`backplane`], which keeps it and publishes it to all
//! instances; each instance's [`fanout`] writes it to the sessions of that room. The modules stand in the order in which a newcomer
//! should read them; each uses only those below it.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

// Wires the parts together, waits for a signal, ends in order.
pub mod server;

// Reports to systemd: ready, stopping.
pub mod notify;

// What the binary does besides serving: the host's tools from a shell, and a check of the settings.
pub mod tools;

// Moves sessions to other instances after a scale-out.
pub mod rebalance;

// Accepts connections, reads request heads, answers plain HTTP.
pub mod http;

// One client, from its join to its end.
pub mod session;

// What every connection's thread needs.
pub mod app;

// Connections that have not joined, and which of them goes first.
pub mod lobby;

// Fan-out: the threads that write to all sockets.
pub mod fanout;

// Where rooms are kept, and how instances reach each other.
pub mod backplane;

// The page and its files, as browsers get them.
pub mod site;

// The settings, checked.
pub mod settings;

// Counters, and the two forms in which they are published.
pub mod metrics;

// The frames of the wire contract, and its rules for names, texts and ids.
pub mod protocol;

// The log, and its limits.
pub mod logging;

// Named threads, their stacks, and what their panic means.
pub mod threads;

// Rates, slots and what the machine can bear.
pub mod limits;
