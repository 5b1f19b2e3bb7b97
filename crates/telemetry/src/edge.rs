//! Connections that a gateway refuses before it looks at them.

use metrics::Counter;

use crate::registry::Registry;

const REFUSED: &str = "aquifer_gateway_connections_refused_total";

/// Which limit a connection would have exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeLimit {
    /// That of its client's address.
    Client,
    /// That of all clients together.
    All,
}

impl EdgeLimit {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::All => "all",
        }
    }
}

pub struct EdgeMetrics {
    of_client: Counter,
    of_all: Counter,
}

impl EdgeMetrics {
    pub fn new(registry: &Registry) -> Self {
        registry.describe_counter(
            REFUSED,
            "Connections refused at the edge, by the limit that was reached",
        );
        let counter = |limit: EdgeLimit| registry.counter(REFUSED, &[("limit", limit.as_str().to_owned())]);
        Self {
            of_client: counter(EdgeLimit::Client),
            of_all: counter(EdgeLimit::All),
        }
    }

    pub fn refused(&self, limit: EdgeLimit) {
        match limit {
            EdgeLimit::Client => self.of_client.increment(1),
            EdgeLimit::All => self.of_all.increment(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_their_limit() {
        let registry = Registry::new();
        let metrics = EdgeMetrics::new(&registry);
        metrics.refused(EdgeLimit::Client);
        metrics.refused(EdgeLimit::Client);
        let text = registry.render();
        assert!(
            text.contains(&format!("{REFUSED}{{limit=\"client\"}} 2")),
            "{text}"
        );
        assert!(text.contains(&format!("{REFUSED}{{limit=\"all\"}} 0")), "{text}");
    }
}
