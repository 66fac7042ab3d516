//! A data file in a directory of its own, inspected with SQLite's shell.

use super::{Client, Instance, PATIENCE, poll_until, unique};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A directory, removed when dropped.
pub struct DataFile {
    dir: PathBuf,
}

impl DataFile {
    /// A path at which no file exists yet.
    pub fn new() -> DataFile {
        DataFile::below(&std::env::temp_dir())
    }

    /// The same in a directory below `parent`.
    pub fn below(parent: &Path) -> DataFile {
        let dir = parent.join(unique("bobbin-file"));
        std::fs::create_dir(&dir).expect("a directory for the file");
        DataFile { dir }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its path.
    pub fn path(&self) -> String {
        self.beside("")
    }

    /// The path of a file beside it, with `ending` appended to its name.
    pub fn beside(&self, ending: &str) -> String {
        format!("{}/chat.db{ending}", self.dir.display())
    }

    /// Starts an instance on it.
    #[track_caller]
    pub fn start(&self, settings: &[(&str, &str)]) -> Instance {
        Instance::start(&[&[("DATA_FILE", self.path().as_str())], settings].concat())
    }

    /// Has something said, and waits until nothing is left to write: the clock, which is written within a second after
    /// anything else, is newer than the message.
    #[track_caller]
    pub fn settle(&self, client: &mut Client) {
        let is_written = |at| self.sql("SELECT wrote FROM clock").parse::<u64>().expect("milliseconds") > at;
        poll_until("the clock is written", PATIENCE, || {
            let at = client.say("before")["at"].as_u64().expect("milliseconds");
            // If it was written in the message's own millisecond, it is not written again before the next message.
            (0..30).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                is_written(at)
            })
        });
    }

    /// The sqlite3 shell's answer to SQL or to one of its own commands, on the current file.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        shell(&self.path(), text)
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The sqlite3 shell's answer, on any file.
#[track_caller]
pub fn shell(path: &str, text: &str) -> String {
    let output = Command::new("sqlite3")
        .args(["-cmd", ".timeout 5000", path, text])
        .output()
        .expect("sqlite3 is installed (apt-get install sqlite3)");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "sqlite3 {path} {text:?}: {err}{out}");
    out.trim().to_owned()
}
