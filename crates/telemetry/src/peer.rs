//! The labels that describe one end of a connection or request.

use std::sync::Arc;

use aquifer_core::identity::SpiffeId;
use aquifer_core::workload::Workload;

use crate::UNKNOWN;

/// One end, as Istio's standard metrics label it. Values come from mesh state only, never from a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerLabels {
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    /// `spiffe://…` as proved by a certificate, or `unknown`.
    pub principal: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    pub cluster: Arc<str>,
}

impl PeerLabels {
    /// A peer outside the mesh.
    pub fn unknown() -> Self {
        let unknown: Arc<str> = UNKNOWN.into();
        Self {
            workload: unknown.clone(),
            namespace: unknown.clone(),
            canonical_service: unknown.clone(),
            canonical_revision: unknown.clone(),
            principal: unknown.clone(),
            app: unknown.clone(),
            version: unknown.clone(),
            cluster: unknown,
        }
    }

    /// A known workload, and the identity that it proved (if it proved one).
    pub fn of(workload: &Workload, principal: Option<&SpiffeId>) -> Self {
        let service = or(&workload.canonical_name, UNKNOWN);
        let revision = or(&workload.canonical_revision, "latest");
        Self {
            workload: or(&workload.workload_name, UNKNOWN),
            namespace: or(&workload.namespace, UNKNOWN),
            app: label(workload, "app").unwrap_or_else(|| service.clone()),
            version: label(workload, "version").unwrap_or_else(|| revision.clone()),
            canonical_service: service,
            canonical_revision: revision,
            principal: principal.map_or_else(|| UNKNOWN.into(), |id| id.as_str().into()),
            cluster: or(&workload.cluster, UNKNOWN),
        }
    }

    /// A peer of which only the identity is known.
    pub fn principal(id: &SpiffeId) -> Self {
        Self {
            principal: id.as_str().into(),
            namespace: id.namespace().into(),
            ..Self::unknown()
        }
    }
}

fn or(value: &Arc<str>, default: &str) -> Arc<str> {
    if value.is_empty() {
        default.into()
    } else {
        value.clone()
    }
}

fn label(workload: &Workload, key: &str) -> Option<Arc<str>> {
    workload.labels.get(key).filter(|v| !v.is_empty()).cloned()
}

/// The service that a client addressed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceLabels {
    /// The host name, such as `reviews.bookinfo.svc.cluster.local`.
    pub host: Arc<str>,
    /// The short name, such as `reviews`; or `PassthroughCluster`, `BlackHoleCluster`.
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

impl ServiceLabels {
    pub fn unknown() -> Self {
        Self {
            host: UNKNOWN.into(),
            name: UNKNOWN.into(),
            namespace: UNKNOWN.into(),
        }
    }

    pub fn of(service: &aquifer_core::service::Service) -> Self {
        Self {
            host: or(&service.hostname, UNKNOWN),
            name: or(&service.name, UNKNOWN),
            namespace: or(&service.namespace, UNKNOWN),
        }
    }

    /// Traffic to an address that the mesh does not know.
    pub fn passthrough(address: &str) -> Self {
        Self {
            host: address.into(),
            name: "PassthroughCluster".into(),
            namespace: UNKNOWN.into(),
        }
    }
}

/// Whether the peer was authenticated by mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    MutualTls,
    None,
    Unknown,
}

impl Security {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => UNKNOWN,
        }
    }
}

/// Which proxy tells about the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    Source,
    Destination,
    Waypoint,
}

impl Reporter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}

/// Both ends, the service between them, and who tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrafficLabels {
    pub reporter: Reporter,
    pub source: PeerLabels,
    pub destination: PeerLabels,
    pub service: ServiceLabels,
    pub security: Security,
}

impl TrafficLabels {
    /// The labels that the TCP and the HTTP metrics share, each with a value.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let Self {
            reporter,
            source: s,
            destination: d,
            service,
            security,
        } = self;
        let text = |v: &Arc<str>| v.to_string();
        vec![
            ("reporter", reporter.as_str().to_owned()),
            ("source_workload", text(&s.workload)),
            ("source_workload_namespace", text(&s.namespace)),
            ("source_canonical_service", text(&s.canonical_service)),
            ("source_canonical_revision", text(&s.canonical_revision)),
            ("source_principal", text(&s.principal)),
            ("source_app", text(&s.app)),
            ("source_version", text(&s.version)),
            ("source_cluster", text(&s.cluster)),
            ("destination_workload", text(&d.workload)),
            ("destination_workload_namespace", text(&d.namespace)),
            ("destination_canonical_service", text(&d.canonical_service)),
            ("destination_canonical_revision", text(&d.canonical_revision)),
            ("destination_principal", text(&d.principal)),
            ("destination_app", text(&d.app)),
            ("destination_version", text(&d.version)),
            ("destination_cluster", text(&d.cluster)),
            ("destination_service", text(&service.host)),
            ("destination_service_name", text(&service.name)),
            ("destination_service_namespace", text(&service.namespace)),
            ("connection_security_policy", security.as_str().to_owned()),
        ]
    }
}
