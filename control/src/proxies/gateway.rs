//! Resources of a gateway: a bound listener for each of its ports, with the route tables and secrets that it names.

mod chains;

use std::collections::BTreeSet;

use aquifer_core::names::NamespacedHostname;
use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::credentials::{Credentials, authorities_resource, certificate_resource};
use crate::compile::inputs::Labels;
use crate::compile::references::Resolver;
use crate::compile::routes::{Table, gateway_ports, gateway_routes};
use crate::compile::servers::{Plan, Served, plan};
use crate::envoy::listener::bound_listener;
use crate::envoy::server_tls::{authorities_secret, certificate_secret};
use crate::envoy::{resource, resource_by_content, route_content};
use crate::model::termination::Termination;
use crate::proxies::Collected;
use crate::proxies::endpoints::Clients;

pub(super) fn resources(compiled: &Compiled, namespace: &str, pod: &str, labels: &Labels) -> Collected {
    let spec = compiled.inputs.pods.get(namespace, pod).map(|p| &*p.spec);
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
    gateway.collected
}

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
        let listener = bound_listener(&name, port, &chains);
        self.collected
            .listeners
            .extend([resource(type_url::LISTENER, &name, &listener)]);
    }

    /// Makes the route table of the servers.
    fn table(&mut self, name: String, port: u16, servers: &[Served<'_>]) -> String {
        let table = Table { name, port, servers };
        let routed = gateway_routes(self.resolver, &self.own, &table, self.namespace, self.labels);
        let content = route_content(&routed.config);
        self.collected.routes.extend([resource_by_content(
            type_url::ROUTES,
            &table.name,
            &routed.config,
            &content,
        )]);
        self.collected
            .add_clusters(&self.resolver, &routed.clusters, Clients::Outside);
        table.name
    }

    /// Takes what is there of the secrets; a server that lacks one ends no TLS.
    fn secrets(&mut self, termination: &Termination) {
        let credentials = Credentials::new(self.resolver.inputs, self.namespace);
        let secrets = &mut self.collected.secrets;
        for reference in &termination.certificates {
            if let Ok(certificate) = credentials.certificate(&reference.name) {
                let name = certificate_resource(&reference.name);
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
