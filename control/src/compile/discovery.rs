//! Pods and Services to workloads and services of the mesh.

mod ownership;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::address::NetworkAddress;
use aquifer_core::enrolment::{Enrolment, PodFacts, decide};
use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::{BalanceMode, BalanceScope, LoadBalancing, PortMapping, Service};
use aquifer_core::workload::{Health, TunnelProtocol, Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::inputs::{Entry, Inputs, Labels, selects};
use crate::compile::protocol::detect;
use crate::model::virtual_service::CLUSTER_DOMAIN;
use crate::objects::kube;

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

#[derive(Debug, Default)]
pub struct Discovery {
    pub services: BTreeMap<NamespacedHostname, ServiceEntry>,
    /// Kubernetes host names are unique, so that a host leads to one service.
    pub by_host: BTreeMap<Arc<str>, NamespacedHostname>,
    pub workloads: BTreeMap<WorkloadUid, Arc<Workload>>,
    /// Who serves a service, with the ports; in the order of their keys.
    pub endpoints: BTreeMap<NamespacedHostname, Vec<Arc<Workload>>>,
    /// What was decided about every pod.
    pub pods: Vec<PodRecord>,
}

/// Namespace, label and value to services.
type Selectors = BTreeMap<(Arc<str>, Arc<str>, Arc<str>), Vec<NamespacedHostname>>;

#[derive(Debug)]
pub struct ServiceEntry {
    pub meta: Arc<crate::objects::Meta>,
    pub spec: Arc<kube::Service>,
    pub service: Service,
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
    pub fn of(inputs: &Inputs, settings: &Settings) -> Self {
        let mut discovery = Self::default();
        for entry in &inputs.services {
            if let Some(service) = service(entry, settings) {
                discovery.by_host.insert(service.hostname.clone(), service.key());
                let key = service.key();
                let entry = ServiceEntry {
                    meta: entry.meta.clone(),
                    spec: entry.spec.clone(),
                    service,
                };
                discovery.services.insert(key, entry);
            }
        }
        let selectors = discovery.selectors();
        for entry in &inputs.pods {
            discovery.pods.push(pod_record(entry, inputs));
            if let Some(mut workload) = workload(entry, settings) {
                workload.services = discovery.ports_of_pod(entry, &selectors);
                discovery
                    .workloads
                    .insert(workload.uid.clone(), Arc::new(workload));
            }
        }
        discovery.add_slices(inputs, settings);
        discovery.index_endpoints();
        discovery
    }

    /// Services with a selector, by their namespace and one of the selector's labels: a pod is compared only with those
    /// that it shares this label with.
    fn selectors(&self) -> Selectors {
        let mut selectors = Selectors::new();
        for (key, entry) in &self.services {
            if let Some((label, value)) = entry.spec.selector.iter().next() {
                let place = (key.namespace.clone(), label.clone(), value.clone());
                selectors.entry(place).or_default().push(key.clone());
            }
        }
        selectors
    }

    fn ports_of_pod(
        &self,
        pod: &Entry<kube::Pod>,
        selectors: &Selectors,
    ) -> BTreeMap<NamespacedHostname, Vec<PortMapping>> {
        let namespace = &pod.meta.namespace;
        let sharing =
            pod.meta.labels.iter().filter_map(|(label, value)| {
                selectors.get(&(namespace.clone(), label.clone(), value.clone()))
            });
        let candidates = sharing
            .flatten()
            .filter_map(|key| Some((key, self.services.get(key)?)));
        let selected = candidates.filter(|(_, s)| selects(&s.spec.selector, &pod.meta.labels));
        selected
            .map(|(key, s)| (key.clone(), target_ports(s, &pod.spec)))
            .collect()
    }

    /// Endpoints that somebody wrote by hand: of Services without a selector.
    fn add_slices(&mut self, inputs: &Inputs, settings: &Settings) {
        for slice in &inputs.endpoint_slices {
            let host = hostname(&slice.spec.service, &slice.meta.namespace);
            let Some(key) = self.by_host.get(&*host).cloned() else {
                continue;
            };
            let ports = match self.services.get(&key) {
                Some(entry) if entry.spec.selector.is_empty() => slice_ports(entry, &slice.spec),
                _ => continue,
            };
            for endpoint in &slice.spec.endpoints {
                self.add_endpoint(slice, endpoint, &key, &ports, settings);
            }
        }
    }

    fn add_endpoint(
        &mut self,
        slice: &Entry<kube::EndpointSlice>,
        endpoint: &kube::Endpoint,
        service: &NamespacedHostname,
        ports: &[PortMapping],
        settings: &Settings,
    ) {
        let namespace = &slice.meta.namespace;
        let pod = endpoint.target_ref.as_ref().filter(|t| &*t.kind == "Pod");
        let uid = match pod {
            Some(pod) => WorkloadUid::pod(&settings.cluster_id, namespace, &pod.name),
            None => {
                let Some(address) = endpoint.addresses.first() else {
                    return;
                };
                let slice = &slice.meta.name;
                let cluster = &settings.cluster_id;
                WorkloadUid::new(&format!(
                    "{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{slice}/{address}"
                ))
            }
        };
        let entry = match self.workloads.get(&uid) {
            Some(workload) => workload.clone(),
            None if pod.is_some() => return,
            None => Arc::new(bare_endpoint(uid.clone(), slice, endpoint, settings)),
        };
        let mut workload = Arc::unwrap_or_clone(entry);
        workload.services.insert(service.clone(), ports.to_vec());
        self.workloads.insert(uid, Arc::new(workload));
    }

    fn index_endpoints(&mut self) {
        for workload in self.workloads.values() {
            for service in workload.services.keys() {
                self.endpoints
                    .entry(service.clone())
                    .or_default()
                    .push(workload.clone());
            }
        }
    }

    pub fn service_by_host(&self, host: &str) -> Option<&ServiceEntry> {
        self.services.get(self.by_host.get(host)?)
    }
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
    let tcp = spec
        .ports
        .iter()
        .filter(|p| p.protocol.is_empty() || &*p.protocol == "TCP");
    let ports = tcp.map(|p| PortMapping {
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

fn target_ports(service: &ServiceEntry, pod: &kube::Pod) -> Vec<PortMapping> {
    let ports = service.service.ports.iter().filter_map(|mapping| {
        let port = service
            .spec
            .ports
            .iter()
            .find(|p| p.port == mapping.service_port)?;
        Some(PortMapping {
            target_port: port.on_pod(pod)?,
            ..*mapping
        })
    });
    ports.collect()
}

fn slice_ports(service: &ServiceEntry, slice: &kube::EndpointSlice) -> Vec<PortMapping> {
    let ports = service.service.ports.iter().filter_map(|mapping| {
        let port = service
            .spec
            .ports
            .iter()
            .find(|p| p.port == mapping.service_port)?;
        let target = slice.ports.iter().find(|p| p.name == port.name)?.port?;
        Some(PortMapping {
            target_port: target,
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
    let addresses = pod.ips();
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

fn bare_endpoint(
    uid: WorkloadUid,
    slice: &Entry<kube::EndpointSlice>,
    endpoint: &kube::Endpoint,
    settings: &Settings,
) -> Workload {
    let mut w = Workload::empty(uid);
    w.name = slice.spec.service.clone();
    w.namespace = slice.meta.namespace.clone();
    w.network = settings.network.clone();
    w.addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    w.trust_domain = settings.trust_domain.clone();
    w.canonical_name = slice.spec.service.clone();
    w.canonical_revision = "latest".into();
    w.workload_name = slice.spec.service.clone();
    w.cluster = settings.cluster_id.clone();
    let ready = endpoint.conditions.ready.unwrap_or(true);
    w.health = if ready { Health::Healthy } else { Health::Unhealthy };
    w
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
        ips: pod.ips(),
        phase: pod.status.phase.clone(),
        ready: pod.is_ready(),
        wanted: decide(inputs.namespace_labels(&meta.namespace), &meta.labels, facts),
        enrolled: is_enrolled(entry),
        is_proxy: terminates_hbone(&meta.labels) || is_gateway_proxy(pod, &meta.labels),
    }
}
