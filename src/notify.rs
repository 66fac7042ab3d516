//! Reports "ready" and "stopping" to systemd, when it started this process as a service with `Type=notify`. Nothing
//! here waits, and nothing depends on the outcome: without systemd there is nobody to notify, and that is no error.
//!
//! The protocol is one datagram of `KEY=value` lines to the socket that `NOTIFY_SOCKET` names, see sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;

/// The server accepts connections at this address: whatever is ordered after the service may start.
pub fn ready(address: SocketAddr) {
    report(&format!("READY=1\nSTATUS=listening on http://{address}"));
}

/// A signal is being obeyed: the sessions are closed over this number of seconds, and then the process ends.
pub fn stopping(sessions: usize, seconds: u64) {
    report(&format!("STOPPING=1\nSTATUS=draining {sessions} sessions over {seconds} s"));
}

fn report(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())
        && let Err(error) = send(&socket, state)
    {
        log::warn!("can't report to the service manager at {}: {error}", socket.display());
    }
}

/// `@` stands for the zero byte that an abstract socket's name begins with.
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
    // A manager that does not read must not hold the server up.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn send(_: &OsStr, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
