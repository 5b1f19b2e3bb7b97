//! HTTP metrics with Istio's names: what waypoints and gateways report of requests.

use std::sync::Arc;

use metrics::{Counter, Histogram};

use crate::peer::TrafficLabels;
use crate::registry::{HandleCache, Registry};

/// The protocol of a request as the label `request_protocol` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    Http,
    Grpc,
}

impl RequestProtocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// What one request's series is keyed by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestLabels {
    pub traffic: TrafficLabels,
    pub protocol: RequestProtocol,
    /// The status; 0 where there was no response.
    pub response_code: u16,
    /// Envoy's response flags, `-` where there are none.
    pub response_flags: &'static str,
    /// The gRPC status, for gRPC only.
    pub grpc_status: Option<u8>,
}

/// The handles of one label set.
pub struct RequestSeries {
    pub requests: Counter,
    /// In milliseconds.
    pub duration: Histogram,
    /// In bytes.
    pub request_size: Histogram,
    /// In bytes.
    pub response_size: Histogram,
}

pub struct HttpMetrics {
    registry: Registry,
    series: HandleCache<RequestLabels, RequestSeries>,
}

impl HttpMetrics {
    pub fn new(registry: &Registry) -> Self {
        let overflow = make(registry, &[("overflow", "true".to_owned())]);
        Self {
            registry: registry.clone(),
            series: HandleCache::new(overflow),
        }
    }

    pub fn series(&self, labels: &RequestLabels) -> Arc<RequestSeries> {
        self.series.get(labels, |key| {
            let mut pairs = key.traffic.pairs();
            pairs.push(("request_protocol", key.protocol.as_str().to_owned()));
            pairs.push(("response_code", key.response_code.to_string()));
            pairs.push(("response_flags", key.response_flags.to_owned()));
            // Prometheus drops an empty label; Kiali allows that for this one only.
            pairs.push((
                "grpc_response_status",
                key.grpc_status.map(|s| s.to_string()).unwrap_or_default(),
            ));
            make(&self.registry, &pairs)
        })
    }
}

fn make(registry: &Registry, labels: &[(&'static str, String)]) -> RequestSeries {
    RequestSeries {
        requests: registry.counter("istio_requests_total", labels),
        duration: registry.histogram("istio_request_duration_milliseconds", labels),
        request_size: registry.histogram("istio_request_bytes", labels),
        response_size: registry.histogram("istio_response_bytes", labels),
    }
}
