//! What every connection's thread needs: made once by `server.rs`, and never changed but by its own atomics.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::backplane::Backplane;
use crate::fanout::{Lanes, polls::Polls};
use crate::limits::{Bucket, Slots};
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
    /// Requests that wait for messages.
    pub polls: Arc<Polls>,
    /// How fast each script may post, in the order of the settings.
    pub post_rates: Vec<Mutex<Bucket>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// WebSocket connections against their cap.
    pub sessions: Arc<Slots>,
    /// All connections, HTTP's too, against theirs.
    pub connections: Arc<Slots>,
    /// The process is on its way to end: no new sessions.
    pub draining: AtomicBool,
}
