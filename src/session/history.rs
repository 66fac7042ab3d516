//! Pages of history. They are read on threads of their own, so a session whose page takes long keeps reading its
//! client's next frames, and still refuses a message in time when the backplane hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tungstenite::Bytes;

use super::Session;
use super::answers::raw_messages;
use super::end::End;
use crate::backplane::{Backplane, Room, SessionId, Span, Unavailable};
use crate::fanout::Lanes;
use crate::fanout::command::SessionCommand;
use crate::limits::{Account, Limit};
use crate::metrics::Metrics;
use crate::protocol::{self, ErrorCode, Id, MAX_HISTORY, ServerFrame};

/// How long a history request waits for the previous page to be read, and for it to be written, the first and the longest interval
/// at which it checks (each is twice the one before), and the retry delay given to a client whose request is refused.
const PAGE_TIME: Duration = Duration::from_millis(250);
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(64);
const PAGE_RETRY: Duration = Duration::from_millis(500);
/// A request that has waited this long for a thread, or for a page during which nothing is removed, is refused.
const QUEUE_TIME: Duration = Duration::from_secs(2);
/// Time after which a request has certainly been answered: its wait for a thread, and the backplane's 2 s.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// The most requests that wait beside a session. Beyond that, the session itself waits.
const MAX_LATER: usize = 16;

/// A request under way: disconnected once it has been answered.
pub type UnderWay = Receiver<()>;

impl Session<'_> {
    /// Whether a request can be handled now, because all earlier ones have been answered: answers carry no reference to
    /// their request, so a client can tell them apart only by their order. A page rarely takes longer than this waits. If
    /// it does, the next request has to wait in `later`, so that the messages behind it need not.
    pub(super) fn is_next(&mut self) -> Result<bool, End> {
        self.socket.get_ref().start.end();
        while self.later.len() >= MAX_LATER {
            self.is_answered(ANSWER_TIME);
            self.handle_later()?;
        }
        Ok(self.later.is_empty() && self.is_answered(PAGE_TIME))
    }

    /// Handles the requests that have waited, as far as that is possible now.
    #[inline(never)] // Keeps its frame off the stacks of threads that only read.
    pub(super) fn handle_later(&mut self) -> Result<(), End> {
        while !self.later.is_empty() && self.is_answered(Duration::ZERO) {
            if let Some((frame, bytes)) = self.later.pop_front() {
                self.handle_frame(frame, bytes, Instant::now())?;
            }
        }
        Ok(())
    }

    /// Waits until the last request has been answered, at most this long. Returns whether it has.
    fn is_answered(&mut self, patience: Duration) -> bool {
        let is_over = |last: &UnderWay| last.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected);
        let answered = self.last_page.as_ref().is_none_or(is_over);
        if answered {
            self.last_page = None;
        }
        answered
    }

    pub(super) fn history(&mut self, before: Id, limit: usize) -> Result<(), End> {
        if self.seat.is_none() {
            return self.refuse(ErrorCode::NotJoined, "join first", None);
        }
        let now = Instant::now();
        if let Err(refusal) = self.visitor.account.may_read(now) {
            return self.refuse_limit(refusal, None);
        }
        let mut look = FIRST_LOOK;
        while self.page_waits.load(Relaxed) || self.socket.get_ref().wire.is_congested() {
            if now.elapsed() >= PAGE_TIME {
                // Not counted as a refusal: a client that does not read is soon cut for that (1013).
                self.app.limited(Limit::History, self.visitor.address);
                let retry_ms = Some(PAGE_RETRY.as_millis() as u64);
                return self.error(ErrorCode::RateLimited, "the previous page has not been read yet", None, retry_ms);
            }
            std::thread::sleep(look);
            look = LONGEST_LOOK.min(look * 2);
        }
        let (answered, under_way) = bounded(0);
        let request = Request {
            session: self.id,
            room: self.room.clone(),
            before,
            limit: limit.clamp(1, MAX_HISTORY),
            since: now,
            turn: Arc::new(Turn::take(&self.page_waits)),
            answered,
            account: self.visitor.account.clone(),
            backplane: self.app.backplane.clone(),
            lanes: self.app.lanes.clone(),
            metrics: self.app.metrics.clone(),
        };
        if self.app.page_readers.try_run(move || request.answer()) {
            self.last_page = Some(under_way);
            return Ok(());
        }
        self.error(ErrorCode::Unavailable, &Unavailable.to_string(), None, None)
    }
}

/// A request for a page, and what is needed to answer it on another thread.
struct Request {
    session: SessionId,
    room: Room,
    before: Id,
    limit: usize,
    since: Instant,
    turn: Arc<Turn>,
    /// Dropped with the request, after its answer has been passed on.
    answered: Sender<()>,
    account: Arc<Account>,
    backplane: Arc<dyn Backplane>,
    lanes: Arc<Lanes>,
    metrics: Arc<Metrics>,
}

impl Request {
    fn answer(self) {
        if let Err(Unavailable) = self.write_page() {
            let code = ErrorCode::Unavailable;
            self.metrics.refuse(code.as_str());
            let message = &Unavailable.to_string();
            let error = ServerFrame::Error { code, message, reference: None, retry_ms: None };
            self.lanes.post(self.session, SessionCommand::Own(protocol::text_frame(protocol::json(&error))));
        }
        drop(self.answered);
    }

    /// Reads the page and has the lane write it. If the client has been notified of a removal meanwhile, the page may
    /// still contain what was removed, so it is read again.
    fn write_page(&self) -> Result<(), Unavailable> {
        while self.since.elapsed() < QUEUE_TIME {
            let removals = self.lanes.removals();
            let page = self.backplane.history(&self.room, Span::Before(Some(self.before)), self.limit)?;
            let messages = raw_messages(&page).map_err(|_| Unavailable)?;
            let frame = ServerFrame::History { messages: &messages, more: page.more };
            let frame = protocol::text_frame(protocol::json(&frame));
            self.account.charge_read(frame.len(), self.since);
            if self.is_written(frame, removals) {
                return Ok(());
            }
        }
        Err(Unavailable)
    }

    /// Passes a page to the lane. Returns false if there were more than this many removals before the lane's turn.
    fn is_written(&self, frame: Bytes, removals: u64) -> bool {
        let (is_current, answer) = bounded(1);
        let frame = Bytes::from_owner(UnwrittenPage { frame, _turn: self.turn.clone() });
        self.lanes.post(self.session, SessionCommand::Page { frame, removals, is_current });
        // The lane drops it unanswered only when the process ends.
        answer.recv().unwrap_or(true)
    }
}

/// A session's turn to request a page. It ends when the page is written, or the client is gone, and only then may the
/// client request another: at most one page is queued for a client that does not read.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(waits: &Arc<AtomicBool>) -> Turn {
        waits.store(true, Relaxed);
        Turn(waits.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// A page on its way to the socket; the outbox drops it once it is written.
struct UnwrittenPage {
    frame: Bytes,
    _turn: Arc<Turn>,
}

impl AsRef<[u8]> for UnwrittenPage {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}
