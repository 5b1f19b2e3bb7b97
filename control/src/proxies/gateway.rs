//! Resources of a gateway: a bound listener and a route table for each of its ports.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::gateway_api::listeners::OpenListener;
use crate::compile::inputs::Labels;
use crate::compile::references::Resolver;
use crate::compile::routes::{Routed, gateway_ports, gateway_routes, listener_routes};
use crate::envoy::listener::{Handling, bound_listener};
use crate::envoy::{resource, resource_by_content, route_content};
use crate::proxies::{Collected, Types};

pub(super) fn resources(compiled: &Compiled, namespace: &str, pod: &str, labels: &Labels) -> Types {
    let resolver = Resolver::new(compiled, namespace);
    let is_it = |m: &crate::objects::Meta| *m.namespace == *namespace && *m.name == *pod;
    let spec = compiled
        .inputs
        .pods
        .iter()
        .find(|p| is_it(&p.meta))
        .map(|p| &*p.spec);
    let own = BTreeSet::new();
    let mut collected = Collected::default();
    for port in gateway_ports(&compiled.inputs, namespace, labels, spec) {
        let routed = gateway_routes(resolver, &own, &port, namespace, labels);
        collected.add_port(&resolver, port.port, &routed);
    }
    // Where both APIs open one port of one pod, the Gateway API's listeners are served.
    for (port, listeners) in kube_listeners(compiled, namespace, pod) {
        let routed = listener_routes(resolver, &format!("http.{port}"), &listeners);
        collected.add_port(&resolver, port, &routed);
    }
    collected.into_types()
}

/// The listeners of the Gateway API that the pod serves, by its own port.
fn kube_listeners<'a>(
    compiled: &'a Compiled,
    namespace: &'a str,
    pod: &'a str,
) -> BTreeMap<u16, Vec<&'a OpenListener>> {
    let mut ports: BTreeMap<u16, Vec<&OpenListener>> = BTreeMap::new();
    for (gateway, workload) in compiled
        .gateway_api
        .served_by(&compiled.discovery, namespace, pod)
    {
        let mapped = workload
            .services
            .get(&gateway.service)
            .map_or(&[][..], Vec::as_slice);
        for listener in gateway.listeners.iter().filter(|l| l.is_served()) {
            let mapping = mapped.iter().find(|m| m.service_port == listener.port);
            let port = mapping.map_or(listener.port, |m| m.target_port);
            ports.entry(port).or_default().push(listener);
        }
    }
    ports
}

impl Collected {
    fn add_port(&mut self, resolver: &Resolver<'_>, port: u16, routed: &Routed) {
        let routes = routed.config.name.clone();
        let content = route_content(&routed.config);
        self.routes.extend([resource_by_content(
            type_url::ROUTES,
            &routes,
            &routed.config,
            &content,
        )]);
        let name = format!("0.0.0.0_{port}");
        let listener = bound_listener(&name, port, &Handling::Http { routes, edge: true });
        self.listeners
            .extend([resource(type_url::LISTENER, &name, &listener)]);
        self.add_clusters(resolver, &routed.clusters);
    }
}
