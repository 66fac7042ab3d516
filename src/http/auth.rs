//! Who a request is from, by its `Authorization` header (RFC 9110, section 11.6.2).

use std::net::IpAddr;

use tungstenite::http::{Request, header};

use super::pages::Answer;
use crate::app::App;
use crate::settings::tokens::Poster;

/// The refusal of who did not show a secret, or showed a wrong one.
pub fn unauthorized(why: &str) -> Answer {
    Answer::refusal(401, why).with("WWW-Authenticate", "Bearer realm=\"bobbin\"")
}

/// The token in `Authorization: Bearer`.
fn bearer(request: &Request<()>) -> Option<&str> {
    credentials(request, "bearer")
}

fn credentials<'a>(request: &'a Request<()>, wanted: &str) -> Option<&'a str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then_some(rest.trim())
}

/// The password in `Authorization: Basic`, whatever the user's name (RFC 7617).
fn password(request: &Request<()>) -> Option<String> {
    let decoded = data_encoding::BASE64.decode(credentials(request, "basic")?.as_bytes()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// Whether the request may read the rooms: like anyone who joins, it has to know the passphrase if there is one.
///
/// # Errors
/// The refusal.
pub fn check_reader(request: &Request<()>, app: &App) -> Result<(), Answer> {
    let password = password(request);
    let offered = bearer(request).or(password.as_deref());
    if app.settings.admits(offered) || is_host(request, app) {
        return Ok(());
    }
    Err(unauthorized("send the passphrase as the token of Bearer, or as the password of Basic, authorization"))
}

/// Whether the request is from the host's tools.
pub fn is_host(request: &Request<()>, app: &App) -> bool {
    let wanted = app.settings.tokens.admin.as_ref();
    bearer(request).is_some_and(|offered| wanted.is_some_and(|wanted| wanted.is(offered)))
}

/// Whether the request may read the metrics: it comes from a private address, or has the token.
pub fn may_read_metrics(request: &Request<()>, peer: Option<IpAddr>, app: &App) -> bool {
    let wanted = app.settings.tokens.metrics.as_ref();
    let has_token = bearer(request).is_some_and(|offered| wanted.is_some_and(|wanted| wanted.is(offered)));
    let forwarded = request.headers().contains_key("X-Forwarded-For");
    has_token || (!forwarded && peer.is_some_and(is_private))
}

/// Whether nobody has this address on the open internet.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The script that posts, and its number.
///
/// # Errors
/// The refusal.
pub fn poster<'a>(request: &Request<()>, app: &'a App) -> Result<(usize, &'a Poster), Answer> {
    let offered = bearer(request).unwrap_or_default();
    let mut posters = app.settings.tokens.posters.iter().enumerate();
    posters.find(|(_, poster)| poster.token.is(offered)).ok_or_else(|| unauthorized("no script has this token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_no_part_of_the_internet() {
        for (address, private) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("192.168.0.9", true),
            ("172.31.0.1", true),
            ("169.254.1.1", true),
            ("::1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::ffff:10.0.0.1", true),
            ("8.8.8.8", false),
            ("172.32.0.1", false),
            ("2001:db8::1", false),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(address.parse().expect("an address")), private, "{address}");
        }
    }

    #[test]
    fn secrets_come_as_bearer_or_basic() {
        let with = |value: &str| Request::builder().header("Authorization", value).body(()).expect("a request");
        assert_eq!(bearer(&with("Bearer a.b")), Some("a.b"));
        assert_eq!(bearer(&with("bearer  a.b ")), Some("a.b"));
        assert_eq!(password(&with("Basic QWRhOm9wZW46c2VzYW1l")).as_deref(), Some("open:sesame"));
        for wrong in ["", "Bearer", "Basic", "Basic QWRh", "Basic !", "Digest x"] {
            assert!(bearer(&with(wrong)).is_none() && password(&with(wrong)).is_none(), "{wrong}");
        }
    }
}
