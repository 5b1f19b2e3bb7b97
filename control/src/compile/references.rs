//! Where destinations lead: a service, a port, a subset; or nowhere, with the reason.

use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;

use crate::compile::Compiled;
use crate::compile::discovery::{Discovery, Registered};
use crate::compile::gateway_api::GatewayApi;
use crate::compile::inputs::Inputs;
use crate::compile::report::listed;
use crate::compile::rules::{MergedRules, destination_rules};
use crate::model::virtual_service::Destination;

/// A group of endpoints: one port of a service, whole or one subset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub service: NamespacedHostname,
    pub port: u16,
    pub subset: Option<Arc<str>>,
}

/// The view of one namespace on the services of the mesh.
#[derive(Clone, Copy)]
pub struct Resolver<'a> {
    pub inputs: &'a Inputs,
    pub discovery: &'a Discovery,
    pub gateway_api: &'a GatewayApi,
    pub root_namespace: &'a str,
    /// Whose DestinationRules come first.
    pub client_namespace: &'a str,
}

impl<'a> Resolver<'a> {
    pub fn new(compiled: &'a Compiled, client_namespace: &'a str) -> Self {
        Self {
            inputs: &compiled.inputs,
            discovery: &compiled.discovery,
            gateway_api: &compiled.gateway_api,
            root_namespace: &compiled.settings.root_namespace,
            client_namespace,
        }
    }

    pub fn rules(&self, service: &NamespacedHostname) -> MergedRules<'a> {
        let (client, root) = (self.client_namespace, self.root_namespace);
        destination_rules(self.inputs, &service.hostname, client, &service.namespace, root)
    }

    /// The port a destination means: its own, the only one of the service, or the one the client called.
    pub fn port(&self, destination: &Destination, called: u16) -> u16 {
        let only = || match self
            .discovery
            .service_for(&destination.host, self.client_namespace)?
            .service
            .ports
            .as_slice()
        {
            [only] => Some(only.service_port),
            _ => None,
        };
        destination.port.or_else(only).unwrap_or(called)
    }

    /// # Errors
    /// A message for the status of the object that has the destination.
    pub fn resolve(&self, destination: &Destination, called: u16) -> Result<Target, String> {
        let entry = self.service(&destination.host)?;
        let port = self.port(destination, called);
        self.check_port(entry, port)?;
        self.check_tls(entry, port)?;
        let service = entry.service.key();
        if let Some(subset) = &destination.subset
            && self.rules(&service).subset(subset).is_none()
        {
            return Err(format!(
                "no DestinationRule for {} defines subset {subset:?}; requests for it get 503 until one does",
                destination.host
            ));
        }
        Ok(Target {
            service,
            port,
            subset: destination.subset.clone(),
        })
    }

    fn service(&self, host: &str) -> Result<&'a Registered, String> {
        let entry = self.discovery.service_for(host, self.client_namespace);
        let entry = entry.ok_or_else(|| {
            format!("no service has the host {host}; requests for it get 503 until one does")
        })?;
        let (namespace, name) = (&entry.meta.namespace, &entry.meta.name);
        if !entry.is_visible_to(self.client_namespace) {
            return Err(format!(
                "ServiceEntry {namespace}/{name}, which has the host {host}, is not exported to namespace {} (spec.exportTo); requests for it get 503",
                self.client_namespace
            ));
        }
        if entry.goes_as_dialled() {
            return Err(format!(
                "ServiceEntry {namespace}/{name}, which has the host {host}, has resolution NONE: a proxy has no address to go on to, and requests for it get 503; write STATIC or DNS"
            ));
        }
        Ok(entry)
    }

    /// A rule that asks for TLS to hosts outside is not in effect, and what it was to encrypt does not go out plainly.
    ///
    /// # Errors
    /// A message for the status of the object that leads there.
    pub fn check_tls(&self, entry: &Registered, port: u16) -> Result<(), String> {
        let key = entry.service.key();
        let asking = || {
            let rules = self.rules(&key).rules;
            rules.into_iter().find(|r| r.spec.asks_tls(Some(port)))
        };
        match entry.entry.as_ref().and_then(|_| asking()) {
            None => Ok(()),
            Some(rule) => Err(format!(
                "DestinationRule {}/{} asks for TLS to {}, which this version cannot begin; requests get 503 instead of going out in plaintext. Let the client speak TLS, and pass it on",
                rule.meta.namespace, rule.meta.name, entry.service.hostname
            )),
        }
    }

    fn check_port(&self, entry: &Registered, port: u16) -> Result<(), String> {
        if entry.service.port(port).is_some() {
            return Ok(());
        }
        let ports = entry.service.ports.iter().map(|p| p.service_port);
        let host = &entry.service.hostname;
        Err(format!(
            "service {host} has no port {port} (it has {}); requests for it get 503",
            listed(ports)
        ))
    }
}
