//! What a session writes to its own client only: pages of history, errors, refusals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tungstenite::Bytes;

use super::end::End;
use super::{REFUSALS, Session};
use crate::backplane::{Page, Span, Unavailable};
use crate::limits::{Limit, Refusal};
use crate::protocol::{self, Close, ErrorCode, Id, MAX_HISTORY, ServerFrame};

/// How long a history request waits for the previous page to be written, how often it checks, and the retry delay given
/// to a client whose request is refused.
const PAGE_TIME: Duration = Duration::from_millis(250);
const PAGE_LOOK: Duration = Duration::from_millis(1);
const PAGE_RETRY: Duration = Duration::from_millis(500);

impl Session<'_> {
    pub(super) fn history(&mut self, before: Id, limit: usize) -> Result<(), End> {
        if self.seat.is_none() {
            return self.refuse(ErrorCode::NotJoined, "join first", None);
        }
        let now = Instant::now();
        if let Err(refusal) = self.visitor.account.may_read(now) {
            return self.refuse_limit(refusal, None);
        }
        while self.page_waits.load(Relaxed) || self.socket.get_ref().wire.is_congested() {
            if now.elapsed() >= PAGE_TIME {
                // Not counted as a refusal: a client that does not read is soon cut for that (1013).
                self.app.limited(Limit::History, self.visitor.address);
                let retry_ms = Some(PAGE_RETRY.as_millis() as u64);
                return self.error(ErrorCode::RateLimited, "the previous page has not been read yet", None, retry_ms);
            }
            std::thread::sleep(PAGE_LOOK);
        }
        let page = self.app.backplane.history(&self.room, Span::Before(Some(before)), limit.clamp(1, MAX_HISTORY));
        let Ok(page) = page else {
            return self.error(ErrorCode::Unavailable, &Unavailable.to_string(), None, None);
        };
        let frame = ServerFrame::History { messages: &raw_messages(&page)?, more: page.more };
        let bytes = protocol::text_frame(protocol::json(&frame));
        self.visitor.account.has_read(bytes.len(), now);
        let page = UnwrittenPage::new(bytes, &self.page_waits);
        Ok(self.socket.get_mut().send(Bytes::from_owner(page))?)
    }

    /// Refuses a frame that exceeds a limit.
    pub(super) fn refuse_limit(&mut self, refusal: Refusal, reference: Option<&str>) -> Result<(), End> {
        let Refusal { limit, wait } = refusal;
        self.app.limited(limit, self.visitor.address);
        // Rounded up, so that a client that waits this long is accepted.
        let retry_ms = wait.as_millis() as u64 + 1;
        self.error(ErrorCode::RateLimited, limit.reason(), reference, Some(retry_ms))?;
        // Overload is not the client's fault.
        if limit == Limit::Overload { Ok(()) } else { self.count_refusal() }
    }

    pub(super) fn refuse_banned(&mut self, left: Duration) -> Result<(), End> {
        let retry_ms = Some(left.as_millis() as u64 + 1);
        self.error(ErrorCode::Banned, "you are banned for now", None, retry_ms)?;
        self.count_refusal()
    }

    pub(super) fn refuse(&mut self, code: ErrorCode, why: &str, reference: Option<&str>) -> Result<(), End> {
        self.error(code, why, reference, None)?;
        // A backplane that is away is not the client's fault.
        if code == ErrorCode::Unavailable { Ok(()) } else { self.count_refusal() }
    }

    fn count_refusal(&mut self) -> Result<(), End> {
        let refused = self.refused.count(Instant::now(), REFUSALS.1);
        if refused >= REFUSALS.0 { Err(End::Refused(Close::Policy)) } else { Ok(()) }
    }

    fn error(
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

/// A page on its way to the socket. The outbox drops it once it is written or the client is gone, and only then may the
/// client request another. So at most one page is queued for a client that does not read.
struct UnwrittenPage {
    bytes: Bytes,
    waits: Arc<AtomicBool>,
}

impl UnwrittenPage {
    fn new(bytes: Bytes, waits: &Arc<AtomicBool>) -> UnwrittenPage {
        waits.store(true, Relaxed);
        UnwrittenPage { bytes, waits: waits.clone() }
    }
}

impl AsRef<[u8]> for UnwrittenPage {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for UnwrittenPage {
    fn drop(&mut self) {
        self.waits.store(false, Relaxed);
    }
}
