//! The host's tools on Redis.

use std::time::Duration;

use super::Redis;
use crate::backplane::admin::{Admin, Ban, Occupant, Removal, RoomSummary, Target};
use crate::backplane::{Room, Unavailable};

impl Admin for Redis {
    fn rooms(&self) -> Result<Vec<RoomSummary>, Unavailable> {
        Err(Unavailable)
    }

    fn people(&self, _room: &Room) -> Result<Vec<Occupant>, Unavailable> {
        Err(Unavailable)
    }

    fn remove(&self, _room: &Room, _removal: &Removal) -> Result<u64, Unavailable> {
        Err(Unavailable)
    }

    fn ban(&self, _target: &Target, _time: Duration) -> Result<Ban, Unavailable> {
        Err(Unavailable)
    }

    fn bans(&self) -> Result<Vec<Ban>, Unavailable> {
        Err(Unavailable)
    }

    fn lift(&self, _target: &Target) -> Result<bool, Unavailable> {
        Err(Unavailable)
    }
}
