//! Hosts of ServiceEntries as services, and their endpoints by address as workloads.
//!
//! An endpoint of an entry is known by what somebody wrote, not by what runs there: its address identifies nobody. So
//! it is told as Istio tells pods of a node's network, of which no proxy takes the address for an identity, and what
//! dials it looks first whether the address is a pod's of the mesh.

use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::address::NetworkAddress;
use aquifer_core::service::{BalanceMode, LoadBalancing, PortMapping, Service};
use aquifer_core::workload::{Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::discovery::Registered;
use crate::compile::discovery::claims::{Claim, Endpoint, SliceName};
use crate::compile::inputs::Entry;
use crate::model::service_entry::{self as model, Resolution, ServiceEntry};
use crate::model::visibility::Visibility;
use crate::objects::kube;

/// The host of an entry as a service.
pub(super) fn registered(entry: &Entry<ServiceEntry>, host: &Arc<str>, settings: &Settings) -> Registered {
    let (meta, spec) = (&entry.meta, &entry.spec);
    let (vips, namespace_only) = dialled(spec, host, &meta.namespace);
    let service = Service {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        hostname: host.clone(),
        vips: vips
            .iter()
            .map(|ip| NetworkAddress::new(&settings.network, *ip))
            .collect(),
        ports: spec.ports.iter().map(mapping).collect(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: LoadBalancing {
            mode: match spec.resolution {
                Resolution::AsDialled => BalanceMode::Passthrough,
                _ => BalanceMode::Unspecified,
            },
            ..LoadBalancing::default()
        },
        // A Service of Kubernetes wins where both have an address.
        canonical: false,
        ingress_use_waypoint: false,
        namespace_only,
    };
    Registered {
        meta: meta.clone(),
        spec: Arc::new(as_service(spec, !vips.is_empty())),
        service,
        entry: Some(spec.clone()),
    }
}

/// The addresses that pods reach it at, and whether only those of its own namespace do: to more than one namespace, but
/// not all, agents are not told of a service.
fn dialled<'e>(spec: &'e ServiceEntry, host: &str, namespace: &str) -> (&'e [IpAddr], bool) {
    let addresses = spec.addresses_of(host);
    match &spec.visibility {
        Visibility::All => (addresses, false),
        limited if limited.includes(namespace) => (addresses, true),
        Visibility::Namespaces(_) => (&[], true),
    }
}

fn mapping(port: &model::Port) -> PortMapping {
    PortMapping {
        service_port: port.number,
        target_port: port.target,
        protocol: port.protocol,
    }
}

/// What a Service would say: pods are selected for both in one way.
fn as_service(spec: &ServiceEntry, has_addresses: bool) -> kube::Service {
    let port = |p: &model::Port| kube::ServicePort {
        name: p.name.clone(),
        port: p.number,
        target_port: Some(kube::TargetPort::Number(p.target)),
        ..kube::ServicePort::default()
    };
    kube::Service {
        ports: spec.ports.iter().map(port).collect(),
        selector: match &spec.resolution {
            Resolution::Pods(labels) => labels.clone(),
            _ => Default::default(),
        },
        bound: spec.bound.clone().filter(|_| has_addresses),
        ..kube::Service::default()
    }
}

/// Whom the claims of a host are noted for; no EndpointSlice has such a name.
pub(super) fn claimant(entry: &Registered) -> SliceName {
    let (meta, host) = (&entry.meta, &entry.service.hostname);
    (meta.namespace.clone(), format!("{}/{host}", meta.name).into())
}

/// The endpoints by address.
pub(super) fn claims(entry: &Registered, settings: &Settings) -> Vec<Claim> {
    let Some(spec) = &entry.entry else {
        return Vec::new();
    };
    let Resolution::Static(endpoints) = &spec.resolution else {
        return Vec::new();
    };
    let claim = |(i, endpoint): (usize, &model::Endpoint<IpAddr>)| {
        let workload = workload(entry, i, endpoint, settings);
        let ports = spec.ports.iter().map(|port| PortMapping {
            target_port: endpoint.port(port),
            ..mapping(port)
        });
        Claim {
            workload: workload.uid.clone(),
            service: entry.service.key(),
            ports: ports.collect(),
            endpoint: Endpoint::Bare(Arc::new(workload)),
        }
    };
    endpoints.iter().enumerate().map(claim).collect()
}

/// The same for every host of the entry.
fn workload(
    entry: &Registered,
    number: usize,
    endpoint: &model::Endpoint<IpAddr>,
    settings: &Settings,
) -> Workload {
    let (cluster, address) = (&settings.cluster_id, endpoint.address);
    let (namespace, name) = (&entry.meta.namespace, &entry.meta.name);
    let mut w = Workload::empty(WorkloadUid::new(&format!(
        "{cluster}/networking.istio.io/ServiceEntry/{namespace}/{name}/{number}/{address}"
    )));
    w.name = name.clone();
    w.namespace = namespace.clone();
    w.network = settings.network.clone();
    w.addresses = vec![address];
    w.host_network = true;
    w.trust_domain = settings.trust_domain.clone();
    w.canonical_name = name.clone();
    w.canonical_revision = "latest".into();
    w.workload_name = name.clone();
    w.cluster = cluster.clone();
    w.labels = endpoint.labels.clone();
    w.capacity = endpoint.weight;
    w
}
