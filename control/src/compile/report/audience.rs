//! Which pods have to hold the resources of an object for it to be in effect.

use std::collections::BTreeSet;

use crate::compile::Compiled;
use crate::compile::inputs::selects;
use crate::compile::report::PodName;
use crate::model::gateway::Gateway;
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
    let bindings = compiled.waypoints.bindings.iter();
    let concerned = bindings.filter(|(service, _)| rules.best_host(&service.hostname).is_some());
    let waypoints: BTreeSet<_> = concerned.filter_map(|(_, binding)| binding.waypoint()).collect();
    let endpoints = waypoints
        .iter()
        .filter_map(|w| compiled.discovery.endpoints.get(&w.service()));
    let pods = endpoints.flatten().filter(|w| w.native_tunnel);
    pods.map(|w| (w.namespace.clone(), w.name.clone())).collect()
}

pub(super) fn of_gateway(compiled: &Compiled, gateway: &Gateway) -> BTreeSet<PodName> {
    let selected = compiled
        .inputs
        .pods
        .iter()
        .filter(|p| selects(&gateway.selector, &p.meta.labels));
    let running = selected.filter(|p| !p.spec.is_finished());
    running
        .map(|p| (p.meta.namespace.clone(), p.meta.name.clone()))
        .collect()
}
