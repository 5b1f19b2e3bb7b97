//! Services that need a waypoint because of a rule, in namespaces that are in the mesh.

use aquifer_core::enrolment::{PodFacts, decide};
use aquifer_core::names::NamespacedHostname;

use crate::compile::discovery::Registered;
use crate::compile::inputs::{Inputs, Labels};
use crate::compile::waypoints::{GATEWAY_NAME_LABEL, MANAGED_LABEL, World};

pub(super) fn is_needed(world: &World<'_>, service: &NamespacedHostname, entry: &Registered) -> bool {
    let (inputs, host) = (world.inputs, &service.hostname);
    let routed = || world.gateway_api.has_route(service);
    let ruled = || !inputs.virtual_services.for_host(host).is_empty();
    let balanced = || {
        let rules = inputs.destination_rules.for_host(host);
        let outside = entry.entry.is_some();
        rules
            .iter()
            .any(|r| r.spec.needs_waypoint || (outside && r.spec.asks_tls(None)))
    };
    // Agents look no names up.
    let named = entry.dns().is_some();
    opted_in(inputs, &service.namespace) && (named || routed() || ruled() || balanced())
}

/// The Service in front of a proxy of the mesh.
pub(super) fn is_proxy_service(labels: &Labels) -> bool {
    labels.contains_key(GATEWAY_NAME_LABEL) || labels.contains_key(MANAGED_LABEL)
}

/// Whether pods of the namespace are of the mesh where they say nothing else.
pub fn opted_in(inputs: &Inputs, namespace: &str) -> bool {
    let facts = PodFacts {
        host_network: false,
        has_sidecar: false,
    };
    decide(inputs.namespace_labels(namespace), &Labels::new(), facts).is_wanted()
}
