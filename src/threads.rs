//! How threads are started: named, and with a rule for what their panic means.
//!
//! A session's panic ends that session alone. Any other thread is vital: without it the process would go on in a
//! state that nobody thought through, so it ends, and whoever runs it starts it anew.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::thread::{Builder, JoinHandle};

/// `EX_SOFTWARE` of `sysexits.h`: an internal error.
const INTERNAL_ERROR: i32 = 70;

/// Starts a thread that the process can't do without.
///
/// # Errors
/// The system can't start a thread.
pub fn vital(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let label = name.to_owned();
    Builder::new().name(name.to_owned()).spawn(move || {
        // The panic's message and place are on stderr by then, from the standard hook.
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            log::error!("thread {label} panicked, so the process ends");
            process::exit(INTERNAL_ERROR);
        }
    })
}

/// Starts a connection's thread, with a stack of `stack` bytes.
///
/// # Errors
/// The system can't start a thread.
pub fn connection(number: u64, stack: usize, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Builder::new().name(format!("conn-{number}")).stack_size(stack).spawn(body).map(drop)
}
