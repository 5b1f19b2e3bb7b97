//! Pods and Services to workloads and services of the mesh.

mod addressed;
mod claims;
mod entries;
mod left_out;
mod nodes;
mod ownership;
mod update;

use std::cell::LazyCell;
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::address::NetworkAddress;
use aquifer_core::enrolment::{Enrolment, PodFacts, decide};
use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::{BalanceMode, BalanceScope, LoadBalancing, PortMapping, Service};
use aquifer_core::workload::{Health, TunnelProtocol, Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::inputs::{Entry, Inputs, Labels};
use crate::compile::protocol::detect;
use crate::model::service_entry::{Endpoint, Resolution, ServiceEntry, Target};
use crate::model::virtual_service::CLUSTER_DOMAIN;
use crate::model::visibility::Visibility;
use crate::objects::{NETWORKING, ObjectKey, kube};
use claims::Claims;
use left_out::LeftOut;
use nodes::Nodes;

pub use addressed::Addressed;
pub use left_out::Owner;
pub use update::Touched;

/// Set on a pod by its node agent while the pod is captured.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Istio's label of a workload that terminates HBONE by itself.
const TUNNEL_LABEL: &str = "networking.istio.io/tunnel";
const GATEWAY_CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
pub const WAYPOINT_CLASS: &str = "istio-waypoint";

/// Whether a Gateway of this class asks for a waypoint.
pub fn is_waypoint_class(class: &str) -> bool {
    class == WAYPOINT_CLASS || class == "aquifer-waypoint"
}

/// Clones share everything, so that a change of one object costs what it touches.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    pub services: imbl::OrdMap<NamespacedHostname, Arc<Registered>>,
    /// Who has a host: one service of Kubernetes, or of each namespace the oldest ServiceEntry; oldest first.
    pub by_host: imbl::OrdMap<Arc<str>, Arc<[NamespacedHostname]>>,
    /// The oldest of those that have a host for others than clients of their own namespace.
    shared: imbl::OrdMap<Arc<str>, NamespacedHostname>,
    pub workloads: imbl::OrdMap<WorkloadUid, Arc<Workload>>,
    /// Who serves a service, by key.
    endpoints: imbl::OrdMap<NamespacedHostname, imbl::OrdMap<WorkloadUid, Arc<Workload>>>,
    /// Of workloads that are known by more than what somebody wrote.
    addresses: imbl::OrdSet<(IpAddr, WorkloadUid)>,
    /// Of workloads that are known by nothing else.
    written: imbl::OrdSet<(IpAddr, WorkloadUid)>,
    /// Pods without an address.
    pub addressless: usize,
    nodes: Nodes,
    /// Which ServiceEntries have addresses before others.
    pub addressed: Addressed,
    left_out: LeftOut,
    selectors: Selectors,
    claims: Claims,
}

/// Services with a selector, by their namespace and one of the selector's labels: a pod is compared only with those that
/// it shares this label with.
type Selectors = imbl::OrdMap<(Arc<str>, Arc<str>, Arc<str>), imbl::OrdSet<NamespacedHostname>>;

/// A service with a host: one of Kubernetes, or a host of a ServiceEntry.
#[derive(Debug)]
pub struct Registered {
    pub meta: Arc<crate::objects::Meta>,
    /// Of a ServiceEntry what a Service would say in its place.
    pub spec: Arc<kube::Service>,
    pub service: Service,
    pub entry: Option<Arc<ServiceEntry>>,
}

impl Registered {
    /// The object that says so.
    pub fn object(&self) -> ObjectKey {
        let (namespace, name) = (&self.meta.namespace, &self.meta.name);
        match self.entry {
            None => ObjectKey::new("", "Service", namespace, name),
            Some(_) => ObjectKey::new(NETWORKING, "ServiceEntry", namespace, name),
        }
    }

    /// Its ports as they are told, and as they are written.
    fn ports(&self) -> impl Iterator<Item = (&PortMapping, &kube::ServicePort)> {
        self.service.ports.iter().zip(tcp_ports(&self.spec))
    }

    /// Whether it is a host of a ServiceEntry that clients of other namespaces may reach.
    fn is_for_others(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| match &entry.visibility {
            Visibility::All => true,
            Visibility::Namespaces(names) => names.iter().any(|name| *name != self.meta.namespace),
        })
    }

    /// Whether somebody in the namespace may name it.
    pub fn is_visible_to(&self, namespace: &str) -> bool {
        let entry = self.entry.as_ref();
        entry.is_none_or(|entry| entry.visibility.includes(namespace))
    }

    /// Whether connections go on to the address that the client dialled.
    pub fn goes_as_dialled(&self) -> bool {
        let entry = self.entry.as_ref();
        entry.is_some_and(|entry| entry.resolution == Resolution::AsDialled)
    }

    /// Whether its endpoints are addresses that somebody wrote down.
    pub fn has_addresses(&self) -> bool {
        let entry = self.entry.as_ref();
        entry.is_some_and(|entry| matches!(entry.resolution, Resolution::Static(_)))
    }

    /// What names have to be looked up for.
    pub fn dns(&self) -> Option<(&[Endpoint<Target>], bool)> {
        match &self.entry.as_ref()?.resolution {
            Resolution::Dns {
                endpoints,
                first_only,
            } => Some((endpoints, *first_only)),
            _ => None,
        }
    }
}

/// A pod as an operator asks about it.
#[derive(Clone, Debug)]
pub struct PodRecord {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub node: Arc<str>,
    pub ips: Vec<IpAddr>,
    pub phase: Arc<str>,
    pub ready: bool,
    pub wanted: Enrolment,
    pub enrolled: bool,
    /// The pod is a waypoint or gateway of the mesh.
    pub is_proxy: bool,
}

impl Discovery {
    /// What a host is in a namespace that has it.
    pub fn service_of(&self, namespace: &str, host: &str) -> Option<&Registered> {
        let key = NamespacedHostname::new(namespace, host);
        self.services.get(&key).map(|entry| &**entry)
    }

    /// The oldest that has the host for clients of other namespaces.
    pub fn shared(&self, host: &str) -> Option<&Registered> {
        let entry = self.services.get(self.shared.get(host)?)?;
        Some(entry)
    }

    /// The workloads of a service, in the order of their keys.
    pub fn endpoints<'d>(
        &'d self,
        service: &NamespacedHostname,
    ) -> impl Iterator<Item = &'d Arc<Workload>> + use<'d> {
        self.endpoints
            .get(service)
            .into_iter()
            .flat_map(imbl::OrdMap::values)
    }

    /// Those that have the host, oldest first.
    pub fn services_by_host<'d>(&'d self, host: &str) -> impl Iterator<Item = &'d Registered> + use<'d> {
        let keys = self.by_host.get(host).map_or(&[][..], |keys| keys);
        keys.iter()
            .filter_map(|key| self.services.get(key))
            .map(|entry| &**entry)
    }

    /// The service that the host means in a namespace, as in Istio: its own, or else the oldest. One that is not exported to
    /// the namespace is only found where there is no other.
    pub fn service_for(&self, host: &str, namespace: &str) -> Option<&Registered> {
        let rank = |entry: &&Registered| {
            let is_own = *entry.service.namespace == *namespace;
            (!entry.is_visible_to(namespace), !is_own)
        };
        let own = self.service_of(namespace, host);
        // `min_by_key` keeps the first of equals, which is the oldest.
        own.filter(|own| own.is_visible_to(namespace))
            .or_else(|| self.services_by_host(host).min_by_key(rank))
    }

    /// Who has the address in a namespace that `discoverySelectors` leave out.
    pub fn left_out_at(&self, ip: IpAddr) -> Option<&Owner> {
        self.left_out.owner(ip)
    }

    /// The workloads that have the address: pods, and what runs on the network of a node.
    pub fn workloads_at(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Workload>> {
        self.with_address(&self.addresses, ip)
    }

    /// Who takes connections to the workload's address: where somebody just wrote it down, the pod of the mesh that has it,
    /// to which nothing leads but its tunnel.
    pub fn behind<'d>(&'d self, workload: &'d Workload) -> &'d Workload {
        let written = workload.addresses.first().filter(|_| is_written(workload));
        let is_meshed = |w: &&Arc<Workload>| !w.host_network && w.tunnel == TunnelProtocol::Hbone;
        let pod = written.and_then(|ip| self.workloads_at(*ip).find(is_meshed));
        pod.map_or(workload, |pod| pod)
    }

    /// What somebody says to be at the address.
    fn written_at(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Workload>> {
        self.with_address(&self.written, ip)
    }

    fn with_address<'d>(
        &'d self,
        index: &'d imbl::OrdSet<(IpAddr, WorkloadUid)>,
        ip: IpAddr,
    ) -> impl Iterator<Item = &'d Arc<Workload>> {
        let first = (ip.to_canonical(), WorkloadUid::new(""));
        index
            .range(first..)
            .take_while(move |(of, _)| *of == ip.to_canonical())
            .filter_map(|(_, uid)| self.workloads.get(uid))
    }
}

/// Whether it is an endpoint of which nothing is known but what an EndpointSlice or a ServiceEntry says.
fn is_written(workload: &Workload) -> bool {
    workload.host_network && workload.node.is_empty()
}

pub fn hostname(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}.svc.{CLUSTER_DOMAIN}").to_ascii_lowercase()
}

fn service(entry: &Entry<kube::Service>, settings: &Settings) -> Option<Service> {
    let spec = &entry.spec;
    // A name for another name: there is nothing to balance over, and the DNS server answers it.
    if &*spec.kind == "ExternalName" {
        return None;
    }
    let meta = &entry.meta;
    let ports = tcp_ports(spec).map(|p| PortMapping {
        service_port: p.port,
        target_port: match &p.target_port {
            None | Some(kube::TargetPort::Number(0)) => p.port,
            Some(kube::TargetPort::Number(n)) => *n,
            Some(kube::TargetPort::Name(_)) => 0,
        },
        protocol: detect(&p.name, &p.app_protocol, p.port),
    });
    Some(Service {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        hostname: hostname(&meta.name, &meta.namespace).into(),
        vips: spec
            .vips()
            .into_iter()
            .map(|ip| NetworkAddress::new(&settings.network, ip))
            .collect(),
        ports: ports.collect(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: load_balancing(spec),
        canonical: true,
        ingress_use_waypoint: meta
            .labels
            .get("istio.io/ingress-use-waypoint")
            .is_some_and(|v| &**v == "true"),
        namespace_only: false,
    })
}

fn load_balancing(spec: &kube::Service) -> LoadBalancing {
    use BalanceScope::{Network, Node, Region, Subzone, Zone};
    let (mode, preference) = match (&*spec.internal_traffic_policy, &*spec.traffic_distribution) {
        ("Local", _) => (BalanceMode::Strict, vec![Node]),
        (_, "PreferClose" | "PreferSameZone") => {
            (BalanceMode::Failover, vec![Network, Region, Zone, Subzone])
        }
        (_, "PreferSameNode") => (BalanceMode::Failover, vec![Network, Region, Zone, Subzone, Node]),
        _ => (BalanceMode::Unspecified, Vec::new()),
    };
    LoadBalancing {
        mode,
        preference,
        allow_unhealthy: spec.publish_not_ready_addresses,
    }
}

/// What a mapping is made from.
fn tcp_ports(spec: &kube::Service) -> impl Iterator<Item = &kube::ServicePort> {
    let is_tcp = |p: &&kube::ServicePort| p.protocol.is_empty() || &*p.protocol == "TCP";
    spec.ports.iter().filter(is_tcp)
}

fn target_ports(service: &Registered, pod: &kube::Pod) -> Vec<PortMapping> {
    let named = LazyCell::new(|| pod.named_ports());
    let ports = service.ports().filter_map(|(mapping, port)| {
        Some(PortMapping {
            target_port: port.on_pod(|name| named.get(name).copied())?,
            ..*mapping
        })
    });
    ports.collect()
}

/// Whether the pod is a waypoint or another proxy of the mesh that terminates HBONE by itself.
fn terminates_hbone(labels: &Labels) -> bool {
    let is = |key: &str, value: &str| labels.get(key).is_some_and(|v| &**v == value);
    is(GATEWAY_CLASS_LABEL, WAYPOINT_CLASS) || is(TUNNEL_LABEL, "http")
}

fn is_gateway_proxy(pod: &kube::Pod, labels: &Labels) -> bool {
    let standalone = pod
        .spec
        .containers
        .first()
        .is_some_and(|c| &*c.name == "istio-proxy");
    standalone || labels.contains_key("gateway.networking.k8s.io/gateway-name")
}

fn workload(entry: &Entry<kube::Pod>, settings: &Settings) -> Option<Workload> {
    let (meta, pod) = (&entry.meta, &entry.spec);
    let addresses = pod.ips().to_vec();
    if addresses.is_empty() || pod.is_finished() {
        return None;
    }
    let mut w = Workload::empty(WorkloadUid::pod(
        &settings.cluster_id,
        &meta.namespace,
        &meta.name,
    ));
    let owner = ownership::of(meta);
    w.name = meta.name.clone();
    w.namespace = meta.namespace.clone();
    w.network = settings.network.clone();
    w.addresses = addresses;
    w.trust_domain = settings.trust_domain.clone();
    w.service_account = pod.service_account();
    w.native_tunnel = terminates_hbone(&meta.labels);
    w.tunnel = if w.native_tunnel || is_enrolled(entry) {
        TunnelProtocol::Hbone
    } else {
        TunnelProtocol::None
    };
    w.node = pod.spec.node_name.clone();
    w.canonical_name = canonical_name(&meta.labels, &owner.name);
    w.canonical_revision = canonical_revision(&meta.labels);
    w.workload_type = owner.kind;
    w.workload_name = owner.name;
    w.cluster = settings.cluster_id.clone();
    let serving = pod.is_ready() && meta.deletion_timestamp.is_none();
    w.health = if serving {
        Health::Healthy
    } else {
        Health::Unhealthy
    };
    w.host_network = pod.spec.host_network;
    w.labels = meta.labels.clone();
    Some(w)
}

/// HBONE is advertised only while the node agent says that it has the pod.
fn is_enrolled(entry: &Entry<kube::Pod>) -> bool {
    let says = entry
        .meta
        .annotations
        .get(REDIRECTION)
        .is_some_and(|v| &**v == "enabled");
    says && !entry.spec.spec.host_network
}

fn first_label(labels: &Labels, keys: &[&str]) -> Option<Arc<str>> {
    keys.iter()
        .find_map(|key| labels.get(*key).filter(|v| !v.is_empty()))
        .cloned()
}

fn canonical_name(labels: &Labels, workload: &Arc<str>) -> Arc<str> {
    let keys = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    first_label(labels, &keys).unwrap_or_else(|| workload.clone())
}

fn canonical_revision(labels: &Labels) -> Arc<str> {
    let keys = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    first_label(labels, &keys).unwrap_or_else(|| "latest".into())
}

/// What was decided about every pod.
pub fn pods(inputs: &Inputs) -> impl Iterator<Item = PodRecord> {
    inputs.pods.iter().map(|entry| pod_record(entry, inputs))
}

fn pod_record(entry: &Entry<kube::Pod>, inputs: &Inputs) -> PodRecord {
    let (meta, pod) = (&entry.meta, &entry.spec);
    let facts = PodFacts {
        host_network: pod.spec.host_network,
        has_sidecar: meta.annotations.contains_key("sidecar.istio.io/status"),
    };
    PodRecord {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        node: pod.spec.node_name.clone(),
        ips: pod.ips().to_vec(),
        phase: pod.status.phase.clone(),
        ready: pod.is_ready(),
        wanted: decide(inputs.namespace_labels(&meta.namespace), &meta.labels, facts),
        enrolled: is_enrolled(entry),
        is_proxy: terminates_hbone(&meta.labels) || is_gateway_proxy(pod, &meta.labels),
    }
}
