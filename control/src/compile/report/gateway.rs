//! What is to be said of Istio's Gateway: who serves it, with which certificates, at which addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::compile::Compiled;
use crate::compile::credentials::{CredentialError, Credentials};
use crate::compile::inputs::{Entry, Labels, selects};
use crate::compile::routes::{gateway_ports, listening_port};
use crate::compile::servers::plan;
use crate::model::gateway::{Gateway, Server};
use crate::model::host::HostPattern;
use crate::model::secret::ServerCertificate;
use crate::model::termination::Termination;
use crate::objects::kube::{self, Pod, ServicePort};
use crate::objects::{Meta, Notice};

/// Pods that serve the same: of one namespace, with the same labels.
type Sorts<'a> = BTreeMap<(&'a str, &'a Labels), &'a Pod>;

pub(super) fn notices(compiled: &Compiled, meta: &Meta, gateway: &Gateway) -> Vec<Notice> {
    let sorts = sorts(compiled, gateway);
    if sorts.is_empty() {
        let message = "no pod has these labels; the servers are served nowhere";
        return vec![Notice::unresolved("spec.selector", message)];
    }
    let mut notices = Vec::new();
    for ((namespace, labels), pod) in &sorts {
        conflicts(compiled, meta, (namespace, labels, pod), &mut notices);
    }
    let namespaces: BTreeSet<&str> = sorts.keys().map(|(namespace, _)| *namespace).collect();
    for namespace in namespaces {
        let credentials = Credentials::new(&compiled.inputs, namespace);
        for (server, termination) in gateway.terminations() {
            missing(&credentials, termination, &mut notices);
            uncovered(&credentials, server, termination, &mut notices);
        }
    }
    once(notices)
}

fn sorts<'a>(compiled: &'a Compiled, gateway: &Gateway) -> Sorts<'a> {
    let pods = compiled.selected.running(&compiled.inputs, &gateway.selector);
    let entries = pods
        .iter()
        .filter_map(|(namespace, name)| compiled.inputs.pods.get(namespace, name));
    entries
        .map(|p| ((&*p.meta.namespace, &p.meta.labels), &*p.spec))
        .collect()
}

/// Pods of several sorts say the same of the same server.
fn once(notices: Vec<Notice>) -> Vec<Notice> {
    let mut said: Vec<Notice> = Vec::new();
    for notice in notices {
        if !said.contains(&notice) {
            said.push(notice);
        }
    }
    said
}

fn conflicts(
    compiled: &Compiled,
    meta: &Meta,
    (namespace, labels, pod): (&str, &Labels, &Pod),
    notices: &mut Vec<Notice>,
) {
    let is_it = |g: &Entry<Gateway>| g.meta.namespace == meta.namespace && g.meta.name == meta.name;
    for port in gateway_ports(&compiled.inputs, namespace, labels, Some(pod)) {
        let conflicts = plan(&port).map(|p| p.conflicts).unwrap_or_default();
        let own = conflicts.into_iter().filter(|c| is_it(c.server.0));
        notices.extend(own.map(|c| Notice::conflict(c.server.1.field.as_str(), c.message)));
    }
}

fn missing(credentials: &Credentials<'_>, termination: &Termination, notices: &mut Vec<Notice>) {
    for reference in &termination.certificates {
        if let Err(error) = credentials.certificate(reference) {
            notices.push(notice(&reference.field, &error));
        }
    }
    if let Some(check) = &termination.clients
        && let Err(error) = credentials.authorities(&check.authorities)
    {
        notices.push(notice(&check.authorities.reference().field, &error));
    }
}

pub(super) fn notice(field: &str, error: &CredentialError) -> Notice {
    match error {
        CredentialError::Missing(_) | CredentialError::Unreadable(..) => {
            Notice::unresolved(field, error.to_string())
        }
        CredentialError::Unusable(..) => Notice::bad_secret(field, error.to_string()),
        CredentialError::NotPermitted(_) => Notice::not_permitted(field, error.to_string()),
    }
}

/// Hosts that clients will not believe the server to be.
fn uncovered(
    credentials: &Credentials<'_>,
    server: &Server,
    termination: &Termination,
    notices: &mut Vec<Notice>,
) {
    let names = termination.certificates.iter();
    let found: Vec<_> = names.filter_map(|r| credentials.certificate(r).ok()).collect();
    if found.is_empty() {
        return;
    }
    for (i, host) in server.hosts.iter().enumerate() {
        let message = not_covered(&found, &host.host);
        let field = || format!("{}.hosts[{i}]", server.field);
        notices.extend(message.map(|message| Notice::warning(field(), message)));
    }
}

/// Why clients will not believe the server to be that host.
pub(super) fn not_covered(found: &[&Arc<ServerCertificate>], host: &HostPattern) -> Option<String> {
    let host_text = host.to_string();
    if *host == HostPattern::Any || found.iter().any(|c| c.pair.covers(&host_text)) {
        return None;
    }
    let names: Vec<&str> = found
        .iter()
        .flat_map(|c| c.pair.dns_names().iter().map(String::as_str))
        .collect();
    let has = match names.is_empty() {
        true => "has no DNS name at all (a common name is not one)".to_owned(),
        false => format!("is for {}", names.join(", ")),
    };
    Some(format!(
        "the certificate {has}; clients that check it refuse {host_text}"
    ))
}

/// Addresses of Services that lead to the servers.
pub(super) fn addresses(compiled: &Compiled, gateway: &Gateway) -> Vec<Value> {
    let mut addresses = Vec::new();
    for ((namespace, labels), pod) in sorts(compiled, gateway) {
        let of_namespace = compiled.inputs.services.in_namespace(namespace);
        let in_front =
            of_namespace.filter(|s| !s.spec.selector.is_empty() && selects(&s.spec.selector, labels));
        for service in in_front {
            let listened: BTreeSet<u16> = gateway
                .servers
                .iter()
                .map(|s| listening_port(&compiled.inputs, namespace, labels, Some(pod), s.port))
                .collect();
            let ports = service.spec.ports.iter();
            let ports: Vec<&ServicePort> = ports
                .filter(|p| {
                    p.on_pod(|name| pod.named_port(name))
                        .is_some_and(|port| listened.contains(&port))
                })
                .collect();
            for address in of_service(service, &ports) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
    }
    addresses
}

/// From outside where the Service has such addresses, else from inside the cluster.
fn of_service(service: &Entry<kube::Service>, ports: &[&ServicePort]) -> Vec<Value> {
    if ports.is_empty() {
        return Vec::new();
    }
    let name: Arc<str> = format!("{}/{}", service.meta.namespace, service.meta.name).into();
    let numbers: Vec<u16> = ports.iter().map(|p| p.port).collect();
    let address = |kind: &str, through: &str, value: &str| json!({ "type": kind, "value": value, "through": through, "service": name, "ports": numbers });
    let balancers = service.spec.load_balancer.iter();
    let mut list: Vec<Value> = balancers
        .flat_map(|ingress| {
            let ip = ingress
                .ip
                .iter()
                .map(|ip| address("IPAddress", "LoadBalancer", ip));
            let host = ingress.hostname.iter();
            ip.chain(host.map(|host| address("Hostname", "LoadBalancer", host)))
        })
        .collect();
    let external = service.spec.external_ips.iter();
    list.extend(external.map(|ip| address("IPAddress", "ExternalIP", ip)));
    let node_ports: Vec<u16> = ports.iter().filter_map(|p| p.node_port).collect();
    if !node_ports.is_empty() {
        let nodes = json!({ "type": "Nodes", "through": "NodePort", "service": name, "ports": node_ports });
        list.push(nodes);
    }
    let vips = service.spec.vips();
    list.extend(
        vips.iter()
            .map(|ip| address("IPAddress", "ClusterIP", &ip.to_string())),
    );
    list
}
