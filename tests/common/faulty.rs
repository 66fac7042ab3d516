//! A failing disk and a jumping wall clock, controlled by a test: see `faulty.c`, which is compiled on demand.

use super::{Instance, PATIENCE, poll_until, unique};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Controls one or several instances. Dropping it removes the control file.
pub struct Faulty {
    orders: PathBuf,
}

/// The library that changes a process's wall clock, where Debian's package installs it.
pub fn libfaketime() -> &'static str {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    assert!(Path::new(library).exists(), "{library} is missing (tests/setup.sh)");
    library
}

/// Errors from writing a file, by their Linux numbers.
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;
pub const EROFS: i32 = 30;

static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/faulty.c");
    let library = std::env::temp_dir().join(unique("bobbin-faulty") + ".so");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
        .args([library.as_os_str(), source.as_ref()])
        .output()
        .expect("a C compiler, which building SQLite needs too");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
});

impl Faulty {
    /// Without any fault.
    pub fn new() -> Faulty {
        let faulty = Faulty { orders: std::env::temp_dir().join(unique("bobbin-orders")) };
        faulty.set(0, 0);
        faulty
    }

    /// Writing fails with this error from now on (0: it succeeds, -1000: syncing takes 1,000 ms), and the
    /// wall clock is this many seconds ahead.
    pub fn set(&self, error: i32, ahead: i64) {
        let next = self.orders.with_extension("next");
        std::fs::write(&next, format!("{error} {ahead}")).expect("a small file");
        std::fs::rename(next, &self.orders).expect("a small file");
    }

    /// Writing hangs from now on, until [`Faulty::set`].
    pub fn hang(&self) {
        let _ = std::fs::remove_file(self.held());
        self.set(-1, 0);
    }

    /// Waits until a call hangs.
    #[track_caller]
    pub fn until_held(&self) {
        poll_until("a call hangs", PATIENCE, || self.held().exists());
    }

    fn held(&self) -> PathBuf {
        PathBuf::from(format!("{}.held", self.orders.display()))
    }

    /// Starts a controlled instance.
    #[track_caller]
    pub fn start(&self, settings: &[(&str, &str)]) -> Instance {
        Instance::spawn(self.command(settings))
    }

    /// The same, not yet started.
    pub fn command(&self, settings: &[(&str, &str)]) -> Command {
        let mut command = Instance::command();
        command.envs([("PORT", "0"), ("BIND", "127.0.0.1"), ("RUST_LOG", "info")]);
        command.env("LD_PRELOAD", &*LIBRARY).env("FAULTY", &self.orders).envs(settings.iter().copied());
        command
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.orders);
        let _ = std::fs::remove_file(self.held());
    }
}
