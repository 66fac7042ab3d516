//! The page and its files in the form sent to browsers: with paths below `BASE_PATH`, without comments and indentation,
//! and compressed. Everything is prepared once, at startup.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use tungstenite::http::Request;

use crate::protocol;
use crate::settings::Settings;
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, Crc, FlushCompress};

const HTML: &str = "text/html; charset=utf-8";
/// Media types by file name extension.
const KINDS: &[(&str, &str)] = &[
    (".js", "text/javascript; charset=utf-8"),
    (".css", "text/css; charset=utf-8"),
    (".svg", "image/svg+xml"),
    (".png", "image/png"),
    (".webmanifest", "application/manifest+json"),
];

/// The page may load only this server's files, and images that it creates itself as `data:` URLs.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'";
/// Prefix of rooms with unguessable addresses; search engines are asked not to index them.
pub const PRIVATE: &str = "private-";

macro_rules! files {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_bytes!(concat!("../static/", $name)))),+] };
}

/// The page's JavaScript modules, in an order in which none imports a later one. Browsers receive them as two scripts:
/// the first shows the join form and loads the second while the person types a name.
const FIRST: &[Module] = files!["base.js", "connection.js", "outbox.js", "questions.js", "app.js"];
const SECOND: &[Module] = files![
    "text.js",
    "rows.js",
    "log.js",
    "timeline.js",
    "composer.js",
    "sidebar.js",
    "alerts.js",
    "actions.js",
    "chat.js",
];
/// The other files.
const FILES: &[Module] =
    files!["style.css", "favicon.svg", "manifest.webmanifest", "icon-180.png", "icon-192.png", "icon-512.png",];
/// The name of a file, and its contents, which are compiled into the binary.
type Module = (&'static str, &'static [u8]);

const PAGE: &str = include_str!("../static/index.html");
const NOT_FOUND: &str = include_str!("../static/404.html");
/// The part of the page's head that differs between rooms lies between these two markers.
const ROOM_STARTS: &str = "<title>";
const ROOM_ENDS: &str = "<!-- end of the room's own part -->\n";

/// Everything that browsers can load.
pub struct Site {
    /// The path prefix, without a trailing slash.
    base: String,
    files: Vec<File>,
    page: Page,
    not_found: String,
    /// The page's Content-Security-Policy.
    pub policy: String,
}

/// A file, plain and compressed.
pub struct File {
    path: String,
    kind: &'static str,
    plain: Vec<u8>,
    /// Empty if compression would not make it smaller.
    gzip: Vec<u8>,
    tag: u64,
}

/// The page without the part that differs between rooms, plain and as deflate blocks.
struct Page {
    before: String,
    after: String,
    before_deflated: Vec<u8>,
    after_deflated: Vec<u8>,
}

impl Site {
    /// Prepares everything according to the settings.
    pub fn new(settings: &Settings) -> Site {
        let base = settings.page.base.clone();
        let mut files: Vec<File> = FILES.iter().map(|(name, bytes)| File::new(name, bytes)).collect();
        files.push(File::new("app.js", script(FIRST, &[]).as_bytes()));
        files.push(File::new("chat.js", script(SECOND, FIRST).as_bytes()));
        let policy = format!("{CONTENT_SECURITY_POLICY}; frame-ancestors {}", settings.page.frame_ancestors);
        let page = under_base(PAGE, &base).replacen("<html lang=\"en\"", &html_element(settings), 1);
        Site { files, page: Page::new(&page), not_found: under_base(NOT_FOUND, &base), base, policy }
    }

    /// The request with `BASE_PATH` removed from its path, if it is there: some proxies remove it, others do not.
    pub fn without_base(&self, mut request: Request<()>) -> Request<()> {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let rest =
            target.strip_prefix(self.base.as_str()).filter(|rest| rest.starts_with('/') && rest.len() < target.len());
        if let Some(uri) = rest.and_then(|rest| rest.parse().ok()) {
            *request.uri_mut() = uri;
        }
        request
    }

    /// The canonical address of a path that has capitals in its room, a trailing slash, or nothing after the base;
    /// `None` if the path is canonical already or is not one of a room.
    pub fn canonical_address(&self, path: &str) -> Option<String> {
        if path == self.base {
            return Some(format!("{path}/"));
        }
        let start = ["/r/", "/ws/"].into_iter().find(|start| path.starts_with(start))?;
        let rest = path[start.len()..].trim_end_matches('/');
        let (room, part) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let to = format!("{start}{}{part}", room.to_ascii_lowercase());
        let has_part = part.is_empty() || start == "/r/" && matches!(part, "/messages" | "/alertmanager");
        let is_room = protocol::is_room(&to[start.len()..to.len() - part.len()]);
        (has_part && is_room && to != path).then(|| format!("{}{to}", self.base))
    }

    /// Looks up a path.
    pub fn find<'a>(&'a self, path: &'a str) -> Found<'a> {
        match if path == "/" { Some("lobby") } else { path.strip_prefix("/r/") } {
            Some(room) if protocol::is_room(room) => Found::Page(room),
            Some(_) => Found::NoRoom,
            None => self.files.iter().find(|file| file.path == path).map_or(Found::NotFound, Found::File),
        }
    }

    /// The page for a room.
    pub fn page(&self, room: &str, gzip: bool) -> Content<'_> {
        let own = room_elements(room);
        let body = if gzip { self.page.gzip(&own) } else { self.page.plain(&own) };
        let tag = hash(&[self.page.before.as_bytes(), own.as_bytes(), self.page.after.as_bytes()]);
        Content { kind: HTML, body: body.into(), etag: etag(tag, gzip), gzip }
    }

    /// The page for an address that does not exist.
    pub fn not_found_page(&self, why: &str) -> Vec<u8> {
        self.not_found.replacen("<!-- why -->", &why.replace('<', "&lt;"), 1).into_bytes()
    }
}

/// What a path leads to.
pub enum Found<'a> {
    /// The page of this room.
    Page(&'a str),
    /// A static file.
    File(&'a File),
    /// An invalid room name.
    NoRoom,
    /// An unknown path.
    NotFound,
}

/// An answer's body and the values of its headers.
pub struct Content<'a> {
    /// Its media type.
    pub kind: &'static str,
    /// The bytes.
    pub body: Cow<'a, [u8]>,
    /// The quoted `ETag`, which differs whenever the body does.
    pub etag: String,
    /// Whether the body is compressed.
    pub gzip: bool,
}

impl File {
    /// The file's content, compressed if the client accepts that and it is smaller.
    pub fn content(&self, gzip: bool) -> Content<'_> {
        let gzip = gzip && !self.gzip.is_empty();
        let body = if gzip { &self.gzip } else { &self.plain };
        Content { kind: self.kind, body: body.into(), etag: etag(self.tag, gzip), gzip }
    }

    fn new(name: &str, bytes: &[u8]) -> File {
        let plain = match std::str::from_utf8(bytes) {
            Ok(text) => for_browsers(text).into_bytes(),
            Err(_) => bytes.to_vec(),
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let gzip = encoder.write_all(&plain).and_then(|()| encoder.finish()).unwrap_or_default();
        let gzip = if gzip.len() < plain.len() { gzip } else { Vec::new() };
        let kind = KINDS.iter().find(|(ending, _)| name.ends_with(ending)).map_or(HTML, |(_, kind)| kind);
        File { path: format!("/{name}"), kind, tag: hash(&[&plain]), plain, gzip }
    }
}

impl Page {
    fn new(page: &str) -> Page {
        let (before, rest) = page.split_once(ROOM_STARTS).unwrap_or((page, ""));
        let after = rest.split_once(ROOM_ENDS).map_or(rest, |(_, after)| after);
        let (before, after) = (for_browsers(before), for_browsers(after));
        let before_deflated = deflate(before.as_bytes(), FlushCompress::Sync);
        let after_deflated = deflate(after.as_bytes(), FlushCompress::Finish);
        Page { before, after, before_deflated, after_deflated }
    }

    fn plain(&self, own: &str) -> Vec<u8> {
        [self.before.as_bytes(), own.as_bytes(), self.after.as_bytes()].concat()
    }

    /// A gzip file (RFC 1952) made of the blocks compressed at startup, with the room's part between them as a stored
    /// block (RFC 1951, section 3.2.4), so that no request costs any compression.
    fn gzip(&self, own: &str) -> Vec<u8> {
        let mut crc = Crc::new();
        for part in [&self.before, own, &self.after] {
            crc.update(part.as_bytes());
        }
        let length = u16::try_from(own.len()).unwrap_or(u16::MAX);
        let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];
        bytes.extend_from_slice(&self.before_deflated);
        bytes.push(0);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&(!length).to_le_bytes());
        bytes.extend_from_slice(own.as_bytes());
        bytes.extend_from_slice(&self.after_deflated);
        bytes.extend_from_slice(&crc.sum().to_le_bytes());
        bytes.extend_from_slice(&crc.amount().to_le_bytes());
        bytes
    }
}

fn deflate(bytes: &[u8], end: FlushCompress) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 128);
    // Fails only if called in the wrong order.
    let _ = Compress::new(Compression::best(), false).compress_vec(bytes, &mut out, end);
    out
}

/// The `<html>` element, whose attributes inform the join form who may join and how long messages are kept.
fn html_element(settings: &Settings) -> String {
    let access = match &settings.access.user_header {
        Some(_) => "user",
        None if settings.asks_passphrase() => "passphrase",
        None => "open",
    };
    let kept = settings.retention.messages;
    let days = settings.retention.life.as_secs() / 86_400;
    format!("<html lang=\"en\" data-access=\"{access}\" data-kept=\"{kept}\" data-days=\"{days}\"")
}

/// The room's own lines in the head of the page. Valid room names need no escaping.
fn room_elements(room: &str) -> String {
    let private = room.starts_with(PRIVATE);
    let title = if private { "A private room · Bobbin".to_owned() } else { format!("#{room} · Bobbin") };
    let robots = if private { "<meta name=\"robots\" content=\"noindex, nofollow\">\n" } else { "" };
    format!("<title>{title}</title>\n<meta property=\"og:title\" content=\"{title}\">\n{robots}")
}

fn under_base(html: &str, base: &str) -> String {
    html.replace("href=\"/", &format!("href=\"{base}/")).replace("src=\"/", &format!("src=\"{base}/"))
}

/// Joins modules into one script. Imports between them are dropped, and those from the `first` script are merged into
/// one. All top-level names differ, so the modules can share a scope.
fn script(modules: &[Module], first: &[Module]) -> String {
    let mut imported = BTreeSet::new();
    let mut text = String::new();
    for line in modules.iter().flat_map(|(_, bytes)| std::str::from_utf8(bytes).unwrap_or_default().lines()) {
        match line.strip_prefix("import {").and_then(|rest| rest.split_once("} from './")) {
            Some((names, file)) if first.iter().any(|(name, _)| file.starts_with(name)) => {
                imported.extend(names.split(',').map(str::trim));
            }
            Some(_) => {}
            None => text = text + line + "\n",
        }
    }
    let names = imported.into_iter().collect::<Vec<_>>().join(", ");
    if names.is_empty() { text } else { format!("import {{ {names} }} from './app.js';\n{text}") }
}

/// Removes comments, blank lines and indentation.
fn for_browsers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_comment = "";
    for line in text.lines().map(str::trim) {
        if let Some((_, end)) = [("/*", "*/"), ("<!--", "-->")].iter().find(|(start, _)| line.starts_with(start)) {
            in_comment = end;
        }
        let code = ["; // ", ", // ", "{ // "].iter().find_map(|mark| line.find(mark).map(|at| &line[..=at]));
        if in_comment.is_empty() && !line.is_empty() && !line.starts_with("//") {
            out.push_str(code.unwrap_or(line));
            out.push('\n');
        }
        if line.ends_with(in_comment) {
            in_comment = "";
        }
    }
    out
}

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

fn etag(tag: u64, gzip: bool) -> String {
    format!("\"{tag:016x}{}\"", if gzip { "-gzip" } else { "" })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_page_of_a_room_is_a_whole_gzip_file() {
        let page = Page::new(PAGE);
        let own = room_elements("garden");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&page.gzip(&own)[..]).read_to_string(&mut text).expect("gzip");
        assert_eq!(text.as_bytes(), page.plain(&own));
        assert!(text.contains("<title>#garden · Bobbin</title>") && !text.contains(ROOM_ENDS.trim()));
    }

    #[test]
    fn comments_are_left_out() {
        let source = "// head\n\n\tlet a = 'http://x'; // why\n\t/** What\n\t * it is */\n* { margin: 0 }\n<!-- no\n no -->\n/* no */\n";
        assert_eq!(for_browsers(source), "let a = 'http://x';\n* { margin: 0 }\n");
    }

    #[test]
    fn a_script_imports_only_what_is_not_in_it() {
        let second = script(SECOND, FIRST);
        assert!(second.starts_with("import { $, ") && second.matches("import {").count() == 1, "{}", &second[..200]);
        assert!(!script(FIRST, &[]).contains("import {"));
    }

    #[test]
    fn modules_can_be_put_together_line_by_line() {
        let mut names = BTreeSet::new();
        for (file, bytes) in FIRST.iter().chain(SECOND) {
            for line in String::from_utf8_lossy(bytes).lines() {
                // A multi-line template literal could contain what looks like a comment. (Other backticks are in quotes
                // or regular expressions.)
                let ticks = line.replace("'`'", "").replace("'```'", "").matches('`').count();
                assert!(ticks % 2 == 0 || line.contains(" = /"), "{file}: {line}");
                assert!(
                    !line.starts_with("import ") || line.starts_with("import {") && line.ends_with(".js';"),
                    "{file}: {line}"
                );
                let line = line.strip_prefix("export ").unwrap_or(line).trim_start_matches("async ");
                let declared =
                    ["const ", "let ", "class ", "function "].iter().find_map(|word| line.strip_prefix(word));
                let Some(rest) = declared.filter(|rest| !rest.starts_with('{')) else { continue };
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '$' || *c == '_').collect();
                assert!(names.insert(name.clone()), "{file} declares {name}, as another module does");
            }
        }
        assert!(names.len() > 100, "{names:?}");
    }
}
