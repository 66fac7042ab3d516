//! Routes plain HTTP requests to their handlers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tungstenite::http::Request;

use super::body::Body;
use super::pages::{self, Answer};
use super::{admin, alertmanager, messages, status};
use crate::app::App;
use crate::protocol;
use crate::session::Visitor;

/// Numbers requests in the log.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Answers a request that is not for `/ws/`.
#[inline(never)]
pub fn answer(request: &Request<()>, visitor: &Visitor, body: &mut Body<'_>, app: &App) -> Answer {
    let number = REQUESTS.fetch_add(1, Relaxed);
    let answer = choose(request, visitor, body, app);
    let (method, path) = (request.method(), request.uri().path());
    log::debug!("request {number} from {}: {method} {path}: {}", visitor.address, answer.status());
    answer
}

fn choose(request: &Request<()>, visitor: &Visitor, body: &mut Body<'_>, app: &App) -> Answer {
    if let Some(redirect) = pages::redirect(request, app) {
        return redirect;
    }
    if let Some((room, part)) = request.uri().path().strip_prefix("/r/").and_then(|rest| rest.split_once('/'))
        && protocol::is_room(room)
    {
        body.may_wait();
        match part {
            "messages" => return messages::answer(request, &room.into(), visitor, body, app),
            "alertmanager" => return alertmanager::answer(request, &room.into(), body, app).unwrap_or_else(|no| no),
            _ => {}
        }
    }
    if let Some(rest) = request.uri().path().strip_prefix("/admin/") {
        body.may_wait();
        return admin::answer(request, rest, body, app);
    }
    status::answer(request, visitor, app).unwrap_or_else(|| pages::answer(request, app))
}
