//! Proves that the documents are true where a machine can check it: links resolve, the files and commands they name
//! exist, the README stays short, the reading list is as long as it says, and each term of the glossary is defined once
//! and used.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file of the repository, with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("CHANGELOG.md")];
    let mut left = vec![root().join("docs")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("a folder").flatten().map(|entry| entry.path()) {
            if entry.is_dir() {
                left.push(entry);
            } else if entry.extension().is_some_and(|ending| ending == "md") {
                found.push(entry);
            }
        }
    }
    found.sort();
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).expect("text"))).collect()
}

/// The anchor of a heading, as made by GitHub.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line.trim_start_matches('#')) == wanted)
}

/// The text between backticks, and fenced blocks line by line.
fn code(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push(line.trim().to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    for (path, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
            let there = if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            assert!(there.exists(), "{}: {target} leads nowhere", path.display());
            if !wanted.is_empty() && there.extension().is_some_and(|ending| ending == "md") {
                let text = fs::read_to_string(&there).expect("text");
                assert!(has_anchor(&text, wanted), "{}: {target} has no such heading", path.display());
            }
        }
    }
}

#[test]
fn files_and_commands_that_are_named_exist() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("a Makefile");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let folders = ["src/", "tests/", "static/", "docs/", "cfn/"];
    for (path, text) in documents() {
        for code in code(&text) {
            let words: Vec<&str> = code.split_whitespace().collect();
            for pair in words.windows(2) {
                let is_target = pair[1].bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
                if pair[0] == "make" && is_target {
                    assert!(makefile.contains(&format!("\n{}:", pair[1])), "{}: no {}", path.display(), pair.join(" "));
                }
                if pair[0] == "--test" {
                    let there = root().join(format!("tests/{}.rs", pair[1])).exists();
                    let named = manifest.contains(&format!("name = \"{}\"", pair[1]));
                    assert!(there || named, "{}: there is no test {}", path.display(), pair[1]);
                }
            }
            for word in words.iter().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '/')) {
                let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
                if plain && folders.iter().any(|folder| word.starts_with(folder)) {
                    assert!(root().join(word).exists(), "{}: there is no {word}", path.display());
                }
            }
        }
    }
}

/// `UPDATE=1 cargo test --test docs` rewrites the table.
#[test]
fn the_settings_page_is_the_table_of_settings() {
    let path = root().join("docs/settings.md");
    let rows = bobbin::settings::SPECS.iter().map(|(variable, default, help)| {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        format!("| `{variable}` | {default} | {} |\n", help.replace('|', "\\|"))
    });
    let page = format!(
        "# Settings\n\nEnvironment variables, or flags of the same name (`--port 8080`), which override them. Secrets have no flag. An \
         invalid value\nstops startup with exit code 2 and a one-line message that names the variable.\n\n\
         | variable | default | what it sets |\n| --- | --- | --- |\n{}",
        rows.collect::<String>()
    );
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).expect("docs/settings.md is writable");
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == page, "docs/settings.md is not what src/settings says; UPDATE=1 cargo test --test docs writes it");
}

/// Lines of code in a file, without comments, blank lines and unit tests.
fn lines_of_code(path: &str) -> usize {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// The limit is exact; the line counts in the table may be off by a tenth.
#[test]
fn the_path_of_a_message_can_be_read_in_an_afternoon() {
    let teaching = fs::read_to_string(root().join("docs/teaching.md")).expect("the reading list");
    let mut all = 0;
    for row in teaching.lines().filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit()) {
        let columns: Vec<&str> = row.split(" | ").collect();
        let lines: usize = columns[1].split('`').skip(1).step_by(2).map(lines_of_code).sum();
        let stated: usize = columns[2].parse().expect("a number of lines");
        assert!(
            stated.abs_diff(lines) <= lines / 10,
            "docs/teaching.md: {} has {lines} lines, not {stated}",
            columns[1]
        );
        all += lines;
    }
    assert!((1500..=2000).contains(&all), "{all} lines of code are on the path of a message");
}

#[test]
fn the_readme_is_a_front_door() {
    let lines = fs::read_to_string(root().join("README.md")).expect("a README").lines().count();
    assert!(lines <= 150, "{lines} lines");
}

#[test]
fn the_contract_lists_every_error_code() {
    let contract = fs::read_to_string(root().join("docs/protocol.md")).expect("the contract");
    let listed = contract.split("Error codes: ").nth(1).and_then(|rest| rest.split("After ").next()).expect("the list");
    let listed: Vec<&str> = listed.split('`').skip(1).step_by(2).collect();
    assert_eq!(listed, bobbin::protocol::ErrorCode::ALL);
}

#[test]
fn each_term_of_the_glossary_is_defined_once_and_used() {
    let design = fs::read_to_string(root().join("docs/design.md")).expect("the design");
    let glossary = design.split("## Glossary").nth(1).expect("a glossary");
    let rows = glossary.lines().filter(|line| line.starts_with("| **"));
    let terms: Vec<String> = rows.filter_map(|row| Some(row.split("**").nth(1)?.to_lowercase())).collect();
    assert!((20..=32).contains(&terms.len()), "{} terms", terms.len());
    assert_eq!(terms.iter().collect::<HashSet<_>>().len(), terms.len(), "a term is defined twice");
    let source = sources(&root().join("src"));
    for term in terms {
        let identifier = term.replace([' ', '-'], "_");
        assert!(source.contains(&term) || source.contains(&identifier), "the source never says {term}");
    }
}

fn sources(dir: &Path) -> String {
    let mut all = String::new();
    for path in fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            all.push_str(&sources(&path));
        } else {
            all.push_str(&fs::read_to_string(&path).expect("text").to_lowercase());
        }
    }
    all
}
