//! An attacker's connections: everything is written at once without waiting, and answers are read only if that is part
//! of the attack.

use crate::common::wire::{UPGRADE, text_frame};
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

/// How long an attacker waits for a connection, or for a write.
const PATIENCE: Duration = Duration::from_millis(500);

/// Everybody's address if all come through one proxy (`HOSTILE_PROXY=1`).
const PROXY: u8 = 1;

/// Whether they do.
pub fn is_proxied() -> bool {
    static PROXIED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("HOSTILE_PROXY").is_some());
    *PROXIED
}

/// The number in 127.0.0.0/24 from which client `from` connects.
pub fn source(from: u8) -> u8 {
    if is_proxied() { PROXY } else { from }
}

/// The header line in which the proxy says that the request is from client `from`.
fn forwarded(from: u8) -> String {
    if is_proxied() { format!("X-Forwarded-For: 198.51.100.{from}\r\n") } else { String::new() }
}

/// Connects from 127.0.0.`from` or from the proxy, with small buffers.
pub fn connect(addr: SocketAddr, from: u8) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(4096)?;
    socket.bind(&SocketAddr::new(Ipv4Addr::new(127, 0, 0, source(from)).into(), 0).into())?;
    socket.connect_timeout(&addr.into(), PATIENCE)?;
    let stream: TcpStream = socket.into();
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An upgrade request of client `from`.
pub fn upgrade(room: &str, from: u8) -> Vec<u8> {
    get(&format!("/ws/{room}"), from, UPGRADE)
}

/// A GET request of client `from`, with these header lines.
pub fn get(path: &str, from: u8, lines: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: t\r\n{}{lines}\r\n", forwarded(from)).into_bytes()
}

/// Upgrades and joins in one write, ignoring the answers.
pub fn join(addr: SocketAddr, from: u8, room: &str, name: &str, more: &str) -> io::Result<TcpStream> {
    let mut stream = connect(addr, from)?;
    let mut bytes = upgrade(room, from);
    bytes.extend(text_frame(&format!(r#"{{"type":"join","name":"{name}"{more}}}"#)));
    stream.write_all(&bytes)?;
    Ok(stream)
}

/// Reads and discards what has arrived; false once the connection has ended.
pub fn drain(stream: &TcpStream) -> bool {
    let mut scrap = [0; 16 * 1024];
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    let alive = loop {
        match (&mut &*stream).read(&mut scrap) {
            Ok(0) => break false,
            Ok(_) => {}
            Err(error) => break error.kind() == ErrorKind::WouldBlock,
        }
    };
    alive && stream.set_nonblocking(false).is_ok()
}

/// Writes without blocking; false once the connection has ended. What the socket does not take is dropped.
pub fn push(stream: &TcpStream, bytes: &[u8]) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    let alive = match (&mut &*stream).write(bytes) {
        // The rest of a frame must follow, or the server would wait for it.
        Ok(some) if some < bytes.len() => {
            stream.set_nonblocking(false).is_ok() && (&mut &*stream).write_all(&bytes[some..]).is_ok()
        }
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    alive && stream.set_nonblocking(false).is_ok()
}
