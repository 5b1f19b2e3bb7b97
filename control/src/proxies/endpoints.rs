//! Clusters and endpoints of targets.

use std::net::SocketAddr;

use aquifer_core::service::AppProtocol;
use aquifer_core::workload::{Health, TunnelProtocol, Workload};

use crate::compile::inputs::selects;
use crate::compile::references::{Resolver, Target};
use crate::compile::routes::Clusters;
use crate::envoy::Named;
use crate::envoy::cluster::{EndpointSpec, HttpVersion, cluster_resource, endpoints_resource};
use crate::model::destination_rule::Subset;
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
            self.clusters
                .extend([cluster_resource(name, balance, clients.version(protocol))]);
            self.endpoints.extend(resource(resolver, name, target));
            self.targets.insert(name.clone(), target.clone());
        }
    }
}

/// The endpoints of a cluster; none where its service is gone.
pub(super) fn resource(resolver: &Resolver<'_>, name: &str, target: &Target) -> Option<Named> {
    let entry = resolver.discovery.services.get(&target.service)?;
    let rules = resolver.rules(&target.service);
    let subset = target.subset.as_deref().and_then(|s| rules.subset(s));
    let ready_or_not = entry.service.load_balancing.allow_unhealthy;
    let endpoints = endpoints(resolver, target, subset, ready_or_not);
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
        .filter_map(|w| endpoint(w, target, ready_or_not))
        .collect()
}

/// `None` where the pod has no such port, or advertises a tunnel without an identity that could be demanded.
fn endpoint(workload: &Workload, target: &Target, ready_or_not: bool) -> Option<EndpointSpec> {
    let ports = workload.services.get(&target.service)?;
    let port = ports.iter().find(|p| p.service_port == target.port)?;
    let tunnel = match workload.tunnel {
        TunnelProtocol::Hbone => Some(workload.identity().ok()?),
        TunnelProtocol::None => None,
    };
    Some(EndpointSpec {
        address: SocketAddr::new(*workload.addresses.first()?, port.target_port),
        healthy: ready_or_not || workload.health == Health::Healthy,
        weight: workload.capacity,
        tunnel,
        workload: workload.uid.as_str().to_owned(),
    })
}
