//! HTTP: accepting connections, reading request heads, and what is answered besides the WebSocket.

pub mod accept;
mod admin;
mod alertmanager;
mod auth;
pub mod body;
mod caller;
mod connection;
mod head;
mod messages;
pub mod pages;
pub mod routes;
mod status;
mod upgrade;
