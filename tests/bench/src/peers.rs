//! The servers that are compared, and how each is prepared: npm packages and a cargo build under `target/bench`, so
//! that nothing is left in the source tree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::dialect::Dialect;
use crate::process::{Recipe, Redis};

pub const NAMES: [&str; 9] =
    ["bobbin", "local", "file", "socket.io", "axum", "uws", "floor", "threads", "threads-alone"];

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// The requested servers, ready to start; `before` is another build of Bobbin, to compare with this one.
pub fn recipes(redis: &Redis, bobbin: &Path, before: Option<&Path>, names: &[String]) -> io::Result<Vec<Recipe>> {
    let workshop = std::env::current_dir()?.join("target/bench/peers");
    let endpoint = format!("127.0.0.1:{}", redis.port);
    let mut recipes = Vec::new();
    for name in NAMES.into_iter().filter(|name| names.iter().any(|asked| asked == name)) {
        let recipe = match name {
            "bobbin" => {
                if let Some(before) = before {
                    recipes.push(self::bobbin("before", before)?.env("REDIS_ENDPOINT", &endpoint));
                }
                self::bobbin(name, bobbin)?.env("REDIS_ENDPOINT", &endpoint)
            }
            "local" => {
                if let Some(before) = before {
                    recipes.push(self::bobbin("before-local", before)?);
                }
                self::bobbin(name, bobbin)?
            }
            "file" => self::bobbin(name, bobbin)?.env("DATA_FILE", workshop.join("data/chat.db").display()),
            "socket.io" => {
                let folder = npm(&workshop, "socketio")?;
                let server = text(&folder.join("server.mjs"));
                recipe(name, Dialect::SocketIo, vec!["node".to_owned(), server]).env("NODE_ENV", "production")
            }
            "uws" => {
                let folder = npm(&workshop, "uws")?;
                let bun = text(&folder.join("node_modules/@oven/bun-linux-x64/bin/bun"));
                recipe(name, Dialect::Plain, vec![bun, text(&folder.join("server.mjs"))]).env("NODE_ENV", "production")
            }
            "axum" => recipe(name, Dialect::Plain, vec![text(&cargo(&workshop)?)]),
            _ => recipe(name, Dialect::Plain, vec![text(&std::env::current_exe()?), name.to_owned()]),
        };
        recipes.push(recipe.env("REDIS_URL", redis.url()));
    }
    // The build under test comes first: runs that measure only Bobbin use it.
    recipes.sort_by_key(|recipe| recipe.name != "bobbin");
    Ok(recipes)
}

/// Bobbin's limits.
const LIMITS: [&str; 9] = [
    "RATE_LIMIT",
    "TEXT_RATE",
    "ADDRESS_CONNECTIONS",
    "ADDRESS_CONNECTION_RATE",
    "ADDRESS_JOINS",
    "ADDRESS_NEW_ROOMS",
    "ADDRESS_TEXT_RATE",
    "ADDRESS_HISTORY_RATE",
    "REBALANCE",
];

/// Bobbin with its limits off: these clients send far more than people do, and share few addresses.
fn bobbin(name: &'static str, binary: &Path) -> io::Result<Recipe> {
    let binary = binary
        .canonicalize()
        .map_err(|_| io::Error::other(format!("{} is not there: cargo build --release makes it", binary.display())))?;
    let recipe = recipe(name, Dialect::Bobbin, vec![text(&binary)]).env("BIND", "127.0.0.1");
    Ok(LIMITS.into_iter().fold(recipe, |recipe, limit| recipe.env(limit, 0)))
}

fn recipe(name: &'static str, dialect: Dialect, command: Vec<String>) -> Recipe {
    Recipe { name, dialect, command, env: Vec::new() }
}

/// Copies a peer out of the source tree and installs exactly what its lock file names, without install scripts.
fn npm(workshop: &Path, name: &str) -> io::Result<PathBuf> {
    let folder = workshop.join(name);
    fs::create_dir_all(&folder)?;
    let lock = fs::read(Path::new(SOURCE).join(name).join("package-lock.json"))?;
    let fresh = fs::read(folder.join("package-lock.json")).is_ok_and(|installed| installed == lock);
    for file in ["server.mjs", "package.json", "package-lock.json"] {
        fs::copy(Path::new(SOURCE).join(name).join(file), folder.join(file))?;
    }
    if !fresh || !folder.join("node_modules").exists() {
        eprintln!("· installing the npm packages of peer {name}");
        let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
        run(Command::new("npm").args(options).current_dir(&folder))?;
    }
    Ok(folder)
}

fn cargo(workshop: &Path) -> io::Result<PathBuf> {
    let target = workshop.join("axum");
    let manifest = Path::new(SOURCE).join("axum/Cargo.toml");
    let options = ["build", "--release", "--locked", "--quiet"];
    eprintln!("· building peer axum");
    run(Command::new("cargo").args(options).arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&target))?;
    Ok(target.join("release/bobbin-bench-axum"))
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?} ended with {status}"))) }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
