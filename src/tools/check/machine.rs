//! Checks the machine: the port, and what caps the number of connections.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Finding;
use crate::limits;
use crate::settings::Settings;

/// A smaller cap is reported as a warning: it suffices for a class or an office, but not for a large event.
const SMALL_CAP: usize = 500;

/// Checks the port and the limits.
pub(super) fn look(settings: &Settings) -> [Finding; 2] {
    [port(settings), connections(settings)]
}

fn port(settings: &Settings) -> Finding {
    let (bind, port) = (settings.bind, settings.port);
    match TcpListener::bind((bind, port)) {
        Ok(_) => Finding::ok("port", format!("{port} on {bind} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Finding::warning("port", format!("{port} on {bind} is in use; fine if this server is already running"))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::error("port", format!("{port} is not permitted; use one above 1023, or add CAP_NET_BIND_SERVICE"))
        }
        Err(error) => {
            Finding::error("port", format!("can't listen on {bind}: {error}; set BIND to an address of this machine"))
        }
    }
}

fn connections(settings: &Settings) -> Finding {
    let (cap, why) = limits::capacity(settings.rooms_in_memory());
    let remedy = remedy(why);
    match settings.max_connections {
        Some(wanted) if wanted > cap => Finding::warning(
            "connections",
            format!("up to {cap} rather than MAX_CONNECTIONS={wanted}, limited by {why}; {remedy}"),
        ),
        Some(wanted) => Finding::ok("connections", format!("up to {wanted} (MAX_CONNECTIONS); {why} allows {cap}")),
        None if cap < SMALL_CAP => Finding::warning("connections", format!("up to {cap}, limited by {why}; {remedy}")),
        None => Finding::ok("connections", format!("up to {cap}, limited by {why}; for more, {remedy}")),
    }
}

/// How to raise a limit.
fn remedy(why: &str) -> &'static str {
    match why {
        "open files (RLIMIT_NOFILE)" => {
            "raise LimitNOFILE= in the unit, --ulimit nofile= of the container, or ulimit -n"
        }
        "threads (RLIMIT_NPROC)" => "raise LimitNPROC= in the unit, or ulimit -u",
        "kernel.threads-max" => "raise it with sysctl",
        "vm.max_map_count" => "raise it with sysctl, four per connection",
        "the container's pids.max" => "raise TasksMax= in the unit, or --pids-limit of the container",
        "address space (RLIMIT_AS)" => "raise LimitAS= in the unit, or ulimit -v",
        "the container's memory.max" => "give it more memory, 42 KiB per connection",
        _ => "use a machine with more memory, 42 KiB per connection",
    }
}

/// Whether every user of the machine can read the file.
pub(super) fn is_readable_by_all(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}
