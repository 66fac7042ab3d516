//! Which part answers a request that is no WebSocket's.

use tungstenite::http::Request;

use super::body::Body;
use super::pages::{self, Answer};
use crate::app::App;

/// Answers a request that is not for `/ws/`.
#[inline(never)]
pub fn answer(request: &Request<()>, _body: &mut Body<'_>, app: &App) -> Answer {
    pages::answer(request, app)
}
