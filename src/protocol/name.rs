//! The rules for names, texts, rooms and keys chosen by clients, and the public mark derived from a client's secret.

use std::borrow::Cow;
use std::fmt;

use icu_casemap::CaseMapperBorrowed as CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed as ComposingNormalizer;
use icu_properties::props::{BidiControl, DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{CodePointMapData, CodePointSetData};
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::MAX_TEXT_BYTES;

/// The length of a [`mark`], in characters.
pub const MARK_CHARS: usize = 16;
/// The longest `ref` that is remembered as it is, in bytes: a UUID has 36.
const SHORT_REFERENCE: usize = 36;

/// A string that must not be printed: a client's secret, or the passphrase it sends.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A client's public mark, the `by` of its messages: 80 bits of the SHA-256 of its secret, in lower-case base32 (RFC
/// 4648, section 6). The same secret gives the same mark on every instance, and the mark does not reveal the secret.
pub fn mark(secret: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = digest(&SHA256, format!("bobbin.by\0{secret}").as_bytes());
    let bits = hash.as_ref().iter().take(10).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let digit = |place: usize| char::from(ALPHABET[(bits >> (5 * (MARK_CHARS - 1 - place)) & 31) as usize]);
    (0..MARK_CHARS).map(digit).collect()
}

/// Whether this has the form of a [`mark`].
pub fn is_mark(text: &str) -> bool {
    text.len() == MARK_CHARS && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

/// Whether a terminal or a browser obeys this character rather than shows it: it is a control or bidirectional-override one.
pub fn controls_display(c: char) -> bool {
    c.is_control() || CodePointSetData::new::<BidiControl>().contains(c)
}

/// A name as shown: trimmed, inner white space folded to one space, 1 to 32 characters, at least one of them visible,
/// and no control or bidirectional-override character (Unicode Standard Annex 9, section 2). `None` if that is
/// impossible. Joiners and variation selectors stay, because emoji need them.
pub fn clean_name(raw: &str) -> Option<String> {
    let name = raw.split_whitespace().collect::<Vec<_>>().join(" ");
    let fits = (1..=32).contains(&name.chars().count());
    let allowed = !name.chars().any(controls_display);
    (fits && allowed && name.chars().any(is_visible)).then_some(name)
}

/// The shown name of a user named by a proxy. A name that is too long is shortened, because such users cannot choose
/// another; their identity derives from the full name.
pub fn shown_user(user: &str) -> Option<String> {
    clean_name(&user.trim().chars().take(32).collect::<String>())
}

/// Whether [`clean_name`] would return this name unchanged. Most names are plain ASCII and need no Unicode tables; the
/// reply to one join can contain a hundred names to check.
pub fn is_clean_name(name: &str) -> bool {
    let plain = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic());
    name.len() <= 32 && name.split(' ').all(plain) || clean_name(name).is_some_and(|clean| clean == name)
}

/// Whether a character is visible by itself: a letter, digit, punctuation mark or symbol. U+2800 is a symbol by
/// category, but a blank cell on screen.
fn is_visible(c: char) -> bool {
    use GeneralCategoryGroup as Group;
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    let group = Group::Letter.union(Group::Number).union(Group::Punctuation).union(Group::Symbol);
    group.contains(category) && !is_ignorable(c) && c != '\u{2800}'
}

/// Whether a character is normally displayed as nothing: joiners, soft hyphens, fillers, tags.
fn is_ignorable(c: char) -> bool {
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// The form in which names are compared: two names are the same if they differ only in compatibility forms, case or
/// undisplayed characters (Unicode Standard, section 3.13, `toNFKC_Casefold`). Look-alike letters of other alphabets
/// remain different.
pub fn fold_name(name: &str) -> String {
    let (normalizer, mapper) = (ComposingNormalizer::new_nfkc(), CaseMapper::new());
    let fold = |text: &str| {
        let folded = mapper.fold_string(&normalizer.normalize(text)).into_owned();
        normalizer.normalize(&folded).chars().filter(|c| !is_ignorable(*c)).collect::<String>()
    };
    // Characters removed by the first pass may have kept others from composing; the second pass composes those.
    fold(&fold(name))
}

/// A text as kept: its end trimmed, 1 to [`MAX_TEXT_BYTES`] bytes. `None` if it is empty or too long.
pub fn clean_text(raw: &str) -> Option<&str> {
    let text = raw.trim_end();
    (1..=MAX_TEXT_BYTES).contains(&text.len()).then_some(text)
}

/// Whether this is a valid room name: `[a-z0-9][a-z0-9_-]{0,47}`.
pub fn is_room(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=48).contains(&name.len())
        && plain(name.as_bytes()[0])
        && name.bytes().all(|b| plain(b) || b == b'_' || b == b'-')
}

/// Whether this is a valid client secret: 16 to 64 characters `[A-Za-z0-9_-]`.
pub fn is_client(secret: &str) -> bool {
    (16..=64).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether this is a valid `ref`: 1 to 64 characters.
pub fn is_reference(reference: &str) -> bool {
    (1..=64).contains(&reference.chars().count())
}

/// A `ref` as it is remembered: itself, or a hash of it if it is long, because strangers can have thousands remembered.
/// It is compared with others of the same client only.
pub fn stored_reference(reference: &str) -> Cow<'_, str> {
    if reference.len() <= SHORT_REFERENCE { reference.into() } else { mark(&format!("ref\0{reference}")).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_refs_are_remembered_by_a_hash() {
        let uuid = "123e4567-e89b-12d3-a456-426614174000";
        assert_eq!(stored_reference(uuid), uuid);
        let (one, two) = ("ä".repeat(64), "ä".repeat(63));
        assert_eq!(stored_reference(&one).len(), MARK_CHARS);
        assert!(stored_reference(&one) == stored_reference(&one) && stored_reference(&one) != stored_reference(&two));
    }

    #[test]
    fn names_are_trimmed_folded_and_bounded() {
        let long = "x".repeat(33);
        for (raw, clean) in [
            (" Ada ", Some("Ada")),
            ("Ada \t  Lovelace", Some("Ada Lovelace")),
            ("", None),
            ("   ", None),
            ("a\u{7}b", None),
            ("a\u{202E}b", None),
            ("\u{200B}", None),
            ("\u{3164}", None),
            ("\u{2800} \u{2800}", None),
            ("\u{301}\u{302}", None),
            ("\u{AD}\u{FE0F}\u{E0041}", None),
            ("Ada\u{200D}", Some("Ada\u{200D}")),
            ("\u{1F469}\u{200D}\u{1F52C}", Some("\u{1F469}\u{200D}\u{1F52C}")),
            ("\u{2764}\u{FE0F}", Some("\u{2764}\u{FE0F}")),
            ("אדה", Some("אדה")),
            ("!", Some("!")),
            ("Ærøskøbing", Some("Ærøskøbing")),
            (&long, None),
            (&long[1..], Some(&long[1..])),
        ] {
            assert_eq!(clean_name(raw).as_deref(), clean, "{raw:?}");
            assert_eq!(is_clean_name(raw), clean == Some(raw), "{raw:?}");
        }
    }

    #[test]
    fn names_that_look_alike_are_one() {
        for other in [
            "ADA",
            "ada",
            "\u{FF21}\u{FF44}\u{FF41}",
            "A\u{200D}da",
            "A\u{AD}da",
            "Ada\u{FE0F}",
            "Ada\u{E0041}\u{E007F}",
            "Ada\u{3164}",
            "\u{2060}Ada\u{200B}",
            "\u{1D400}da",
        ] {
            assert_eq!(fold_name(other), fold_name("Ada"), "{other:?}");
        }
        for (one, other) in
            [("Ame\u{301}lie", "Am\u{E9}lie"), ("Stra\u{DF}e", "STRASSE"), ("\u{3A3}\u{3C2}", "\u{3C3}\u{3C3}")]
        {
            assert_eq!(fold_name(one), fold_name(other), "{one:?} {other:?}");
        }
        for (one, other) in [("Ada", "Ade"), ("Ada", "Ad\u{E0}"), ("\u{1F469}", "\u{1F468}"), ("Ada", "A da")] {
            assert_ne!(fold_name(one), fold_name(other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn folding_once_is_enough() {
        for c in (0..=0x10_FFFF).step_by(31).filter_map(char::from_u32) {
            let folded = fold_name(&format!("a{c}\u{301}"));
            assert_eq!(fold_name(&folded), folded, "U+{:04X}", u32::from(c));
            assert!(!is_visible(c) || !fold_name(&c.to_string()).is_empty(), "U+{:04X} folds to nothing", u32::from(c));
        }
    }

    #[test]
    fn texts_lose_their_end_and_have_a_limit() {
        assert_eq!(clean_text("  hi \n"), Some("  hi"));
        assert_eq!(clean_text(" \n "), None);
        assert!(clean_text(&"é".repeat(2048)).is_some());
        assert!(clean_text(&"é".repeat(2049)).is_none());
    }

    #[test]
    fn rooms_are_what_the_contract_says() {
        for (room, right) in [("lobby", true), ("a", true), ("-a", false), ("A", false), ("", false), ("a_b-9", true)] {
            assert_eq!(is_room(room), right, "{room:?}");
        }
        assert!(is_room(&"a".repeat(48)) && !is_room(&"a".repeat(49)));
    }

    #[test]
    fn a_mark_is_the_same_for_the_same_secret_and_tells_nothing_of_it() {
        // The first 10 bytes of sha256("bobbin.by\0" + secret), in base32.
        assert_eq!(mark("0123456789abcdef"), "u62n6rt35ofth3et");
        assert!(is_mark(&mark("0123456789abcdef")) && mark("0123456789abcdef") != mark("0123456789abcdeg"));
        assert!(!is_mark("ABCDEFGH234567AB") && !is_mark("abc") && !is_mark("abcdefgh2345678a"));
        assert_eq!(format!("{:?}", Secret::from("sesame".to_owned())), "(secret)");
    }
}
