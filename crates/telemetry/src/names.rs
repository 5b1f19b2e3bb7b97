//! Names that a proxy looks up.

use std::sync::Arc;

use metrics::{Counter, Gauge};

use crate::registry::Registry;

const LOOKUPS: &str = "aquifer_name_lookups_total";
const FAILING: &str = "aquifer_names_failing";
const LEFT_OUT: &str = "aquifer_names_left_out";

/// Clones count together.
#[derive(Clone)]
pub struct NameMetrics(Arc<Series>);

struct Series {
    answered: Counter,
    failed: Counter,
    failing: Gauge,
    left_out: Gauge,
}

impl NameMetrics {
    pub fn new(registry: &Registry) -> Self {
        registry.describe_counter(LOOKUPS, "Look-ups of names outside the mesh, by their outcome");
        let counter = |outcome: &str| registry.counter(LOOKUPS, &[("outcome", outcome.to_owned())]);
        Self(Arc::new(Series {
            answered: counter("answered"),
            failed: counter("failed"),
            failing: registry.gauge(FAILING, &[]),
            left_out: registry.gauge(LEFT_OUT, &[]),
        }))
    }

    pub fn answered(&self) {
        self.0.answered.increment(1);
    }

    pub fn failed(&self) {
        self.0.failed.increment(1);
    }

    /// How many names fail now.
    pub fn failing(&self, names: usize) {
        self.0.failing.set(names as f64);
    }

    /// How many names are not looked up, because there are too many.
    pub fn left_out(&self, names: usize) {
        self.0.left_out.set(names as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups_are_counted_by_their_outcome() {
        let registry = Registry::new();
        let metrics = NameMetrics::new(&registry);
        metrics.failed();
        metrics.clone().failed();
        metrics.failing(1);
        metrics.left_out(3);
        let text = registry.render();
        for line in [
            format!("{LOOKUPS}{{outcome=\"failed\"}} 2"),
            format!("{LOOKUPS}{{outcome=\"answered\"}} 0"),
            format!("{FAILING} 1"),
            format!("{LEFT_OUT} 3"),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}
