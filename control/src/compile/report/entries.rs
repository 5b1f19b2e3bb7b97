//! What is said about ServiceEntries.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Audience, Condition, ObjectReport, bound};
use crate::compile::Compiled;
use crate::compile::discovery::Registered;
use crate::model::host::HostPattern;
use crate::model::service_entry::{Resolution, ServiceEntry};
use crate::model::visibility::Visibility;
use crate::objects::{Meta, Notice};

/// The condition that says whether connections of pods to the entry are the mesh's.
const CAPTURED: &str = "CapturedFromPods";

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
        report.notices.extend(of_service(compiled, *ip, i));
    }
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
    let unserved = unreachable(compiled, first);
    report
        .notices
        .extend(unserved.map(|message| Notice::unserved("spec.resolution", message)));
}

/// The host where it is this entry's.
fn own<'c>(compiled: &'c Compiled, meta: &Arc<Meta>, host: &str) -> Option<&'c Registered> {
    let found = compiled.discovery.service_by_host(host)?;
    (found.meta.name == meta.name && found.meta.namespace == meta.namespace).then_some(found)
}

fn taken(compiled: &Compiled, meta: &Arc<Meta>, host: &Arc<str>) -> Option<Notice> {
    let found = compiled.discovery.service_by_host(host)?;
    if own(compiled, meta, host).is_some() {
        return None;
    }
    let message = format!(
        "host {host} belongs to the older ServiceEntry {}/{}; for it nothing of this one is in effect",
        found.meta.namespace, found.meta.name
    );
    Some(Notice::conflict("spec.hosts", message))
}

/// A Service that has the address as well.
fn of_service(compiled: &Compiled, ip: IpAddr, number: usize) -> Option<Notice> {
    let mut services = compiled.inputs.services.iter();
    let service = services.find(|s| s.spec.vips().contains(&ip))?;
    let message = format!(
        "{ip} is the address of Service {}/{}, to which it leads from other namespaces; write another address",
        service.meta.namespace, service.meta.name
    );
    Some(Notice::conflict(format!("spec.addresses[{number}]"), message))
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
fn unreachable(compiled: &Compiled, entry: &Registered) -> Option<String> {
    entry.dns()?;
    let waits = super::findings::without_waypoint(compiled, &entry.service.key());
    let waits = waits.filter(|_| !entry.service.vips.is_empty())?;
    Some(format!(
        "names are looked up by waypoints and gateways, and until one serves it, pods' connections to {} are refused: {waits}",
        entry.service.hostname
    ))
}
