//! Connections from chosen addresses of the loopback network, so that one machine can act as many clients.

use super::{Client, PATIENCE, http};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// The address 127.0.0.`n`.
pub fn address(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, n).into()
}

/// Connects from 127.0.0.`n`.
#[track_caller]
pub fn connect(addr: SocketAddr, n: u8) -> TcpStream {
    try_connect(addr, n, PATIENCE).expect("a connection")
}

/// Connects from 127.0.0.`n` within this time, if possible.
pub fn try_connect(addr: SocketAddr, n: u8, patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(address(n), 0).into())?;
    socket.connect_timeout(&addr.into(), patience)?;
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// Upgrades from 127.0.0.`n`; returns the refusal, if any.
#[track_caller]
pub fn upgrade(addr: SocketAddr, n: u8, room: &str, headers: &str) -> Result<Client, http::Response> {
    Client::upgrade_on(connect(addr, n), room, headers).map(|(client, _)| client)
}

/// Upgrades and joins from 127.0.0.`n`.
#[track_caller]
pub fn join(addr: SocketAddr, n: u8, room: &str, name: &str) -> Client {
    let mut client =
        upgrade(addr, n, room, "").unwrap_or_else(|refusal| panic!("{}: {}", refusal.status, refusal.text()));
    client.enter(name, None);
    client
}
