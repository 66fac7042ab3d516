//! Health and metrics endpoints, for load balancers, orchestrators and Prometheus.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use tungstenite::http::{Method, Request};

use super::auth;
use super::pages::{self, Answer, JSON, TEXT};
use crate::app::App;
use crate::metrics::Sample;
use crate::session::Visitor;

/// Answers `/healthz`, `/readyz` and `/metrics`; `None` for any other path.
pub fn answer(request: &Request<()>, visitor: &Visitor, app: &App) -> Option<Answer> {
    let answer: fn(&Request<()>, &Visitor, &App) -> Answer = match request.uri().path() {
        "/healthz" => |_, _, _| Answer::new(200, TEXT, b"alive\n".to_vec()),
        "/readyz" => ready,
        "/metrics" => metrics,
        _ => return None,
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    Some(if reads { answer(request, visitor, app) } else { pages::wrong_method() })
}

/// Whether a load balancer should send new clients here. The reason is given in full only to private addresses: it can
/// name the backplane's address.
fn ready(request: &Request<()>, visitor: &Visitor, app: &App) -> Answer {
    let health = if app.draining.load(Relaxed) { Err("draining".to_owned()) } else { app.backplane.health() };
    let (status, body) = match health {
        Ok(()) => (200, json!({ "ready": true })),
        Err(why) => {
            let is_told = auth::is_private(request, visitor) || why == "draining";
            let why = if is_told { why } else { "the backplane does not answer".to_owned() };
            (503, json!({ "ready": false, "reason": why }))
        }
    };
    Answer::new(status, JSON, format!("{body}\n").into_bytes()).with("Cache-Control", "no-store")
}

fn metrics(request: &Request<()>, visitor: &Visitor, app: &App) -> Answer {
    if !auth::may_read_metrics(request, visitor, app) {
        let why = "metrics are for private addresses, or with METRICS_TOKEN as Bearer authorization";
        return Answer::refusal(403, why);
    }
    let (publisher, oldest) = app.backplane.queue();
    let sample = Sample { polls: app.polls.waiting(), lanes: app.lanes.queued(), publisher, oldest };
    Answer::new(200, "text/plain; version=0.0.4; charset=utf-8", app.metrics.prometheus(&sample))
}
