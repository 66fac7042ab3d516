//! Limits: how many connections the machine can hold, and what share of it each address, connection and room gets.
//!
//! Values and arithmetic only. Callers decide what to refuse and how to answer.

mod account;
mod accounts;
mod address;
mod bucket;
mod capacity;
mod counted;
mod gate;
mod limit;
mod nesting;
mod openings;
mod random;
mod slots;
mod turns;
mod usage;

pub use account::Account;
pub use accounts::Accounts;
pub use address::{FORWARDED_FOR, Network, TrustedProxies, counted_as, is_private, network_of};
pub use bucket::{BURST_SECONDS, Bucket, Recent};
pub use capacity::{CONNECTION_STACK, MAX_LARGE_FRAMES, MAX_SPARE_STACKS, MOST_IN_MEMORY, capacity, rooms_in_memory};
pub use counted::{Connected, NewRoom, Polling};
pub use gate::{Gate, Pass};
pub use limit::{Limit, Refusal};
pub use nesting::is_shallow;
pub use openings::RoomLimits;
pub use random::{jitter, random_name};
pub use slots::{Slot, Slots};
pub use turns::Turns;
pub use usage::{PER_PAGE, PerAddress};
