//! Tests that hold for both backplanes: written once, run once in memory and once with a Redis.

use super::{Redis, Task};
use std::ops::Deref;

/// Which backplane a test runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backplane {
    Memory,
    Redis,
}

/// One task, and the Redis below it if there is one. (The task is dropped first: its log must not fill with errors.)
pub struct Server {
    task: Task,
    pub redis: Option<Redis>,
}

impl Backplane {
    #[track_caller]
    pub fn start(self, settings: &[(&str, &str)]) -> Server {
        match self {
            Backplane::Memory => Server { task: Task::start(settings), redis: None },
            Backplane::Redis => {
                // Small stream nodes: Redis trims a log by whole nodes, of 100 entries by default.
                let redis = Redis::with(&["--stream-node-max-entries", "10"]);
                Server { task: Task::on(&redis, settings), redis: Some(redis) }
            }
        }
    }
}

impl Deref for Server {
    type Target = Task;

    fn deref(&self) -> &Task {
        &self.task
    }
}

/// Makes two tests of each function: `memory::NAME` and `redis::NAME`.
macro_rules! both {
    ($($(#[$meta:meta])* fn $name:ident($at:ident) $body:block)+) => {
        mod on {
            use super::*;
            $($(#[$meta])* pub fn $name($at: $crate::common::both::Backplane) $body)+
        }
        mod memory {
            use super::*;
            $(#[test] fn $name() { on::$name($crate::common::both::Backplane::Memory); })+
        }
        mod redis {
            use super::*;
            $(#[test] fn $name() { on::$name($crate::common::both::Backplane::Redis); })+
        }
    };
}
