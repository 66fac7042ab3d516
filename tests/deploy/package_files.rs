//! Writes the files of the Debian package that are generated from the settings and flags: the man page, completions for
//! bash, zsh and fish, and `/etc/default/bobbin` with each setting commented out.
//!
//!     cargo run --locked --example package_files -- FOLDER
//!
//! They are generated when the package is built, so they always match the settings. As an example, this may use crates
//! that the server itself does without.

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::Command;
use clap_complete::aot::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use bobbin::settings::{SPECS, command};

const UNIT: &str = include_str!("../../docs/deploy/bobbin.service");

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: package_files FOLDER")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    fs::write(folder.join("bobbin.1"), man_page()?)?;
    fs::write(folder.join("bobbin.default"), defaults())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command(), "bobbin", folder)?;
    }
    Ok(())
}

fn man_page() -> Result<Vec<u8>, std::io::Error> {
    let mut page = Vec::new();
    let man = Man::new(command());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    // The crate's own synopsis is one line with every flag.
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]).text([bold("bobbin"), roman(" [OPTIONS]")]);
    synopsis.to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = Roff::new();
    rest.control("SH", ["COMMANDS"]);
    rest.text([roman("Without one of these, it serves. Each has a --help of its own.")]);
    for (line, about) in subcommands(&command(), "bobbin") {
        rest.control("TP", []).text([bold(line)]).text([roman(about)]);
    }
    rest.control("SH", ["SECRETS"]);
    rest.text([roman("These have no flag, because every user of a machine can read its command lines:")]);
    let flags: Vec<_> = command().get_arguments().map(|argument| argument.get_id().to_string()).collect();
    for (variable, _, help) in SPECS.iter().filter(|(variable, ..)| !flags.iter().any(|flag| flag == variable)) {
        rest.control("TP", []).text([bold(*variable)]).text([roman(*help)]);
    }
    rest.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in [
        ("0", "It shut down in order, after SIGTERM or SIGINT."),
        ("1", "It can't start: the address is taken, say. The log says why."),
        ("2", "A setting or a flag is wrong; one line on stderr names it."),
        ("70", "An internal error. Its place is on stderr, and whatever started the process should start it again."),
    ] {
        rest.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    rest.control("SH", ["SIGNALS"]);
    rest.control("TP", []).text([bold("SIGTERM"), roman(", "), bold("SIGINT")]).text([roman(
        "Close all sessions and end; SIGTERM spreads that over DRAIN_SECONDS. A second signal ends at once.",
    )]);
    rest.control("SH", ["FILES"]);
    rest.control("TP", []).text([bold("/etc/default/bobbin")]);
    rest.text([roman("Settings of the systemd service, one NAME=value per line.")]);
    rest.control("TP", []).text([bold("/var/lib/bobbin")]);
    rest.text([roman("Its data, unless DATA_FILE names another place.")]);
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// Each subcommand as it is typed, and what it does.
fn subcommands(parent: &Command, typed: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for child in parent.get_subcommands() {
        let typed = format!("{typed} {}", child.get_name());
        if child.has_subcommands() {
            found.extend(subcommands(child, &typed));
        } else {
            let values = child.get_positionals().map(|value| format!(" {value}")).collect::<String>();
            let about = child.get_about().map(ToString::to_string).unwrap_or_default();
            found.push((typed + &values, about));
        }
    }
    found
}

/// Every setting with its help and default. If the unit sets another default, that one.
fn defaults() -> String {
    let mut text = String::from(
        "# Settings of bobbin.service, read when it starts: after a change, systemctl restart bobbin.\n\
         # Each line below shows the default; remove the # to set another value. See bobbin(1).\n\
         # The unit sets DATA_FILE, and REDIS_ENDPOINT excludes it: with Redis, add an empty DATA_FILE= here.\n",
    );
    for (variable, default, help) in SPECS {
        let by_unit = UNIT.lines().find_map(|line| line.strip_prefix(&format!("Environment={variable}=")));
        let value = by_unit.unwrap_or(default).replace("%S", "/var/lib");
        text.push('\n');
        for line in wrap(help, 98) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("#{variable}={value}\n"));
    }
    text
}

/// Wraps text at spaces, with at most `width` characters per line if its words allow it.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
