//! Resources of a gateway: a bound listener for each of its ports, with the route tables and secrets that it names.

mod chains;
mod listeners;

use std::collections::{BTreeMap, BTreeSet};

use aquifer_core::names::NamespacedHostname;
use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::credentials::{Credentials, authorities_resource, certificate_resource};
use crate::compile::gateway_api::Name;
use crate::compile::gateway_api::listeners::{OpenGateway, OpenListener};
use crate::compile::inputs::{Entry, Labels, selects};
use crate::compile::reach::Concerned;
use crate::compile::references::Resolver;
use crate::compile::routes::{Routed, Table, gateway_ports, gateway_routes};
use crate::compile::servers::{Plan, Served, plan};
use crate::envoy::listener::{Chain, bound_listener};
use crate::envoy::server_tls::{authorities_secret, certificate_secret};
use crate::envoy::{resource, resource_by_content, route_content};
use crate::model::termination::Termination;
use crate::objects::kube::Pod;
use crate::proxies::Collected;
use crate::proxies::endpoints::Clients;

/// Nothing for a pod that is gone: its stream may live a little longer.
pub(super) fn resources(compiled: &Compiled, namespace: &str, pod: &str, uid: &str) -> Collected {
    let Some(entry) = living(compiled, namespace, pod, uid) else {
        return Collected::default();
    };
    let (labels, spec) = (&entry.meta.labels, Some(&*entry.spec));
    let mut gateway = Gateway {
        resolver: Resolver::new(compiled, namespace),
        own: BTreeSet::new(),
        namespace,
        labels,
        collected: Collected::default(),
    };
    for port in gateway_ports(&compiled.inputs, namespace, labels, spec) {
        if let Some(plan) = plan(&port) {
            gateway.port(port.port, &plan);
        }
    }
    // Where both APIs open one port of one pod, the Gateway API's listeners are served.
    for (port, listeners) in kube_listeners(compiled, namespace, pod) {
        gateway.kube_port(port, &listeners);
    }
    gateway.collected
}

/// The pod, while it is the one that asked: another may have taken its name.
fn living<'a>(compiled: &'a Compiled, namespace: &str, pod: &str, uid: &str) -> Option<&'a Entry<Pod>> {
    let found = compiled.inputs.pods.get(namespace, pod);
    found.filter(|entry| *entry.meta.uid == *uid)
}

/// Whether a change may make something else of a gateway's resources.
pub(super) fn is_concerned(
    compiled: &Compiled,
    concerned: &Concerned,
    namespace: &str,
    pod: &str,
    uid: &str,
) -> bool {
    let Some(entry) = living(compiled, namespace, pod, uid) else {
        return true;
    };
    let serves = |(namespace, name): &Name| {
        let gateway = compiled.inputs.gateways.get(namespace, name);
        gateway.is_some_and(|g| selects(&g.spec.selector, &entry.meta.labels))
    };
    concerned.gateway_api || concerned.namespaces.contains(namespace) || concerned.gateways.iter().any(serves)
}

/// Whether other pods than before may stand in front of a Gateway of the Gateway API.
pub(super) fn may_serve_others(compiled: &Compiled) -> bool {
    let touched = &compiled.delta.services;
    let mut gateways = compiled.gateway_api.gateways.values();
    !touched.is_empty() && gateways.any(|gateway| touched.contains(&gateway.service))
}

/// The listeners of the Gateway API that the pod serves, by its own port.
fn kube_listeners<'a>(
    compiled: &'a Compiled,
    namespace: &'a str,
    pod: &'a str,
) -> BTreeMap<u16, Vec<Opened<'a>>> {
    let mut ports: BTreeMap<u16, Vec<Opened<'_>>> = BTreeMap::new();
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
            ports.entry(port).or_default().push((gateway, listener));
        }
    }
    ports
}

/// A listener and the Gateway that has it.
type Opened<'a> = (&'a OpenGateway, &'a OpenListener);

/// A gateway whose resources are being made.
struct Gateway<'a> {
    resolver: Resolver<'a>,
    own: BTreeSet<NamespacedHostname>,
    namespace: &'a str,
    labels: &'a Labels,
    collected: Collected,
}

impl Gateway<'_> {
    fn port(&mut self, port: u16, plan: &Plan<'_>) {
        let name = format!("0.0.0.0_{port}");
        let chains = self.chains(&name, port, plan);
        // A port that leads nowhere has no socket: its clients are refused.
        if chains.is_empty() {
            return;
        }
        self.listen(&name, port, &chains);
    }

    fn listen(&mut self, name: &str, port: u16, chains: &[Chain]) {
        let listener = bound_listener(name, port, chains);
        self.collected
            .listeners
            .extend([resource(type_url::LISTENER, name, &listener)]);
    }

    /// A port of the Gateway API's listeners.
    fn kube_port(&mut self, port: u16, listeners: &[Opened<'_>]) {
        let name = format!("0.0.0.0_{port}");
        let chains = self.kube_chains(&name, port, listeners);
        if !chains.is_empty() {
            self.listen(&name, port, &chains);
        }
    }

    /// Makes the route table of the servers.
    fn table(&mut self, name: String, port: u16, servers: &[Served<'_>]) -> String {
        let table = Table { name, port, servers };
        let routed = gateway_routes(self.resolver, &self.own, &table, self.namespace, self.labels);
        self.routed(&table.name, &routed);
        table.name
    }

    fn routed(&mut self, name: &str, routed: &Routed) {
        let content = route_content(&routed.config);
        self.collected.routes.extend([resource_by_content(
            type_url::ROUTES,
            name,
            &routed.config,
            &content,
        )]);
        self.collected
            .add_clusters(&self.resolver, &routed.clusters, Clients::Outside);
    }

    /// Takes what is there of the secrets; a server that lacks one ends no TLS.
    fn secrets(&mut self, credentials: &Credentials<'_>, termination: &Termination) {
        let secrets = &mut self.collected.secrets;
        for reference in &termination.certificates {
            if let Ok(certificate) = credentials.certificate(reference) {
                let name = certificate_resource(reference);
                secrets.extend([certificate_secret(&name, certificate)]);
            }
        }
        if let Some(check) = &termination.clients
            && let Ok(authorities) = credentials.authorities(&check.authorities)
        {
            let name = authorities_resource(&check.authorities);
            secrets.extend([authorities_secret(&name, authorities)]);
        }
    }
}
