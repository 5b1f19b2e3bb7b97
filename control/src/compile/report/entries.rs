//! What is said about ServiceEntries.

use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::workload::{TunnelProtocol, Workload};

use super::findings::without_waypoint;
use super::{Audience, Condition, ObjectReport, bound, listed};
use crate::compile::Compiled;
use crate::compile::discovery::Registered;
use crate::compile::inputs::age;
use crate::model::host::HostPattern;
use crate::model::service_entry::{Resolution, ServiceEntry};
use crate::model::visibility::Visibility;
use crate::objects::{Meta, Notice};

/// The condition that says whether connections of pods to the entry are the mesh's.
const CAPTURED: &str = "CapturedFromPods";
/// Of an entry's hosts, addresses and endpoints that are somebody else's so many are named, and the others counted.
const MAX_NAMED: usize = 16;

pub(super) fn entry(
    compiled: &Compiled,
    meta: &Arc<Meta>,
    entry: &Arc<ServiceEntry>,
    report: &mut ObjectReport,
) {
    let hosts = || entry.hosts.iter().filter_map(HostPattern::exact);
    let first = hosts().next().and_then(|host| own(compiled, meta, host));
    let taken = hosts().filter_map(|host| taken(compiled, meta, host));
    report.notices.extend(few(taken, "spec.hosts"));
    let claimed = entry.addresses.iter().enumerate();
    let claimed = claimed.flat_map(|(i, ip)| claimed_address(compiled, meta, entry, *ip, i));
    report.notices.extend(few(claimed, "spec.addresses"));
    let refused = entry.endpoint_addresses();
    let refused = refused.filter_map(|(i, ip)| {
        refused_endpoint(compiled, ip, i).or_else(|| left_out_endpoint(compiled, entry, ip, i))
    });
    report.notices.extend(few(refused, "spec.endpoints"));
    report.notices.extend(exported(entry, meta));
    let Some(first) = first else {
        report.audience = Audience::WaypointsAndGateways;
        return;
    };
    report.notices.extend(selects_nothing(compiled, first));
    report.audience = match first.service.vips.is_empty() {
        true => Audience::WaypointsAndGateways,
        false => Audience::Agents,
    };
    report.conditions.push(captured(first));
    report.conditions.extend(bound(compiled, &first.service.key()));
    if entry.addresses.is_empty() && meta.labels.contains_key("istio.io/use-waypoint") {
        let message = why_not_from_pods(&first.service.hostname, entry);
        report
            .notices
            .push(Notice::unserved("metadata.labels.istio.io/use-waypoint", message));
    }
    report.notices.extend(unreachable(compiled, first));
}

/// The first of many, and how many more there are.
fn few(mut conflicts: impl Iterator<Item = Notice>, field: &str) -> Vec<Notice> {
    let mut named: Vec<Notice> = conflicts.by_ref().take(MAX_NAMED).collect();
    let more = conflicts.count();
    if more > 0 {
        let message = format!("there are {more} more conflicts of this kind; resolve those named first");
        named.push(Notice::conflict(field, message));
    }
    named
}

/// The host where it is this entry's, for clients of its namespace at least.
fn own<'c>(compiled: &'c Compiled, meta: &Arc<Meta>, host: &str) -> Option<&'c Registered> {
    let found = compiled.discovery.service_of(&meta.namespace, host)?;
    (found.meta.name == meta.name).then_some(found)
}

/// An older entry that has the host.
fn taken(compiled: &Compiled, meta: &Arc<Meta>, host: &Arc<str>) -> Option<Notice> {
    let (older, rest) = match own(compiled, meta, host) {
        None => (
            compiled.discovery.service_of(&meta.namespace, host)?,
            "for it nothing of this one is in effect",
        ),
        Some(own) => (
            compiled
                .discovery
                .shared(host)
                .filter(|shared| age(&shared.meta) < age(&own.meta))?,
            "clients of other namespaces reach that one, and those of this namespace this one",
        ),
    };
    let message = format!(
        "host {host} belongs to the older ServiceEntry {}/{}; {rest}",
        older.meta.namespace, older.meta.name
    );
    Some(Notice::conflict("spec.hosts", message))
}

/// Whoever has an address of an entry as well.
fn claimed_address(
    compiled: &Compiled,
    meta: &Meta,
    entry: &ServiceEntry,
    ip: IpAddr,
    number: usize,
) -> impl Iterator<Item = Notice> {
    let field = format!("spec.addresses[{number}]");
    let found = [
        of_service(compiled, ip, &field),
        of_older(compiled, meta, entry, ip, &field),
        of_somebody(compiled, ip, &field),
        of_left_out(compiled, ip, &field),
    ];
    found.into_iter().flatten()
}

/// A Service that has the address as well.
fn of_service(compiled: &Compiled, ip: IpAddr, field: &str) -> Option<Notice> {
    let (namespace, name) = compiled.inputs.service_at(ip)?;
    let message = format!(
        "{ip} is the address of Service {namespace}/{name}, to which it leads from other namespaces; write another address"
    );
    Some(Notice::conflict(field, message))
}

/// An older entry that has the address as well.
fn of_older(
    compiled: &Compiled,
    meta: &Meta,
    entry: &ServiceEntry,
    ip: IpAddr,
    field: &str,
) -> Option<Notice> {
    let older = compiled.discovery.addressed.before(meta, entry, ip)?;
    let whom = match older.namespace == meta.namespace {
        true => "it leads there, and not to this one",
        false => "it leads there from other namespaces, and to this one from its own",
    };
    let message = format!(
        "{ip} belongs to the older ServiceEntry {}/{} as well; {whom}. Write another address",
        older.namespace, older.name
    );
    Some(Notice::conflict(field, message))
}

/// A pod or a node that has the address.
fn of_somebody(compiled: &Compiled, ip: IpAddr, field: &str) -> Option<Notice> {
    let owner = owner(compiled.discovery.workloads_at(ip).next()?);
    let message = format!(
        "{ip} is the address of {owner}, to which it leads from other namespaces; write another address"
    );
    Some(Notice::conflict(field, message))
}

/// An endpoint that waypoints and gateways do not connect to, since its address is not outside.
fn refused_endpoint(compiled: &Compiled, ip: IpAddr, number: usize) -> Option<Notice> {
    let mut found = compiled.discovery.workloads_at(ip);
    let is_refused = |w: &&Arc<Workload>| w.host_network || w.tunnel == TunnelProtocol::Hbone;
    let of_workload = |w: &Arc<Workload>| (owner(w), "name a Service, or select pods by workloadSelector");
    let of_service = || {
        let (namespace, name) = compiled.inputs.service_at(ip)?;
        let remedy = "let rules lead to that Service by its name";
        Some((format!("Service {namespace}/{name}"), remedy))
    };
    let found = found.find(is_refused).map(of_workload);
    let (owner, remedy) = found.or_else(of_service)?;
    let message = format!(
        "{ip} is the address of {owner}, which waypoints and gateways do not take for one outside the mesh: they refuse to connect; {remedy}"
    );
    let field = format!("spec.endpoints[{number}].address");
    Some(Notice::conflict(field, message))
}

/// A pod or Service, in a namespace that `discoverySelectors` leave out, that has the address.
fn of_left_out(compiled: &Compiled, ip: IpAddr, field: &str) -> Option<Notice> {
    let owner = compiled.discovery.left_out_at(ip)?;
    let message = format!(
        "{ip} is the address of {owner}, whose namespace discoverySelectors leave out: connections from other namespaces than this one are not taken, as if there were no entry; write another address"
    );
    Some(Notice::conflict(field, message))
}

/// Among names that are looked up such an address is one like others.
fn left_out_endpoint(compiled: &Compiled, entry: &ServiceEntry, ip: IpAddr, number: usize) -> Option<Notice> {
    if !matches!(entry.resolution, Resolution::Static(_)) {
        return None;
    }
    let owner = compiled
        .discovery
        .left_out_at(ip)
        .filter(|owner| owner.is_service())?;
    let message = format!(
        "{ip} is the address of {owner}, which is no address outside the mesh, and whose namespace discoverySelectors leave out: it is no endpoint; name addresses outside, or have the namespace looked at and route to the Service"
    );
    let field = format!("spec.endpoints[{number}].address");
    Some(Notice::conflict(field, message))
}

fn owner(workload: &Workload) -> String {
    match (workload.host_network, workload.node.is_empty()) {
        (false, _) => format!("pod {}/{}", workload.namespace, workload.name),
        (true, false) => format!("node {}", workload.node),
        (true, true) => "the API server".to_owned(),
    }
}

/// Agents know two cases: all clients, and those of the entry's namespace.
fn exported(entry: &ServiceEntry, meta: &Arc<Meta>) -> Option<Notice> {
    let Visibility::Namespaces(names) = &entry.visibility else {
        return None;
    };
    let others = names.iter().any(|name| *name != meta.namespace);
    if entry.addresses.is_empty() || !others {
        return None;
    }
    let whom = match names.contains(&meta.namespace) {
        true => "pods of this namespace alone",
        false => "no pods",
    };
    let message = format!(
        "the addresses are captured for {whom}, since agents are told of a namespace's own services and of everybody's; gateways and waypoints of the others see the hosts"
    );
    Some(Notice::not_supported("spec.exportTo", message))
}

fn selects_nothing(compiled: &Compiled, entry: &Registered) -> Option<Notice> {
    let selector = &entry.spec.selector;
    let nobody = || {
        compiled
            .discovery
            .endpoints(&entry.service.key())
            .next()
            .is_none()
    };
    (!selector.is_empty() && nobody()).then(|| {
        let message = "no pod of this namespace has these labels (WorkloadEntries are not selected in this version); connections fail until one has";
        Notice::warning("spec.workloadSelector.labels", message)
    })
}

fn captured(entry: &Registered) -> Condition {
    let spec = entry.entry.as_ref();
    if entry.service.vips.is_empty() {
        let message = spec.map(|spec| why_not_from_pods(&entry.service.hostname, spec));
        return Condition::new(CAPTURED, false, "NoAddresses", message.unwrap_or_default());
    }
    let message = format!(
        "connections of the mesh's pods to {} are taken where the agents' ranges (agent.meshCidrs) have the address",
        listed(entry.service.vip_ips())
    );
    Condition::new(CAPTURED, true, "Captured", message)
}

/// Why no rule is in effect between pods and the host.
pub(super) fn why_not_from_pods(host: &str, entry: &ServiceEntry) -> String {
    if entry.resolution == Resolution::AsDialled {
        return format!(
            "connections to {host} go on as they are dialled (resolution NONE), past every waypoint; write STATIC or DNS for rules"
        );
    }
    if !entry.addresses.is_empty() {
        return format!(
            "pods do not reach {host} through the mesh: its addresses are captured for those whom spec.exportTo names; add \"*\" or \".\""
        );
    }
    format!(
        "pods' connections to {host} are not captured, since its ServiceEntry has no addresses (this version answers no DNS); give spec.addresses within agent.meshCidrs and let the cluster's DNS answer the host with them. Gateways lead to it all the same"
    )
}

/// Agents look no names up.
fn unreachable(compiled: &Compiled, entry: &Registered) -> Option<Notice> {
    entry.dns()?;
    let waits = without_waypoint(compiled, &entry.service.key(), "spec.resolution");
    let waits = waits.filter(|_| !entry.service.vips.is_empty())?;
    let message = format!(
        "names are looked up by waypoints and gateways, and until one serves it, pods' connections to {} are refused: {}",
        entry.service.hostname, waits.message
    );
    Some(Notice { message, ..waits })
}
