//! Identifies who sent a request: the client's address, through trusted proxies, and the user name if a proxy supplies
//! one.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tungstenite::http::{Method, Request, header};

use super::auth;
use super::pages::Answer;
use crate::app::App;
use crate::limits::{Connected, FORWARDED_FOR};
use crate::protocol;
use crate::session::Visitor;

/// The other end of a connection.
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Counts the connection against its address; `None` for a trusted proxy's connection.
    pub counted: Option<Connected>,
}

/// Identifies the sender of a request.
///
/// # Errors
/// 429 for an address that sends too many requests; 401 if a proxy must name the user and did not, or gave an invalid
/// name; 400 if it names two.
pub fn visitor(request: &Request<()>, peer: &Peer, app: &App) -> Result<Visitor, Answer> {
    let access = &app.settings.access;
    if request.headers().contains_key(FORWARDED_FOR)
        && !access.proxies.trusts(peer.address)
        && !app.warned_of_proxy.swap(true, Relaxed)
    {
        let line = access.proxies.with(peer.address);
        log::warn!("ignoring X-Forwarded-For from {}; if that is your proxy, set {line}", peer.address);
    }
    let now = Instant::now();
    let (address, turn) = addresses(request, peer.address, app);
    let account = app.accounts.of(address, now);
    let path = request.uri().path();
    // Upgrades count as connections or, if refused, as requests (`connection.rs`). Health checks are never refused.
    if !path.starts_with("/ws/") && !is_probe(path) {
        account.request(now).map_err(|refusal| Answer::over_limit(&refusal, address, app))?;
    }
    let user = user(request, peer, app)?;
    if access.user_header.is_some() && user.is_none() && !is_open(request, app) {
        return Err(Answer::refusal(401, "the proxy in front of this server did not name a user"));
    }
    Ok(Visitor { address, turn, account, user })
}

/// The client's address, and the one as which it takes turns with others: the same, unless the settings do not name the peer as a
/// proxy. A peer that is trusted by default may be a forwarder, whose clients could invent as many addresses as they like.
pub fn addresses(request: &Request<()>, peer: IpAddr, app: &App) -> (IpAddr, IpAddr) {
    let lines = request.headers().get_all(FORWARDED_FOR).iter();
    let forwarded = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect::<Vec<_>>().join(",");
    let proxies = &app.settings.access.proxies;
    let client = proxies.client(peer, &forwarded);
    (client, if proxies.names(peer) { client } else { peer })
}

/// Whether this is a path for health checks.
pub fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Whether a request needs no user: health checks, and requests authenticated by a token of their own.
fn is_open(request: &Request<()>, app: &App) -> bool {
    let path = request.uri().path();
    let posts = *request.method() == Method::POST && request.headers().contains_key(header::AUTHORIZATION);
    is_probe(path) || path == "/metrics" || path.starts_with("/admin/") || posts || auth::is_admin(request, app)
}

/// The user named by the proxy, if the peer is one of the configured proxies and names one.
///
/// # Errors
/// 400 if two are named, one of which may come from the client; 401 if it is not a valid name.
fn user(request: &Request<()>, peer: &Peer, app: &App) -> Result<Option<Arc<str>>, Answer> {
    let access = &app.settings.access;
    let Some(header) = access.user_header.as_ref().filter(|_| access.proxies.names(peer.address)) else {
        return Ok(None);
    };
    let mut lines = request.headers().get_all(header).iter();
    let Some(line) = lines.next().filter(|line| !line.is_empty()) else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Answer::refusal(400, &format!("more than one {header} line")));
    }
    let unfit = |why| Answer::refusal(401, &format!("{header}: {why}"));
    let name = std::str::from_utf8(line.as_bytes()).map_err(|_| unfit("not in UTF-8"))?;
    protocol::shown_user(name).ok_or_else(|| unfit("nothing that can be shown as a name"))?;
    Ok(Some(name.trim().into()))
}
