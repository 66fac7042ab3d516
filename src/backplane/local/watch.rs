//! A hanging disk: the rooms' thread is then blocked in a system call, and senders must still be refused in time. A
//! second thread watches it and does that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::Command;
use crate::backplane::{Event, EventSink, Health, SessionId};

/// A batch that takes longer counts as hanging. Including the time to notice that and to refuse, this is less than the
/// 2 s within which senders are answered.
const STALL: Duration = Duration::from_millis(1500);
/// How often the thread is checked.
const LOOK: Duration = Duration::from_millis(200);
/// Reported while the disk hangs.
const STALLED: &str = "the disk does not answer";

/// The state of the rooms' thread, shared with the handle and the watching thread.
#[derive(Clone)]
pub struct Condition(Arc<Mutex<Inner>>);

struct Inner {
    health: Health,
    /// Since when the current batch has been running.
    busy_since: Option<Instant>,
    /// The authors of its messages.
    under_way: Vec<(SessionId, Option<String>)>,
    /// Commands that arrived meanwhile and must not be lost.
    put_off: Vec<Command>,
}

impl Condition {
    /// The state of a thread that waits for commands.
    pub fn new() -> Condition {
        let (under_way, put_off) = (Vec::new(), Vec::new());
        Condition(Arc::new(Mutex::new(Inner { health: Ok(()), busy_since: None, under_way, put_off })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch begins; returns the commands put off before.
    pub fn begin(&self) -> Vec<Command> {
        let mut inner = self.lock();
        inner.busy_since = Some(Instant::now());
        std::mem::take(&mut inner.put_off)
    }

    /// Records that the batch contains a message of this session.
    pub fn take_in(&self, session: SessionId, reference: Option<&str>) {
        self.lock().under_way.push((session, reference.map(str::to_owned)));
    }

    /// The batch has ended.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.busy_since = None;
        inner.under_way.clear();
    }

    /// Sets what [`Condition::health`] returns unless the disk hangs; returns the previous value.
    pub fn set_health(&self, health: Health) -> Health {
        std::mem::replace(&mut self.lock().health, health)
    }

    /// Whether writing works, and if not, why.
    pub fn health(&self) -> Health {
        let inner = self.lock();
        if inner.is_stalled() { Err(STALLED.to_owned()) } else { inner.health.clone() }
    }

    /// Whether the disk hangs.
    pub fn is_stalled(&self) -> bool {
        self.lock().is_stalled()
    }

    /// Refuses waiting commands whenever the disk hangs, until the rooms' thread ends and drops the other end of
    /// `ended`. Messages of the current batch may be kept in the end; their senders then receive a receipt after the
    /// refusal, and those who resent them used the same `ref`.
    pub fn watch(&self, inbox: &Receiver<Command>, ended: &Receiver<()>, listener: &EventSink) {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
            while self.is_stalled() {
                let under_way = std::mem::take(&mut self.lock().under_way);
                for (session, reference) in under_way {
                    listener(Event::Refused { session, reference });
                }
                match inbox.try_recv() {
                    Ok(Command::Say { seat, reference, .. }) => {
                        listener(Event::Refused { session: seat.session, reference });
                    }
                    Ok(kept @ (Command::Leave { .. } | Command::Stop { .. })) => self.lock().put_off.push(kept),
                    // Dropping the others refuses them: their callers see the channel close.
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

impl Inner {
    fn is_stalled(&self) -> bool {
        self.busy_since.is_some_and(|since| since.elapsed() > STALL)
    }
}
