//! Timely refusals: while the disk hangs, the rooms' thread is blocked in a system call, but senders must still receive
//! an answer. A second thread refuses every message that has waited too long, whether in the queue or in a commit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::backplane::{Event, EventSink, Health, SessionId};

/// A message that waits longer is refused, and a commit that takes longer counts as hanging. Together with the interval
/// of the check, this is less than the 2 s within which senders are answered.
const STALL: Duration = Duration::from_millis(1500);
/// How often waiting messages and the current commit are checked.
const LOOK: Duration = Duration::from_millis(200);
/// Reported while the disk hangs.
const STALLED: &str = "the disk does not answer";

/// The state of the rooms' thread, shared with the handle and the watching thread.
///
/// Refusals and changes of status are published under its lock, so that none follows a receipt or a later change. The
/// listener never takes this lock.
#[derive(Clone)]
pub struct Condition(Arc<Mutex<Inner>>);

struct Inner {
    health: Health,
    /// The status last published.
    is_up: bool,
    /// Since when the rooms' thread has been working without progress; `None` while it waits for commands.
    busy_since: Option<Instant>,
    /// Messages neither kept nor refused yet, in the order in which they were submitted.
    unanswered: BTreeMap<u64, Unanswered>,
    /// The number of messages submitted.
    submitted: u64,
}

struct Unanswered {
    since: Instant,
    session: SessionId,
    reference: Option<String>,
}

impl Condition {
    /// The state of a thread that waits for commands.
    pub fn new() -> Condition {
        Condition(Arc::new(Mutex::new(Inner {
            health: Ok(()),
            is_up: true,
            busy_since: None,
            unanswered: BTreeMap::new(),
            submitted: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the rooms' thread works and makes progress, or that it waits for commands.
    pub fn set_busy(&self, is_busy: bool) {
        self.lock().busy_since = is_busy.then(Instant::now);
    }

    /// Records a message about to be queued. Returns its number, or `None` if the disk hangs.
    pub fn submit(&self, session: SessionId, reference: Option<String>) -> Option<u64> {
        let mut inner = self.lock();
        if inner.is_stalled() {
            return None;
        }
        inner.submitted += 1;
        let number = inner.submitted;
        inner.unanswered.insert(number, Unanswered { since: Instant::now(), session, reference });
        Some(number)
    }

    /// Whether a message has not been refused yet.
    pub fn is_unanswered(&self, number: u64) -> bool {
        self.lock().unanswered.contains_key(&number)
    }

    /// A message is about to be answered. Returns its refusal, to be published if it was not kept, or `None` if it has
    /// been refused already.
    pub fn answer(&self, number: u64) -> Option<Event> {
        self.lock().unanswered.remove(&number).map(Unanswered::refusal)
    }

    /// How long the oldest message that is neither kept nor refused has waited.
    pub fn oldest_wait(&self) -> Duration {
        self.lock().unanswered.values().next().map(|oldest| oldest.since.elapsed()).unwrap_or_default()
    }

    /// Sets what [`Condition::health`] returns unless the disk hangs; returns the previous value.
    pub fn set_health(&self, health: Health, listener: &EventSink) -> Health {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.health, health);
        inner.publish_status(listener);
        before
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

    /// Publishes refusals and the status, until the rooms' thread ends and drops the other end of `ended`. Messages of
    /// the current batch may still be kept; their senders then receive a receipt after the refusal. A client that
    /// resent such a message used the same `ref`, so it is not duplicated.
    pub fn watch(&self, ended: &Receiver<()>, listener: &EventSink) {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
            let mut inner = self.lock();
            inner.publish_status(listener);
            while let Some(oldest) = inner.unanswered.first_entry()
                && oldest.get().since.elapsed() > STALL
            {
                listener(oldest.remove().refusal());
            }
        }
    }
}

impl Inner {
    fn is_stalled(&self) -> bool {
        self.busy_since.is_some_and(|since| since.elapsed() > STALL)
    }

    fn publish_status(&mut self, listener: &EventSink) {
        let is_up = self.health.is_ok() && !self.is_stalled();
        if std::mem::replace(&mut self.is_up, is_up) != is_up {
            listener(Event::Status(is_up));
        }
    }
}

impl Unanswered {
    fn refusal(self) -> Event {
        Event::Refused { session: self.session, reference: self.reference }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{bounded, unbounded};

    #[test]
    fn a_message_is_refused_in_time_and_once_even_if_the_disk_makes_progress() {
        let (condition, (alive, ended), (to, events)) = (Condition::new(), bounded(0), unbounded());
        let watched = condition.clone();
        let listener: EventSink = Arc::new(move |event| to.send(event).expect("the test receives it"));
        let watcher = std::thread::spawn(move || watched.watch(&ended, &listener));
        condition.set_busy(true);
        let (start, number) = (Instant::now(), condition.submit(7, None).expect("it does not hang"));
        let event = std::iter::from_fn(|| {
            condition.set_busy(true);
            Some(events.recv_timeout(Duration::from_millis(100)))
        });
        let event = event.take(50).find_map(Result::ok).expect("an event");
        assert!(matches!(event, Event::Refused { session: 7, .. }), "{event:?}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(!condition.is_unanswered(number) && condition.answer(number).is_none());
        drop(alive);
        watcher.join().expect("it ends");
    }
}
