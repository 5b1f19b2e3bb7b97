//! Clusters and endpoints of targets.

use std::net::SocketAddr;

use aquifer_core::http::cluster::{NamedEndpoint, Names, Transport};
use aquifer_core::service::AppProtocol;
use aquifer_core::workload::{Health, TunnelProtocol, Workload};

use crate::compile::discovery::{Discovery, Registered};
use crate::compile::inputs::selects;
use crate::compile::references::{Resolver, Target};
use crate::compile::routes::Clusters;
use crate::envoy::Named;
use crate::envoy::cluster::{
    EndpointSpec, HttpVersion, cluster_resource, endpoints_resource, named_cluster_resource,
};
use crate::model::destination_rule::Subset;
use crate::model::service_entry::{self as entry, Endpoint};
use crate::proxies::Collected;

/// Whose requests a proxy forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clients {
    /// Applications, which know what the services they call speak.
    Mesh,
    /// Browsers and others, whose version of HTTP says nothing of the service's.
    Outside,
}

impl Clients {
    fn version(self, protocol: AppProtocol) -> HttpVersion {
        match (protocol, self) {
            (AppProtocol::Http2 | AppProtocol::Grpc, _) => HttpVersion::Two,
            (_, Self::Mesh) => HttpVersion::AsClient,
            (_, Self::Outside) => HttpVersion::One,
        }
    }
}

impl Collected {
    /// Adds each cluster with its endpoints.
    pub(super) fn add_clusters(&mut self, resolver: &Resolver<'_>, clusters: &Clusters, clients: Clients) {
        for (name, target) in clusters {
            let Some(entry) = resolver.discovery.services.get(&target.service) else {
                continue;
            };
            let rules = resolver.rules(&target.service);
            let subset = target.subset.as_deref().and_then(|s| rules.subset(s));
            let port = entry.service.port(target.port);
            let protocol = port.map_or(AppProtocol::Unknown, |p| p.protocol);
            let balance = rules.balance(subset, target.port);
            let version = clients.version(protocol);
            let plainly = resolver.check_tls(entry, target.port).is_ok();
            let cluster = match names(entry, target, subset, plainly) {
                Some(names) => named_cluster_resource(name, balance, version, &names),
                None => cluster_resource(name, balance, version),
            };
            self.clusters.extend([cluster]);
            self.endpoints.extend(resource(resolver, name, target));
            self.targets.insert(name.clone(), target.clone());
        }
    }
}

/// What the proxy has to look up for a port of an entry with DNS.
fn names(entry: &Registered, target: &Target, subset: Option<&Subset>, plainly: bool) -> Option<Names> {
    let (endpoints, first_only) = entry.dns()?;
    let of_list = |list| Names {
        namespace: entry.service.namespace.clone(),
        list,
        first_only,
    };
    if !plainly {
        return Some(of_list(Vec::new()));
    }
    let ports = entry.entry.iter().flat_map(|e| &e.ports);
    let port = ports.into_iter().find(|p| p.number == target.port)?;
    let in_subset = endpoints
        .iter()
        .filter(|e| subset.is_none_or(|s| selects(&s.labels, &e.labels)));
    let mut names: Vec<NamedEndpoint> = in_subset.map(|endpoint| named(endpoint, port)).collect();
    if endpoints.is_empty() && subset.is_none_or(|s| s.labels.is_empty()) {
        names.push(NamedEndpoint {
            host: entry.service.hostname.clone(),
            port: port.target,
            weight: 1,
        });
    }
    Some(of_list(names))
}

fn named(endpoint: &Endpoint<entry::Target>, port: &entry::Port) -> NamedEndpoint {
    NamedEndpoint {
        host: match &endpoint.address {
            entry::Target::Address(ip) => ip.to_string().into(),
            entry::Target::Name(name) => name.clone(),
        },
        port: endpoint.port(port),
        weight: endpoint.weight,
    }
}

/// The endpoints of a cluster; none where its service is gone, or its proxies look them up.
pub(super) fn resource(resolver: &Resolver<'_>, name: &str, target: &Target) -> Option<Named> {
    let entry = resolver.discovery.services.get(&target.service)?;
    if entry.dns().is_some() {
        return None;
    }
    let rules = resolver.rules(&target.service);
    let subset = target.subset.as_deref().and_then(|s| rules.subset(s));
    let ready_or_not = entry.service.load_balancing.allow_unhealthy;
    let mut endpoints = match resolver.check_tls(entry, target.port) {
        Ok(()) => endpoints(resolver, target, subset, ready_or_not),
        Err(_) => Vec::new(),
    };
    if entry.has_addresses() {
        endpoints.iter_mut().for_each(outside);
    }
    Some(endpoints_resource(name, &endpoints))
}

fn endpoints(
    resolver: &Resolver<'_>,
    target: &Target,
    subset: Option<&Subset>,
    ready_or_not: bool,
) -> Vec<EndpointSpec> {
    let workloads = resolver.discovery.endpoints(&target.service);
    let in_subset = workloads.filter(|w| subset.is_none_or(|s| selects(&s.labels, &w.labels)));
    in_subset
        .filter_map(|w| endpoint(resolver.discovery, w, target, ready_or_not))
        .collect()
}

/// Of an address that somebody wrote down nothing is known, and no policy is for it.
fn outside(spec: &mut EndpointSpec) {
    spec.transport = Transport::Outside;
    spec.workload.clear();
}

/// `None` where the pod has no such port, or advertises a tunnel without an identity that could be demanded.
fn endpoint(
    discovery: &Discovery,
    workload: &Workload,
    target: &Target,
    ready_or_not: bool,
) -> Option<EndpointSpec> {
    let ports = workload.services.get(&target.service)?;
    let port = ports.iter().find(|p| p.service_port == target.port)?;
    let ip = workload.addresses.first()?.to_canonical();
    let behind = discovery.behind(workload);
    let transport = match behind.tunnel {
        TunnelProtocol::Hbone => Transport::Hbone(behind.identity().ok()?),
        TunnelProtocol::None => Transport::Plaintext,
    };
    Some(EndpointSpec {
        address: SocketAddr::new(ip, port.target_port),
        healthy: ready_or_not || workload.health == Health::Healthy,
        weight: workload.capacity,
        transport,
        workload: behind.uid.as_str().to_owned(),
    })
}
