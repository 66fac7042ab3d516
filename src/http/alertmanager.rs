//! Turns an Alertmanager webhook into one chat message with a line per alert.

use serde_json::Value;
use tungstenite::http::{Method, Request};

use super::body::Body;
use super::messages::{self, Posted};
use super::pages::Answer;
use crate::app::App;
use crate::backplane::Room;
use crate::limits;
use crate::protocol::{self, MAX_TEXT_BYTES};

/// Answers `POST /r/{room}/alertmanager`.
pub fn answer(request: &Request<()>, room: &Room, body: &mut Body<'_>, app: &App) -> Result<Answer, Answer> {
    if request.method() != Method::POST {
        return Err(Answer::refusal(405, "only POST").with("Allow", "POST"));
    }
    let poster = messages::admit(request, room, app)?;
    let body = String::from_utf8(body.read(request)?).unwrap_or_default();
    let bad = || Answer::refusal(400, "the body is not an Alertmanager webhook");
    let hook = Some(&body).filter(|body| limits::is_shallow(body));
    let hook: Value = hook.and_then(|hook| serde_json::from_str(hook).ok()).ok_or_else(bad)?;
    let alerts = hook["alerts"].as_array().ok_or_else(bad)?;
    let mut text = alerts.iter().map(line).collect::<Vec<_>>().join("\n");
    while text.len() > MAX_TEXT_BYTES {
        text.pop();
    }
    // Alertmanager retries with the same bytes, so their hash identifies the notification.
    messages::keep(poster, room, Posted { text, name: None }, Some(protocol::mark(&body)), app)
}

fn line(alert: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let what = ["summary", "description", "message"].map(|key| text(&alert["annotations"][key]));
    let what = what.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let labels = [&alert["labels"]["alertname"], &alert["labels"]["instance"]].map(text).join(" ");
    format!("{}: {} {what}", text(&alert["status"]).to_uppercase(), labels.trim())
}
