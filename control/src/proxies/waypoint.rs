//! Resources of a waypoint, service by service: a listener for each port, with what its routes lead to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::{PortMapping, Service};
use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::discovery::Registered;
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
    let before = before(compiled, key, own, entry);
    // Resources are named by hosts: of those with one host a waypoint serves the first.
    if before
        .iter()
        .any(|other| other.service.hostname == entry.service.hostname)
    {
        return collected;
    }
    let taken = |ip: &IpAddr| {
        before
            .iter()
            .any(|other| other.service.vip_ips().any(|of| of == *ip))
    };
    let addresses: Vec<IpAddr> = entry.service.vip_ips().filter(|ip| !taken(ip)).collect();
    for port in &entry.service.ports {
        let clusters = add_port(&mut collected, resolver, own, (&entry.service, &addresses), *port);
        collected.add_clusters(&resolver, &clusters, Clients::Mesh);
    }
    collected
}

/// Services of the waypoint that come before this one where both have one host or address. A Service of Kubernetes comes
/// first.
fn before<'c>(
    compiled: &'c Compiled,
    key: &WaypointKey,
    own: &BTreeSet<NamespacedHostname>,
    entry: &'c Registered,
) -> Vec<&'c Registered> {
    if entry.entry.is_none() {
        return Vec::new();
    }
    let services = own
        .iter()
        .filter_map(|other| compiled.discovery.services.get(other));
    let services = services.filter(|other| other.entry.is_none() && share_address(other, entry));
    let rivals = rivals(compiled, own, entry).into_iter();
    let rivals = rivals.filter(|other| rank(other, key) < rank(entry, key));
    services.map(|other| &**other).chain(rivals).collect()
}

/// Hosts of ServiceEntries at the waypoint that are those of the service as well, or have an address of it.
fn rivals<'c>(
    compiled: &'c Compiled,
    own: &BTreeSet<NamespacedHostname>,
    entry: &'c Registered,
) -> Vec<&'c Registered> {
    let discovery = &compiled.discovery;
    let with_host = discovery.services_by_host(&entry.service.hostname);
    let with_address = entry.service.vip_ips().flat_map(|ip| {
        let naming = compiled.inputs.service_entries.with_address(ip);
        let keys = naming.filter_map(|other| {
            let host = other.spec.hosts.first()?.exact()?;
            Some(NamespacedHostname::new(&other.meta.namespace, host))
        });
        keys.filter_map(|key| discovery.services.get(&key))
    });
    let with_address = with_address.filter(|other| share_address(other, entry));
    let all = with_host.chain(with_address.map(|other| &**other));
    let is_other = |other: &&Registered| {
        let key = other.service.key();
        key != entry.service.key() && own.contains(&key)
    };
    all.filter(is_other).collect()
}

fn share_address(one: &Registered, other: &Registered) -> bool {
    one.service
        .vip_ips()
        .any(|ip| other.service.vip_ips().any(|of| of == ip))
}

/// Who comes first at a waypoint: Services of Kubernetes, what is of the waypoint's own namespace, what is older.
fn rank<'e>(entry: &'e Registered, key: &WaypointKey) -> (bool, bool, bool, [&'e str; 3]) {
    let meta = &entry.meta;
    (
        entry.entry.is_some(),
        !entry.is_visible_to(&key.namespace),
        meta.namespace != key.namespace,
        [&meta.creation_timestamp, &meta.name, &meta.namespace],
    )
}

/// The listener and route table of one port; gives the clusters it needs.
fn add_port(
    collected: &mut Collected,
    resolver: Resolver<'_>,
    own: &BTreeSet<NamespacedHostname>,
    (service, addresses): (&Service, &[IpAddr]),
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
    let addresses: Vec<SocketAddr> = addresses.iter().map(|ip| SocketAddr::new(*ip, number)).collect();
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
