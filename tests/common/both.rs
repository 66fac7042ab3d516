//! Tests for all backplanes: written once, and run in memory, on a data file and with Redis.

use super::{DataFile, Instance, Redis};
use std::ops::Deref;

/// Which backplane a test runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backplane {
    Memory,
    File,
    Redis,
}

/// One instance, and its Redis or file, if any. (The instance is dropped first, so that its log does not fill with
/// errors.)
pub struct Server {
    instance: Instance,
    pub redis: Option<Redis>,
    pub file: Option<DataFile>,
}

impl Backplane {
    #[track_caller]
    pub fn start(self, settings: &[(&str, &str)]) -> Server {
        match self {
            Backplane::Memory => Server { instance: Instance::start(settings), redis: None, file: None },
            Backplane::File => {
                let file = DataFile::new();
                Server { instance: file.start(settings), redis: None, file: Some(file) }
            }
            Backplane::Redis => {
                // Small stream nodes, because Redis trims a log by whole nodes, by default of 100 entries.
                let redis = Redis::start();
                Server { instance: Instance::on(&redis, settings), redis: Some(redis), file: None }
            }
        }
    }
}

impl Deref for Server {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

/// Turns each function into three tests: `memory::NAME`, `file::NAME` and `redis::NAME`.
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
        mod file {
            use super::*;
            $(#[test] fn $name() { on::$name($crate::common::both::Backplane::File); })+
        }
        mod redis {
            use super::*;
            $(#[test] fn $name() { on::$name($crate::common::both::Backplane::Redis); })+
        }
    };
}
