//! Resources of a waypoint, service by service: a listener for each port, with what its routes lead to.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::{PortMapping, Service};
use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::references::{Resolver, Target};
use crate::compile::routes::{Clusters, Scope, cluster_name, mesh_destinations, mesh_routes};
use crate::compile::waypoints::WaypointKey;
use crate::envoy::listener::{Handling, virtual_listener};
use crate::envoy::{resource, resource_by_content, route_content};
use crate::proxies::Collected;
use crate::proxies::endpoints::Clients;

/// What a waypoint has for one of the services that are its own.
pub(super) fn part(
    compiled: &Compiled,
    key: &WaypointKey,
    own: &BTreeSet<NamespacedHostname>,
    service: &NamespacedHostname,
) -> Collected {
    let resolver = Resolver::new(compiled, &key.namespace);
    let mut collected = Collected::default();
    let Some(entry) = compiled.discovery.services.get(service) else {
        return collected;
    };
    for port in &entry.service.ports {
        let clusters = add_port(&mut collected, resolver, own, &entry.service, *port);
        collected.add_clusters(&resolver, &clusters, Clients::Mesh);
    }
    collected
}

/// The listener and route table of one port; gives the clusters it needs.
fn add_port(
    collected: &mut Collected,
    resolver: Resolver<'_>,
    own: &BTreeSet<NamespacedHostname>,
    service: &Service,
    port: PortMapping,
) -> Clusters {
    let (key, number) = (service.key(), port.service_port);
    let kind = if port.protocol.is_http() { "http" } else { "tcp" };
    let name = format!("inbound-vip|{number}|{kind}|{}", service.hostname);
    let (handling, mut clusters) = if port.protocol.is_http() {
        let routed = mesh_routes(resolver, own, &key, number, &name);
        let content = route_content(&routed.config);
        collected.routes.extend([resource_by_content(
            type_url::ROUTES,
            &name,
            &routed.config,
            &content,
        )]);
        (
            Handling::Http {
                routes: name.clone(),
                edge: false,
            },
            routed.clusters,
        )
    } else {
        let mut scope = Scope::new(resolver, own, number);
        let clusters = mesh_destinations(&mut scope, &key);
        (Handling::Tcp { clusters }, scope.clusters)
    };
    clusters.extend(subset_clusters(resolver, own, &key, number));
    let addresses: Vec<SocketAddr> = service.vip_ips().map(|ip| SocketAddr::new(ip, number)).collect();
    if let Some(listener) = virtual_listener(&name, &addresses, &handling) {
        collected
            .listeners
            .extend([resource(type_url::LISTENER, &name, &listener)]);
    }
    clusters
}

/// Every subset has its cluster, also while no route leads there: a new weight must not wait for endpoints.
fn subset_clusters(
    resolver: Resolver<'_>,
    own: &BTreeSet<NamespacedHostname>,
    service: &NamespacedHostname,
    port: u16,
) -> Clusters {
    let subsets = resolver.rules(service).subsets();
    let targets = subsets.into_iter().map(|subset| {
        let target = Target {
            service: service.clone(),
            port,
            subset: Some(subset.name.clone()),
        };
        (cluster_name(&resolver, own, &target), target)
    });
    targets.collect()
}
