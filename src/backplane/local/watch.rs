//! A disk that hangs: the rooms' thread then waits in a system call, and whoever handed it something must be refused in
//! time all the same. That is done by a thread of its own, which looks after the other one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::Command;
use crate::backplane::{Event, EventSink, Health, SessionId};

/// A batch that takes longer is not waited for. With the look that finds it and the refusals, this is less than the 2 s in
/// which a sender has its answer.
const STALL: Duration = Duration::from_millis(1500);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);
/// Why nothing is kept meanwhile.
const STALLED: &str = "the disk does not answer";

/// How the rooms' thread is, for the handle and for the thread that looks after it.
#[derive(Clone)]
pub struct Condition(Arc<Mutex<Inner>>);

struct Inner {
    health: Health,
    /// Since when the batch at hand is carried out.
    busy_since: Option<Instant>,
    /// Whose messages are in it.
    under_way: Vec<(SessionId, Option<String>)>,
    /// Commands that came meanwhile and must not be lost.
    put_off: Vec<Command>,
}

impl Condition {
    /// Of a thread that waits for commands.
    pub fn new() -> Condition {
        let (under_way, put_off) = (Vec::new(), Vec::new());
        Condition(Arc::new(Mutex::new(Inner { health: Ok(()), busy_since: None, under_way, put_off })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch begins; returns what was put off before.
    pub fn begin(&self) -> Vec<Command> {
        let mut inner = self.lock();
        inner.busy_since = Some(Instant::now());
        std::mem::take(&mut inner.put_off)
    }

    /// The batch holds a message of this session's.
    pub fn take_in(&self, session: SessionId, reference: Option<&str>) {
        self.lock().under_way.push((session, reference.map(str::to_owned)));
    }

    /// The batch is done.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.busy_since = None;
        inner.under_way.clear();
    }

    /// Sets what [`Condition::health`] is while nothing hangs; returns what it was.
    pub fn set_health(&self, health: Health) -> Health {
        std::mem::replace(&mut self.lock().health, health)
    }

    /// Whether messages are kept, and if not, why.
    pub fn health(&self) -> Health {
        let inner = self.lock();
        if inner.is_stalled() { Err(STALLED.to_owned()) } else { inner.health.clone() }
    }

    /// Whether the disk hangs.
    pub fn is_stalled(&self) -> bool {
        self.lock().is_stalled()
    }

    /// Refuses what waits whenever the disk hangs, until the rooms' thread ends and drops the other end of `ended`. Messages
    /// of the batch at hand may be kept in the end; then their senders get their receipts after all, and those who sent
    /// them again have the same `ref`.
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
                    // Dropping the rest refuses it, for there is nobody to answer.
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
