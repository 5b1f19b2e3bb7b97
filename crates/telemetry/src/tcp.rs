//! TCP metrics with Istio's names: what node agents report of connections, and waypoints of TCP services.

use std::sync::Arc;

use metrics::Counter;

use crate::peer::TrafficLabels;
use crate::registry::{HandleCache, Registry};

/// Why a connection ended early, in the words of Envoy's and ztunnel's response flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TcpFlag {
    #[default]
    None,
    /// Refused by policy.
    Deny,
    /// The destination could not be reached.
    Connect,
    TlsFailure,
    H2HandshakeFailure,
    /// No certificate could be had.
    IdentityError,
}

impl TcpFlag {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct SeriesKey {
    traffic: TrafficLabels,
    flag: TcpFlag,
}

/// The counters of one label set. Bytes are added while a connection lives, not only at its end.
pub struct TcpSeries {
    pub opened: Counter,
    pub closed: Counter,
    pub failed: Counter,
    /// Bytes from the server to the client: Istio counts from the destination's side.
    pub sent_bytes: Counter,
    /// Bytes from the client to the server.
    pub received_bytes: Counter,
}

pub struct TcpMetrics {
    registry: Registry,
    series: HandleCache<SeriesKey, TcpSeries>,
}

impl TcpMetrics {
    pub fn new(registry: &Registry) -> Self {
        let overflow = make(registry, &[("overflow", "true".to_owned())]);
        Self {
            registry: registry.clone(),
            series: HandleCache::new(overflow),
        }
    }

    /// The counters of a label set; keep them for the life of the connection.
    pub fn series(&self, traffic: &TrafficLabels, flag: TcpFlag) -> Arc<TcpSeries> {
        let key = SeriesKey {
            traffic: traffic.clone(),
            flag,
        };
        self.series.get(&key, |key| {
            let mut labels = key.traffic.pairs();
            labels.push(("request_protocol", "tcp".to_owned()));
            labels.push(("response_flags", key.flag.as_str().to_owned()));
            make(&self.registry, &labels)
        })
    }
}

fn make(registry: &Registry, labels: &[(&'static str, String)]) -> TcpSeries {
    TcpSeries {
        opened: registry.counter("istio_tcp_connections_opened_total", labels),
        closed: registry.counter("istio_tcp_connections_closed_total", labels),
        failed: registry.counter("istio_tcp_connections_failed_total", labels),
        sent_bytes: registry.counter("istio_tcp_sent_bytes_total", labels),
        received_bytes: registry.counter("istio_tcp_received_bytes_total", labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{PeerLabels, Reporter, Security, ServiceLabels};

    #[test]
    fn every_label_has_a_value() {
        let registry = Registry::new();
        let labels = TrafficLabels {
            reporter: Reporter::Destination,
            source: PeerLabels::unknown(),
            destination: PeerLabels::unknown(),
            service: ServiceLabels::unknown(),
            security: Security::None,
        };
        TcpMetrics::new(&registry)
            .series(&labels, TcpFlag::None)
            .opened
            .increment(1);
        let text = registry.render();
        let line = text
            .lines()
            .find(|l| l.starts_with("istio_tcp_connections_opened_total{") && !l.contains("overflow"));
        let line = line.unwrap();
        assert!(!line.contains("=\"\""), "{line}");
        assert_eq!(line.matches('=').count(), 23, "{line}");
    }
}
