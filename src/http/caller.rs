//! Who sends a request: its address as proxies that are believed give it, and its name where they give that too.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tungstenite::http::{Method, Request, header};

use super::auth;
use super::connection::Peer;
use super::pages::Answer;
use crate::app::App;
use crate::protocol;
use crate::session::Visitor;

/// The header in which proxies list whom a request came from, the nearest last.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Finds out who sends a request.
///
/// # Errors
/// 429 for an address that sends too many, 401 where a proxy must name the user and did not.
pub fn visitor(request: &Request<()>, peer: &Peer, app: &App) -> Result<Visitor, Answer> {
    let access = &app.settings.access;
    let lines = request.headers().get_all(FORWARDED_FOR);
    let forwarded: Vec<&str> = lines.iter().map(|line| line.to_str().unwrap_or("unknown")).collect();
    if !forwarded.is_empty() && !access.proxies.trusts(peer.address) && !app.warned_of_proxy.swap(true, Relaxed) {
        let line = format!("TRUSTED_PROXIES={}", peer.address);
        log::warn!("X-Forwarded-For from {} is ignored; if that is your proxy, set {line}", peer.address);
    }
    let now = Instant::now();
    let address = access.proxies.client(peer.address, &forwarded.join(","));
    let account = app.accounts.of(address, now);
    let path = request.uri().path();
    // An upgrade counts as a connection instead, and a health check is never refused.
    if !path.starts_with("/ws/") && !is_probe(path) {
        account.request(now).map_err(|refusal| {
            app.limited(refusal.limit, address);
            Answer::too_much(&refusal)
        })?;
    }
    let user = user(request, peer, app);
    if access.user_header.is_some() && user.is_none() && !is_open(request, app) {
        return Err(Answer::refusal(401, "the proxy before this server did not say who you are"));
    }
    Ok(Visitor { address, account, user })
}

/// The paths that load balancers and orchestrators request.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Whether a request needs no user: probes, and what has a token of its own.
fn is_open(request: &Request<()>, app: &App) -> bool {
    let path = request.uri().path();
    let posts = *request.method() == Method::POST && request.headers().contains_key(header::AUTHORIZATION);
    is_probe(path) || path == "/metrics" || path.starts_with("/admin/") || posts || auth::is_host(request, app)
}

/// The user as the proxy names it, from a peer that was named as a proxy.
fn user(request: &Request<()>, peer: &Peer, app: &App) -> Option<std::sync::Arc<str>> {
    let access = &app.settings.access;
    let value = request.headers().get(access.user_header.as_ref()?)?;
    if !access.proxies.names(peer.address) {
        return None;
    }
    let name = std::str::from_utf8(value.as_bytes()).ok()?;
    protocol::shown_user(name).is_some().then(|| name.trim().into())
}
