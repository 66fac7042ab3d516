//! Authenticates a request by its `Authorization` header (RFC 9110, section 11.6.2).

use std::time::{Duration, Instant};

use tungstenite::http::{Request, header};

use super::pages::Answer;
use crate::app::App;
use crate::limits;
use crate::session::Visitor;
use crate::settings::tokens::Poster;

/// The answer to a request with a missing or wrong secret.
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

/// Checks that the request may read rooms: as for a join, it needs the passphrase if one is set, and its sender must
/// not be banned. With the admin token neither is checked.
///
/// # Errors
/// The refusal.
pub fn check_reader(request: &Request<()>, visitor: &Visitor, app: &App) -> Result<(), Answer> {
    let password = password(request);
    let offered = bearer(request).or(password.as_deref());
    if is_admin(request, app) {
        return Ok(());
    }
    let may_read = app.settings.admits(offered);
    let wrong = if may_read { None } else { offered };
    let tried = visitor.account.try_passphrase(wrong, Instant::now());
    tried.map_err(|refusal| Answer::over_limit(&refusal, visitor.address, app))?;
    check_ban(visitor, app)?;
    if may_read {
        return Ok(());
    }
    Err(unauthorized("send the passphrase as Bearer token, or as the password of Basic authorization"))
}

/// Checks that the sender is not banned.
///
/// # Errors
/// The refusal.
pub fn check_ban(visitor: &Visitor, app: &App) -> Result<(), Answer> {
    let refusal = |left: Duration| {
        Answer::refusal(403, "you are banned for now").with("Retry-After", (left.as_secs() + 1).to_string())
    };
    app.backplane.banned(&visitor.mark().unwrap_or_default(), visitor.address).map_or(Ok(()), |left| Err(refusal(left)))
}

/// Whether the request carries the admin token.
pub fn is_admin(request: &Request<()>, app: &App) -> bool {
    let wanted = app.settings.tokens.admin.as_ref();
    bearer(request).is_some_and(|offered| wanted.is_some_and(|wanted| wanted.is(offered)))
}

/// Whether the request may read the metrics: it comes from a private address, or carries the token.
pub fn may_read_metrics(request: &Request<()>, visitor: &Visitor, app: &App) -> bool {
    let wanted = app.settings.tokens.metrics.as_ref();
    let has_token = bearer(request).is_some_and(|offered| wanted.is_some_and(|wanted| wanted.is(offered)));
    has_token || is_private(request, visitor)
}

/// Whether the request comes from a private address, and not through a proxy.
pub fn is_private(request: &Request<()>, visitor: &Visitor) -> bool {
    !request.headers().contains_key(limits::FORWARDED_FOR) && limits::is_private(visitor.address)
}

/// The script that sent the request, and its index in the settings.
///
/// # Errors
/// The refusal.
pub fn poster<'a>(request: &Request<()>, app: &'a App) -> Result<(usize, &'a Poster), Answer> {
    let offered = bearer(request).unwrap_or_default();
    let mut posters = app.settings.tokens.posters.iter().enumerate();
    posters.find(|(_, poster)| poster.token.is(offered)).ok_or_else(|| unauthorized("unknown token"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
