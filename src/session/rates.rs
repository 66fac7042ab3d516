//! What a client and its address may send, and how they are refused or slowed down beyond it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::end::End;
use super::{REFUSALS, Session};
use crate::fanout::socket;
use crate::limits::{self, Limit, Refusal};
use crate::protocol::{Close, ErrorCode};

/// The longest pause of a session whose address exceeds its share: short, because a client that closes must be seen leaving
/// within 250 ms. Only a session that has itself been refused several times pauses for as long as its address's account says.
const SHORT_PAUSE: Duration = Duration::from_millis(100);
const FEW_REFUSALS: usize = 5;
/// The longest pause before a text, per byte and in all, and the shortest interval between two pauses.
const TEXT_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_TEXT_PAUSE: Duration = Duration::from_millis(200);
const PAUSE_EVERY: Duration = Duration::from_millis(250);

impl Session<'_> {
    /// Charges the bytes of a text frame to the connection and its address.
    pub(super) fn pay_for(&mut self, bytes: usize, now: Instant) -> Result<(), Refusal> {
        self.text_rate.take_many(bytes as f64, now).map_err(|wait| Refusal { limit: Limit::Text, wait })?;
        if self.app.settings.rate_limit == 0 { Ok(()) } else { self.visitor.account.text(bytes, now) }
    }

    /// Charges a message and its bytes. Returns how long its address would have to wait to keep to its rate of text.
    pub(super) fn pay_for_message(&mut self, bytes: usize, now: Instant) -> Result<Duration, Refusal> {
        self.pay_for(bytes, now)?;
        if self.app.settings.rate_limit == 0 { Ok(Duration::ZERO) } else { self.visitor.account.message(now) }
    }

    /// Refuses a frame that exceeds a limit.
    pub(super) fn refuse_limit(&mut self, refusal: Refusal, reference: Option<&str>) -> Result<(), End> {
        let Refusal { limit, mut wait } = refusal;
        self.app.limited(limit, self.visitor.address);
        if limit != Limit::Frames {
            wait = wait.max(self.visitor.account.retry_after(Instant::now()));
        }
        // Rounded up, so that a client that waits this long is accepted.
        let retry_ms = wait.as_millis() as u64 + 1;
        self.error(ErrorCode::RateLimited, limit.reason(), reference, Some(retry_ms))?;
        // Overload is not the client's fault.
        if limit == Limit::Overload { Ok(()) } else { self.count_refusal() }
    }

    /// Counts a refused frame; too many of them end the session. If its address has been refused too often, the session pauses:
    /// briefly at first, because others may have caused that, and for longer if it keeps sending.
    pub(super) fn count_refusal(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let refused = self.refused.count(now, REFUSALS.1);
        if refused >= REFUSALS.0 {
            return Err(self.flooded(Limit::Refusals));
        }
        let most = if refused < FEW_REFUSALS { SHORT_PAUSE } else { Duration::MAX };
        // Jitter: frames that came together are refused together, but the next ones are not.
        self.pause = self.visitor.account.refused(now).min(most).mul_f64(0.5 + limits::jitter() / 2.0);
        if !self.pause.is_zero() {
            self.app.limited(Limit::Refusals, self.visitor.address);
        }
        Ok(())
    }

    /// Charges the address of a session that has exceeded this limit too often. Returns how the session ends.
    pub(super) fn flooded(&self, limit: Limit) -> End {
        self.app.limited(limit, self.visitor.address);
        self.visitor.account.charge_flood(Instant::now());
        End::Refused(Close::Policy)
    }

    /// Waits for a random part of `pause`, which is shortened to what a text of this size may wait. Returns whether the text
    /// may be passed on now: the session may have been closed meanwhile.
    pub(super) fn is_passed_on(&mut self, pause: Duration, bytes: usize, now: Instant) -> bool {
        if self.rested.is_none_or(|at| now >= at + PAUSE_EVERY) {
            let most = (TEXT_PAUSE * bytes as u32).min(LONGEST_TEXT_PAUSE);
            self.pause = pause.min(most).mul_f64(limits::jitter());
            self.rest();
        }
        !self.socket.get_ref().wire.is_closing()
    }

    /// Stops reading for as long as [`Session::pause`] says, or until the client disconnects. What it sent before that is then
    /// read without further pauses.
    pub(super) fn rest(&mut self) {
        let (pause, transport) = (std::mem::take(&mut self.pause), self.socket.get_ref());
        if pause.is_zero() || self.is_gone || transport.wire.is_closing() || self.app.draining.load(Relaxed) {
            return;
        }
        transport.start.end();
        let began = Instant::now();
        self.is_gone = socket::closes_within(&transport.wire.tcp, pause).unwrap_or(false);
        self.refused.skip(began.elapsed());
        self.rested = Some(Instant::now());
    }
}
