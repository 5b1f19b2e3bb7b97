//! The seam to metrics and access logs, and the labels of what this proxy talks to.

use aquifer_core::http::cluster::{Endpoint, Transport};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::WorkloadUid;
use aquifer_telemetry::access_log::AccessLog;
use aquifer_telemetry::edge::EdgeMetrics;
use aquifer_telemetry::http::HttpMetrics;
use aquifer_telemetry::names::NameMetrics;
use aquifer_telemetry::peer::{PeerLabels, Reporter, ServiceLabels};
use aquifer_telemetry::registry::Registry;
use aquifer_telemetry::tcp::TcpMetrics;

pub(crate) struct Telemetry {
    pub(crate) http: HttpMetrics,
    pub(crate) tcp: TcpMetrics,
    pub(crate) edge: EdgeMetrics,
    pub(crate) names: NameMetrics,
    pub(crate) log: AccessLog,
    pub(crate) reporter: Reporter,
}

impl Telemetry {
    pub(crate) fn new(registry: &Registry, log: AccessLog, reporter: Reporter) -> Self {
        Self {
            http: HttpMetrics::new(registry),
            tcp: TcpMetrics::new(registry),
            edge: EdgeMetrics::new(registry),
            names: NameMetrics::new(registry),
            log,
            reporter,
        }
    }
}

/// Labels of a service by its host name; one that the mesh does not know keeps its host.
pub(crate) fn service_labels(mesh: &MeshSnapshot, host: &str) -> ServiceLabels {
    if let Some(service) = mesh.service_named(host, "") {
        return ServiceLabels::of(service);
    }
    let mut parts = host.split('.');
    let name = parts.next().unwrap_or(host);
    let namespace = if host.contains(".svc.") {
        parts.next()
    } else {
        None
    };
    ServiceLabels {
        host: host.into(),
        name: name.into(),
        namespace: namespace.unwrap_or(aquifer_telemetry::UNKNOWN).into(),
    }
}

/// Labels of an endpoint: its workload's, with the identity that it must prove.
pub(crate) fn endpoint_labels(mesh: &MeshSnapshot, endpoint: &Endpoint) -> PeerLabels {
    let principal = match &endpoint.transport {
        Transport::Hbone(identity) => Some(identity),
        Transport::Plaintext | Transport::Outside => None,
    };
    match mesh.workload(&WorkloadUid::new(&endpoint.workload)) {
        Some(workload) => PeerLabels::of(workload, principal),
        None => principal.map_or_else(PeerLabels::unknown, PeerLabels::principal),
    }
}
