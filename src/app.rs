//! What every connection's thread needs: made once by `server.rs`, and never changed but by its own atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::backplane::Backplane;
use crate::fanout::Lanes;
use crate::limits::Slots;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// See the module.
pub struct App {
    /// As the process was started.
    pub settings: Settings,
    /// Who writes.
    pub lanes: Arc<Lanes>,
    /// Where rooms are kept.
    pub backplane: Box<dyn Backplane>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// WebSocket connections against their cap.
    pub sessions: Arc<Slots>,
    /// All connections, HTTP's too, against theirs.
    pub connections: Arc<Slots>,
    /// The process is on its way to end: no new sessions.
    pub draining: AtomicBool,
    /// Numbers the sessions.
    pub next_session: AtomicU64,
}
