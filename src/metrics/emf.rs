//! CloudWatch's embedded metric format: one JSON line per minute on stdout, where the log driver collects it.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use super::Metrics;
use crate::logging;

/// Interval between lines, which is the finest standard resolution of CloudWatch.
pub const EMF_PERIOD: Duration = Duration::from_secs(60);

/// Writes the embedded metric line: the values of gauges, and the increments of counters since the last line.
pub struct Emf {
    namespace: String,
    environment: String,
    service: String,
    reported: [u64; 3],
}

impl Emf {
    /// `target` is `namespace/environment/service`, already validated by the settings.
    pub fn new(target: &str) -> Option<Emf> {
        let mut parts = target.split('/').map(str::to_owned);
        let emf =
            Emf { namespace: parts.next()?, environment: parts.next()?, service: parts.next()?, reported: [0; 3] };
        let whole = [&emf.namespace, &emf.environment, &emf.service].iter().all(|part| !part.is_empty());
        (whole && parts.next().is_none()).then_some(emf)
    }

    /// Writes one line with the current values. While nobody reads `out`, none is written: the caller also waits for
    /// signals, and the next line has the increments of both.
    pub fn report(&mut self, metrics: &Metrics, out: &mut (impl Write + AsFd)) {
        if logging::has_space(out) {
            let line = self.line(metrics, SystemTime::now());
            // If stdout is closed, nobody collects the line either.
            let _ = writeln!(out, "{line}");
        }
    }

    fn line(&mut self, metrics: &Metrics, now: SystemTime) -> serde_json::Value {
        let totals = [metrics.joins.get(), metrics.messages.get(), metrics.deliveries.get()];
        let [joins, messages, deliveries] = [0, 1, 2].map(|i| totals[i] - self.reported[i]);
        self.reported = totals;
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
    use std::io::Read;

    #[test]
    fn a_stdout_that_nobody_reads_blocks_nothing() {
        let metrics = Metrics::default();
        let mut emf = Emf::new("Bobbin/production/chat").expect("three parts");
        let (mut reader, mut full) = std::io::pipe().expect("a pipe");
        full.write_all(&[b'x'; 64 * 1024]).expect("the size of a pipe");
        metrics.joins.inc();
        let (to, done) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            emf.report(&metrics, &mut full);
            let _ = to.send((emf, metrics, full));
        });
        let (mut emf, metrics, mut full) = done.recv_timeout(Duration::from_secs(10)).expect("it does not wait");
        reader.read_exact(&mut [0; 64 * 1024]).expect("what filled it");
        metrics.joins.inc();
        emf.report(&metrics, &mut full);
        drop(full);
        let line: serde_json::Value = serde_json::from_reader(reader).expect("one line");
        assert_eq!(line["Joins"], 2);
    }

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
}
