//! What is said about ServiceEntries.

use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::workload::{TunnelProtocol, Workload};

use super::findings::without_waypoint;
use super::{Audience, Condition, ObjectReport, bound};
use crate::compile::Compiled;
use crate::compile::discovery::{Registered, addressed_before};
use crate::model::host::HostPattern;
use crate::model::service_entry::{Resolution, ServiceEntry};
use crate::model::visibility::Visibility;
use crate::objects::{Meta, Notice};

/// The condition that says whether connections of pods to the entry are the mesh's.
const CAPTURED: &str = "CapturedFromPods";
/// Of an entry's endpoints that are refused so many are named.
const MAX_ENDPOINTS: usize = 16;

pub(super) fn entry(
    compiled: &Compiled,
    meta: &Arc<Meta>,
    entry: &Arc<ServiceEntry>,
    report: &mut ObjectReport,
) {
    let mut hosts = entry.hosts.iter().filter_map(HostPattern::exact);
    let first = hosts.next().and_then(|host| own(compiled, meta, host));
    for host in entry.hosts.iter().filter_map(HostPattern::exact) {
        report.notices.extend(taken(compiled, meta, host));
    }
    for (i, ip) in entry.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{i}]");
        report.notices.extend(of_service(compiled, *ip, &field));
        report
            .notices
            .extend(of_older(compiled, meta, entry, *ip, &field));
        report.notices.extend(of_somebody(compiled, *ip, &field));
    }
    let refused = entry.endpoint_addresses();
    let refused = refused.filter_map(|(i, ip)| refused_endpoint(compiled, ip, i));
    report.notices.extend(refused.take(MAX_ENDPOINTS));
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

/// The host where it is this entry's, for clients of its namespace at least.
fn own<'c>(compiled: &'c Compiled, meta: &Arc<Meta>, host: &str) -> Option<&'c Registered> {
    let mut owners = compiled.discovery.services_by_host(host);
    owners.find(|found| found.meta.name == meta.name && found.meta.namespace == meta.namespace)
}

/// An older entry that has the host.
fn taken(compiled: &Compiled, meta: &Arc<Meta>, host: &Arc<str>) -> Option<Notice> {
    let mut owners = compiled.discovery.services_by_host(host);
    let (older, rest) = match own(compiled, meta, host) {
        None => (
            owners.find(|found| found.meta.namespace == meta.namespace)?,
            "for it nothing of this one is in effect",
        ),
        Some(own) => (
            owners
                .take_while(|found| found.meta.namespace != own.meta.namespace)
                .find(|found| is_for_others(found))?,
            "clients of other namespaces reach that one, and those of this namespace this one",
        ),
    };
    let message = format!(
        "host {host} belongs to the older ServiceEntry {}/{}; {rest}",
        older.meta.namespace, older.meta.name
    );
    Some(Notice::conflict("spec.hosts", message))
}

fn is_for_others(entry: &Registered) -> bool {
    entry.entry.as_ref().is_some_and(|spec| match &spec.visibility {
        Visibility::All => true,
        Visibility::Namespaces(names) => names.iter().any(|name| *name != entry.meta.namespace),
    })
}

/// A Service that has the address as well.
fn of_service(compiled: &Compiled, ip: IpAddr, field: &str) -> Option<Notice> {
    let mut services = compiled.inputs.services.iter();
    let service = services.find(|s| s.spec.vips().contains(&ip))?;
    let message = format!(
        "{ip} is the address of Service {}/{}, to which it leads from other namespaces; write another address",
        service.meta.namespace, service.meta.name
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
    let older = addressed_before(&compiled.inputs, meta, entry, ip)?;
    let whom = match older.meta.namespace == meta.namespace {
        true => "it leads there, and not to this one",
        false => "it leads there from other namespaces, and to this one from its own",
    };
    let message = format!(
        "{ip} belongs to the older ServiceEntry {}/{} as well; {whom}. Write another address",
        older.meta.namespace, older.meta.name
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
    let owner = owner(found.find(is_refused)?);
    let message = format!(
        "{ip} is the address of {owner}, which waypoints and gateways do not take for one outside the mesh: they refuse to connect; name a Service, or select pods by workloadSelector"
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
    let addresses: Vec<String> = entry.service.vip_ips().map(|ip| ip.to_string()).collect();
    let message = format!(
        "connections of the mesh's pods to {} are taken where the agents' ranges (agent.meshCidrs) have the address",
        addresses.join(", ")
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
