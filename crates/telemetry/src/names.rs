//! Names that a proxy looks up.

use std::sync::Arc;

use metrics::{Counter, Gauge};

use crate::registry::Registry;

const LOOKUPS: &str = "aquifer_name_lookups_total";
const FAILING: &str = "aquifer_names_failing";

/// Clones count together.
#[derive(Clone)]
pub struct NameMetrics(Arc<Series>);

struct Series {
    answered: Counter,
    failed: Counter,
    failing: Gauge,
}

impl NameMetrics {
    pub fn new(registry: &Registry) -> Self {
        registry.describe_counter(LOOKUPS, "Look-ups of names outside the mesh, by their outcome");
        let counter = |outcome: &str| registry.counter(LOOKUPS, &[("outcome", outcome.to_owned())]);
        Self(Arc::new(Series {
            answered: counter("answered"),
            failed: counter("failed"),
            failing: registry.gauge(FAILING, &[]),
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
        let text = registry.render();
        for line in [
            format!("{LOOKUPS}{{outcome=\"failed\"}} 2"),
            format!("{LOOKUPS}{{outcome=\"answered\"}} 0"),
            format!("{FAILING} 1"),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}
