//! VirtualService: hosts, where it applies, and its routing rules, validated.

mod action;
mod matching;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::host::HostPattern;
use crate::model::visibility::Visibility;
use crate::objects::istio as raw;
use crate::objects::{Meta, Notice, Rejection};

pub use action::{
    Abort, Action, Cors, Destination, HeaderEdits, HttpForward, MirrorTo, PathRedirect, Redirect,
    RetryPolicy, Rewrite, WeightedDestination,
};
pub use matching::{HeaderCondition, HttpCondition, PathCondition, SourceCondition};
pub use tls::{TlsCondition, TlsRule};

/// The cluster domain is part of every qualified host; one per control plane.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Where a rule applies: to clients in the mesh, or at a Gateway object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayRef {
    Mesh,
    Gateway { namespace: Arc<str>, name: Arc<str> },
}

#[derive(Clone, Debug)]
pub struct VirtualService {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub hosts: Vec<HostPattern>,
    pub gateways: Vec<GatewayRef>,
    pub visibility: Visibility,
    pub http: Vec<HttpRule>,
    pub tcp: Vec<TcpRule>,
    /// Only gateways look at what TLS asks for.
    pub tls: Vec<TlsRule>,
}

/// One rule of `http`, with its conditions OR-ed; no condition at all means every request.
#[derive(Clone, Debug)]
pub struct HttpRule {
    pub name: Arc<str>,
    pub conditions: Vec<HttpCondition>,
    pub action: Action,
    pub response_headers: HeaderEdits,
    pub request_headers: HeaderEdits,
}

/// One rule of `tcp`: weights per connection.
#[derive(Clone, Debug)]
pub struct TcpRule {
    pub conditions: Vec<TcpCondition>,
    pub destinations: Vec<WeightedDestination>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TcpCondition {
    pub port: Option<u16>,
    pub gateways: Vec<GatewayRef>,
}

/// More rules than this in one object are refused; Envoy itself gets slow far below.
const MAX_RULES: usize = 2000;

impl VirtualService {
    pub fn parse(
        spec: &raw::VirtualService,
        meta: &Meta,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let ns = &meta.namespace;
        if spec.hosts.is_empty() {
            return Err(Rejection::unsupported(
                "spec.hosts",
                "is empty: delegated VirtualServices are not supported by this version",
            ));
        }
        if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
            return Err(Rejection::invalid(
                "spec",
                "has no rule; expected http, tls or tcp",
            ));
        }
        if spec.http.len() + spec.tcp.len() + spec.tls.len() > MAX_RULES {
            return Err(Rejection::invalid(
                "spec.http",
                format!("has more than {MAX_RULES} rules"),
            ));
        }
        let hosts = parse_hosts(&spec.hosts, ns)?;
        let gateways =
            parse_gateways(&spec.gateways, ns, "spec.gateways")?.unwrap_or_else(|| vec![GatewayRef::Mesh]);
        only_at_gateways(spec, &gateways, notices)?;
        Ok(Self {
            name: meta.name.clone(),
            namespace: ns.clone(),
            gateways,
            visibility: Visibility::parse(&spec.export_to, ns)?,
            http: indexed(&spec.http, "spec.http", |r, field| {
                HttpRule::parse(r, ns, field, notices)
            })?,
            tcp: indexed(&spec.tcp, "spec.tcp", |r, field| TcpRule::parse(r, ns, field))?,
            tls: indexed(&spec.tls, "spec.tls", |r, field| {
                TlsRule::parse(r, &hosts, ns, field)
            })?,
            hosts,
        })
    }

    pub fn is_mesh(&self) -> bool {
        self.gateways.contains(&GatewayRef::Mesh)
    }

    /// The most specific of its hosts that covers `host`.
    pub fn best_host(&self, host: &str) -> Option<&HostPattern> {
        self.hosts
            .iter()
            .filter(|h| h.matches(host))
            .max_by_key(|h| h.specificity())
    }
}

/// Inside the mesh, TLS of applications is bytes: where all would be for nobody, nothing is taken.
fn only_at_gateways(
    spec: &raw::VirtualService,
    gateways: &[GatewayRef],
    notices: &mut Vec<Notice>,
) -> Result<(), Rejection> {
    if spec.tls.is_empty() || !gateways.contains(&GatewayRef::Mesh) {
        return Ok(());
    }
    let reason =
        "routing of TLS by SNI is supported at gateways only by this version, not for clients in the mesh";
    if gateways.len() == 1 {
        return Err(Rejection::unsupported("spec.tls", reason));
    }
    notices.push(Notice::not_supported("spec.tls", reason));
    Ok(())
}

fn parse_hosts(hosts: &[Arc<str>], ns: &str) -> Result<Vec<HostPattern>, Rejection> {
    let mut parsed: Vec<HostPattern> = Vec::with_capacity(hosts.len());
    let mut seen = BTreeSet::new();
    for (i, host) in hosts.iter().enumerate() {
        let field = format!("spec.hosts[{i}]");
        let pattern = HostPattern::parse(host, &field)?.qualify(ns, CLUSTER_DOMAIN);
        if !seen.insert(pattern.clone()) {
            return Err(Rejection::invalid(
                field,
                format!("host {host:?} is listed twice"),
            ));
        }
        parsed.push(pattern);
    }
    Ok(parsed)
}

/// `mesh`, `name`, `namespace/name`, `./name`, or the old `name.namespace.svc.cluster.local`.
fn parse_gateways(
    list: &[Arc<str>],
    ns: &Arc<str>,
    field: &str,
) -> Result<Option<Vec<GatewayRef>>, Rejection> {
    if list.is_empty() {
        return Ok(None);
    }
    let parse = |(i, text): (usize, &Arc<str>)| gateway_ref(text, ns, &format!("{field}[{i}]"));
    list.iter()
        .enumerate()
        .map(parse)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn gateway_ref(text: &Arc<str>, ns: &Arc<str>, field: &str) -> Result<GatewayRef, Rejection> {
    if &**text == "mesh" {
        return Ok(GatewayRef::Mesh);
    }
    let (namespace, name): (Arc<str>, Arc<str>) = match text.split_once('/') {
        Some((".", name)) => (ns.clone(), name.into()),
        Some((namespace, name)) => (namespace.into(), name.into()),
        None => match text
            .strip_suffix(".svc.cluster.local")
            .and_then(|n| n.split_once('.'))
        {
            Some((name, namespace)) => (namespace.into(), name.into()),
            None => (ns.clone(), text.clone()),
        },
    };
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        let reason = format!("{text:?} is none of \"mesh\", NAME and NAMESPACE/NAME");
        return Err(Rejection::invalid(field, reason));
    }
    Ok(GatewayRef::Gateway { namespace, name })
}

pub(crate) fn indexed<R, T>(
    list: &[R],
    field: &str,
    mut parse: impl FnMut(&R, &str) -> Result<T, Rejection>,
) -> Result<Vec<T>, Rejection> {
    list.iter()
        .enumerate()
        .map(|(i, item)| parse(item, &format!("{field}[{i}]")))
        .collect()
}

impl HttpRule {
    fn parse(
        rule: &raw::HttpRoute,
        ns: &Arc<str>,
        field: &str,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let at = |name: &str| format!("{field}.{name}");
        if rule.delegate.is_some() {
            return Err(Rejection::unsupported(
                at("delegate"),
                "delegation is not supported by this version",
            ));
        }
        let headers = rule.headers.as_ref();
        Ok(Self {
            name: rule.name.clone(),
            conditions: indexed(&rule.r#match, &at("match"), |m, f| HttpCondition::parse(m, ns, f))?,
            action: Action::parse(rule, ns, field, notices)?,
            request_headers: HeaderEdits::parse(
                headers.and_then(|h| h.request.as_ref()),
                &at("headers.request"),
            )?,
            response_headers: HeaderEdits::parse(
                headers.and_then(|h| h.response.as_ref()),
                &at("headers.response"),
            )?,
        })
    }

    /// Whether every request matches: such a rule ends the list.
    pub fn is_catch_all(&self) -> bool {
        self.conditions.is_empty() || self.conditions.iter().any(HttpCondition::is_catch_all)
    }
}

impl TcpRule {
    fn parse(rule: &raw::TcpRoute, ns: &Arc<str>, field: &str) -> Result<Self, Rejection> {
        Ok(Self {
            conditions: indexed(&rule.r#match, &format!("{field}.match"), |m, f| {
                TcpCondition::parse(m, ns, f)
            })?,
            destinations: action::tcp_destinations(&rule.route, ns, &format!("{field}.route"))?,
        })
    }
}

impl TcpCondition {
    fn parse(m: &raw::TcpMatch, ns: &Arc<str>, field: &str) -> Result<Self, Rejection> {
        let refuse = |name: &str| {
            Err(Rejection::unsupported(
                format!("{field}.{name}"),
                "is not supported for tcp by this version",
            ))
        };
        if !m.destination_subnets.is_empty() {
            return refuse("destinationSubnets");
        }
        if !m.source_subnet.is_empty() {
            return refuse("sourceSubnet");
        }
        if !m.source_labels.is_empty() {
            return refuse("sourceLabels");
        }
        if !m.source_namespace.is_empty() {
            return refuse("sourceNamespace");
        }
        Ok(Self {
            port: m.port,
            gateways: parse_gateways(&m.gateways, ns, &format!("{field}.gateways"))?.unwrap_or_default(),
        })
    }
}
