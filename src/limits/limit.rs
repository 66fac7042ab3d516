//! The names of the limits, for metrics, log lines and refusals.

use std::time::Duration;

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $label:literal, $setting:literal, $reason:literal;)*) => {
        /// A limit that can be exceeded.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Limit {
            $($(#[$doc])* $name,)*
        }

        impl Limit {
            /// All limits, in the order of their discriminants.
            pub const ALL: &[Limit] = &[$(Limit::$name,)*];

            /// The value of the `limit` label in metrics.
            pub fn label(self) -> &'static str {
                match self { $(Limit::$name => $label,)* }
            }

            /// The target of log lines about it. They are limited for each target.
            pub fn log_target(self) -> &'static str {
                match self { $(Limit::$name => concat!("bobbin::limits::", $label),)* }
            }

            /// The setting that defines the limit.
            pub fn setting(self) -> &'static str {
                match self { $(Limit::$name => $setting,)* }
            }

            /// The reason given to a refused client.
            pub fn reason(self) -> &'static str {
                match self { $(Limit::$name => $reason,)* }
            }
        }
    };
}

limits! {
    /// Concurrent connections per address.
    Connections: "connections", "ADDRESS_CONNECTIONS", "too many connections from this address";
    /// New connections, or plain HTTP requests, per second per address.
    ConnectionRate: "connection_rate", "ADDRESS_CONNECTION_RATE",
        "too many new connections or requests from this address";
    /// Joins per minute per address.
    Joins: "joins", "ADDRESS_JOINS", "too many joins from this address";
    /// Wrong passphrases per address.
    Passphrases: "passphrases", "ADDRESS_WRONG_PASSPHRASES", "too many wrong passphrases from this address";
    /// Rooms created per hour per address.
    Rooms: "rooms", "ADDRESS_NEW_ROOMS", "too many new rooms from this address";
    /// Bytes read from the logs per second per address.
    History: "history", "ADDRESS_HISTORY_RATE", "too much history for this address";
    /// Bytes of message text per second per connection, or per address.
    Text: "text", "TEXT_RATE, ADDRESS_TEXT_RATE", "too much text per second";
    /// Frames per second per connection.
    Frames: "frames", "RATE_LIMIT", "too many frames per second";
    /// Names announced as typing in a large room; others are left out. Counted on each lane.
    Typing: "typing", "TYPING_NAMES", "too many people type at once";
    /// Refused frames per address, whose connections are then read more slowly.
    Refusals: "refusals", "ADDRESS_CONNECTION_RATE", "too many refused frames from this address";
    /// Joins under way in the whole server.
    Overload: "overload", "JOINS_AT_ONCE", "the server is busy";
    /// Pages being read for HTTP requests in the whole server.
    Reads: "reads", "READS_AT_ONCE", "too many requests are reading";
    /// Concurrent WebSocket connections of the whole server.
    Sessions: "sessions", "MAX_CONNECTIONS", "all connections are in use";
    /// Requests that wait for messages, per address.
    Polls: "polls", "ADDRESS_CONNECTIONS", "too many requests from this address are waiting";
    /// Rooms of the whole server.
    AllRooms: "all_rooms", "MAX_ROOMS", "no more rooms can be opened here";
    /// People in one room.
    People: "people", "ROOM_PEOPLE", "this room is full";
    /// Bytes of messages kept per room. The oldest are deleted.
    RoomBytes: "room_bytes", "HISTORY_BYTES", "this room has too many messages to keep all";
    /// Connections closed before they joined, to free a slot for a newer one.
    Idle: "idle", "MAX_CONNECTIONS, LOBBY_PERCENT", "did not join, and others need the slot";
}

/// An exceeded limit, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The limit.
    pub limit: Limit,
    /// The time until the next try may succeed.
    pub wait: Duration,
}
