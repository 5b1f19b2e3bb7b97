//! Services that need a waypoint because of a rule, in namespaces that are in the mesh.

use std::collections::BTreeSet;

use aquifer_core::enrolment::{PodFacts, decide};
use aquifer_core::names::NamespacedHostname;

use crate::compile::discovery::Discovery;
use crate::compile::gateway_api::GatewayApi;
use crate::compile::inputs::{Inputs, Labels};
use crate::compile::waypoints::{GATEWAY_NAME_LABEL, MANAGED_LABEL};
use crate::model::host::HostPattern;

pub(super) fn needed(
    inputs: &Inputs,
    discovery: &Discovery,
    gateway_api: &GatewayApi,
) -> BTreeSet<NamespacedHostname> {
    let mut services: BTreeSet<NamespacedHostname> = gateway_api.routed_services().cloned().collect();
    for rules in inputs.virtual_services.iter().filter(|v| v.spec.is_mesh()) {
        rules
            .spec
            .hosts
            .iter()
            .for_each(|host| named(discovery, host, &mut services));
    }
    for rules in inputs.destination_rules.iter().filter(|r| r.spec.needs_waypoint) {
        named(discovery, &rules.spec.host, &mut services);
    }
    services.retain(|service| opted_in(inputs, &service.namespace));
    services
}

fn named(discovery: &Discovery, host: &HostPattern, services: &mut BTreeSet<NamespacedHostname>) {
    match host {
        HostPattern::Exact(host) => services.extend(discovery.by_host.get(host).cloned()),
        pattern => {
            let covered = discovery.by_host.iter().filter(|(host, _)| pattern.matches(host));
            services.extend(covered.map(|(_, key)| key.clone()));
        }
    }
}

/// The Service in front of a proxy of the mesh.
pub(super) fn is_proxy_service(labels: &Labels) -> bool {
    labels.contains_key(GATEWAY_NAME_LABEL) || labels.contains_key(MANAGED_LABEL)
}

fn opted_in(inputs: &Inputs, namespace: &str) -> bool {
    let facts = PodFacts {
        host_network: false,
        has_sidecar: false,
    };
    decide(inputs.namespace_labels(namespace), &Labels::new(), facts).is_wanted()
}
