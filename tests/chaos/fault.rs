//! The kinds of fault: what each is, and the properties that the ledger records.

use Fault::*;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Killed and restarted, with the data on its disk.
    RedisRestart,
    /// Killed and restarted, empty.
    RedisWipe,
    /// Stopped (SIGSTOP): connections stay open, nothing is answered.
    RedisHang,
    /// The primary dies while its replica lags behind, and the replica is promoted.
    RedisPromote,
    /// The replica is promoted, and the primary becomes its replica; connections to it stay open for a while.
    RedisDemote,
    /// The primary rejects writes for a while.
    RedisReadOnly,
    /// `maxmemory` is reached for a while.
    RedisFull,
    /// All connections between an instance and Redis are reset.
    WireReset,
    /// Data from the instance does not arrive.
    WireUp,
    /// Data from Redis does not arrive.
    WireDown,
    /// The connections with subscriptions are reset.
    PubsubCut,
    /// The other connections are reset.
    OtherCut,
    /// The subscription delivers nothing more, although its connection looks healthy.
    PubsubStale,
    /// All data is delayed by about a tenth of a second.
    WireSlow,
    /// kill -9, and a replacement after a while.
    InstanceKill,
    /// SIGSTOP, then SIGCONT.
    InstanceFreeze,
    /// SIGTERM, with its replacement already running: a deployment.
    InstanceDrain,
    /// The wall clock of an instance jumps, by an hour to a month in either direction, and back.
    ClockJump,
    /// The process that reads an instance's log dies: from then on the instance's stderr is closed.
    LogLost,
    /// Some clients' connections break.
    ClientCut,
    /// A client's machine sleeps for a while.
    ClientAway,
    /// A client leaves with a close frame and returns later.
    ClientLeave,
    /// A client that reads nothing.
    SlowStalled,
    /// A client that reads one byte per second.
    SlowSip,
    /// A client that stops in the middle of a frame that it sends.
    SlowHalf,
    /// A client that requests history endlessly.
    Greedy,
    /// A stranger who tries to join under names that look like another client's.
    Impostor,
    /// Many clients join at once, and all their connections break at once.
    Crowd,
}

pub const REDIS: &[Fault] = &[RedisRestart, RedisWipe, RedisHang, RedisPromote, RedisDemote, RedisReadOnly, RedisFull];
pub const WIRES: &[Fault] = &[WireReset, WireUp, WireDown, PubsubCut, OtherCut, PubsubStale, WireSlow];
pub const INSTANCE: &[Fault] = &[InstanceKill, InstanceFreeze, InstanceDrain];
pub const MACHINE: &[Fault] = &[ClockJump, LogLost];
pub const CLIENT: &[Fault] =
    &[ClientCut, ClientAway, ClientLeave, SlowStalled, SlowSip, SlowHalf, Greedy, Impostor, Crowd, ClientCut];

impl Fault {
    /// Whether the fault is the clients' own behaviour.
    pub fn is_clients(self) -> bool {
        CLIENT.contains(&self)
    }

    /// Whether nothing can be kept while it lasts, so that messages must be refused.
    pub fn refuses(self) -> bool {
        let all_the_time =
            [RedisRestart, RedisWipe, RedisHang, RedisDemote, RedisReadOnly, RedisFull, WireUp, WireDown];
        all_the_time.contains(&self)
    }

    /// Whether it stops the instance itself.
    pub fn stops(self) -> bool {
        INSTANCE.contains(&self)
    }

    /// Whether it can keep messages from an instance's clients.
    pub fn withholds(self) -> bool {
        !self.is_clients() && !MACHINE.contains(&self)
    }

    /// Whether it affects Redis itself, and so every instance.
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
            PubsubStale => "subscription stale",
            WireSlow => "Redis far away",
            InstanceKill => "instance killed (-9), restarted",
            InstanceFreeze => "instance frozen, then goes on",
            InstanceDrain => "instance drained (SIGTERM), replaced",
            ClockJump => "clock of an instance jumps",
            LogLost => "log reader of an instance dies",
            ClientCut => "clients cut off",
            ClientAway => "client asleep, comes back",
            ClientLeave => "client leaves, comes back",
            SlowStalled => "slow client: reads nothing",
            SlowSip => "slow client: a byte per second",
            SlowHalf => "slow client: stops within a frame",
            Greedy => "client asks for history without end",
            Impostor => "stranger under look-alike names",
            Crowd => "crowd joins, and is cut at once",
        })
    }
}
