//! Runs tests that mostly wait in parallel, whatever the number of test threads.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::JoinHandle;

/// The result of a test's thread.
type Verdict = JoinHandle<Result<(), String>>;

/// A group of such tests. The first that the harness runs starts all of them, each on its own thread; every test then
/// waits for its own thread and reports its failure.
#[derive(Default)]
pub struct Together {
    running: Mutex<Option<HashMap<&'static str, Verdict>>>,
}

impl Together {
    pub fn run(&self, all: &[(&'static str, fn())], name: &'static str) {
        // With a filter, only the selected tests are started.
        let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
        let wanted =
            |test: &str| test == name || filters.is_empty() || filters.iter().any(|f| test.contains(f.as_str()));
        let mut group = self.running.lock().expect("nobody panics holding it");
        let running = group.get_or_insert_with(|| {
            let some = all.iter().filter(|(test, _)| wanted(test));
            some.map(|&(test, body)| (test, start(test, body))).collect()
        });
        let handle = running.remove(name).unwrap_or_else(|| {
            let body = all.iter().find(|(test, _)| *test == name);
            start(name, body.expect("a test of this group").1)
        });
        drop(group);
        if let Err(failure) = handle.join().expect("a panic is caught inside") {
            panic!("{failure}");
        }
    }
}

fn start(name: &'static str, body: fn()) -> Verdict {
    let caught = move || {
        catch_unwind(AssertUnwindSafe(body)).map_err(|payload| match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => payload.downcast_ref::<&str>().unwrap_or(&"a panic without words").to_string(),
        })
    };
    std::thread::Builder::new().name(name.into()).spawn(caught).expect("a thread")
}

/// Makes each function a `#[test]`, all of them run in parallel.
macro_rules! together {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)+) => {
        mod bodies {
            use super::*;
            $($(#[$meta])* pub fn $name() $body)+
        }
        static GROUP: std::sync::LazyLock<$crate::common::together::Together> = std::sync::LazyLock::new(Default::default);
        const ALL: &[(&str, fn())] = &[$((stringify!($name), bodies::$name)),+];
        $($(#[$meta])* #[test] fn $name() { GROUP.run(ALL, stringify!($name)); })+
    };
}
