//! The heartbeat: renews the leases of this instance's sessions, has expired ones cleared, and probes the subscription.

use super::*;

/// Keeps the task's leases alive, clears lapsed ones away, probes the subscription.
pub(super) struct Heartbeat {
    pub shared: Arc<Shared>,
    pub subscriptions: Subscriptions,
}

/// Leases on their way to be renewed.
struct Renewal<'a> {
    room: &'a Room,
    /// Who of them was still there when it was sent.
    here: Vec<&'a Seat>,
    answer: Queued,
}

impl Heartbeat {
    pub fn run(&self, stopped: &Receiver<()>) {
        // Whether Redis was found without its data, and for which stretch of the link's life rosters were compared.
        let (mut data_lost, mut compared) = (false, None);
        while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            let Ok(up_since) = self.shared.link.state() else { continue };
            // A name that is gone soon after Redis came back was lost with its data, and is taken again. At any other
            // time others cleared it away, because this process was frozen: its clients, if they are still there,
            // join anew, so the room never sees one that is not.
            let grace = up_since.elapsed() < GRACE;
            match self.beat(grace) {
                Err(Unavailable) => log::debug!("heartbeat: redis does not answer"),
                Ok(taken_again) => data_lost |= taken_again > 0,
            }
            // What happened while the link was down was not heard. If the data was lost too, all tasks must have
            // taken their names again first, or the room would see people leave who are there.
            if compared != Some(up_since) && !(grace && data_lost) {
                self.subscriptions.compare(data_lost);
                (data_lost, compared) = (false, Some(up_since));
            }
        }
    }

    /// One heartbeat: how many names were gone and had to be taken again.
    fn beat(&self, again: bool) -> Result<u64, Unavailable> {
        self.subscriptions.probe();
        let rooms = self.shared.seats_by_room();
        let parts = rooms.iter().flat_map(|(room, seats)| seats.chunks(RENEW).map(move |part| (room, part)));
        let mut taken_again = 0;
        let (mut under_way, mut seats) = (Vec::new(), 0);
        for (room, part) in parts {
            if seats + part.len() > RENEW {
                taken_again += self.renewed(under_way.drain(..))?;
                seats = 0;
                std::thread::sleep(RENEW_PAUSE);
            }
            seats += part.len();
            under_way.push(self.renew(room, part, again)?);
        }
        Ok(taken_again + self.renewed(under_way.drain(..))?)
    }

    /// Has leases of one room renewed.
    fn renew<'a>(&self, room: &'a Room, part: &'a [Seat], again: bool) -> Result<Renewal<'a>, Unavailable> {
        // Queued while the seats are locked: who leaves is not among them, or leaves after it. Otherwise a name that has
        // just left could be taken again, with nobody there.
        let held = self.shared.seats();
        let here: Vec<&Seat> = part.iter().filter(|seat| held.contains_key(&seat.session)).collect();
        let answer = self.shared.publisher.queue(self.shared.renew(room, &here, again))?;
        Ok(Renewal { room, here, answer })
    }

    /// Waits for answers: how many names had to be taken again.
    fn renewed<'a>(&self, mut renewals: impl Iterator<Item = Renewal<'a>>) -> Result<u64, Unavailable> {
        renewals.try_fold(0, |sum, renewal| match self.take_in(&renewal) {
            Ok(taken_again) => Ok(sum + taken_again),
            // One room that is spoilt in Redis must not cost the others their leases.
            Err(Unavailable) if self.shared.link.is_up() => {
                log::warn!("{}: leases could not be renewed", renewal.room);
                Ok(sum)
            }
            unavailable => unavailable,
        })
    }

    fn take_in(&self, renewal: &Renewal<'_>) -> Result<u64, Unavailable> {
        let reply: Vec<String> = from_value(renewal.answer.wait()?)?;
        let [newest, taken, lost @ ..] = reply.as_slice() else { return Err(not_understood(&reply)) };
        self.subscriptions.expect(renewal.room.clone(), newest.parse().map_err(not_understood)?, None);
        for pair in lost.chunks_exact(2) {
            let number: usize = pair[0].parse().map_err(not_understood)?;
            self.lost(renewal.here.get(number).copied(), pair[1] == "1");
        }
        taken.parse().map_err(not_understood)
    }

    /// A session's name is another session's by now, or nobody's.
    fn lost(&self, seat: Option<&Seat>, own_client: bool) {
        let Some(seat) = seat else { return };
        // It may have left while the heartbeat was under way.
        if self.shared.seats().contains_key(&seat.session) {
            let event = if own_client { Event::TakenOver } else { Event::Evicted };
            (self.shared.listener)(event(seat.session));
        }
    }
}
