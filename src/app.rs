//! State shared by all connection threads. `server.rs` creates it once; afterwards only its atomics and locks change.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::backplane::Backplane;
use crate::fanout::{Lanes, polls::Polls};
use crate::limits::{Accounts, Bucket, Gate, Limit, Slots};
use crate::lobby::Lobby;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::site::Site;
use crate::threads::Workers;

/// Everything a connection's thread needs.
pub struct App {
    /// The settings the process was started with.
    pub settings: Settings,
    /// The threads that write to all WebSockets.
    pub lanes: Arc<Lanes>,
    /// Where rooms are kept.
    pub backplane: Arc<dyn Backplane>,
    /// The threads that read pages of history for sessions.
    pub page_readers: Workers,
    /// HTTP requests waiting for new messages.
    pub polls: Arc<Polls>,
    /// The post rate of each script, in the order in which the settings list them.
    pub post_rates: Vec<Mutex<Bucket>>,
    /// The page and its static files.
    pub site: Site,
    /// Counters, gauges and histograms.
    pub metrics: Arc<Metrics>,
    /// Slots for WebSocket connections.
    pub sessions: Arc<Slots>,
    /// Slots for all connections, plain HTTP included.
    pub connections: Arc<Slots>,
    /// Connections that have not joined yet.
    pub lobby: Arc<Lobby>,
    /// What each address has used recently.
    pub accounts: Accounts,
    /// Bounds how many joins run in the backplane at once.
    pub joins: Gate,
    /// Bounds how many pages are read for HTTP requests at once.
    pub http_reads: Gate,
    /// Set when the process begins to shut down: no new sessions are accepted.
    pub draining: AtomicBool,
    /// Set once the warning about an ignored forwarding header has been logged.
    pub warned_of_proxy: AtomicBool,
}

impl App {
    /// Counts and logs a limit that an address exceeded.
    pub fn limited(&self, limit: Limit, address: IpAddr) {
        self.metrics.limit(limit);
        log::warn!(target: limit.log_target(), "{address}: {} ({})", limit.reason(), limit.setting());
    }
}
