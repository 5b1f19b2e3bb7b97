//! Connections of a gateway that are not requests: bytes by port, TLS by the name that its client asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;

use crate::compile::gateway_api::backends;
use crate::compile::gateway_api::listeners::{Attached, OpenListener};
use crate::compile::inputs::Entry;
use crate::compile::references::Resolver;
use crate::compile::routes::gateway::{is_gateway, served};
use crate::compile::routes::http_routes::is_narrower;
use crate::compile::routes::{Clusters, Scope};
use crate::compile::servers::Served;
use crate::model::host::HostPattern;
use crate::model::stream_route::StreamRoute as Model;
use crate::model::virtual_service::{GatewayRef, TlsCondition};
use crate::objects::Meta;

/// Clusters by weight, and what they lead to.
#[derive(Debug)]
pub struct StreamRoute {
    /// Unique within a listener.
    pub name: String,
    /// What clients ask for; empty for everybody.
    pub server_names: Vec<HostPattern>,
    pub destinations: Vec<(String, u32)>,
    pub clusters: Clusters,
}

/// Makes the stream routes of servers of one gateway.
pub struct Streams<'a> {
    pub resolver: Resolver<'a>,
    pub own: &'a BTreeSet<NamespacedHostname>,
}

impl Streams<'_> {
    /// Where bytes go that come to a server: to what the oldest VirtualService with a `tcp` rule for it says.
    pub fn bytes(&self, (gateway, server): Served<'_>) -> Option<StreamRoute> {
        let here = |gateways: &[GatewayRef], port: Option<u16>| {
            (gateways.is_empty() || gateways.iter().any(|g| is_gateway(g, gateway)))
                && port.is_none_or(|p| p == server.port)
        };
        for rules in &self.resolver.inputs.virtual_services {
            if served(rules, gateway, server).is_empty() {
                continue;
            }
            let applies = |c: &crate::model::virtual_service::TcpCondition| here(&c.gateways, c.port);
            let rule = rules
                .spec
                .tcp
                .iter()
                .find(|r| r.conditions.is_empty() || r.conditions.iter().any(applies));
            if let Some(rule) = rule {
                let mut scope = Scope::new(self.resolver, self.own, server.port);
                let destinations = scope.of_tcp_rule(&rule.destinations);
                return Some(StreamRoute {
                    name: format!("{}/{}", rules.meta.namespace, rules.meta.name),
                    server_names: Vec::new(),
                    destinations,
                    clusters: scope.clusters,
                });
            }
        }
        None
    }

    /// Where TLS goes that is passed on: a route for each match of a `tls` rule, in the order in which they win.
    pub fn passthrough(&self, (gateway, server): Served<'_>) -> Vec<StreamRoute> {
        let mut routes = Vec::new();
        for rules in &self.resolver.inputs.virtual_services {
            if served(rules, gateway, server).is_empty() {
                continue;
            }
            for (i, rule) in rules.spec.tls.iter().enumerate() {
                for (j, condition) in rule.conditions.iter().enumerate() {
                    let server_names = names(condition, (gateway, server), &rules.meta.namespace);
                    if server_names.is_empty() {
                        continue;
                    }
                    let mut scope = Scope::new(self.resolver, self.own, server.port);
                    let destinations = scope.of_tcp_rule(&rule.destinations);
                    routes.push(StreamRoute {
                        name: format!(
                            "{}/{}.tls[{i}].match[{j}]@{}/{}.{}",
                            rules.meta.namespace,
                            rules.meta.name,
                            gateway.meta.namespace,
                            gateway.meta.name,
                            server.field
                        ),
                        server_names,
                        destinations,
                        clusters: scope.clusters,
                    });
                }
            }
        }
        routes
    }
}

/// Where the streams of a listener go, in the order in which they win; `all` are the listeners of its port.
pub fn listener_streams(
    resolver: Resolver<'_>,
    gateway: &Meta,
    listener: &OpenListener,
    all: &[&OpenListener],
) -> Vec<StreamRoute> {
    let own = BTreeSet::<NamespacedHostname>::new();
    let route = |attached: &Attached<Model>| {
        let hostnames = || all.iter().map(|l| &l.hostname);
        let belongs = |host: &&HostPattern| !is_narrower(hostnames(), &listener.hostname, host);
        let server_names: Vec<_> = attached.hostnames.iter().filter(belongs).cloned().collect();
        let meta = &attached.route.meta;
        let mut scope = Scope::new(resolver, &own, listener.port);
        let destinations = stream_destinations(&mut scope, &attached.route);
        (!server_names.is_empty()).then(|| StreamRoute {
            name: format!(
                "{} {}/{}@{}/{}.{}",
                attached.route.spec.kind.as_str(),
                meta.namespace,
                meta.name,
                gateway.namespace,
                gateway.name,
                listener.name
            ),
            server_names,
            destinations,
            clusters: scope.clusters,
        })
    };
    listener.streams.iter().filter_map(route).collect()
}

/// Clusters by weight for the connections of a route.
pub(super) fn stream_destinations(scope: &mut Scope<'_>, route: &Entry<Model>) -> Vec<(String, u32)> {
    let (inputs, discovery) = (scope.resolver.inputs, scope.resolver.discovery);
    let destinations = backends::stream_destinations(inputs, discovery, route);
    scope.of_tcp_rule(&destinations)
}

/// The names of a match that the server serves.
fn names(condition: &TlsCondition, (gateway, server): Served<'_>, namespace: &Arc<str>) -> Vec<HostPattern> {
    let here = condition.gateways.is_empty() || condition.gateways.iter().any(|g| is_gateway(g, gateway));
    if !here || condition.port.is_some_and(|p| p != server.port) {
        return Vec::new();
    }
    let mut names: Vec<HostPattern> = Vec::new();
    for name in &condition.names {
        let admitted = server.hosts.iter().filter_map(|h| h.admits(namespace, name));
        for name in admitted {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}
