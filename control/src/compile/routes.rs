//! VirtualServices and HTTPRoutes to route tables, for a service behind a waypoint and for a port of a gateway.

mod gateway;
mod http_routes;
mod mesh;
mod streams;

use std::collections::{BTreeMap, BTreeSet};

use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::AppProtocol;
use aquifer_xds::envoy::pb::envoy::config::route::v3::RouteConfiguration;

use crate::compile::references::{Resolver, Target};
use crate::envoy::action::WeightedName;
use crate::model::virtual_service::{Action, Destination, HttpRule, WeightedDestination};

pub use gateway::{GatewayPort, Table, gateway_ports, gateway_routes, listening_port};
pub use http_routes::{is_narrower, listener_routes};
pub use mesh::{mesh_destinations, mesh_routes};
pub use streams::{StreamRoute, Streams, listener_streams};

/// Clusters that are used, by name.
pub type Clusters = BTreeMap<String, Target>;

/// A route table and the clusters that its routes lead to. A destination that leads nowhere has a name in the table
/// and no cluster: a proxy answers 503 for it.
#[derive(Debug)]
pub struct Routed {
    pub config: RouteConfiguration,
    pub clusters: Clusters,
}

/// Where routes are made for: decides the names of clusters and collects those that exist.
pub struct Scope<'a> {
    pub resolver: Resolver<'a>,
    /// Services of the waypoint itself; none at a gateway.
    pub own: &'a BTreeSet<NamespacedHostname>,
    /// The port that the client called.
    pub called: u16,
    pub clusters: Clusters,
}

impl<'a> Scope<'a> {
    pub fn new(resolver: Resolver<'a>, own: &'a BTreeSet<NamespacedHostname>, called: u16) -> Self {
        Self {
            resolver,
            own,
            called,
            clusters: Clusters::new(),
        }
    }

    /// The name of the destination's cluster; noted as used where it exists.
    fn cluster(&mut self, destination: &Destination) -> String {
        match self.resolver.resolve(destination, self.called) {
            Ok(target) => {
                let name = cluster_name(&self.resolver, self.own, &target);
                self.clusters.insert(name.clone(), target);
                name
            }
            Err(_) => {
                let port = self.resolver.port(destination, self.called);
                outbound_name(port, destination.subset.as_deref(), &destination.host)
            }
        }
    }

    fn weighted<'d>(&mut self, destinations: &'d [WeightedDestination]) -> Vec<WeightedName<'d>> {
        let named = destinations.iter().map(|d| WeightedName {
            cluster: self.cluster(&d.destination),
            weight: d.weight,
            request_headers: &d.request_headers,
            response_headers: &d.response_headers,
        });
        named.collect()
    }

    fn of_rule<'d>(&mut self, rule: &'d HttpRule) -> Vec<WeightedName<'d>> {
        match &rule.action {
            Action::Forward(forward) => self.weighted(&forward.destinations),
            Action::Redirect(_) | Action::Respond { .. } => Vec::new(),
        }
    }

    fn of_tcp_rule(&mut self, destinations: &[WeightedDestination]) -> Vec<(String, u32)> {
        destinations
            .iter()
            .map(|d| (self.cluster(&d.destination), d.weight))
            .collect()
    }
}

/// `inbound-vip|PORT|http[/SUBSET]|HOST` for a waypoint's own services, `outbound|PORT|SUBSET|HOST` for the rest.
pub fn cluster_name(resolver: &Resolver<'_>, own: &BTreeSet<NamespacedHostname>, target: &Target) -> String {
    let host = &target.service.hostname;
    if !own.contains(&target.service) {
        return outbound_name(target.port, target.subset.as_deref(), host);
    }
    let entry = resolver.discovery.services.get(&target.service);
    let protocol = entry
        .and_then(|e| e.service.port(target.port))
        .map_or(AppProtocol::Unknown, |p| p.protocol);
    let kind = if protocol.is_http() { "http" } else { "tcp" };
    match &target.subset {
        Some(subset) => format!("inbound-vip|{}|{kind}/{subset}|{host}", target.port),
        None => format!("inbound-vip|{}|{kind}|{host}", target.port),
    }
}

fn outbound_name(port: u16, subset: Option<&str>, host: &str) -> String {
    format!("outbound|{port}|{}|{host}", subset.unwrap_or_default())
}
