//! `bobbin --check`: checks the settings, their effects and the machine, without changing anything. One line per
//! finding, with what to do about it.

mod data;
mod machine;
mod redis;

use std::fmt;
use std::io::{self, Write};

use crate::settings::{SettingError, Settings};

/// The severity of a finding; the worst one is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing to do.
    Ok = 0,
    /// It works, but the operator should know.
    Warning = 1,
    /// It does not work, or would lose messages.
    Error = 2,
}

/// One line of the report.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    verdict: Verdict,
    /// What was checked.
    topic: &'static str,
    /// The result, and what to do about it.
    text: String,
}

impl Finding {
    fn new(verdict: Verdict, topic: &'static str, text: impl Into<String>) -> Finding {
        Finding { verdict, topic, text: text.into() }
    }

    fn ok(topic: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(Verdict::Ok, topic, text)
    }

    fn warning(topic: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(Verdict::Warning, topic, text)
    }

    fn error(topic: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(Verdict::Error, topic, text)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Error => "error",
        };
        write!(f, "{verdict:<8}{:<12}{}", self.topic, self.text.replace('\n', " "))
    }
}

/// Runs all checks and writes the findings. Returns the exit code: 0 ok, 1 a warning, 2 an error.
///
/// # Errors
/// The output cannot be written.
pub fn run(settings: Result<&Settings, &SettingError>, output: &mut impl Write) -> io::Result<u8> {
    let findings = match settings {
        Ok(settings) => look(settings),
        Err(error) => vec![Finding::error("settings", error.to_string())],
    };
    findings.iter().try_for_each(|finding| writeln!(output, "{finding}"))?;
    Ok(findings.iter().map(|finding| finding.verdict as u8).max().unwrap_or_default())
}

fn look(settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("settings", "all are valid")];
    findings.extend(machine::look(settings));
    findings.extend(access(settings));
    match &settings.redis {
        Some(redis) => findings.extend(redis::look(redis)),
        None => findings.push(data::look(settings.data_file.as_deref())),
    }
    findings
}

/// Who may join.
fn access(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let user = settings.access.user_header.as_ref();
    findings.push(match user {
        Some(header) => Finding::ok("access", format!("people are named by a trusted proxy in {header}")),
        None if !settings.admits(None) => Finding::ok("access", "people need the passphrase"),
        None if settings.bind.is_loopback() => Finding::ok("access", "anyone on this machine can join"),
        None => Finding::warning(
            "access",
            "anyone who reaches the port can join; set PASSPHRASE, or USER_HEADER behind a login proxy",
        ),
    });
    findings.push(match settings.tokens.admin {
        Some(_) => Finding::ok("admin", "the admin API is on, with ADMIN_TOKEN"),
        None => Finding::ok("admin", "the admin API is off; set ADMIN_TOKEN to turn it on"),
    });
    let readable = settings.secret_files.iter().filter(|file| machine::is_readable_by_all(file));
    findings.extend(readable.map(|file| {
        let path = file.display();
        Finding::warning("secrets", format!("every user of this machine can read {path}; chmod o= {path}"))
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_the_worst_is_the_exit_code() {
        let line = Finding::warning("access", "two\nlines").to_string();
        assert_eq!(line, "warning access      two lines");
        assert!(Verdict::Error > Verdict::Warning && Verdict::Warning > Verdict::Ok);
    }
}
