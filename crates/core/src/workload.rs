//! Workloads: the pods (and pod-like things) of the mesh, as Istio's workload API describes them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::{IdentityError, SpiffeId, TrustDomain};
use crate::names::NamespacedHostname;
use crate::service::PortMapping;

/// The primary key of a workload: `cluster/group/kind/namespace/name[/section]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(Arc<str>);

impl WorkloadUid {
    pub fn new(uid: &str) -> Self {
        Self(uid.into())
    }

    /// The key of a pod: `CLUSTER//Pod/NAMESPACE/NAME`.
    pub fn pod(cluster: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{cluster}//Pod/{namespace}/{name}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelProtocol {
    /// Plain TCP to the application's own port.
    #[default]
    None,
    /// HTTP/2 CONNECT over mutual TLS to port 15008.
    Hbone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

/// The kind of controller that a workload belongs to; a telemetry and baggage label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadType {
    #[default]
    Deployment,
    CronJob,
    Pod,
    Job,
}

/// Where a proxy (waypoint or network gateway) is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct GatewayAddress {
    pub destination: GatewayDestination,
    /// The port that speaks HBONE, normally 15008.
    pub hbone_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    Hostname(NamespacedHostname),
    Address(IpAddr),
}

impl serde::Serialize for GatewayDestination {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Hostname(h) => s.collect_str(h),
            Self::Address(a) => s.collect_str(a),
        }
    }
}

/// One pod or pod-like endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub uid: WorkloadUid,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub network: Arc<str>,
    /// All addresses of the pod; more than one in dual stack.
    pub addresses: Vec<IpAddr>,
    /// Resolved by DNS at connect time where there are no addresses; empty otherwise.
    pub hostname: Arc<str>,
    pub trust_domain: TrustDomain,
    pub service_account: Arc<str>,
    pub tunnel: TunnelProtocol,
    /// The workload terminates HBONE itself (waypoints, gateways); it is not captured.
    pub native_tunnel: bool,
    pub waypoint: Option<GatewayAddress>,
    pub node: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub workload_type: WorkloadType,
    /// The name of the controller, such as the Deployment.
    pub workload_name: Arc<str>,
    pub cluster: Arc<str>,
    pub health: Health,
    /// `namespace/name` of the policies that select this workload.
    pub policies: Vec<Arc<str>>,
    /// The services that this workload serves, with the ports it serves them on.
    pub services: BTreeMap<NamespacedHostname, Vec<PortMapping>>,
    /// Load-balancing weight; 1 where nothing was said.
    pub capacity: u32,
    /// Runs in the network namespace of its node; its IP identifies the node and not the pod.
    pub host_network: bool,
    pub region: Arc<str>,
    pub zone: Arc<str>,
    /// Pod labels: for routing by `sourceLabels` and for telemetry, never for authorisation.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

impl Workload {
    /// A workload with nothing known but its key; tests and conversions fill in the rest.
    pub fn empty(uid: WorkloadUid) -> Self {
        let none: Arc<str> = "".into();
        Self {
            uid,
            name: none.clone(),
            namespace: none.clone(),
            network: none.clone(),
            addresses: Vec::new(),
            hostname: none.clone(),
            trust_domain: TrustDomain::default(),
            service_account: "default".into(),
            tunnel: TunnelProtocol::None,
            native_tunnel: false,
            waypoint: None,
            node: none.clone(),
            canonical_name: none.clone(),
            canonical_revision: none.clone(),
            workload_type: WorkloadType::Deployment,
            workload_name: none.clone(),
            cluster: "Kubernetes".into(),
            health: Health::Healthy,
            policies: Vec::new(),
            services: BTreeMap::new(),
            capacity: 1,
            host_network: false,
            region: none.clone(),
            zone: none,
            labels: BTreeMap::new(),
        }
    }

    /// The identity that this workload must prove.
    pub fn identity(&self) -> Result<SpiffeId, IdentityError> {
        SpiffeId::new(&self.trust_domain, &self.namespace, &self.service_account)
    }
}
