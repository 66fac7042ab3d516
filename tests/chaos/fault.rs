//! The kinds of fault: what each one is, and what it does to the system as the books need to know it.

use Fault::*;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Killed and started again, with what it had on disk.
    RedisRestart,
    /// Killed and started again, empty.
    RedisWipe,
    /// Stopped (SIGSTOP): connections stay open, nothing is answered.
    RedisHang,
    /// The primary dies while its replica lags behind; the replica takes its place.
    RedisPromote,
    /// The replica takes the primary's place, which becomes its replica; the connections to it stay open for a while.
    RedisDemote,
    /// The primary refuses to write for a while.
    RedisReadOnly,
    /// `maxmemory` is reached for a while.
    RedisFull,
    /// All connections between an instance and Redis reset.
    WireReset,
    /// What the instance sends does not arrive.
    WireUp,
    /// What Redis answers does not arrive.
    WireDown,
    /// The connections that carry pub/sub are reset.
    PubsubCut,
    /// The other connections are reset.
    OtherCut,
    /// The subscription delivers nothing more, and its connection looks well.
    PubsubDeaf,
    /// Everything is late by a tenth of a second or so.
    WireSlow,
    /// kill -9, and a new one after a while.
    InstanceKill,
    /// SIGSTOP, then SIGCONT.
    InstanceFreeze,
    /// SIGTERM, its replacement being there already: a deployment.
    InstanceDrain,
    /// The wall clock of an instance jumps, by an hour to a month either way, and back.
    ClockJump,
    /// Whoever reads an instance's log dies: from then on its stderr is closed.
    LogLost,
    /// Some clients' connections break.
    ClientCut,
    /// A client's machine sleeps for a while.
    ClientAway,
    /// A client leaves with a close frame and returns later.
    ClientLeave,
    /// A client that reads nothing.
    SlowDeaf,
    /// A client that reads one byte per second.
    SlowSip,
    /// A client that stops in the middle of a frame that it sends.
    SlowHalf,
    /// A client that asks for history without end.
    Greedy,
    /// A stranger who tries to join under names that look like somebody else's.
    Impostor,
    /// Many join at once, and all their connections break at once.
    Crowd,
}

pub const REDIS: &[Fault] = &[RedisRestart, RedisWipe, RedisHang, RedisPromote, RedisDemote, RedisReadOnly, RedisFull];
pub const WIRES: &[Fault] = &[WireReset, WireUp, WireDown, PubsubCut, OtherCut, PubsubDeaf, WireSlow];
pub const INSTANCE: &[Fault] = &[InstanceKill, InstanceFreeze, InstanceDrain];
pub const MACHINE: &[Fault] = &[ClockJump, LogLost];
pub const CLIENT: &[Fault] =
    &[ClientCut, ClientAway, ClientLeave, SlowDeaf, SlowSip, SlowHalf, Greedy, Impostor, Crowd, ClientCut];

impl Fault {
    /// It is the clients' own doing.
    pub fn is_clients(self) -> bool {
        CLIENT.contains(&self)
    }

    /// Nothing can be kept while it lasts: messages have to be refused.
    pub fn refuses(self) -> bool {
        let all_the_time =
            [RedisRestart, RedisWipe, RedisHang, RedisDemote, RedisReadOnly, RedisFull, WireUp, WireDown];
        all_the_time.contains(&self)
    }

    /// It stops the instance itself.
    pub fn stops(self) -> bool {
        INSTANCE.contains(&self)
    }

    /// It can keep messages from an instance's clients.
    pub fn deafens(self) -> bool {
        !self.is_clients() && !MACHINE.contains(&self)
    }

    /// It strikes Redis itself, and so every instance.
    pub fn is_redis(self) -> bool {
        REDIS.contains(&self)
    }

    pub fn is_wires(self) -> bool {
        WIRES.contains(&self)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RedisRestart => "Redis killed, restarted with its data",
            RedisWipe => "Redis killed, restarted without its data",
            RedisHang => "Redis hangs",
            RedisPromote => "Redis killed, lagging replica promoted",
            RedisDemote => "Redis demoted, its replica promoted",
            RedisReadOnly => "Redis read-only",
            RedisFull => "Redis at maxmemory",
            WireReset => "all connections to Redis reset",
            WireUp => "blackhole towards Redis",
            WireDown => "blackhole from Redis",
            PubsubCut => "connection with pub/sub cut",
            OtherCut => "connections without pub/sub cut",
            PubsubDeaf => "subscription deaf",
            WireSlow => "Redis far away",
            InstanceKill => "instance killed (-9), restarted",
            InstanceFreeze => "instance frozen, then goes on",
            InstanceDrain => "instance drained (SIGTERM), replaced",
            ClockJump => "clock of an instance jumps",
            LogLost => "log reader of an instance dies",
            ClientCut => "clients cut off",
            ClientAway => "client asleep, comes back",
            ClientLeave => "client leaves, comes back",
            SlowDeaf => "slow client: reads nothing",
            SlowSip => "slow client: a byte per second",
            SlowHalf => "slow client: stops within a frame",
            Greedy => "client asks for history without end",
            Impostor => "stranger under look-alike names",
            Crowd => "crowd joins, and is cut at once",
        })
    }
}
