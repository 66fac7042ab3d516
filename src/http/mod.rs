//! HTTP: accepts connections, reads request heads, and answers everything that is not a WebSocket.

pub mod accept;
mod admin;
mod alertmanager;
mod auth;
pub mod body;
mod caller;
mod connection;
mod head;
pub mod messages;
pub mod pages;
pub mod routes;
mod status;
mod upgrade;
