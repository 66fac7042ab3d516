//! HTTP: accepting connections, reading request heads, and what is answered besides the WebSocket.

pub mod accept;
pub mod body;
pub mod pages;
pub mod routes;
