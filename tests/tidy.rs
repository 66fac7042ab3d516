//! Proves what a reader of the source may rely on: each file opens with a description, none is too long, nothing is
//! unsafe or asynchronous, imports follow the map, and each dependency has a reason.

use std::fs;
use std::path::{Path, PathBuf};

/// All files below a directory of the package with one of these extensions.
fn files(dir: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no {endings:?} in {dir}");
    found.sort();
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    for (dir, ending, opening) in [
        ("src", "rs", &["//! "][..]),
        ("src", "lua", &["-- "]),
        ("static", "js", &["// ", "/* ", "/** "]),
        ("static", "css", &["/* "]),
        ("static", "html", &["<!doctype html>"]),
        ("tests", "rs", &["//! "]),
    ] {
        for path in files(dir, &[ending]) {
            let text = read(&path).to_lowercase();
            assert!(opening.iter().any(|o| text.starts_with(o)), "{}: no opening comment", path.display());
        }
    }
}

#[test]
fn no_source_file_is_over_400_lines() {
    for path in files("src", &["rs", "lua"]) {
        let lines = read(&path).lines().count();
        assert!(lines <= 400, "{}: {lines} lines", path.display());
    }
}

/// Counts from a function's first line to its closing brace, which rustfmt puts under the first line's indentation.
#[test]
fn no_function_is_over_60_lines() {
    for path in files("src", &["rs"]) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("fn ") && !line.contains("//")) {
            let end = format!("{}}}", " ".repeat(line.len() - line.trim_start().len()));
            let length = lines[start..].iter().position(|line| *line == end).unwrap_or(0) + 1;
            let is_one = line.trim_start().split("fn ").next().is_some_and(|before| before.len() < 20);
            assert!(!is_one || length <= 60, "{}: {length} lines: {line}", path.display());
        }
    }
}

#[test]
fn the_map_names_every_module() {
    let map = read("src/lib.rs");
    for path in files("src", &["rs"]) {
        let stem = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let deep = path.parent().is_some_and(|p| !p.ends_with("src"));
        if !deep && stem != "lib" && stem != "main" {
            assert!(map.contains(&format!("mod {stem};")), "lib.rs does not declare {stem}");
        }
    }
    let described = map.lines().filter_map(|line| line.strip_prefix("//! ")?.split_once(". [`")?.1.split('`').next());
    let declared = map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    assert!(described.eq(declared), "lib.rs describes modules in another order");
    for rule in ["#![forbid(unsafe_code)]", "#![deny(missing_docs)]"] {
        assert!(map.contains(rule), "lib.rs lacks {rule}");
    }
}

/// The modules that a text refers to as `crate::name` or in `crate::{name, name::{…}}`.
fn modules_used(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let (mut depth, mut is_start) = (0, true);
        for part in rest.split_inclusive(['{', '}', ',', ';']) {
            if depth <= 1 && is_start {
                used.push(part.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
            match part.chars().last() {
                Some('{') => depth += 1,
                Some('}') => depth -= 1,
                _ => {}
            }
            is_start = part.ends_with([',', '{']);
            if depth <= 0 {
                break;
            }
        }
    }
    used
}

/// `lib.rs` declares the modules in reading order, and each may use only those below it.
#[test]
fn imports_point_down_the_map() {
    assert_eq!(modules_used("use crate::{a::{b, c}, d,\n e::f}; crate::g::h, i"), ["", "a", "d", "e", "g"]);
    let map = read("src/lib.rs");
    let order: Vec<&str> = map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let place = |module: &str| order.iter().position(|other| *other == module);
    for path in files("src", &["rs"]) {
        let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("below src");
        let own = inside.components().next().expect("a name").as_os_str().to_string_lossy().replace(".rs", "");
        let Some(from) = place(&own) else { continue };
        let text = read(&path);
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for used in modules_used(&code.join("\n")) {
            let up = place(&used).is_some_and(|to| to < from);
            assert!(!up, "{}: {own} uses {used}, which is above it", path.display());
        }
    }
}

#[test]
fn there_is_no_async_anywhere() {
    let lock = read("Cargo.lock");
    for name in ["tokio", "async-std", "smol", "mio", "futures-executor", "hyper", "async-io", "async-executor"] {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "Cargo.lock holds {name}");
    }
    for path in files("src", &["rs"]) {
        let text = read(&path);
        assert!(!text.contains("async fn") && !text.contains(".await"), "{}", path.display());
    }
}

#[test]
fn dependencies_say_what_they_are_for() {
    let manifest = read("Cargo.toml");
    let mut inside = false;
    let mut reason = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside && line.starts_with('#') {
            reason = true;
        } else if inside && line.contains('=') && !line.starts_with([' ', '}', ']']) {
            assert!(reason || line.contains(" #"), "no reason beside: {line}");
        }
    }
}

#[test]
fn nothing_is_left_to_do_in_the_source() {
    for path in files("src", &["rs", "lua"]) {
        let text = read(&path);
        for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn no_merge_left_its_markers() {
    for dir in ["src", "static", "tests", "docs", "cfn"] {
        for file in files(dir, &["rs", "lua", "js", "css", "html", "py", "sh", "md", "yml", "yaml"]) {
            let is_marker = |line: &str| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ");
            assert!(!read(&file).lines().any(is_marker), "{}", file.display());
        }
    }
}
