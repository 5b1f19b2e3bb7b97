//! ServiceEntry: a service that Kubernetes does not know, validated.

mod endpoints;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::address::is_of_a_host;
use aquifer_core::service::AppProtocol;

use crate::compile::protocol::detect;
use crate::compile::waypoints::WaypointKey;
use crate::model::field::shorten;
use crate::model::host::HostPattern;
use crate::model::virtual_service::CLUSTER_DOMAIN;
use crate::model::visibility::Visibility;
use crate::objects::istio as raw;
use crate::objects::{Meta, Notice, Rejection};

/// Istio's own limits, in numbers of entries.
const MAX_HOSTS: usize = 256;
const MAX_ADDRESSES: usize = 256;
const MAX_PORTS: usize = 256;
/// Ports of all hosts together: every pod that an entry selects, and every endpoint, serves them all.
const MAX_SERVED: usize = 1024;
/// The same for all endpoints together. One entry must not make a million records.
const MAX_RECORDS: usize = 16_384;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Exact names, none twice.
    pub hosts: Vec<HostPattern>,
    /// What clients dial; of the first host.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub location: Location,
    pub resolution: Resolution,
    pub visibility: Visibility,
    /// The waypoint that its status says it is behind: what this or another replica decided.
    pub bound: Option<WaypointKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    External,
    Internal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    pub name: Arc<str>,
    pub protocol: AppProtocol,
    /// The endpoints' port where these say nothing.
    pub target: u16,
}

/// How endpoints are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A connection goes on to the address that its client dialled.
    AsDialled,
    /// To these addresses.
    Static(Vec<Endpoint<IpAddr>>),
    /// To the pods of the namespace that have these labels.
    Pods(BTreeMap<Arc<str>, Arc<str>>),
    /// To what names stand for when somebody connects; the hosts themselves where there are no endpoints.
    Dns {
        endpoints: Vec<Endpoint<Target>>,
        /// Only the first address of each answer is used.
        first_only: bool,
    },
}

/// A name or an address that needs no look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Address(IpAddr),
    Name(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint<A> {
    pub address: A,
    /// By the name of the service's port.
    pub ports: BTreeMap<Arc<str>, u16>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub weight: u32,
}

impl<A> Endpoint<A> {
    pub fn port(&self, port: &Port) -> u16 {
        self.ports.get(&port.name).copied().unwrap_or(port.target)
    }
}

impl ServiceEntry {
    /// `bound` is what the object's status says of a waypoint.
    ///
    /// # Errors
    /// Whatever cannot be in effect as it is written: nothing of an entry is taken in part.
    pub fn parse(
        spec: &raw::ServiceEntry,
        meta: &Meta,
        bound: Option<WaypointKey>,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let hosts = hosts(&spec.hosts, notices)?;
        let ports = ports(&spec.ports)?;
        let location = location(&spec.location)?;
        let resolution = endpoints::resolution(spec, &ports, notices)?;
        bounded(hosts.len(), ports.len(), spec.endpoints.len())?;
        let addresses = addresses(&spec.addresses)?;
        if hosts.len() > 1 && !addresses.is_empty() {
            let message = format!(
                "nothing tells hosts of one address apart; the addresses lead to {}, which is the first",
                hosts[0]
            );
            notices.push(Notice::warning("spec.addresses", message));
        }
        if location == Location::Internal && !matches!(resolution, Resolution::Pods(_)) {
            let message = "endpoints by address or name are connected to without the mesh's TLS, but for those that are addresses of its pods; select pods by workloadSelector";
            notices.push(Notice::not_supported("spec.location", message));
        }
        if !spec.subject_alt_names.is_empty() {
            let message =
                "no certificate of an endpoint is checked for it: TLS to endpoints is the client's own";
            notices.push(Notice::not_supported("spec.subjectAltNames", message));
        }
        Ok(Self {
            hosts,
            addresses,
            ports,
            location,
            resolution,
            visibility: Visibility::parse(&spec.export_to, &meta.namespace)?,
            bound,
        })
    }

    /// The addresses that belong to this host.
    pub fn addresses_of(&self, host: &str) -> &[IpAddr] {
        match self.hosts.first() {
            Some(first) if first.matches(host) => &self.addresses,
            _ => &[],
        }
    }

    /// The addresses that endpoints are written with, each with the endpoint's number.
    pub fn endpoint_addresses(&self) -> impl Iterator<Item = (usize, IpAddr)> {
        let (fixed, found): (&[_], &[_]) = match &self.resolution {
            Resolution::Static(endpoints) => (endpoints, &[]),
            Resolution::Dns { endpoints, .. } => (&[], endpoints),
            Resolution::AsDialled | Resolution::Pods(_) => (&[], &[]),
        };
        let found = found.iter().enumerate();
        let found = found.filter_map(|(i, endpoint)| match &endpoint.address {
            Target::Address(ip) => Some((i, *ip)),
            Target::Name(_) => None,
        });
        let fixed = fixed.iter().enumerate();
        fixed.map(|(i, endpoint)| (i, endpoint.address)).chain(found)
    }
}

fn bounded(hosts: usize, ports: usize, endpoints: usize) -> Result<(), Rejection> {
    let served = hosts * ports;
    if served > MAX_SERVED {
        let reason = format!(
            "are {hosts}, with {ports} ports each: {served} in all, of which at most {MAX_SERVED} are taken; write several entries"
        );
        return Err(Rejection::unsupported("spec.hosts", reason));
    }
    let records = served * endpoints.max(1);
    if records > MAX_RECORDS {
        let reason = format!(
            "are {endpoints}, for {hosts} hosts with {ports} ports each: {records} records, of which at most {MAX_RECORDS} are taken; write several entries"
        );
        return Err(Rejection::unsupported("spec.endpoints", reason));
    }
    Ok(())
}

fn hosts(written: &[Arc<str>], notices: &mut Vec<Notice>) -> Result<Vec<HostPattern>, Rejection> {
    if written.is_empty() || written.len() > MAX_HOSTS {
        let reason = format!("has {} entries; expected 1 to {MAX_HOSTS}", written.len());
        return Err(Rejection::invalid("spec.hosts", reason));
    }
    let mut hosts = Vec::with_capacity(written.len());
    for (i, text) in written.iter().enumerate() {
        let field = format!("spec.hosts[{i}]");
        let host = exact_host(text, &field)?;
        if !text.contains('.') {
            let message = format!(
                "rules take the name {:?}, which has no dot, for a Service of their own namespace; write a full name",
                shorten(text)
            );
            notices.push(Notice::warning(field, message));
        }
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(hosts)
}

fn exact_host(text: &str, field: &str) -> Result<HostPattern, Rejection> {
    match HostPattern::parse(text, field)? {
        HostPattern::Exact(host)
            if host.ends_with(&format!(".svc.{CLUSTER_DOMAIN}")) || host.ends_with(".svc") =>
        {
            let reason = format!(
                "host {host} is a name of Kubernetes Services, where a Service always has its name; write another name, or a Service with an EndpointSlice"
            );
            Err(Rejection::unsupported(field, reason))
        }
        exact @ HostPattern::Exact(_) => Ok(exact),
        HostPattern::Suffix(_) | HostPattern::Any => {
            let reason = format!(
                "wildcard {:?} is not supported: what a client means by a name that matches cannot be looked up; list the names",
                shorten(text)
            );
            Err(Rejection::unsupported(field, reason))
        }
    }
}

fn addresses(written: &[Arc<str>]) -> Result<Vec<IpAddr>, Rejection> {
    if written.len() > MAX_ADDRESSES {
        let reason = format!("has {} entries; at most {MAX_ADDRESSES} are taken", written.len());
        return Err(Rejection::invalid("spec.addresses", reason));
    }
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(written.len());
    for (i, text) in written.iter().enumerate() {
        let ip = address(text, &format!("spec.addresses[{i}]"))?;
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    Ok(addresses)
}

fn address(text: &str, field: &str) -> Result<IpAddr, Rejection> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return usable(ip.to_canonical(), field);
    }
    let range = text.split_once('/').and_then(|(ip, length)| {
        let ip: IpAddr = ip.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        let whole = if ip.is_ipv4() { 32 } else { 128 };
        (length <= whole).then_some((ip, length == whole))
    });
    match range {
        Some((ip, true)) => usable(ip.to_canonical(), field),
        Some((_, false)) => {
            let reason = format!(
                "range {:?} is not supported; connections to its addresses go on as they are, also without a ServiceEntry. List single addresses",
                shorten(text)
            );
            Err(Rejection::unsupported(field, reason))
        }
        None => Err(Rejection::invalid(
            field,
            format!("{:?} is not an IP address", shorten(text)),
        )),
    }
}

fn usable(ip: IpAddr, field: &str) -> Result<IpAddr, Rejection> {
    if !is_of_a_host(ip) {
        let reason =
            format!("{ip} is an address of nobody, of every host itself, of its own link, or of a group");
        return Err(Rejection::invalid(field, reason));
    }
    Ok(ip)
}

fn ports(written: &[raw::EntryPort]) -> Result<Vec<Port>, Rejection> {
    if written.is_empty() || written.len() > MAX_PORTS {
        let reason = format!("has {} entries; expected 1 to {MAX_PORTS}", written.len());
        return Err(Rejection::invalid("spec.ports", reason));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::with_capacity(written.len());
    for (i, port) in written.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        let parsed = self::port(port, &field)?;
        if !numbers.insert(parsed.number) {
            return Err(Rejection::invalid(format!("{field}.number"), "is there twice"));
        }
        if !names.insert(parsed.name.clone()) {
            return Err(Rejection::invalid(format!("{field}.name"), "is there twice"));
        }
        ports.push(parsed);
    }
    Ok(ports)
}

fn port(raw: &raw::EntryPort, field: &str) -> Result<Port, Rejection> {
    let Some(number) = raw.number.filter(|n| *n != 0) else {
        return Err(Rejection::invalid(
            format!("{field}.number"),
            "is missing; expected 1 to 65535",
        ));
    };
    if raw.name.is_empty() || raw.name.len() > 256 {
        return Err(Rejection::invalid(
            format!("{field}.name"),
            "is missing, or longer than 256 bytes",
        ));
    }
    let upper = raw.protocol.to_ascii_uppercase();
    let protocol = match upper.as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTPS" | "TLS" | "TCP" | "MONGO" | "MYSQL" | "REDIS" => {
            detect(&upper, "", number)
        }
        "" => detect(&raw.name, "", number),
        "UDP" => {
            let reason = "UDP is not supported by this version";
            return Err(Rejection::unsupported(format!("{field}.protocol"), reason));
        }
        _ => {
            let reason = format!(
                "is {:?}; expected HTTP, HTTP2, GRPC, HTTPS, TLS, TCP, MONGO, MYSQL or REDIS",
                shorten(&raw.protocol)
            );
            return Err(Rejection::invalid(format!("{field}.protocol"), reason));
        }
    };
    Ok(Port {
        number,
        name: raw.name.clone(),
        protocol,
        target: raw.target_port.filter(|n| *n != 0).unwrap_or(number),
    })
}

fn location(text: &str) -> Result<Location, Rejection> {
    match text {
        "" | "MESH_EXTERNAL" => Ok(Location::External),
        "MESH_INTERNAL" => Ok(Location::Internal),
        other => Err(Rejection::invalid(
            "spec.location",
            format!("is {:?}; expected MESH_EXTERNAL or MESH_INTERNAL", shorten(other)),
        )),
    }
}
