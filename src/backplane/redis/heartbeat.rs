//! The heartbeat: renews the leases of this instance's sessions and clears expired ones.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::commands::Taken;
use super::core::{Core, GRACE, RENEW};
use super::pipeline::{Failure, PATIENCE, Reply};
use crate::backplane::{HEARTBEAT, LEASE, Room, SessionId};
use crate::threads;

/// The number of renewals under way at a time, each of one room: few, because messages wait behind them in Redis. But there are as
/// many more as it takes to renew all leases in this time, be there many rooms or be Redis slow or far away.
const TOGETHER: usize = 16;
const BEAT_TIME: Duration = Duration::from_secs(2);
/// Pause after each round, for the other users of Redis and the processor.
const PAUSE: Duration = Duration::from_millis(10);
/// A wait that takes this much longer than its limit means that the process was suspended.
const OVERSLEEP: Duration = Duration::from_secs(5);

/// The heartbeat's thread.
pub struct Heartbeat {
    core: Arc<Core>,
    /// When a renewal last failed.
    failed: Option<Instant>,
}

/// A renewal under way: its room, and the channel on which its seats and the reply arrive.
struct Renewal {
    room: Room,
    reply: Receiver<(Vec<Taken>, Reply)>,
}

impl Heartbeat {
    /// Starts the thread.
    pub fn start(core: Arc<Core>) -> std::io::Result<()> {
        let mut heartbeat = Heartbeat { core, failed: None };
        threads::spawn_critical("redis-heartbeat", move || heartbeat.run()).map(drop)
    }

    fn run(&mut self) {
        loop {
            watched(&self.core, HEARTBEAT, || std::thread::sleep(HEARTBEAT));
            self.core.bulk.close_idle();
            self.core.log_cache.drop_expired();
            self.core.rooms.close_empty();
            if self.core.health.is_up() {
                self.core.read_bans();
                self.beat();
            }
        }
    }

    fn beat(&mut self) {
        // Missing seats were lost with Redis's data and are restored, unless this process was suspended. Then another
        // instance expired them, and clients that are still connected have to rejoin, so that a room never shows
        // someone who is not there.
        let was_suspended = self.core.was_suspended.load(Relaxed);
        match renew_all(&self.core, true, Instant::now() + LEASE) {
            // If it was suspended during this heartbeat, the first rooms need another.
            Ok(()) if was_suspended => self.core.was_suspended.store(false, Relaxed),
            Ok(()) => {}
            Err(failure) => {
                log::debug!("heartbeat: {failure:?}");
                self.failed = Some(Instant::now());
            }
        }
        // Read now, because the connection may have been replaced during the renewals.
        let up_since = self.core.health.since().ok();
        let is_steady = |since: Instant| self.failed.map_or(since, |failed| failed.max(since)).elapsed() > GRACE;
        self.core.may_expire.store(up_since.is_some_and(is_steady), Relaxed);
        self.compare_at_last(Instant::now());
    }

    /// Compares the rosters that had to wait until all instances had restored their seats.
    fn compare_at_last(&self, now: Instant) {
        for room in self.core.rooms.names() {
            let due = |at: &mut Instant| *at <= now;
            let waited = self.core.rooms.deliver(&room, |_, delivery| delivery.compare_at.take_if(due).is_some());
            if waited == Some(true) {
                // Clients that joined during the wait know fewer names than the others.
                self.core.compare(&room, true);
            }
        }
    }
}

/// Renews all leases, [`TOGETHER`] rooms and [`RENEW`] leases at a time, or more; starts none after `deadline`.
pub fn renew_all(core: &Arc<Core>, again: bool, deadline: Instant) -> Result<(), Failure> {
    let (rooms, end) = (core.rooms.names(), Instant::now() + BEAT_TIME);
    let (mut under_way, mut leases, mut together, mut since) = (Vec::new(), 0, TOGETHER, Instant::now());
    for (number, room) in rooms.iter().enumerate() {
        let sessions = core.rooms.sessions(room);
        for some in sessions.chunks(RENEW) {
            if under_way.len() >= together || leases + some.len() > RENEW.max(together) {
                finish(core, under_way.drain(..))?;
                leases = 0;
                watched(core, PAUSE, || std::thread::sleep(PAUSE));
                together = rooms_per_round(rooms.len() - number, since.elapsed(), end);
                since = Instant::now();
            }
            if Instant::now() > deadline {
                return Err(Failure::Down);
            }
            leases += some.len();
            under_way.push(begin(core, room, some, again)?);
        }
    }
    finish(core, under_way.drain(..))
}

/// How many of the rooms that are left to renew in each round, if a round takes this time and the last is to end by `end`.
fn rooms_per_round(left: usize, round: Duration, end: Instant) -> usize {
    let rounds = end.saturating_duration_since(Instant::now()).div_duration_f64(round) as usize;
    left.div_ceil(rounds.max(1)).max(TOGETHER)
}

/// Waits, for at most `limit`, and notices if the process was suspended meanwhile.
fn watched<T>(core: &Core, limit: Duration, wait: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = wait();
    if start.elapsed() > limit + OVERSLEEP {
        core.was_suspended.store(true, Relaxed);
    }
    result
}

fn begin(core: &Core, room: &Room, sessions: &[SessionId], again: bool) -> Result<Renewal, Failure> {
    let (to, reply): (Sender<(Vec<Taken>, Reply)>, _) = bounded(1);
    let may_expire = core.may_expire.load(Relaxed);
    let done = move |seats, reply| drop(to.send((seats, reply)));
    let again = again && !core.was_suspended.load(Relaxed);
    core.rooms.renew(room, sessions, again, may_expire, done).map_err(|_| Failure::Down)?;
    Ok(Renewal { room: room.clone(), reply })
}

/// Waits for the replies, and repeats while there are expired leases to clear.
fn finish(core: &Core, renewals: impl Iterator<Item = Renewal>) -> Result<(), Failure> {
    core.pipeline.flush();
    for mut renewal in renewals {
        loop {
            let received = watched(core, PATIENCE, || renewal.reply.recv_timeout(PATIENCE));
            let (seats, reply) = received.map_err(|_| Failure::Down)?;
            match core.renewed(&renewal.room, &seats, reply) {
                Ok(renewed) if renewed.more => {
                    renewal = begin(core, &renewal.room, &[], false)?;
                    core.pipeline.flush();
                }
                Ok(_) => break,
                // A room whose keys another program has overwritten must not stop the renewal of all others.
                Err(Failure::Refused(code)) if code == "WRONGTYPE" => {
                    log::warn!("{}: leases can't be renewed, because a key has the wrong type", renewal.room);
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_leases_are_renewed_in_time() {
        let now = Instant::now();
        let per_round = |left, millis, end| rooms_per_round(left, Duration::from_millis(millis), now + end);
        assert_eq!(per_round(1000, 12, Duration::from_secs(60)), TOGETHER, "fast");
        assert!((200..=300).contains(&per_round(1000, 10_000, Duration::from_secs(50))), "five rounds, or four by now");
        assert_eq!(per_round(1000, 160, Duration::ZERO), 1000, "late");
    }
}
