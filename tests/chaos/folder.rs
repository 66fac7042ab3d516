//! The run's own directory: the data file, and the file that sets one instance's wall clock.

use super::common::faulty::libfaketime;
use super::common::unique;
use std::path::PathBuf;

/// A directory, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        let folder = Folder(std::env::temp_dir().join(unique("bobbin-chaos")));
        std::fs::create_dir(&folder.0).expect("a directory");
        folder.set_clock("+0");
        folder
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("it is plain text").to_string()
    }

    /// Sets how far the clock is off, in the syntax of `faketime` (`+1d`); the process sees it within a second.
    pub fn set_clock(&self, offset: &str) {
        std::fs::write(self.path("clock.new"), format!("{offset}\n")).expect("a small file");
        std::fs::rename(self.path("clock.new"), self.path("clock")).expect("in one step");
    }

    /// Environment variables that make a process's wall clock follow the file. Its monotonic clock is not affected.
    pub fn clock_settings(&self) -> Vec<(String, String)> {
        let settings = [
            ("LD_PRELOAD", libfaketime()),
            ("FAKETIME_TIMESTAMP_FILE", &self.path("clock")),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        settings.map(|(name, value)| (name.into(), value.into())).into()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
