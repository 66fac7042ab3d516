//! Bobbin: a realtime chat server that a person can read in an afternoon.
//!
//! No async runtime: one OS thread per connection, a few lanes that write to all sockets, Redis between any number of
//! instances, one port, and one binary with the page inside. It is not a framework and not a message broker. It keeps
//! rooms, people and messages, and the six promises of its wire contract, `docs/protocol.md`.
//!
//! The way of a message: its sender's [`session`] reads it and passes it to the [`backplane`], which keeps it and
//! publishes it to all instances; on each of them [`fanout`] writes it to the sessions of that room.
//!
//! Modules are declared in reading order, and each uses only those below it.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

// Startup, signals and shutdown.
pub mod server;

// Notifies systemd of readiness and shutdown.
pub mod notify;

// Subcommands and `--check`: everything the binary does besides serving.
pub mod tools;

// Moves sessions to other instances after a scale-out.
pub mod rebalance;

// Accepts connections, reads request heads and answers plain HTTP.
pub mod http;

// One WebSocket client, from its join to its end.
pub mod session;

// State shared by all connection threads.
pub mod app;

// Connections that have not joined, and which of them is closed first when slots run out.
pub mod lobby;

// Lanes: the threads that write to all WebSockets.
pub mod fanout;

// Where rooms are kept, and how instances reach each other: one SQLite file or Redis.
pub mod backplane;

// The page and its files, as sent to browsers.
pub mod site;

// Settings, from flags and environment variables.
pub mod settings;

// Metrics, for Prometheus and CloudWatch.
pub mod metrics;

// The frames of the wire contract, and the rules for names, texts and ids.
pub mod protocol;

// The log format, and throttling of repeated lines.
pub mod logging;

// Starting threads: their names, stacks, and what a panic in one means.
pub mod threads;

// Limits per address, rates, and how many connections the machine can hold.
pub mod limits;
