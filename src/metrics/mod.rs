//! Metrics, published in two forms: Prometheus text and CloudWatch's embedded metric format.

pub mod emf;
mod process;
mod prometheus;

use std::time::Duration;

use ::prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::limits::Limit;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    /// Open sessions, joined or not.
    pub connections: IntGauge,
    /// The cap on `connections`.
    pub cap: IntGauge,
    /// Successful joins.
    pub joins: IntCounter,
    /// Messages accepted from clients and scripts.
    pub messages: IntCounter,
    /// Message frames handed to sockets.
    pub deliveries: IntCounter,
    /// Clients disconnected because they read too slowly.
    pub cut: IntCounter,
    /// Sessions asked to reconnect elsewhere because this instance had too many.
    pub rebalanced: IntCounter,
    /// 1 while the backplane responds, otherwise 0.
    pub backplane_up: IntGauge,
    /// How often the connection to Redis was restored.
    pub reconnects: IntCounter,
    /// Times the largest logs were trimmed because all rooms together took too many bytes.
    pub storage_trims: IntCounter,
    /// Seconds from handing a message to the backplane until it is kept.
    pub keep: Histogram,
    /// Seconds from keeping a message, by the time in its id, until it is handed to the sockets of one lane. For a
    /// batch, the oldest message counts.
    pub delivery: Histogram,
    refused: IntCounterVec,
    rejected: IntCounterVec,
    http_refused: IntCounterVec,
    limited: IntCounterVec,
    polls: IntGauge,
    lane_queue: IntGaugeVec,
    publisher_queue: IntGauge,
    oldest: Gauge,
    process: process::Process,
}

/// Values that are read when metrics are requested, rather than counted.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// HTTP requests waiting for messages.
    pub polls: usize,
    /// The length of each lane's queue.
    pub lanes: Vec<usize>,
    /// The number of commands to the backplane that are queued or have no reply yet.
    pub publisher: usize,
    /// How long the oldest of these commands has waited; without Redis, the oldest message.
    pub oldest: Duration,
}

impl Metrics {
    /// Counts an `error` frame, by its code.
    pub fn refuse(&self, code: &str) {
        self.refused.with_label_values(&[code]).inc();
    }

    /// Counts a refused upgrade, by its reason.
    pub fn reject(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// Counts an HTTP answer if it is a refusal, by its status.
    pub fn answer(&self, status: u16) {
        if status >= 400 {
            self.http_refused.with_label_values(&[&status.to_string()]).inc();
        }
    }

    /// Counts an exceeded limit.
    pub fn limit(&self, limit: Limit) {
        self.limited.with_label_values(&[limit.label()]).inc();
    }

    /// Open sessions in percent of the cap.
    fn connections_used(&self) -> f64 {
        100.0 * self.connections.get() as f64 / self.cap.get().max(1) as f64
    }
}
