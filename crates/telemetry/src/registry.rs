//! The registry of a process: metric handles, resolved once per label set and kept.
//!
//! The exporter's idle timeout is never used: it loses the counts of handles made before a series was dropped.
//! Instead the number of series is capped here, and what comes after goes to one series labelled `overflow`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::RwLock;

/// Most label sets of one kind (TCP, HTTP) in a process.
const MAX_LABEL_SETS: usize = 20_000;

/// Bounds of Envoy's duration histograms, in milliseconds.
const DURATION_BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// Bounds of sizes, in bytes.
const SIZE_BUCKETS: [f64; 8] = [1.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];
/// Bounds of durations that are exported in seconds.
const SECONDS_BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 10.0, 30.0];

const METADATA: Metadata<'static> = Metadata::new("aquifer", Level::INFO, None);

/// The metrics of one process. Clones share it.
#[derive(Clone)]
pub struct Registry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl Registry {
    /// A registry of its own: several may live in one process, as in tests.
    #[expect(clippy::expect_used, reason = "the bucket lists are constant and not empty")]
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_milliseconds".into()), &DURATION_BUCKETS)
            .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &SIZE_BUCKETS))
            .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS))
            .and_then(|b| b.set_buckets(&SECONDS_BUCKETS))
            .expect("bucket lists are not empty")
            .build_recorder();
        let handle = recorder.handle();
        Self {
            recorder: Arc::new(recorder),
            handle,
        }
    }

    pub fn counter(&self, name: &'static str, labels: &[(&'static str, String)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, String)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    pub fn histogram(&self, name: &'static str, labels: &[(&'static str, String)]) -> Histogram {
        self.recorder.register_histogram(&key(name, labels), &METADATA)
    }

    /// Adds a help text to a metric.
    pub fn describe_counter(&self, name: &'static str, help: &'static str) {
        self.recorder
            .describe_counter(KeyName::from_const_str(name), None, help.into());
    }

    /// The text that Prometheus scrapes. Costs time in proportion to the number of series: call it off the data path.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Drains raw histogram samples for ever; without it they pile up between scrapes.
    pub async fn upkeep(self) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            self.handle.run_upkeep();
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

fn key(name: &'static str, labels: &[(&'static str, String)]) -> Key {
    Key::from_parts(
        name,
        labels
            .iter()
            .map(|(k, v)| Label::new(*k, v.clone()))
            .collect::<Vec<_>>(),
    )
}

/// Handles by label set: resolved at first use, then one read lock and one hash away.
pub struct HandleCache<K, V> {
    // Guards the map only; values are shared out and used without it.
    handles: RwLock<HashMap<K, Arc<V>>>,
    overflow: Arc<V>,
    capacity: usize,
}

impl<K: Hash + Eq + Clone, V> HandleCache<K, V> {
    /// `overflow` takes what comes when the cache is full.
    pub fn new(overflow: V) -> Self {
        Self::with_capacity(overflow, MAX_LABEL_SETS)
    }

    fn with_capacity(overflow: V, capacity: usize) -> Self {
        Self {
            handles: RwLock::new(HashMap::new()),
            overflow: Arc::new(overflow),
            capacity,
        }
    }

    pub fn get(&self, key: &K, make: impl FnOnce(&K) -> V) -> Arc<V> {
        if let Some(found) = self.handles.read().get(key) {
            return found.clone();
        }
        let mut handles = self.handles.write();
        if handles.len() >= self.capacity && !handles.contains_key(key) {
            return self.overflow.clone();
        }
        handles
            .entry(key.clone())
            .or_insert_with_key(|k| Arc::new(make(k)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_buckets_and_counters() {
        let registry = Registry::new();
        registry
            .counter("istio_requests_total", &[("reporter", "source".into())])
            .increment(3);
        registry
            .histogram("istio_request_duration_milliseconds", &[])
            .record(7.0);
        let text = registry.render();
        assert!(
            text.contains("istio_requests_total{reporter=\"source\"} 3"),
            "{text}"
        );
        assert!(
            text.contains("istio_request_duration_milliseconds_bucket{le=\"10\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn a_full_cache_overflows_instead_of_growing() {
        let cache = HandleCache::with_capacity("overflow", 1);
        assert_eq!(*cache.get(&1, |_| "one"), "one");
        assert_eq!(*cache.get(&2, |_| "two"), "overflow");
        assert_eq!(*cache.get(&1, |_| "other"), "one");
    }
}
