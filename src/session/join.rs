//! Joining: who may join, under which name, and at what rate.

use std::time::{Duration, Instant};

use super::Session;
use super::end::End;
use crate::backplane::{Arrival, JoinError, Seat, Terms, Unavailable};
use crate::fanout::command::SessionCommand;
use crate::limits::{self, Limit, Pass, Refusal};
use crate::lobby::Guest;
use crate::protocol::{self, Close, ErrorCode, Id, Join, Secret, ServerFrame};

/// Time to retry after a refused join: a person may have to type.
const REJOIN_TIME: Duration = Duration::from_secs(60);
/// The most joins tried per connection.
const JOIN_TRIES: u32 = 5;
/// How long a join waits for capacity, and the shortest retry delay given to a client that got none in that time.
const TURN_TIME: Duration = Duration::from_secs(2);
const COME_AGAIN: Duration = Duration::from_secs(1);
/// Joins wait while the backplane's delay is at least this, and check at this interval.
const BUSY: Duration = Duration::from_millis(250);
const TURN_LOOK: Duration = Duration::from_millis(20);

impl Session<'_> {
    pub(super) fn join(&mut self, join: Join) -> Result<(), End> {
        let set_joins = |guest: &mut Option<Guest>, joins| guest.iter_mut().for_each(|guest| guest.set_joins(joins));
        set_joins(&mut self.guest, true);
        let joined = self.try_join(join);
        set_joins(&mut self.guest, false);
        joined
    }

    fn try_join(&mut self, join: Join) -> Result<(), End> {
        if self.seat.is_some() {
            return self.refuse(ErrorCode::AlreadyJoined, "this connection has joined", None);
        }
        if join.client.as_ref().is_some_and(|client| !protocol::is_client(client.expose())) {
            return self.refuse(ErrorCode::BadFrame, "client: 16 to 64 characters A-Z a-z 0-9 _ -", None);
        }
        let now = Instant::now();
        let offered = join.passphrase.as_ref().map(Secret::expose);
        let admits = self.app.settings.admits(offered);
        let wrong = if admits { None } else { Some(offered.unwrap_or_default()) };
        if let Err(refusal) = self.visitor.account.try_passphrase(wrong, now) {
            return self.refuse_limit(refusal, None);
        }
        self.tries += 1;
        if self.tries <= JOIN_TRIES {
            self.join_by = now + REJOIN_TIME;
        }
        if !admits {
            self.unauthorized += 1;
            log::warn!("{} was refused: wrong passphrase", self.visitor.address);
            return self.refuse_join(ErrorCode::Unauthorized, "wrong passphrase");
        }
        let Some(name) = self.name(&join) else {
            let why = "a name must have 1 to 32 characters, at least one of them visible, and no control or direction characters";
            return self.refuse_join(ErrorCode::NameInvalid, why);
        };
        let key = protocol::fold_name(&name);
        if self.app.settings.tokens.is_reserved(&key) {
            return self.refuse_join(ErrorCode::NameTaken, "a script has this name");
        }
        let allowed = self.visitor.account.join(now).and_then(|()| self.visitor.account.may_read(now));
        if let Err(refusal) = allowed {
            return self.refuse_limit(refusal, None);
        }
        let seat = Seat {
            room: self.room.clone(),
            session: self.id,
            key: key.into(),
            name: name.into(),
            by: self.mark(join.client.as_ref()).into(),
            address: self.visitor.address,
        };
        self.take_seat(seat, join.since)
    }

    /// The shown name: the one given by a proxy, or else the one in the frame.
    fn name(&self, join: &Join) -> Option<String> {
        let chosen = || protocol::clean_name(join.name.as_deref().unwrap_or_default());
        self.visitor.user.as_ref().map_or_else(chosen, |user| protocol::shown_user(user))
    }

    /// The client's mark. A client without a secret is given one for the whole connection. With a new one for each
    /// attempt, an earlier join whose reply was lost would hold the name against the next.
    fn mark(&mut self, client: Option<&Secret>) -> String {
        if let Some(mark) = self.visitor.mark() {
            return mark;
        }
        let own = || Secret::from(limits::random_name());
        protocol::mark(client.unwrap_or_else(|| self.own_secret.get_or_insert_with(own)).expose())
    }

    /// Has the backplane execute the join, and writes `welcome`.
    fn take_seat(&mut self, seat: Seat, since: Option<Id>) -> Result<(), End> {
        let Some(pass) = self.wait_for_turn(Instant::now() + TURN_TIME) else {
            let wait = COME_AGAIN.mul_f64(1.0 + limits::jitter());
            return self.refuse_limit(Refusal { limit: Limit::Overload, wait }, None);
        };
        let wire = self.socket.get_ref().wire.clone();
        self.app.lanes.post(self.id, SessionCommand::Join(self.room.clone(), wire));
        // Counted before it is known whether the join opens a new room, and taken back if it does not.
        let now = Instant::now();
        let spare_rooms = self.visitor.account.spare_rooms(now);
        let new_room = self.visitor.account.new_room(&self.room, now);
        let terms = Terms { people: self.app.settings.access.room_people, may_open: new_room.is_ok(), spare_rooms };
        let arrival = self.app.backplane.join(&seat, since, terms);
        drop(pass);
        let opened = arrival.as_ref().is_ok_and(|arrival| arrival.is_new_room);
        let refusal = match new_room {
            Ok(new_room) if opened => {
                new_room.keep();
                None
            }
            Ok(_taken_back) => None,
            Err(refusal) => Some(refusal),
        };
        let arrival = match arrival {
            Ok(arrival) => arrival,
            Err(error) => {
                self.app.lanes.post(self.id, SessionCommand::Leave);
                return match error {
                    JoinError::Banned(left) => self.refuse_banned(left),
                    JoinError::NameTaken => self.refuse_join(ErrorCode::NameTaken, "this name is taken"),
                    JoinError::Full => self.refuse_full(Limit::AllRooms),
                    JoinError::RoomFull => self.refuse_full(Limit::People),
                    JoinError::MayNotOpen => {
                        let refusal = refusal.unwrap_or(Refusal { limit: Limit::Rooms, wait: COME_AGAIN });
                        self.refuse_limit(refusal, None)
                    }
                    JoinError::Unavailable => self.refuse_join(ErrorCode::Unavailable, &Unavailable.to_string()),
                };
            }
        };
        self.welcome(seat, arrival)
    }

    /// Waits until the backplane has capacity for a join, so that messages need not wait for joins; `None` if it has
    /// none by the deadline. If the backplane is down, the join itself fails.
    fn wait_for_turn(&self, deadline: Instant) -> Option<Pass<'_>> {
        let backplane = &self.app.backplane;
        let is_off = self.app.settings.access.joins_at_once == usize::MAX;
        let has_capacity = || is_off || backplane.delay() < BUSY || backplane.health().is_err();
        self.app.joins.enter_when(self.visitor.turn, deadline, TURN_LOOK, has_capacity)
    }

    fn welcome(&mut self, seat: Seat, arrival: Arrival) -> Result<(), End> {
        let (name, by) = (seat.name.clone(), seat.by.clone());
        self.seat = Some(seat);
        self.app.metrics.joins.inc();
        let (last, stamp, removed) = (arrival.last, arrival.stamp, arrival.removed);
        let welcome = protocol::json(&ServerFrame::Welcome {
            name: &name,
            by: &by,
            room: &self.room,
            participants: arrival.participants,
            names: &arrival.names,
            messages: &super::answers::raw_messages(&arrival.page)?,
            last,
            more: arrival.page.more,
            gap: arrival.gap,
        });
        // The client may take long to read it, so only the frame itself stays in memory.
        drop(arrival.page);
        self.visitor.account.charge_read(welcome.len(), Instant::now());
        self.socket.get_mut().send(protocol::text_frame(welcome))?;
        self.app.lanes.post(self.id, SessionCommand::Open(last, stamp));
        self.socket.get_mut().joined = true;
        removed.into_iter().try_for_each(|frame| self.socket.get_mut().send(frame))?;
        // A session that has joined is never closed to free a slot.
        self.guest = None;
        Ok(())
    }

    fn refuse_full(&mut self, limit: Limit) -> Result<(), End> {
        self.app.limited(limit, self.visitor.address);
        self.refuse_join(ErrorCode::Full, limit.reason())
    }

    /// Refuses a join. The client may try again, a limited number of times.
    fn refuse_join(&mut self, code: ErrorCode, why: &str) -> Result<(), End> {
        self.refuse(code, why, None)?;
        match (self.unauthorized, self.tries) {
            (JOIN_TRIES.., _) => Err(End::Refused(Close::Unauthorized)),
            (_, JOIN_TRIES..) => Err(End::Refused(Close::Policy)),
            _ => Ok(()),
        }
    }
}
