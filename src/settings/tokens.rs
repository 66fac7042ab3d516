//! Tokens of scripts, of the admin API and of metrics readers. They come from variables and files, never from flags,
//! because every user of a machine can read the command lines of all its processes.

use std::sync::Arc;

use super::{Reader, SettingError};
use crate::protocol;

/// The shortest token allowed, in characters; shorter ones could be guessed.
const MIN_TOKEN: usize = 16;
/// The sender's name for messages posted with `POST_TOKEN` that do not name their sender.
pub const UNNAMED: &str = "script";

/// A secret, compared in constant time.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    pub(super) fn new(text: String) -> Token {
        Token(text)
    }

    /// Whether the offered token equals this one.
    pub fn is(&self, offered: &str) -> bool {
        let (wanted, offered) = (self.0.as_bytes(), offered.as_bytes());
        // Compare every byte, so that the time does not reveal how many were right.
        let padded = offered.iter().chain(std::iter::repeat(&0));
        let different = wanted.iter().zip(padded).fold(0, |all, (a, b)| all | (a ^ b));
        different == 0 && offered.len() == wanted.len()
    }
}

/// A script that may post messages.
#[derive(Clone)]
pub struct Poster {
    /// The script's name, which no person can take; `None` if each message names its sender.
    pub name: Option<Arc<str>>,
    /// The folded form of that name.
    pub key: String,
    /// The mark on its messages. It is derived from the name, so it survives a change of the token; no client can have
    /// it, because the derivation uses characters that client secrets may not contain.
    pub by: Arc<str>,
    /// Its token.
    pub token: Token,
    /// The rooms it may post in; `None` for all.
    pub rooms: Option<Vec<String>>,
}

impl Poster {
    fn new(name: Option<&str>, token: Token, rooms: Option<Vec<String>>) -> Poster {
        let key = protocol::fold_name(name.unwrap_or(UNNAMED));
        let by = protocol::mark(&format!("post\0{key}")).into();
        Poster { name: name.map(Arc::from), key, by, token, rooms }
    }

    /// Whether the script may post in this room.
    pub fn may_post_in(&self, room: &str) -> bool {
        self.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|other| other == room))
    }
}

/// All tokens.
#[derive(Clone, Default)]
pub struct Tokens {
    /// The scripts' tokens.
    pub posters: Vec<Poster>,
    /// The token of the admin API.
    pub admin: Option<Token>,
    /// The token for reading metrics from public addresses.
    pub metrics: Option<Token>,
}

impl Tokens {
    /// Whether a script has this name.
    pub fn is_reserved(&self, folded: &str) -> bool {
        self.posters.iter().any(|poster| poster.key == folded)
    }

    pub(super) fn read(read: &Reader<'_>) -> Result<Tokens, SettingError> {
        let mut posters = Vec::new();
        if let Some(token) = token(read, "POST_TOKEN")? {
            posters.push(Poster::new(None, token, None));
        }
        if let Some(text) = read.file("POST_TOKENS_FILE")? {
            let text = String::from_utf8(text).map_err(|_| read.wrong("POST_TOKENS_FILE"))?;
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    let why = |why| SettingError(format!("POST_TOKENS_FILE: line {}: {why}", number + 1));
                    posters.push(poster(line).map_err(why)?);
                }
            }
        }
        Ok(Tokens { posters, admin: token(read, "ADMIN_TOKEN")?, metrics: token(read, "METRICS_TOKEN")? })
    }
}

/// Reads a token from its variable or its file.
fn token(read: &Reader<'_>, variable: &str) -> Result<Option<Token>, SettingError> {
    let Some(text) = read.secret(variable)? else { return Ok(None) };
    let why = || SettingError(format!("{variable}: a token must have at least {MIN_TOKEN} visible ASCII characters"));
    if is_token(&text) { Ok(Some(Token(text))) } else { Err(why()) }
}

/// Whether the text is long enough, and can follow `Bearer` in a header.
fn is_token(text: &str) -> bool {
    text.len() >= MIN_TOKEN && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Parses a line of `POST_TOKENS_FILE`. Errors never contain the token.
fn poster(line: &str) -> Result<Poster, String> {
    // The name may contain spaces, so the line is split from its end. Columns may be aligned with several.
    let expected = "expected a name, a token and rooms";
    let (rest, rooms) = line.rsplit_once(char::is_whitespace).ok_or(expected)?;
    let (name, token) = rest.trim_end().rsplit_once(char::is_whitespace).ok_or(expected)?;
    let name = protocol::clean_name(name).ok_or("the name must have 1 to 32 visible characters")?;
    if !is_token(token) {
        return Err(format!("the token must have at least {MIN_TOKEN} visible ASCII characters"));
    }
    let rooms = match rooms {
        "*" => None,
        some => Some(some.split(',').map(str::to_owned).collect::<Vec<_>>()),
    };
    if let Some(wrong) = rooms.iter().flatten().find(|room| !protocol::is_room(room)) {
        return Err(format!("{wrong:?} is not a valid room; expected a,b or *"));
    }
    Ok(Poster::new(Some(&name), Token::new(token.to_owned()), rooms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_script_its_token_and_its_rooms() {
        let one = poster("Deploy  Bot  0123456789abcdef lobby,ops").expect("right");
        assert_eq!(one.name.as_deref(), Some("Deploy Bot"));
        assert!(one.may_post_in("ops") && !one.may_post_in("tea") && one.token.is("0123456789abcdef"));
        assert!(poster("Bot\t0123456789abcdef\t*").is_ok_and(|all| all.may_post_in("tea")));
        let aligned = poster("Deploy Bot    0123456789abcdef  ops,lobby").expect("right");
        assert!(aligned.name.as_deref() == Some("Deploy Bot") && aligned.may_post_in("ops"));
        for wrong in ["Bot", "Bot 0123456789abcdef", "Bot short lobby", "Bot 0123456789abcdef Lobby,a"] {
            let why = poster(wrong).err().expect(wrong);
            assert!(!why.contains("0123456789abcdef"), "{why}");
        }
    }

    #[test]
    fn a_token_is_only_itself() {
        let token = Token("0123456789abcdef".to_owned());
        assert!(token.is("0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdef\0", "0123456789abcdeg"] {
            assert!(!token.is(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn names_of_scripts_are_reserved() {
        let posters = vec![poster("Deploy Bot 0123456789abcdef *").expect("right")];
        let tokens = Tokens { posters, ..Tokens::default() };
        assert!(tokens.is_reserved(&protocol::fold_name("DEPLOY BOT")) && !tokens.is_reserved("ada"));
    }
}
