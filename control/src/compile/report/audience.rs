//! Which pods have to hold the resources of an object for it to be in effect.

use std::collections::BTreeSet;

use crate::compile::Compiled;
use crate::compile::report::PodName;
use crate::compile::waypoints::{Binding, WaypointKey};
use crate::model::gateway::Gateway;
use crate::model::host::{HostPattern, covered};
use crate::model::virtual_service::VirtualService;

/// The waypoints of the services that the rules are for, and the gateways that they are attached to.
pub(super) fn of_rules(compiled: &Compiled, rules: &VirtualService) -> BTreeSet<PodName> {
    let mut pods = BTreeSet::new();
    if rules.is_mesh() {
        pods.extend(of_waypoints(compiled, rules));
    }
    let named = rules.gateways.iter();
    let gateways = named.filter_map(|reference| compiled.inputs.gateway_of(reference));
    pods.extend(gateways.flat_map(|gateway| of_gateway(compiled, &gateway.spec)));
    pods
}

fn of_waypoints(compiled: &Compiled, rules: &VirtualService) -> BTreeSet<PodName> {
    let bindings = &compiled.waypoints.bindings;
    let exact = rules.hosts.iter().filter_map(HostPattern::exact);
    let services = exact.flat_map(|host| compiled.discovery.services_by_host(host));
    let exact = services.filter_map(|service| bindings.get(&service.service.key()));
    let covered = covered(&rules.hosts, bindings.iter(), |(service, _)| &service.hostname);
    let bound = exact.chain(covered.map(|(_, binding)| binding));
    let waypoints: BTreeSet<&WaypointKey> = bound.filter_map(Binding::waypoint).collect();
    let endpoints = waypoints
        .iter()
        .flat_map(|w| compiled.discovery.endpoints(&w.service()));
    let pods = endpoints.filter(|w| w.native_tunnel);
    pods.map(|w| (w.namespace.clone(), w.name.clone())).collect()
}

pub(super) fn of_gateway(compiled: &Compiled, gateway: &Gateway) -> BTreeSet<PodName> {
    compiled.selected.running(&compiled.inputs, &gateway.selector)
}
