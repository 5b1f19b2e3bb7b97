//! Resources of a gateway: a bound listener and a route table for each of its ports.

use std::collections::BTreeSet;

use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::inputs::Labels;
use crate::compile::references::Resolver;
use crate::compile::routes::{gateway_ports, gateway_routes};
use crate::envoy::listener::{Handling, bound_listener};
use crate::envoy::{resource, resource_by_content, route_content};
use crate::proxies::Collected;

pub(super) fn resources(compiled: &Compiled, namespace: &str, pod: &str, labels: &Labels) -> Collected {
    let resolver = Resolver::new(compiled, namespace);
    let spec = compiled.inputs.pods.get(namespace, pod).map(|p| &*p.spec);
    let own = BTreeSet::new();
    let mut collected = Collected::default();
    for port in gateway_ports(&compiled.inputs, namespace, labels, spec) {
        let routed = gateway_routes(resolver, &own, &port, namespace, labels);
        let routes = routed.config.name.clone();
        let content = route_content(&routed.config);
        collected.routes.extend([resource_by_content(
            type_url::ROUTES,
            &routes,
            &routed.config,
            &content,
        )]);
        let name = format!("0.0.0.0_{}", port.port);
        let listener = bound_listener(&name, port.port, &Handling::Http { routes, edge: true });
        collected
            .listeners
            .extend([resource(type_url::LISTENER, &name, &listener)]);
        collected.add_clusters(&resolver, &routed.clusters);
    }
    collected
}
