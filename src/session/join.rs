//! The join: who may come in, under which name, and how fast.

use std::time::{Duration, Instant};

use super::Session;
use super::end::End;
use crate::backplane::{Arrival, JoinError, Leave, Seat, Unavailable};
use crate::fanout::lane::SessionCommand;
use crate::limits::{self, Limit, Pass, Refusal};
use crate::protocol::{self, Close, ErrorCode, Id, Join, Secret, ServerFrame};

/// A join that was refused may be mended by a person, who has to type.
const REJOIN_TIME: Duration = Duration::from_secs(60);
/// How many joins a connection may try.
const JOIN_TRIES: u32 = 5;
/// How long a join waits in line while others are carried out, and when those that had no luck may come again.
const LINE_TIME: Duration = Duration::from_secs(2);
const COME_AGAIN: Duration = Duration::from_secs(1);
/// Joins wait while the backplane's own delay is at least this, and how often they look.
const BUSY: Duration = Duration::from_millis(250);
const LINE_LOOK: Duration = Duration::from_millis(20);

impl Session<'_> {
    pub(super) fn join(&mut self, join: Join) -> Result<(), End> {
        if self.seat.is_some() {
            return self.refuse(ErrorCode::AlreadyJoined, "this connection has joined", None);
        }
        if join.client.as_ref().is_some_and(|client| !protocol::is_client(client.expose())) {
            return self.refuse(ErrorCode::BadFrame, "client: 16 to 64 characters A-Z a-z 0-9 _ -", None);
        }
        let now = Instant::now();
        if let Err(refusal) = self.visitor.account.may_try_passphrase(now) {
            return self.refuse_limit(refusal, None);
        }
        self.tries += 1;
        self.join_by = now + REJOIN_TIME;
        if !self.app.settings.admits(join.passphrase.as_ref().map(Secret::expose)) {
            self.unauthorized += 1;
            self.visitor.account.wrong_passphrase(now);
            return self.refuse_join(ErrorCode::Unauthorized, "the passphrase is not right");
        }
        let Some(name) = self.name(&join) else {
            let why = "a name has 1 to 32 characters, at least one of them visible, and none that controls or reorders";
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

    /// The name as it is shown: the one that a proxy gives, or else the one that was chosen.
    fn name(&self, join: &Join) -> Option<String> {
        let chosen = || protocol::clean_name(join.name.as_deref().unwrap_or_default());
        self.visitor.user.as_ref().map_or_else(chosen, |user| protocol::shown_user(user))
    }

    /// The client's mark. A user that a proxy names is the same person on each of his devices; a client that gives no
    /// secret gets one for all its tries, or it would meet itself as a stranger after an answer that was lost.
    fn mark(&mut self, client: Option<&Secret>) -> String {
        if let Some(user) = &self.visitor.user {
            // No client's secret has a colon.
            return protocol::mark(&format!("user:{user}"));
        }
        let own = || Secret::from(limits::random_name());
        protocol::mark(client.unwrap_or_else(|| self.own_secret.get_or_insert_with(own)).expose())
    }

    /// Has the backplane carry the join out, and writes `welcome`.
    fn take_seat(&mut self, seat: Seat, since: Option<Id>) -> Result<(), End> {
        let Some(pass) = self.wait_in_line(Instant::now() + LINE_TIME) else {
            let wait = COME_AGAIN.mul_f64(1.0 + limits::jitter());
            return self.refuse_limit(Refusal { limit: Limit::Overload, wait }, None);
        };
        let wire = self.socket.get_ref().wire.clone();
        self.app.lanes.post(self.id, SessionCommand::Join(self.room.clone(), wire));
        let arrival = self.app.backplane.join(&seat, since);
        drop(pass);
        let arrival = match arrival {
            Ok(arrival) => arrival,
            Err(error) => {
                self.app.lanes.post(self.id, SessionCommand::Leave);
                return match error {
                    JoinError::Banned(left) => self.refuse_banned(left),
                    JoinError::NameTaken => self.refuse_join(ErrorCode::NameTaken, "another client has this name"),
                    JoinError::Full => self.refuse_join(ErrorCode::Full, "no more rooms can be opened here"),
                    JoinError::Unavailable => self.refuse_join(ErrorCode::Unavailable, &Unavailable.to_string()),
                };
            }
        };
        // Nobody else is there and nothing was ever written: the join made the room.
        if arrival.participants <= 1
            && arrival.last == Id::default()
            && let Err(refusal) = self.visitor.account.new_room(Instant::now())
        {
            self.app.backplane.leave(&seat, Leave::Now);
            self.app.lanes.post(self.id, SessionCommand::Leave);
            return self.refuse_limit(refusal, None);
        }
        let most = self.app.settings.access.room_people;
        if most > 0 && arrival.participants > most {
            self.app.backplane.leave(&seat, Leave::Now);
            self.app.lanes.post(self.id, SessionCommand::Leave);
            return self.refuse_join(ErrorCode::Full, "this room is full");
        }
        self.welcome(seat, &arrival)
    }

    /// Waits until the backplane has time for a join, without which messages would wait for it; `None` if it has none by
    /// the deadline. One that is away refuses the join itself, and says so.
    fn wait_in_line(&self, deadline: Instant) -> Option<Pass<'_>> {
        let backplane = &self.app.backplane;
        while backplane.delay() >= BUSY && backplane.health().is_ok() {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(LINE_LOOK);
        }
        self.app.joins.enter(deadline)
    }

    fn welcome(&mut self, seat: Seat, arrival: &Arrival) -> Result<(), End> {
        let (name, by) = (seat.name.clone(), seat.by.clone());
        self.seat = Some(seat);
        self.app.metrics.joins.inc();
        let welcome = protocol::json(&ServerFrame::Welcome {
            name: &name,
            by: &by,
            room: &self.room,
            participants: arrival.participants,
            names: &arrival.names,
            messages: &super::answers::raw_messages(&arrival.page)?,
            last: arrival.last,
            more: arrival.page.more,
            gap: arrival.gap,
        });
        self.visitor.account.has_read(welcome.len(), Instant::now());
        self.socket.get_mut().send(protocol::text_frame(welcome))?;
        self.app.lanes.post(self.id, SessionCommand::Open(arrival.last, arrival.stamp));
        self.socket.get_mut().joined = true;
        // From here on it has a seat, and makes place for nobody.
        self.guest = None;
        Ok(())
    }

    /// Refuses a join; the client may try again, but not for ever.
    fn refuse_join(&mut self, code: ErrorCode, why: &str) -> Result<(), End> {
        self.refuse(code, why, None)?;
        match (self.unauthorized, self.tries) {
            (JOIN_TRIES.., _) => Err(End::Refused(Close::Unauthorized)),
            (_, JOIN_TRIES..) => Err(End::Refused(Close::Policy)),
            _ => Ok(()),
        }
    }
}
