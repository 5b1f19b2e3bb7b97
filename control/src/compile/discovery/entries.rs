//! Hosts of ServiceEntries as services, and their endpoints by address as workloads.
//!
//! An endpoint of an entry is known by what somebody wrote, not by what runs there: its address identifies nobody. So
//! it is told as Istio tells pods of a node's network, of which no proxy takes the address for an identity, and what
//! dials it looks first whether the address is a pod's of the mesh.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::address::NetworkAddress;
use aquifer_core::service::{BalanceMode, LoadBalancing, PortMapping, Service};
use aquifer_core::workload::{Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::discovery::claims::{Claim, Endpoint, SliceName};
use crate::compile::discovery::{Discovery, Owner, Registered};
use crate::compile::inputs::{Entry, Inputs};
use crate::model::host::HostPattern;
use crate::model::service_entry::{self as model, Resolution, ServiceEntry};
use crate::model::visibility::Visibility;
use crate::objects::kube;

/// The entries that have the host: of each namespace the oldest, and oldest first. As in Istio nobody takes a host from
/// another namespace's own clients by having been there first.
pub(super) fn owners<'i>(inputs: &'i Inputs, host: &str) -> Vec<&'i Entry<ServiceEntry>> {
    let mut namespaces = BTreeSet::new();
    let mut owners = inputs.service_entries.for_host(host);
    owners.retain(|entry| namespaces.insert(&entry.meta.namespace));
    owners
}

/// Hosts that changes of entries may give to others, or give other addresses.
pub(super) fn changed_hosts(before: &Inputs, inputs: &Inputs) -> BTreeSet<Arc<str>> {
    let changed = before.service_entries.changes(&inputs.service_entries);
    let changed: Vec<_> = changed.flat_map(|(old, new)| [old, new]).flatten().collect();
    let mut hosts: BTreeSet<Arc<str>> = changed.iter().flat_map(|e| names(e)).cloned().collect();
    // Who has its first host now may have its addresses with it, and others have them no more.
    let (old, new) = (&before.service_entries, &inputs.service_entries);
    let either = |host| old.for_host(host).into_iter().chain(new.for_host(host));
    let addresses: BTreeSet<IpAddr> = hosts
        .iter()
        .flat_map(|host| either(host).flat_map(|entry| entry.spec.addresses_of(host)))
        .copied()
        .collect();
    let sharing = addresses.iter().flat_map(|ip| new.with_address(*ip));
    hosts.extend(sharing.filter_map(|e| names(e).next()).cloned());
    hosts
}

/// Hosts of entries that name one of the addresses.
pub(super) fn hosts_at(inputs: &Inputs, addresses: &BTreeSet<IpAddr>) -> BTreeSet<Arc<str>> {
    let naming = addresses
        .iter()
        .flat_map(|ip| inputs.service_entries.with_address(*ip));
    naming.flat_map(names).cloned().collect()
}

fn names(entry: &Entry<ServiceEntry>) -> impl Iterator<Item = &Arc<str>> {
    entry.spec.hosts.iter().filter_map(HostPattern::exact)
}

/// The host of an entry as a service.
pub(super) fn registered(
    discovery: &Discovery,
    entry: &Entry<ServiceEntry>,
    host: &Arc<str>,
    settings: &Settings,
) -> Registered {
    let (meta, spec) = (&entry.meta, &entry.spec);
    let (vips, namespace_only) = dialled(discovery, entry, host);
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

/// The addresses that pods reach it at, and whether only those of its own namespace do: those that an older entry has, or
/// somebody in a namespace that is left out, are its own namespace's at most.
fn dialled(discovery: &Discovery, entry: &Entry<ServiceEntry>, host: &str) -> (Vec<IpAddr>, bool) {
    let (meta, spec) = (&entry.meta, &entry.spec);
    let reach = reach(spec, &meta.namespace);
    let (mut addresses, mut namespace_only) = (Vec::new(), reach != Reach::All);
    let written = match reach {
        Reach::Nobody => &[],
        Reach::Own | Reach::All => spec.addresses_of(host),
    };
    for ip in written {
        match discovery.addressed.before(meta, spec, *ip) {
            Some(older) if older.namespace == meta.namespace => continue,
            Some(_) => namespace_only = true,
            None => namespace_only |= discovery.left_out_at(*ip).is_some(),
        }
        addresses.push(*ip);
    }
    (addresses, namespace_only)
}

/// Whose connections agents take: to more than one namespace, but not all, they are not told of a service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    Own,
    Nobody,
}

pub(super) fn reach(spec: &ServiceEntry, namespace: &str) -> Reach {
    match &spec.visibility {
        Visibility::All => Reach::All,
        limited if limited.includes(namespace) => Reach::Own,
        Visibility::Namespaces(_) => Reach::Nobody,
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

/// The endpoints by address, but for Services that no proxy knows, and would refuse to connect to if it did.
pub(super) fn claims(discovery: &Discovery, entry: &Registered, settings: &Settings) -> Vec<Claim> {
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
    let is_service = |ip| discovery.left_out_at(ip).is_some_and(Owner::is_service);
    let numbered = endpoints.iter().enumerate();
    numbered
        .filter(|(_, endpoint)| !is_service(endpoint.address))
        .map(claim)
        .collect()
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
