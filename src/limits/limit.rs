//! The limits by name: for metrics, for the log, and for whoever is refused.

use std::time::Duration;

/// What was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Limit {
    /// Connections of an address at a time.
    Connections,
    /// New connections, or requests, per second of an address.
    ConnectionRate,
    /// Joins per minute of an address.
    Joins,
    /// Wrong passphrases of an address.
    Passphrases,
    /// New rooms per hour of an address.
    Rooms,
    /// Bytes read from the log per second of an address.
    History,
    /// Bytes of text per second of a connection or an address.
    Text,
    /// Frames per second of a connection.
    Frames,
    /// Joins of the whole server that are under way.
    Overload,
    /// Connections that had not joined and made place for others.
    Idle,
}

impl Limit {
    /// All of them, in the order of their numbers.
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

    /// As metrics name it.
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

    /// The reason that the refused receive.
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

    /// The setting that decides it.
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

/// A limit that was exceeded, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub limit: Limit,
    /// How long to wait.
    pub wait: Duration,
}
