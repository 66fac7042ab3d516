//! Bobbin: a realtime chat server that a person can read in an afternoon.
//!
//! No async runtime: one OS thread per connection, a few lanes that write to all sockets, Redis between any number of
//! instances, one port, and one binary with the page inside. It is neither a framework nor a message broker. It has
//! rooms, people and messages, and makes the six promises of its wire contract, `docs/protocol.md`.
//!
//! The path of a message: its sender's [`session`] reads it and passes it to the [`backplane`], which keeps it and
//! publishes it to all instances; on each of them [`fanout`] writes it to the sessions of that room.
//!
//! The modules in reading order; each uses only those below it:
//!
//! 1. [`server`] wires the parts together, waits for signals, and shuts down.
//! 2. [`notify`] reports readiness and shutdown to systemd.
//! 3. [`tools`] contains the subcommands and `--check`: everything the binary does besides serving.
//! 4. [`rebalance`] moves sessions to other instances after a scale-out.
//! 5. [`http`] accepts connections, reads request heads, and answers plain HTTP.
//! 6. [`session`] serves one WebSocket client, from its join to its end.
//! 7. [`app`] is the state shared by all connection threads.
//! 8. [`lobby`] holds the connections that have not joined, and closes one of them when slots run out.
//! 9. [`start`] holds a slot while a new connection is being started.
//! 10. [`fanout`] contains the lanes, the threads that write to all WebSockets.
//! 11. [`backplane`] keeps the rooms and connects the instances: one SQLite file, or Redis.
//! 12. [`site`] prepares the page and its files for browsers.
//! 13. [`settings`] reads flags and environment variables.
//! 14. [`metrics`] counts for Prometheus and CloudWatch.
//! 15. [`logging`] formats the log, and throttles repeated lines.
//! 16. [`protocol`] defines the frames of the wire contract, and the rules for names, texts and ids.
//! 17. [`threads`] starts threads, and defines what a panic in one means.
//! 18. [`limits`] contains rate limits, the limits per address, and the number of connections the machine can hold.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod server;

pub mod notify;

pub mod tools;

pub mod rebalance;

pub mod http;

pub mod session;

pub mod app;

pub mod lobby;

pub mod start;

pub mod fanout;

pub mod backplane;

pub mod site;

pub mod settings;

pub mod metrics;

pub mod logging;

pub mod protocol;

pub mod threads;

pub mod limits;
