//! Proves that docs/log.md lists every line that the server can write at `warn` and `error`, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// A format string with `…` for each placeholder.
fn shown(format: &str) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        text.push('…');
        rest = after.split_once('}').expect("a placeholder ends").1;
    }
    text + rest
}

/// The format strings of all calls of a macro in this text.
fn formats(text: &str, call: &str) -> Vec<String> {
    let literal = |rest: &str| {
        let rest = rest.trim_start();
        let rest = rest.strip_prefix("target: ").and_then(|rest| rest.split_once(", ")).map_or(rest, |(_, rest)| rest);
        let rest = rest.strip_prefix('"')?;
        Some(rest[..rest.find('"')?].to_owned())
    };
    text.match_indices(call).filter_map(|(at, _)| literal(&text[at + call.len()..])).collect()
}

#[test]
fn every_line_at_warn_and_error_is_documented_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut wanted = BTreeSet::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a source file");
        // The last kind is written by the logger itself.
        for call in ["log::warn!(", "log::error!(", "let missing = format_args!("] {
            // main.rs writes a `StartError`, whose lines are found at its own source.
            wanted.extend(formats(&text, call).iter().map(|format| shown(format)).filter(|line| line != "…"));
        }
        if text.contains("impl fmt::Display for StartError") {
            let (_, of_start) = text.split_once("impl fmt::Display for StartError").expect("it is there");
            let (of_start, _) = of_start.split_once("\n}\n").expect("it ends");
            wanted.extend(formats(of_start, "write!(f,").iter().map(|format| shown(format)));
        }
    }
    assert!(wanted.len() > 10, "too few were found: {wanted:?}");
    let docs = fs::read_to_string(root.join("docs/log.md")).expect("docs/log.md");
    let listed: BTreeSet<String> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("- `"))
        .map(|line| line.trim_end_matches('`').to_owned())
        .collect();
    let missing: Vec<_> = wanted.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&wanted).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not in docs/log.md: {missing:#?}\nonly there: {stale:#?}");
}
