//! Services: names and virtual addresses in front of workloads.

use std::net::IpAddr;
use std::sync::Arc;

use crate::address::NetworkAddress;
use crate::identity::SpiffeId;
use crate::names::NamespacedHostname;
use crate::workload::GatewayAddress;

/// The protocol spoken on a service port, as `appProtocol` or the port's name says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

impl AppProtocol {
    /// Whether requests, and not only connections, can be routed.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http11 | Self::Http2 | Self::Grpc)
    }
}

/// One port of a service, or of one workload's share of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct PortMapping {
    pub service_port: u16,
    /// The pod's port; 0 where it differs from pod to pod and the workload's own list has it.
    pub target_port: u16,
    pub protocol: AppProtocol,
}

/// How endpoints are chosen by distance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoadBalancing {
    pub mode: BalanceMode,
    /// Scopes in the order of preference.
    pub preference: Vec<BalanceScope>,
    pub allow_unhealthy: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BalanceMode {
    #[default]
    Unspecified,
    /// Only endpoints that match every scope.
    Strict,
    /// Endpoints that match most scopes first.
    Failover,
    /// The original destination is used as it is.
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BalanceScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// A Kubernetes Service or ServiceEntry host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
    /// Virtual addresses; empty for a headless service.
    pub vips: Vec<NetworkAddress>,
    pub ports: Vec<PortMapping>,
    /// Identities accepted from an endpoint beside its own.
    pub subject_alt_names: Vec<SpiffeId>,
    pub waypoint: Option<GatewayAddress>,
    pub load_balancing: LoadBalancing,
    /// Wins for its host name over services of other namespaces.
    pub canonical: bool,
    pub ingress_use_waypoint: bool,
    /// Clients of other namespaces do not see it.
    pub namespace_only: bool,
}

impl Service {
    pub fn key(&self) -> NamespacedHostname {
        NamespacedHostname {
            namespace: self.namespace.clone(),
            hostname: self.hostname.clone(),
        }
    }

    pub fn port(&self, service_port: u16) -> Option<&PortMapping> {
        self.ports.iter().find(|p| p.service_port == service_port)
    }

    pub fn vip_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.vips.iter().map(NetworkAddress::ip)
    }
}
