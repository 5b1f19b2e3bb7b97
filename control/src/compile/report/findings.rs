//! What can only be seen with the other objects at hand.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;

use crate::compile::Compiled;
use crate::compile::inputs::{Entry, Ruling, selects};
use crate::compile::references::Resolver;
use crate::compile::report::entries;
use crate::compile::rules::{destination_rules, shadowed_by};
use crate::compile::waypoints::{Binding, Refusal};
use crate::model::destination_rule::{DestinationRule, Subset};
use crate::model::host::HostPattern;
use crate::model::virtual_service::{Destination, GatewayRef, HttpRule, VirtualService};
use crate::objects::{Meta, Notice, NoticeKind};

pub(super) fn virtual_service(
    compiled: &Compiled,
    meta: &Arc<Meta>,
    rules: &Arc<VirtualService>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    gateways(compiled, rules, &mut notices);
    let clients = LazyCell::new(|| namespaces_of_gateways(compiled, rules));
    for destination in rules.destinations() {
        let found = unresolved(compiled, rules, destination);
        notices.extend(found.or_else(|| unseen(compiled, rules, destination, &clients)));
    }
    if rules.is_mesh() {
        for (i, host) in rules.hosts.iter().enumerate() {
            mesh_host(compiled, rules, host, &format!("spec.hosts[{i}]"), &mut notices);
        }
        let entry = Entry {
            meta: meta.clone(),
            spec: rules.clone(),
        };
        for (host, older) in shadowed_by(&compiled.inputs, &entry) {
            let message = format!(
                "host {host} also belongs to the older VirtualService {}/{}, which wins for clients in the mesh",
                older.meta.namespace, older.meta.name
            );
            notices.push(Notice::conflict("spec.hosts", message));
        }
        no_default_route(rules, &mut notices);
    }
    notices
}

fn gateways(compiled: &Compiled, rules: &VirtualService, notices: &mut Vec<Notice>) {
    for (i, reference) in rules.gateways.iter().enumerate() {
        let GatewayRef::Gateway { namespace, name } = reference else {
            continue;
        };
        if compiled.inputs.gateway_of(reference).is_none() {
            let message = format!("no accepted Gateway {namespace}/{name}");
            notices.push(Notice::unresolved(format!("spec.gateways[{i}]"), message));
        }
    }
}

fn unresolved(compiled: &Compiled, rules: &VirtualService, destination: &Destination) -> Option<Notice> {
    let discovery = &compiled.discovery;
    let entry = discovery.service_for(&destination.host, &rules.namespace);
    // A waypoint stands in the namespace of the service, a gateway's user usually in that of the rules.
    let client = match entry {
        Some(entry) if rules.is_mesh() => &entry.service.namespace,
        _ => &rules.namespace,
    };
    let called = entry
        .and_then(|e| e.service.ports.first())
        .map_or(80, |p| p.service_port);
    let problem = Resolver::new(compiled, client)
        .resolve(destination, called)
        .err()?;
    Some(Notice::unresolved(destination.field.as_str(), problem))
}

/// Where the pods of the gateways of the rules are.
fn namespaces_of_gateways(compiled: &Compiled, rules: &VirtualService) -> BTreeSet<Arc<str>> {
    let named = rules.gateways.iter();
    let gateways = named.filter_map(|reference| compiled.inputs.gateway_of(reference));
    let pods = gateways.flat_map(|g| compiled.selected.running(&compiled.inputs, &g.spec.selector));
    pods.map(|(namespace, _)| namespace).collect()
}

/// A destination that gateways of the rules, which are in the namespaces of `clients`, do not see.
fn unseen(
    compiled: &Compiled,
    rules: &VirtualService,
    destination: &Destination,
    clients: &LazyCell<BTreeSet<Arc<str>>, impl FnOnce() -> BTreeSet<Arc<str>>>,
) -> Option<Notice> {
    let meant = |namespace: &str| compiled.discovery.service_for(&destination.host, namespace);
    meant(&rules.namespace)?.entry.as_ref()?;
    let mut namespaces = clients.iter();
    let blind = namespaces.find(|namespace| meant(namespace).is_some_and(|e| !e.is_visible_to(namespace)))?;
    let problem = Resolver::new(compiled, blind).resolve(destination, 0).err()?;
    Some(Notice::unresolved(destination.field.as_str(), problem))
}

fn mesh_host(
    compiled: &Compiled,
    rules: &VirtualService,
    host: &HostPattern,
    field: &str,
    notices: &mut Vec<Notice>,
) {
    let HostPattern::Exact(exact) = host else { return };
    let Some(entry) = compiled.discovery.service_for(exact, &rules.namespace) else {
        let message = format!("no service has the host {exact}; the rules take effect when one does");
        notices.push(Notice::unresolved(field, message));
        return;
    };
    let http = entry.service.ports.iter().any(|p| p.protocol.is_http());
    if !http && !rules.http.is_empty() {
        let message = format!(
            "no port of {exact} is HTTP by name or appProtocol; rename it (http-…) for the http rules to apply"
        );
        notices.push(Notice::warning(field, message));
    }
    let unserved = match &entry.entry {
        // At its gateways the same rules may be in effect all the same.
        Some(spec) if entry.service.vips.is_empty() || entry.goes_as_dialled() => {
            let why = entries::why_not_from_pods(exact, spec);
            Some(Notice::unserved(field, why))
        }
        _ => without_waypoint(compiled, &entry.service.key(), field),
    };
    notices.extend(unserved);
}

/// Why rules of layer 7 for a service have no effect yet; `None` where a waypoint serves it.
pub(super) fn without_waypoint(
    compiled: &Compiled,
    service: &NamespacedHostname,
    field: &str,
) -> Option<Notice> {
    let host = &service.hostname;
    match compiled.waypoints.bindings.get(service) {
        None => {
            let message = format!(
                "{host} is behind no waypoint ({}); the rules have no effect on it",
                why_without(compiled)
            );
            Some(Notice::unserved(field, message))
        }
        Some(Binding::Refused { waypoint, refusal }) => Some(Notice {
            kind: match refusal {
                Refusal::NoGateway => NoticeKind::NoWaypoint,
                Refusal::NotFor(_) | Refusal::NotOpen => NoticeKind::Refused,
            },
            field: field.to_owned(),
            message: format!(
                "{host} is behind no waypoint, and the rules have no effect on it: {}",
                refusal.text(waypoint, &service.namespace)
            ),
        }),
        Some(Binding::Waiting(waypoint)) => {
            let message = format!(
                "traffic to {host} stays at layer 4, without these rules, until waypoint {waypoint} serves it"
            );
            Some(Notice::unserved(field, message))
        }
        Some(Binding::Bound(_) | Binding::Moving { .. }) => None,
    }
}

fn why_without(compiled: &Compiled) -> &'static str {
    match compiled.settings.automatic_waypoints {
        true => "its namespace is not in the mesh, or opted out",
        false => "none is made by itself here; `aquifer waypoint apply` makes one for a namespace",
    }
}

/// Every rule is for some clients only: the others get every version, which is seldom what was meant.
fn no_default_route(rules: &VirtualService, notices: &mut Vec<Notice>) {
    let partial =
        |rule: &HttpRule| !rule.conditions.is_empty() && rule.conditions.iter().all(|c| !c.source.is_empty());
    if !rules.http.is_empty() && rules.http.iter().all(partial) {
        let message = "no rule is for every client: clients that none is for are balanced over all versions (an AuthorizationPolicy keeps clients out)";
        notices.push(Notice::warning("spec.http", message));
    }
}

pub(super) fn destination_rule(compiled: &Compiled, rule: &DestinationRule) -> Vec<Notice> {
    let HostPattern::Exact(host) = &rule.host else {
        return Vec::new();
    };
    let Some(entry) = compiled.discovery.service_for(host, &rule.namespace) else {
        let message = format!("no service has the host {host}; the rule takes effect when one does");
        return vec![Notice::unresolved("spec.host", message)];
    };
    let key = entry.service.key();
    let mut notices = empty_subsets(compiled, rule, &key);
    if rule.needs_waypoint {
        notices.extend(without_waypoint(compiled, &key, "spec.host"));
    }
    let (root, service) = (&compiled.settings.root_namespace, &key.namespace);
    let merged = destination_rules(&compiled.inputs, host, service, service, root);
    let applies = merged.rules.iter().any(|r| *r.meta.namespace == *rule.namespace);
    if !applies {
        let message = "another namespace's rule comes first for this host; this one is used by the gateways of its own namespace only";
        notices.push(Notice::warning("metadata.namespace", message));
    }
    notices
}

fn empty_subsets(compiled: &Compiled, rule: &DestinationRule, service: &NamespacedHostname) -> Vec<Notice> {
    let entry = compiled.discovery.services.get(service);
    let named = entry
        .and_then(|e| e.dns())
        .map_or(&[][..], |(endpoints, _)| endpoints);
    let is_empty = |s: &Subset| {
        let mut workloads = compiled.discovery.endpoints(service);
        !workloads.any(|w| selects(&s.labels, &w.labels))
            && !named.iter().any(|e| selects(&s.labels, &e.labels))
    };
    let empty = rule.subsets.iter().enumerate().filter(|(_, s)| is_empty(s));
    let notice = |(i, subset): (usize, &Subset)| {
        let message = format!(
            "no pod of {} has the labels of subset {:?}",
            service.hostname, subset.name
        );
        Notice::warning(format!("spec.subsets[{i}].labels"), message)
    };
    empty.map(notice).collect()
}
