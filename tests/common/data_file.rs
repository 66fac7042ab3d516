//! A data file in a directory of its own, and what SQLite's own shell says of it.

use super::{Instance, unique};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Dropping it removes the directory.
pub struct DataFile {
    dir: PathBuf,
}

impl DataFile {
    /// A path at which there is no file yet.
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

    /// The path of a file beside it, whose name goes on with `ending`.
    pub fn beside(&self, ending: &str) -> String {
        format!("{}/chat.db{ending}", self.dir.display())
    }

    /// Starts an instance on it.
    #[track_caller]
    pub fn start(&self, settings: &[(&str, &str)]) -> Instance {
        Instance::start(&[&[("DATA_FILE", self.path().as_str())], settings].concat())
    }

    /// What the sqlite3 shell answers to some SQL or one of its own commands, on the file as it is.
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

/// What the sqlite3 shell answers on any file.
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
