//! How threads are started: named, with a rule for what their panic means, and with little stack.
//!
//! A session's panic ends that session alone. Any other thread is critical: without it the process would go on in a
//! state that nobody thought through, so it ends, and whoever runs it starts it anew.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::{Arc, LazyLock};
use std::thread::{Builder, JoinHandle};

use crate::limits::{CONNECTION_STACK as STACK, MAX_SPARE_STACKS, Slots};

/// `EX_SOFTWARE` of `sysexits.h`: an internal error.
const INTERNAL_ERROR: i32 = 70;
/// A borrowed stack, in bytes: it is given back at once, so it may be larger.
const TEMPORARY_STACK: usize = 256 * 1024;
/// What a thread gets that nobody has given a size.
const AMPLE_STACK: usize = 2 * 1024 * 1024;
static SPARE_STACKS: LazyLock<Arc<Slots>> = LazyLock::new(|| Slots::new(MAX_SPARE_STACKS));

/// Starts a thread that the process can't do without.
///
/// # Errors
/// The system can't start a thread.
pub fn spawn_critical(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let label = name.to_owned();
    Builder::new().name(name.to_owned()).spawn(move || {
        // The panic's message and place are on stderr by then, from the standard hook.
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            // Whatever fails at this moment, the process must not go on without this thread.
            let _ = catch_unwind(|| log::error!("thread {label} panicked, so the process ends"));
            process::exit(INTERNAL_ERROR);
        }
    })
}

/// Starts a connection's thread, with a stack of `STACK` bytes.
///
/// # Errors
/// The system can't start a thread.
pub fn spawn_connection(number: u64, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Builder::new().name(format!("conn-{number}")).stack_size(STACK).spawn(body).map(drop)
}

/// Does something for a moment on another stack, which is given back afterwards: what a thread's own stack once
/// touched stays in memory for as long as the thread lives, and a session lives long. With too many at it, the
/// thread's own stack serves as well.
pub fn on_temporary_stack<R>(work: impl FnOnce() -> R) -> R {
    match SPARE_STACKS.take() {
        Some(_slot) => stacker::grow(TEMPORARY_STACK, work),
        None => work(),
    }
}

/// Does something rare on a stack that is large enough for anything: a reply of Redis's that is nested three deep takes
/// more than [`on_temporary_stack`] has.
pub fn on_ample_stack<R>(work: impl FnOnce() -> R) -> R {
    stacker::grow(AMPLE_STACK, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_aside_is_done_with_and_without_a_spare_stack() {
        let here = || {
            let local = std::hint::black_box(0_u8);
            std::ptr::from_ref(&local) as usize
        };
        let is_aside = || here().abs_diff(on_temporary_stack(here)) > STACK;
        assert!(is_aside());
        assert!(catch_unwind(|| on_temporary_stack(|| panic!("as planned"))).is_err());
        let all: Vec<_> = std::iter::from_fn(|| SPARE_STACKS.take()).collect();
        assert_eq!(all.len(), MAX_SPARE_STACKS, "a panic gives its stack back");
        assert!(!is_aside(), "none is left, so it is done here");
        drop(all);
        assert!(is_aside());
    }
}
