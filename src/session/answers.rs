//! Frames that a session sends to its own client only: errors and refusals.

use std::time::Duration;

use serde_json::value::RawValue;

use super::Session;
use super::end::End;
use crate::backplane::Page;
use crate::protocol::{self, ErrorCode, Id, ServerFrame};

impl Session<'_> {
    pub(super) fn refuse_banned(&mut self, left: Duration) -> Result<(), End> {
        let retry_ms = Some(left.as_millis() as u64 + 1);
        log::warn!("{} was refused: banned", self.visitor.address);
        self.error(ErrorCode::Banned, "you are banned for now", None, retry_ms)?;
        self.count_refusal()
    }

    pub(super) fn refuse(&mut self, code: ErrorCode, why: &str, reference: Option<&str>) -> Result<(), End> {
        self.error(code, why, reference, None)?;
        // A backplane that is away is not the client's fault.
        if code == ErrorCode::Unavailable { Ok(()) } else { self.count_refusal() }
    }

    pub(super) fn error(
        &mut self,
        code: ErrorCode,
        message: &str,
        reference: Option<&str>,
        retry_ms: Option<u64>,
    ) -> Result<(), End> {
        self.app.metrics.refuse(code.as_str());
        self.send(&ServerFrame::Error { code, message, reference, retry_ms })
    }

    /// Sends a frame, bypassing tungstenite, whose write buffer would keep the size of the largest frame forever.
    pub(super) fn send(&mut self, frame: &ServerFrame<'_>) -> Result<(), End> {
        let bytes = protocol::text_frame(protocol::json(frame));
        Ok(self.socket.get_mut().send(bytes)?)
    }
}

/// The messages of a page as JSON for a frame.
pub(super) fn raw_messages(page: &Page) -> Result<Vec<Box<RawValue>>, End> {
    let raw = |(id, body): &(Id, String)| RawValue::from_string(protocol::message_json(*id, body));
    page.messages.iter().map(raw).collect::<Result<_, _>>().map_err(|error| End::Broken(format!("the log: {error}")))
}
