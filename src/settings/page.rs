//! Settings of the page: its path, and who may embed it.

use super::SettingError;
use super::reader::Reader;

/// The settings of the page.
#[derive(Clone, Default)]
pub struct PageSettings {
    /// The path prefix, without a trailing slash: empty, or for example `/chat`.
    pub base: String,
    /// Who may embed the page, in Content-Security-Policy syntax.
    pub frame_ancestors: String,
}

impl PageSettings {
    pub(super) fn read(read: &Reader<'_>) -> Result<PageSettings, SettingError> {
        let base = read.text("BASE_PATH").unwrap_or_default();
        let base = base.trim().trim_end_matches('/').to_owned();
        let is_plain = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c));
        let is_path =
            |path: &str| path.split('/').skip(1).all(|part| is_plain(part) && !part.trim_matches('.').is_empty());
        if !base.is_empty() && (!base.starts_with('/') || !is_path(&base)) {
            return Err(read.wrong("BASE_PATH"));
        }
        let frame_ancestors = read.text("FRAME_ANCESTORS").unwrap_or_else(|| "'none'".to_owned());
        let is_source = |source: &str| {
            matches!(source, "'self'" | "'none'") || source.starts_with("https://") || source.starts_with("http://")
        };
        let is_safe = |c: char| c.is_ascii_graphic() && !";,\"".contains(c);
        if !frame_ancestors.split_whitespace().all(|source| is_source(source) && source.chars().all(is_safe)) {
            return Err(read.wrong("FRAME_ANCESTORS"));
        }
        let frame_ancestors = frame_ancestors.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(PageSettings { base, frame_ancestors })
    }
}
