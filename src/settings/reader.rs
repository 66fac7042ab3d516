//! Reads settings by variable, from a flag, the environment or a file, and describes invalid ones.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::{SettingError, is_secret, spec};

/// The command line and environment as parsed by clap.
pub(super) struct Reader<'a>(pub &'a ArgMatches);

impl Reader<'_> {
    /// A setting's value, or its default. An empty value counts as unset, which is how container definitions omit one.
    pub fn text(&self, variable: &str) -> Option<String> {
        let value = if is_secret(variable) {
            std::env::var(variable).ok()
        } else {
            self.0.get_one::<String>(variable).cloned()
        };
        value
            .filter(|value| !value.trim().is_empty())
            .or_else(|| spec(variable).map(|(_, default, _)| (*default).to_owned()).filter(|d| !d.is_empty()))
    }

    /// Whether the setting's value is from the command line.
    pub fn is_flag(&self, variable: &str) -> bool {
        self.0.value_source(variable) == Some(ValueSource::CommandLine)
    }

    pub fn parsed<T: FromStr>(&self, variable: &str) -> Result<T, SettingError> {
        self.text(variable).and_then(|value| value.trim().parse().ok()).ok_or_else(|| self.wrong(variable))
    }

    pub fn number<T: TryFrom<u64>>(
        &self,
        variable: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<T, SettingError> {
        let number: u64 = self.parsed(variable)?;
        let right = Some(number).filter(|number| range.contains(number));
        right.and_then(|number| T::try_from(number).ok()).ok_or_else(|| self.wrong(variable))
    }

    /// A number of which 0 stands for "unlimited": `None`.
    pub fn unless_zero(
        &self,
        variable: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<usize>, SettingError> {
        if self.parsed::<u64>(variable)? == 0 { Ok(None) } else { self.number(variable, range).map(Some) }
    }

    pub fn file(&self, variable: &str) -> Result<Option<Vec<u8>>, SettingError> {
        let Some(path) = self.text(variable).map(PathBuf::from) else { return Ok(None) };
        fs::read(&path)
            .map(Some)
            .map_err(|error| SettingError(format!("{variable}: can't read {}: {error}", path.display())))
    }

    /// A secret, from its variable or from the file named by the variable with the suffix `_FILE`; the file takes
    /// precedence.
    pub fn secret(&self, variable: &str) -> Result<Option<String>, SettingError> {
        let in_file = format!("{variable}_FILE");
        let Some(text) = self.file(&in_file)? else { return Ok(self.text(variable)) };
        let text = String::from_utf8(text).map_err(|_| self.wrong(&in_file))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() { Err(self.wrong(&in_file)) } else { Ok(Some(text.to_owned())) }
    }

    pub fn wrong(&self, variable: &str) -> SettingError {
        let takes = spec(variable).map_or("", |(_, _, help)| help);
        let value = self.text(variable).unwrap_or_default();
        // A secret value is not repeated in the error.
        let shown =
            if is_secret(variable) || value.contains('@') { "its value".to_owned() } else { format!("{value:?}") };
        SettingError(format!("{variable}: invalid value {shown}; expected {takes}").replace('\n', " "))
    }
}
