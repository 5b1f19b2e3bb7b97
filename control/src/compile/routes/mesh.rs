//! Routes of one port of one service behind a waypoint, for clients inside the mesh.
//!
//! For each client the rules of one VirtualService apply, or none. A rule is there for a client if one of its matches
//! may hold for it; if none of the rules is, the VirtualService does not apply to this client and it gets the service's
//! default route; if a rule is there but the request fits none, it gets 404. An HTTPRoute is there for all of its clients. Source conditions are evaluated by the
//! waypoint, so the three cases follow each other in one list.

use std::collections::BTreeSet;

use aquifer_core::names::NamespacedHostname;
use aquifer_xds::envoy::pb::envoy::config::route::v3::Route;

use crate::compile::references::{Resolver, Target};
use crate::compile::routes::http_routes::service_routes;
use crate::compile::routes::streams::stream_destinations;
use crate::compile::routes::{Routed, Scope, cluster_name};
use crate::compile::rules::{ClientClass, Rules, mesh_classes, mesh_owner};
use crate::envoy::action::{no_match, plain_route, rule_route};
use crate::envoy::matching::{any_request, route_match};
use crate::envoy::{route_configuration, virtual_host};
use crate::model::virtual_service::{GatewayRef, HttpCondition, HttpRule, SourceCondition, VirtualService};

/// The route table `name` of a service's HTTP port.
pub fn mesh_routes(
    resolver: Resolver<'_>,
    own: &BTreeSet<NamespacedHostname>,
    service: &NamespacedHostname,
    port: u16,
    name: &str,
) -> Routed {
    let default = default_target(service, port);
    let default_cluster = cluster_name(&resolver, own, &default);
    let mut scope = Scope::new(resolver, own, port);
    scope.clusters.insert(default_cluster.clone(), default);
    let mut routes = Vec::new();
    for class in mesh_classes(&resolver, service, port) {
        routes.extend(class_routes(&mut scope, &class, &default_cluster));
    }
    let host = virtual_host(name, vec!["*".to_owned()], routes);
    Routed {
        config: route_configuration(name, vec![host]),
        clusters: scope.clusters,
    }
}

/// Where connections to a service's port go by weight: of the VirtualService's `tcp`, of a TCPRoute, or to the service.
pub fn mesh_destinations(scope: &mut Scope<'_>, service: &NamespacedHostname) -> Vec<(String, u32)> {
    // Who connects is not looked at for tcp, so only rules for everybody apply.
    let rules = mesh_owner(scope.resolver.inputs, &service.hostname);
    let called = scope.called;
    let applies = |r: &&crate::model::virtual_service::TcpRule| {
        let holds = |c: &crate::model::virtual_service::TcpCondition| {
            c.port.is_none_or(|p| p == called) && is_for_mesh(&c.gateways)
        };
        r.conditions.is_empty() || r.conditions.iter().any(holds)
    };
    if let Some(rule) = rules.and_then(|r| r.spec.tcp.iter().find(applies)) {
        return scope.of_tcp_rule(&rule.destinations);
    }
    if rules.is_none()
        && let Some(route) = scope.resolver.gateway_api.stream_of(service, called)
    {
        return stream_destinations(scope, route);
    }
    let target = default_target(service, called);
    let name = cluster_name(&scope.resolver, scope.own, &target);
    scope.clusters.insert(name.clone(), target);
    vec![(name, 1)]
}

fn default_target(service: &NamespacedHostname, port: u16) -> Target {
    Target {
        service: service.clone(),
        port,
        subset: None,
    }
}

fn is_for_mesh(gateways: &[GatewayRef]) -> bool {
    gateways.is_empty() || gateways.contains(&GatewayRef::Mesh)
}

fn class_routes(scope: &mut Scope<'_>, class: &ClientClass<'_>, default_cluster: &str) -> Vec<Route> {
    let of_class = SourceCondition {
        namespace: class.namespace.clone(),
        ..SourceCondition::default()
    };
    let mut routes = Vec::new();
    let mut present = BTreeSet::new();
    match &class.rules {
        None => {}
        Some(Rules::VirtualService(rules)) => {
            add_rules(scope, &rules.spec, &of_class, &mut routes, &mut present);
        }
        Some(Rules::HttpRoutes(list)) => {
            routes = service_routes(scope, list, &of_class);
            present.insert(of_class.clone());
        }
    }
    // One of the class itself makes the others superfluous, and the default route unreachable.
    let whole_class = present.contains(&of_class);
    if whole_class {
        present.retain(|condition| *condition == of_class);
    }
    routes.extend(present.iter().map(|condition| no_match(any_request(condition))));
    if !whole_class {
        routes.push(plain_route("default", any_request(&of_class), default_cluster));
    }
    routes
}

/// Adds the routes of every rule that may be there for a client of the class, and notes their source conditions.
fn add_rules(
    scope: &mut Scope<'_>,
    rules: &VirtualService,
    of_class: &SourceCondition,
    routes: &mut Vec<Route>,
    present: &mut BTreeSet<SourceCondition>,
) {
    for rule in &rules.http {
        for (condition, source) in surviving(rule, scope.called, of_class) {
            let destinations = scope.of_rule(rule);
            let matches = match condition {
                Some(condition) => route_match(condition, &source),
                None => any_request(&source),
            };
            routes.push(rule_route(rule, matches, &destinations));
            present.insert(source);
        }
    }
}

/// The matches of a rule that can hold for a client of the class on this port, with their whole source condition.
fn surviving<'r>(
    rule: &'r HttpRule,
    port: u16,
    of_class: &SourceCondition,
) -> Vec<(Option<&'r HttpCondition>, SourceCondition)> {
    if rule.conditions.is_empty() {
        return vec![(None, of_class.clone())];
    }
    let kept = rule
        .conditions
        .iter()
        .filter(|c| c.port.is_none_or(|p| p == port) && is_for_mesh(&c.gateways));
    let joined = kept.filter_map(|condition| {
        // As in Istio: where a match names gateways, `mesh` among them is its whole condition on the source.
        let own = if condition.gateways.is_empty() {
            &condition.source
        } else {
            &SourceCondition::default()
        };
        Some((Some(condition), of_class.and(own)?))
    });
    joined.collect()
}
