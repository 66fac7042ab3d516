//! What is measured, and the two forms in which it is published: Prometheus text, and CloudWatch's embedded metric
//! format.

pub mod emf;
mod process;
mod prometheus;

use std::time::Duration;

use ::prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::limits::Limit;

/// All that the process measures.
pub struct Metrics {
    registry: Registry,
    /// Sessions that are connected, joined or not.
    pub connections: IntGauge,
    /// The cap on `connections`.
    pub cap: IntGauge,
    /// Joins that were carried out.
    pub joins: IntCounter,
    /// Messages that clients and scripts sent and that were taken on.
    pub messages: IntCounter,
    /// Frames of messages that were handed to sockets.
    pub deliveries: IntCounter,
    /// Clients that were cut for being too slow.
    pub cut: IntCounter,
    /// Sessions that were asked to reconnect because this instance had too many.
    pub rebalanced: IntCounter,
    /// 1 while the backplane answers.
    pub backplane_up: IntGauge,
    /// How often Redis was found again after its connection was lost.
    pub reconnects: IntCounter,
    /// From the moment a message is handed to the backplane until it is kept.
    pub keep: Histogram,
    /// From the moment a message is kept, by its id, until it is handed to the sockets of one lane's sessions. Of those
    /// that are written together, the oldest counts.
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

/// What is not counted as it happens but looked up on request.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// HTTP requests that wait for messages.
    pub polls: usize,
    /// What waits in each lane's queue.
    pub lanes: Vec<usize>,
    /// What waits for Redis.
    pub publisher: usize,
    /// For how long the first of it has waited.
    pub oldest: Duration,
}

impl Metrics {
    /// A frame was answered with an error of this code.
    pub fn refuse(&self, code: &str) {
        self.refused.with_label_values(&[code]).inc();
    }

    /// An upgrade was refused for this reason.
    pub fn reject(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// A plain request was refused with this status.
    pub fn refuse_http(&self, status: u16) {
        self.http_refused.with_label_values(&[&status.to_string()]).inc();
    }

    /// Something exceeded this limit.
    pub fn limit(&self, limit: Limit) {
        self.limited.with_label_values(&[limit.label()]).inc();
    }

    /// How full this instance is, in percent of its cap.
    fn connections_used(&self) -> f64 {
        100.0 * self.connections.get() as f64 / self.cap.get().max(1) as f64
    }
}
