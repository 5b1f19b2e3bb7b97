//! HTTPRoutes to routes in the order in which the Gateway API has them win, for a port of a gateway and for a Service
//! behind a waypoint.

use std::collections::BTreeMap;

use aquifer_core::names::NamespacedHostname;
use aquifer_xds::envoy::pb::envoy::config::route::v3::{Route, VirtualHost};
use std::collections::BTreeSet;

use crate::compile::gateway_api::backends::{Entrance, effective};
use crate::compile::gateway_api::listeners::OpenListener;
use crate::compile::inputs::Entry;
use crate::compile::references::Resolver;
use crate::compile::routes::{Routed, Scope};
use crate::envoy::action::rule_route;
use crate::envoy::matching::route_match;
use crate::envoy::{route_configuration, virtual_host};
use crate::model::gateway::ServerKind;
use crate::model::host::HostPattern;
use crate::model::http_route::{HttpRoute, Rank, RouteRule};
use crate::model::virtual_service::{HttpRule, SourceCondition};

/// One match of one rule, and where it stands.
struct Placed<'a> {
    route: &'a Entry<HttpRoute>,
    rule: &'a RouteRule,
    index: usize,
    rank: &'a Rank,
    /// The port that the client called, or that of the listener.
    entrance: Entrance,
}

impl<'a> Placed<'a> {
    /// Every match of the route, in the order of the object.
    fn all(route: &'a Entry<HttpRoute>, entrance: Entrance) -> impl Iterator<Item = Self> {
        let rules = route.spec.rules.iter().enumerate();
        rules.flat_map(move |(index, rule)| {
            let place = move |rank| Self {
                route,
                rule,
                index,
                rank,
                entrance,
            };
            rule.matches.iter().map(place)
        })
    }

    fn to_route(&self, scope: &mut Scope<'_>, source: &SourceCondition) -> Route {
        let resolver = &scope.resolver;
        let namespace = &self.route.meta.namespace;
        let rule = HttpRule {
            name: self.name().into(),
            ..effective(
                resolver.inputs,
                resolver.discovery,
                namespace,
                self.rule,
                self.entrance,
            )
        };
        let destinations = scope.of_rule(&rule);
        rule_route(&rule, route_match(&self.rank.condition, source), &destinations)
    }

    /// The rule's own, or where it stands.
    fn name(&self) -> String {
        match &*self.rule.rule.name {
            "" => {
                let meta = &self.route.meta;
                format!("{}.{}.{}", meta.namespace, meta.name, self.index)
            }
            name => name.to_owned(),
        }
    }
}

/// The most specific match first, then the oldest route, then by name; matches of one route stay in their order.
fn sorted(mut placed: Vec<Placed<'_>>) -> Vec<Placed<'_>> {
    placed.sort_by_cached_key(|p| {
        let meta = &p.route.meta;
        let age = (
            meta.creation_timestamp.clone(),
            meta.namespace.clone(),
            meta.name.clone(),
        );
        (p.rank.order(), age, p.index)
    });
    placed
}

/// The routes of requests to a Service, for clients that fit `source`.
pub(super) fn service_routes(
    scope: &mut Scope<'_>,
    routes: &[&Entry<HttpRoute>],
    source: &SourceCondition,
) -> Vec<Route> {
    let entrance = Entrance {
        port: scope.called,
        is_https: false,
    };
    let placed = routes.iter().flat_map(|route| Placed::all(route, entrance));
    let sorted = sorted(placed.collect());
    sorted.iter().map(|p| p.to_route(scope, source)).collect()
}

/// The route table of the listeners of one port.
pub fn listener_routes(resolver: Resolver<'_>, name: &str, listeners: &[&OpenListener]) -> Routed {
    let own = BTreeSet::<NamespacedHostname>::new();
    let mut clusters = BTreeMap::new();
    let mut hosts: Vec<VirtualHost> = Vec::new();
    for (domain, placed) in domains(listeners) {
        let mut list = Vec::with_capacity(placed.len());
        for p in sorted(placed) {
            let mut scope = Scope::new(resolver, &own, p.entrance.port);
            list.push(p.to_route(&mut scope, &SourceCondition::default()));
            clusters.extend(scope.clusters);
        }
        let domain = domain.to_string();
        hosts.push(virtual_host(&format!("{name}:{domain}"), vec![domain], list));
    }
    Routed {
        config: route_configuration(name, hosts),
        clusters,
    }
}

/// What is served for each host. A host belongs to the listener with the most specific hostname, and to no other: also
/// where that has no route for it.
fn domains<'a>(listeners: &[&'a OpenListener]) -> BTreeMap<HostPattern, Vec<Placed<'a>>> {
    let mut domains: BTreeMap<HostPattern, Vec<Placed<'a>>> = BTreeMap::new();
    for listener in listeners {
        domains.entry(listener.hostname.clone()).or_default();
        for attached in &listener.routes {
            let belongs = |host: &&HostPattern| {
                let all = listeners.iter().map(|l| &l.hostname);
                !is_narrower(all, &listener.hostname, host)
            };
            for host in attached.hostnames.iter().filter(belongs) {
                let placed = Placed::all(&attached.route, entrance(listener));
                domains.entry(host.clone()).or_default().extend(placed);
            }
        }
    }
    domains
}

fn entrance(listener: &OpenListener) -> Entrance {
    Entrance {
        port: listener.port,
        is_https: matches!(listener.kind, Some(ServerKind::Https(_))),
    }
}

/// Whether another of the hostnames of a port's listeners is for all of `host`, and for less than `own`.
pub fn is_narrower<'h>(
    mut all: impl Iterator<Item = &'h HostPattern>,
    own: &HostPattern,
    host: &HostPattern,
) -> bool {
    all.any(|other| other.specificity() > own.specificity() && other.intersect(host).as_ref() == Some(host))
}
