//! The endpoints of a ServiceEntry, as its resolution says that they are found.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::field::shorten;
use crate::model::host::HostPattern;
use crate::model::service_entry::{Endpoint, Port, Resolution, Target, usable};
use crate::objects::istio as raw;
use crate::objects::{Notice, Rejection};

/// Istio's own limit.
const MAX_ENDPOINTS: usize = 4096;
/// Names that one entry may have proxies look up, again and again.
const MAX_NAMES: usize = 64;

pub(super) fn resolution(
    spec: &raw::ServiceEntry,
    ports: &[Port],
    notices: &mut Vec<Notice>,
) -> Result<Resolution, Rejection> {
    if spec.endpoints.len() > MAX_ENDPOINTS {
        let reason = format!(
            "has {} entries; at most {MAX_ENDPOINTS} are taken",
            spec.endpoints.len()
        );
        return Err(Rejection::invalid("spec.endpoints", reason));
    }
    match &*spec.resolution {
        "" | "NONE" => as_dialled(spec),
        "STATIC" => of_addresses(spec, ports, notices),
        "DNS" => of_names(spec, ports, false, notices),
        "DNS_ROUND_ROBIN" => of_names(spec, ports, true, notices),
        "DYNAMIC_DNS" => Err(Rejection::unsupported(
            "spec.resolution",
            "DYNAMIC_DNS is not supported by this version; list the names, with DNS",
        )),
        other => Err(Rejection::invalid(
            "spec.resolution",
            format!(
                "is {:?}; expected NONE, STATIC, DNS or DNS_ROUND_ROBIN",
                shorten(other)
            ),
        )),
    }
}

fn as_dialled(spec: &raw::ServiceEntry) -> Result<Resolution, Rejection> {
    if !spec.endpoints.is_empty() {
        let reason = "are there, but resolution NONE goes where the client dialled; write STATIC or DNS";
        return Err(Rejection::invalid("spec.endpoints", reason));
    }
    without_selector(spec, "NONE")?;
    if spec.addresses.is_empty() {
        let reason = "NONE without addresses has nowhere to lead: clients in pods reach what they look up as without a ServiceEntry, and a gateway has no address to go on to; write DNS";
        return Err(Rejection::unsupported("spec.resolution", reason));
    }
    Ok(Resolution::AsDialled)
}

fn of_addresses(
    spec: &raw::ServiceEntry,
    ports: &[Port],
    notices: &mut Vec<Notice>,
) -> Result<Resolution, Rejection> {
    if let Some(selector) = &spec.workload_selector {
        if !spec.endpoints.is_empty() {
            let reason = "is there beside endpoints; write one of the two";
            return Err(Rejection::invalid("spec.workloadSelector", reason));
        }
        if selector.labels.is_empty() {
            let reason = "are missing; no pod is selected without labels";
            return Err(Rejection::invalid("spec.workloadSelector.labels", reason));
        }
        return Ok(Resolution::Pods(selector.labels.clone()));
    }
    if spec.endpoints.is_empty() {
        let reason = "are missing, and STATIC has no others; give endpoints or a workloadSelector";
        return Err(Rejection::invalid("spec.endpoints", reason));
    }
    let parsed = endpoints(spec, ports, notices, |text, field| match text.parse::<IpAddr>() {
        Ok(ip) => usable(ip.to_canonical(), field),
        Err(_) => {
            let reason = format!(
                "{:?} is not an IP address, which STATIC needs; write resolution DNS for names",
                shorten(text)
            );
            Err(Rejection::invalid(field, reason))
        }
    })?;
    Ok(Resolution::Static(parsed))
}

fn of_names(
    spec: &raw::ServiceEntry,
    ports: &[Port],
    first_only: bool,
    notices: &mut Vec<Notice>,
) -> Result<Resolution, Rejection> {
    without_selector(spec, "DNS")?;
    if first_only && spec.endpoints.len() > 1 {
        let reason = "has more than one entry; DNS_ROUND_ROBIN takes one name";
        return Err(Rejection::invalid("spec.endpoints", reason));
    }
    let endpoints = endpoints(spec, ports, notices, target)?;
    let names = endpoints.iter().filter(|e| matches!(e.address, Target::Name(_)));
    let names = names.count();
    if names > MAX_NAMES {
        let reason = format!("has {names} names to look up; at most {MAX_NAMES} are taken");
        return Err(Rejection::unsupported("spec.endpoints", reason));
    }
    Ok(Resolution::Dns {
        endpoints,
        first_only,
    })
}

fn without_selector(spec: &raw::ServiceEntry, resolution: &str) -> Result<(), Rejection> {
    if spec.workload_selector.is_none() {
        return Ok(());
    }
    let reason = format!("is there, but resolution {resolution} selects nothing; write STATIC");
    Err(Rejection::invalid("spec.workloadSelector", reason))
}

fn target(text: &str, field: &str) -> Result<Target, Rejection> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return usable(ip.to_canonical(), field).map(Target::Address);
    }
    match HostPattern::parse(text, field)? {
        HostPattern::Exact(name) => Ok(Target::Name(name)),
        HostPattern::Suffix(_) | HostPattern::Any => {
            let reason = format!("{:?} has a wildcard, and cannot be looked up", shorten(text));
            Err(Rejection::invalid(field, reason))
        }
    }
}

fn endpoints<A>(
    spec: &raw::ServiceEntry,
    ports: &[Port],
    notices: &mut Vec<Notice>,
    address: fn(&str, &str) -> Result<A, Rejection>,
) -> Result<Vec<Endpoint<A>>, Rejection> {
    let mut parsed = Vec::with_capacity(spec.endpoints.len());
    for (i, raw) in spec.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{i}]");
        check(raw, ports, &field)?;
        if !raw.locality.is_empty() {
            let message = "is stored and has no effect in this version";
            notices.push(Notice::not_supported(format!("{field}.locality"), message));
        }
        parsed.push(Endpoint {
            address: address(&raw.address, &format!("{field}.address"))?,
            ports: raw.ports.clone(),
            labels: raw.labels.clone(),
            weight: raw.weight.unwrap_or(1),
        });
    }
    Ok(parsed)
}

fn check(raw: &raw::EntryEndpoint, ports: &[Port], field: &str) -> Result<(), Rejection> {
    if raw.address.starts_with("unix:") {
        let reason = "sockets of the file system are not supported by this version";
        return Err(Rejection::unsupported(format!("{field}.address"), reason));
    }
    if !raw.network.is_empty() {
        let reason = "endpoints on other networks are not supported by this version";
        return Err(Rejection::unsupported(format!("{field}.network"), reason));
    }
    if !raw.service_account.is_empty() {
        let reason = "an endpoint of an entry proves no identity in this version; select pods by workloadSelector, which do, or leave it out";
        return Err(Rejection::unsupported(format!("{field}.serviceAccount"), reason));
    }
    let known = |name: &Arc<str>| ports.iter().any(|p| p.name == *name);
    match raw.ports.iter().find(|(name, port)| !known(name) || **port == 0) {
        None => Ok(()),
        Some((name, 0)) => Err(Rejection::invalid(format!("{field}.ports.{name}"), "is 0")),
        Some((name, _)) => {
            let reason = format!("the entry has no port {:?}", shorten(name));
            Err(Rejection::invalid(format!("{field}.ports"), reason))
        }
    }
}
