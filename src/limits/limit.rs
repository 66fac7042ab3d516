//! The limits by name, as metrics, log lines and refusals show them.

use std::time::Duration;

/// A limit that can be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Limit {
    /// Concurrent connections per address.
    Connections,
    /// New connections, or plain requests, per second and address.
    ConnectionRate,
    /// Joins per minute and address.
    Joins,
    /// Wrong passphrases per address.
    Passphrases,
    /// Rooms created per hour and address.
    Rooms,
    /// Bytes read from the logs per second and address.
    History,
    /// Bytes of message text per second and connection, or address.
    Text,
    /// Frames per second and connection.
    Frames,
    /// Joins under way in the whole server.
    Overload,
    /// Connections closed before they joined, to free a slot for a newer one.
    Idle,
}

impl Limit {
    /// All limits, in the order of their discriminants.
    pub const ALL: [Limit; 10] = [
        Limit::Connections,
        Limit::ConnectionRate,
        Limit::Joins,
        Limit::Passphrases,
        Limit::Rooms,
        Limit::History,
        Limit::Text,
        Limit::Frames,
        Limit::Overload,
        Limit::Idle,
    ];

    /// The value of the `limit` label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::ConnectionRate => "connection_rate",
            Limit::Joins => "joins",
            Limit::Passphrases => "passphrases",
            Limit::Rooms => "rooms",
            Limit::History => "history",
            Limit::Text => "text",
            Limit::Frames => "frames",
            Limit::Overload => "overload",
            Limit::Idle => "idle",
        }
    }

    /// The reason given to a refused client.
    pub fn reason(self) -> &'static str {
        match self {
            Limit::Connections => "too many connections from this address",
            Limit::ConnectionRate => "too many new connections from this address",
            Limit::Joins => "too many joins from this address",
            Limit::Passphrases => "too many wrong passphrases from this address",
            Limit::Rooms => "too many new rooms from this address",
            Limit::History => "too much history for this address",
            Limit::Text => "too much text per second",
            Limit::Frames => "too many frames per second",
            Limit::Overload => "the server is busy",
            Limit::Idle => "no join, and others need the place",
        }
    }

    /// The setting that defines the limit.
    pub fn setting(self) -> &'static str {
        match self {
            Limit::Connections => "ADDRESS_CONNECTIONS",
            Limit::ConnectionRate => "ADDRESS_CONNECTION_RATE",
            Limit::Joins => "ADDRESS_JOINS",
            Limit::Passphrases => "ADDRESS_WRONG_PASSPHRASES",
            Limit::Rooms => "ADDRESS_NEW_ROOMS",
            Limit::History => "ADDRESS_HISTORY_RATE",
            Limit::Text => "TEXT_RATE, ADDRESS_TEXT_RATE",
            Limit::Frames => "RATE_LIMIT",
            Limit::Overload | Limit::Idle => "MAX_CONNECTIONS",
        }
    }
}

/// An exceeded limit, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The limit.
    pub limit: Limit,
    /// The time until the next try may succeed.
    pub wait: Duration,
}
