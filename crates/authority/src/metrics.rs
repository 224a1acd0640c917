//! Counters, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pki::time::Time;

use crate::log::Written;

/// What is counted.
#[derive(Default)]
pub(crate) struct Metrics {
    outcomes: Mutex<BTreeMap<&'static str, u64>>,
    /// Leaves issued to workers.
    pub(crate) workers: AtomicU64,
    /// Leaves issued to managers.
    pub(crate) managers: AtomicU64,
    /// Connections that are open.
    pub(crate) connections: AtomicUsize,
    /// Handshakes that failed.
    pub(crate) handshakes_failed: AtomicU64,
    /// End of this server's own certificate.
    pub(crate) server_not_after_ms: AtomicI64,
}

impl Metrics {
    /// Counts how a request ended, by one word.
    pub(crate) fn count(&self, outcome: &'static str) {
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_default() += 1;
    }

    /// All of it as text.
    pub(crate) fn text(&self, written: &Written, ca_not_after: Time) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, rows: &[(String, i128)]| {
            // Writing into memory does not fail.
            let _ = writeln!(text, "# HELP swarmpki_ca_{name} {help}\n# TYPE swarmpki_ca_{name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(text, "swarmpki_ca_{name}{labels} {value}");
            }
        };
        let one = |value: i128| vec![(String::new(), value)];
        let count = |counter: &AtomicU64| i128::from(counter.load(Ordering::Relaxed));
        let outcomes: Vec<(String, i128)> = self
            .outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(word, number)| (format!("{{outcome=\"{word}\"}}"), i128::from(*number)))
            .collect();
        family("requests_total", "counter", "Requests by outcome.", &outcomes);
        let issued = [
            ("{role=\"manager\"}".to_owned(), count(&self.managers)),
            ("{role=\"worker\"}".to_owned(), count(&self.workers)),
        ];
        family("leaves_issued_total", "counter", "Certificates issued to nodes.", &issued);
        let connections = self.connections.load(Ordering::Relaxed) as i128;
        family("connections", "gauge", "Connections that are open.", &one(connections));
        let failed = count(&self.handshakes_failed);
        family("handshakes_failed_total", "counter", "TLS handshakes that failed.", &one(failed));
        family("log_bytes", "gauge", "Bytes of the issuance log.", &one(count(&written.bytes)));
        family("log_syncs_total", "counter", "Syncs of the issuance log.", &one(count(&written.syncs)));
        family(
            "log_failures_total",
            "counter",
            "Times the issuance log could not be written.",
            &one(count(&written.failures)),
        );
        let ca_end = i128::from(ca_not_after.unix_secs());
        family("certificate_not_after_seconds", "gauge", "End of the CA's certificate, Unix time.", &one(ca_end));
        let own_end = i128::from(self.server_not_after_ms.load(Ordering::Relaxed) / 1_000);
        family(
            "server_certificate_not_after_seconds",
            "gauge",
            "End of this server's own certificate, Unix time.",
            &one(own_end),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_as_prometheus_reads_it() {
        let metrics = Metrics::default();
        metrics.count("issued");
        metrics.count("issued");
        metrics.count("not-in-log");
        let text = metrics.text(&Written::default(), Time::from_unix_secs(7));
        for line in [
            "# TYPE swarmpki_ca_requests_total counter",
            "swarmpki_ca_requests_total{outcome=\"issued\"} 2",
            "swarmpki_ca_requests_total{outcome=\"not-in-log\"} 1",
            "swarmpki_ca_leaves_issued_total{role=\"manager\"} 0",
            "swarmpki_ca_certificate_not_after_seconds 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
