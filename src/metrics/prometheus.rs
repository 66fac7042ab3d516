//! The metrics' names, and their Prometheus text form.

use ::prometheus::core::Collector;
use ::prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::process::Process;
use super::{Metrics, Sample};
use crate::limits::Limit;
use crate::protocol::ErrorCode;

/// Upper bounds of the histogram buckets, in seconds: from the latency on an idle machine to beyond the 2 s after which
/// a message is refused.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Values of the `reason` label for refused upgrades.
const REASONS: &[&str] = &["full", "draining"];

/// Registers a metric. Panics at startup if its name is invalid or not unique.
fn add<M: Collector + Clone + 'static>(registry: &Registry, made: ::prometheus::Result<M>) -> M {
    let metric = made.expect("a valid name");
    registry.register(Box::new(metric.clone())).expect("a new name");
    metric
}

impl Default for Metrics {
    /// All metrics at zero.
    fn default() -> Metrics {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| add(&registry, IntCounter::new(name, help));
        let counters =
            |name: &str, help: &str, label: &str| add(&registry, IntCounterVec::new(Opts::new(name, help), &[label]));
        let gauge = |name: &str, help: &str| add(&registry, IntGauge::new(name, help));
        let seconds = |name: &str, help: &str| {
            add(&registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec())))
        };
        let build = Opts::new("bobbin_build_info", "Always 1; the label has the version.");
        let build = add(&registry, IntGaugeVec::new(build, &["version"]));
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let lanes = Opts::new("bobbin_lane_queue", "Events waiting for a lane.");
        let metrics = Metrics {
            connections: gauge("bobbin_connections", "WebSocket connections."),
            cap: gauge("bobbin_connections_max", "The cap on WebSocket connections."),
            joins: counter("bobbin_joins_total", "Successful joins."),
            messages: counter("bobbin_messages_total", "Messages accepted from clients and scripts."),
            deliveries: counter("bobbin_deliveries_total", "Message frames written to clients' sockets."),
            refused: counters("bobbin_refused_total", "Frames answered with an error, by code.", "code"),
            rejected: counters("bobbin_rejected_total", "WebSocket upgrades refused, by reason.", "reason"),
            http_refused: counters(
                "bobbin_http_refused_total",
                "Requests refused, upgrades included, by status.",
                "status",
            ),
            limited: counters("bobbin_limited_total", "Exceeded limits, by limit.", "limit"),
            cut: counter("bobbin_slow_clients_cut_total", "Clients disconnected because they read too slowly."),
            rebalanced: counter("bobbin_rebalanced_total", "Sessions asked to reconnect elsewhere."),
            polls: gauge("bobbin_polls", "HTTP requests waiting for messages."),
            backplane_up: gauge("bobbin_backplane_up", "1 while the backplane responds."),
            reconnects: counter("bobbin_redis_reconnects_total", "Times the connection to Redis was restored."),
            storage_trims: counter(
                "bobbin_storage_trims_total",
                "Times the largest logs were trimmed (STORAGE_BYTES).",
            ),
            keep: seconds("bobbin_keep_seconds", "Time from a message's arrival until it is kept."),
            delivery: seconds(
                "bobbin_delivery_seconds",
                "Time from a message's id until it is written to one lane's sockets.",
            ),
            lane_queue: add(&registry, IntGaugeVec::new(lanes, &["lane"])),
            publisher_queue: gauge("bobbin_publisher_queue", "Commands to the backplane without a reply."),
            oldest: add(
                &registry,
                Gauge::new("bobbin_oldest_unacknowledged_seconds", "Age of the oldest command without a reply."),
            ),
            process: Process::default(),
            registry,
        };
        metrics.process.register(&metrics.registry);
        // Create every series now: `rate` misses the first increment of a series that did not exist before.
        ErrorCode::ALL.iter().for_each(|code| drop(metrics.refused.with_label_values(&[*code])));
        Limit::ALL.iter().for_each(|limit| drop(metrics.limited.with_label_values(&[limit.label()])));
        REASONS.iter().for_each(|reason| drop(metrics.rejected.with_label_values(&[*reason])));
        metrics
    }
}

impl Metrics {
    /// The metrics in Prometheus text format, version 0.0.4.
    pub fn prometheus(&self, sample: &Sample) -> Vec<u8> {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.polls.set(number(sample.polls));
        self.publisher_queue.set(number(sample.publisher));
        self.oldest.set(sample.oldest.as_secs_f64());
        for (lane, waiting) in sample.lanes.iter().enumerate() {
            self.lane_queue.with_label_values(&[&lane.to_string()]).set(number(*waiting));
        }
        self.process.sample();
        let mut text = Vec::new();
        // Writing to a Vec can't fail; a metric that did would be omitted.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_help_type_and_all_series_from_the_start() {
        let metrics = Metrics::default();
        metrics.refuse("banned");
        let sample = Sample { lanes: vec![0, 7], ..Sample::default() };
        let text = String::from_utf8(metrics.prometheus(&sample)).expect("text");
        for line in [
            "# TYPE bobbin_connections gauge",
            "bobbin_joins_total 0",
            "bobbin_refused_total{code=\"banned\"} 1",
            "bobbin_refused_total{code=\"rate_limited\"} 0",
            "bobbin_lane_queue{lane=\"1\"} 7",
            "bobbin_keep_seconds_bucket{le=\"0.005\"} 0",
        ] {
            assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
        }
    }
}
