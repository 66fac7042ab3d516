//! Notifies systemd of readiness and shutdown, if it started this process with `Type=notify`. Nothing here blocks, and
//! a failure is logged but otherwise ignored.
//!
//! The protocol is one datagram of `KEY=value` lines to the socket named by `NOTIFY_SOCKET`; see sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;

/// Reports that the server accepts connections at this address, so that units ordered after it may start.
pub fn ready(address: SocketAddr) {
    report(&format!("READY=1\nSTATUS=listening on http://{address}"));
}

/// Reports that sessions are being closed over this number of seconds, after which the process ends.
pub fn stopping(sessions: usize, seconds: u64) {
    report(&format!("STOPPING=1\nSTATUS=draining {sessions} sessions over {seconds} s"));
}

fn report(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())
        && let Err(error) = send(&socket, state)
    {
        log::warn!("can't notify the service manager at {}: {error}", socket.display());
    }
}

/// A leading `@` stands for the zero byte of an abstract socket's name.
#[cfg(target_os = "linux")]
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not block the server.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn send(_: &OsStr, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
