//! Which pods have to hold the resources of an object for it to be in effect.

use std::collections::BTreeSet;

use crate::compile::Compiled;
use crate::compile::report::PodName;
use crate::compile::waypoints::{Binding, WaypointKey};
use crate::model::gateway::Gateway;
use crate::model::host::HostPattern;
use crate::model::virtual_service::{GatewayRef, VirtualService};

/// The waypoints of the services that the rules are for, and the gateways that they are attached to.
pub(super) fn of_rules(compiled: &Compiled, rules: &VirtualService) -> BTreeSet<PodName> {
    let mut pods = BTreeSet::new();
    if rules.is_mesh() {
        pods.extend(of_waypoints(compiled, rules));
    }
    for gateway in &compiled.inputs.gateways {
        let meta = &gateway.meta;
        let attached = rules.gateways.iter().any(|reference| match reference {
            GatewayRef::Mesh => false,
            GatewayRef::Gateway { namespace, name } => *namespace == meta.namespace && *name == meta.name,
        });
        if attached {
            pods.extend(of_gateway(compiled, &gateway.spec));
        }
    }
    pods
}

fn of_waypoints(compiled: &Compiled, rules: &VirtualService) -> BTreeSet<PodName> {
    let waypoints: BTreeSet<_> = rules.hosts.iter().flat_map(|h| of_host(compiled, h)).collect();
    let endpoints = waypoints
        .iter()
        .flat_map(|w| compiled.discovery.endpoints(&w.service()));
    let pods = endpoints.filter(|w| w.native_tunnel);
    pods.map(|w| (w.namespace.clone(), w.name.clone())).collect()
}

/// The waypoints of the services with this host.
fn of_host<'c>(compiled: &'c Compiled, host: &HostPattern) -> Vec<&'c WaypointKey> {
    let bindings = &compiled.waypoints.bindings;
    if let HostPattern::Exact(exact) = host {
        let services = compiled.discovery.services_by_host(exact);
        let bound = services.filter_map(|service| bindings.get(&service.service.key()));
        return bound.filter_map(Binding::waypoint).collect();
    }
    let concerned = bindings
        .iter()
        .filter(|(service, _)| host.matches(&service.hostname));
    concerned.filter_map(|(_, binding)| binding.waypoint()).collect()
}

pub(super) fn of_gateway(compiled: &Compiled, gateway: &Gateway) -> BTreeSet<PodName> {
    compiled.selected.running(&compiled.inputs, &gateway.selector)
}
