//! What every connection's thread needs: made once by `server.rs`, and never changed but by its own atomics.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::backplane::Backplane;
use crate::fanout::{Lanes, polls::Polls};
use crate::limits::{Accounts, Bucket, Gate, Limit, Slots};
use crate::lobby::Lobby;
use crate::logging::Throttle;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::site::Site;

/// Shared by all connections' threads.
pub struct App {
    /// As the process was started.
    pub settings: Settings,
    /// Who writes.
    pub lanes: Arc<Lanes>,
    /// Where rooms are kept.
    pub backplane: Box<dyn Backplane>,
    /// Requests that wait for messages.
    pub polls: Arc<Polls>,
    /// How fast each script may post, in the order of the settings.
    pub post_rates: Vec<Mutex<Bucket>>,
    /// The page and its files.
    pub site: Site,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// WebSocket connections against their cap.
    pub sessions: Arc<Slots>,
    /// All connections, HTTP's too, against theirs.
    pub connections: Arc<Slots>,
    /// Those of them that have not joined.
    pub lobby: Arc<Lobby>,
    /// What each address has taken lately.
    pub accounts: Accounts,
    /// Joins that the backplane has under way.
    pub joins: Gate,
    /// Log lines about refusals, by their limit.
    pub refusals: [Throttle; Limit::ALL.len()],
    /// The process is on its way to end: no new sessions.
    pub draining: AtomicBool,
    /// A forwarded header was ignored, and that was logged.
    pub warned_of_proxy: AtomicBool,
}

impl App {
    /// Counts and logs that an address exceeded a limit.
    pub fn limited(&self, limit: Limit, address: IpAddr) {
        self.metrics.limit(limit);
        let Some(left_out) = self.refusals[limit as usize].admit(Instant::now()) else { return };
        let before = if left_out > 0 { format!("; {left_out} such lines left out") } else { String::new() };
        log::warn!("{address}: {} ({}){before}", limit.reason(), limit.setting());
    }
}
