//! What is counted, and the two ways it is told: Prometheus text, and CloudWatch's embedded metric format.

use std::io::Write;
use std::time::{Duration, SystemTime};

use prometheus::{Encoder, IntCounter, IntGauge, Registry, TextEncoder};

/// How often the embedded metric line is written: CloudWatch's finest standard resolution.
pub const EMF_PERIOD: Duration = Duration::from_secs(60);

/// All counters of the process.
pub struct Metrics {
    registry: Registry,
    /// Sessions that are connected, joined or not.
    pub connections: IntGauge,
    /// The cap on `connections`.
    pub cap: IntGauge,
    /// Joins that were carried out.
    pub joins: IntCounter,
    /// Messages that clients sent and that were taken on.
    pub messages: IntCounter,
    /// Frames of messages that were handed to sockets.
    pub deliveries: IntCounter,
    /// Frames that were answered with an error.
    pub refused: IntCounter,
    /// Clients that were cut for being too slow.
    pub cut: IntCounter,
    /// Sessions that were asked to reconnect because this task had too many.
    pub rebalanced: IntCounter,
    /// Upgrades that were answered with 503.
    pub rejected: IntCounter,
    /// 1 while the backplane answers.
    pub backplane_up: IntGauge,
}

impl Default for Metrics {
    /// All at zero.
    fn default() -> Metrics {
        let registry = Registry::new();
        // The names are ours and all different: registering can't fail.
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("a valid name");
            registry.register(Box::new(counter.clone())).expect("a new name");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("a valid name");
            registry.register(Box::new(gauge.clone())).expect("a new name");
            gauge
        };
        Metrics {
            connections: gauge("bobbin_connections", "WebSocket connections."),
            cap: gauge("bobbin_connections_max", "The cap on WebSocket connections."),
            joins: counter("bobbin_joins_total", "Joins carried out."),
            messages: counter("bobbin_messages_total", "Messages taken on from clients."),
            deliveries: counter("bobbin_deliveries_total", "Message frames handed to clients' sockets."),
            refused: counter("bobbin_refused_total", "Frames answered with an error."),
            cut: counter("bobbin_slow_clients_cut_total", "Clients cut for being too slow."),
            rebalanced: counter("bobbin_rebalanced_total", "Sessions asked to reconnect to even the load out."),
            rejected: counter("bobbin_rejected_total", "Upgrades refused at the cap or while draining."),
            backplane_up: gauge("bobbin_backplane_up", "1 while the backplane answers."),
            registry,
        }
    }
}

impl Metrics {
    /// The Prometheus text format, version 0.0.4.
    pub fn prometheus(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to a Vec can't fail; a metric that did would be left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// How full this task is, in percent of its cap.
    fn connections_used(&self) -> f64 {
        100.0 * self.connections.get() as f64 / self.cap.get().max(1) as f64
    }
}

/// Writes the embedded metric line to stdout, where the log driver picks it up: gauges as they are, counters as what
/// they grew by since the last line.
pub struct Emf {
    namespace: String,
    environment: String,
    service: String,
    told: [u64; 3],
}

impl Emf {
    /// `target` is `namespace/environment/service`, as the settings have checked.
    pub fn new(target: &str) -> Option<Emf> {
        let mut parts = target.split('/').map(str::to_owned);
        let emf = Emf { namespace: parts.next()?, environment: parts.next()?, service: parts.next()?, told: [0; 3] };
        let whole = [&emf.namespace, &emf.environment, &emf.service].iter().all(|part| !part.is_empty());
        (whole && parts.next().is_none()).then_some(emf)
    }

    /// One line, for now.
    pub fn tell(&mut self, metrics: &Metrics) {
        let line = self.line(metrics, SystemTime::now());
        // If stdout is gone, so is whoever would read it.
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    fn line(&mut self, metrics: &Metrics, now: SystemTime) -> serde_json::Value {
        let totals = [metrics.joins.get(), metrics.messages.get(), metrics.deliveries.get()];
        let [joins, messages, deliveries] = [0, 1, 2].map(|i| totals[i] - self.told[i]);
        self.told = totals;
        let metric = |name: &str, unit: &str| serde_json::json!({ "Name": name, "Unit": unit });
        serde_json::json!({
            "_aws": {
                "Timestamp": now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
                "CloudWatchMetrics": [{
                    "Namespace": self.namespace,
                    "Dimensions": [["Environment", "Service"]],
                    "Metrics": [
                        metric("Connections", "Count"), metric("ConnectionsUsed", "Percent"),
                        metric("Joins", "Count"), metric("Messages", "Count"), metric("Deliveries", "Count"),
                        metric("RedisUp", "None"),
                    ],
                }],
            },
            "Environment": self.environment,
            "Service": self.service,
            "Connections": metrics.connections.get(),
            "ConnectionsUsed": metrics.connections_used(),
            "Joins": joins,
            "Messages": messages,
            "Deliveries": deliveries,
            "RedisUp": metrics.backplane_up.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_line_tells_what_was_added() {
        let metrics = Metrics::default();
        metrics.cap.set(200);
        metrics.connections.set(50);
        metrics.joins.inc_by(7);
        let mut emf = Emf::new("Bobbin/production/chat").expect("three parts");
        let line = emf.line(&metrics, SystemTime::UNIX_EPOCH + Duration::from_millis(1_732_412_345_678));
        assert_eq!(line["_aws"]["Timestamp"], 1_732_412_345_678_u64);
        assert_eq!((line["Connections"].as_i64(), line["ConnectionsUsed"].as_f64()), (Some(50), Some(25.0)));
        assert_eq!((line["Joins"].as_u64(), line["Service"].as_str()), (Some(7), Some("chat")));
        metrics.joins.inc();
        assert_eq!(emf.line(&metrics, SystemTime::now())["Joins"], 1);
        assert!(Emf::new("Bobbin/production").is_none() && Emf::new("a//b").is_none() && Emf::new("a/b/c/d").is_none());
    }

    #[test]
    fn prometheus_text_has_help_and_type() {
        let text = String::from_utf8(Metrics::default().prometheus()).expect("text");
        assert!(text.contains("# TYPE bobbin_connections gauge") && text.contains("bobbin_joins_total 0"), "{text}");
    }
}
