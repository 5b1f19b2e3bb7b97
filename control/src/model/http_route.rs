//! HTTPRoute: parents, hosts and rules, validated. The rules are those of VirtualServices but for their destinations,
//! which depend on the grants of other namespaces.

mod backends;
mod filters;
mod matching;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::model::field::duration;
use crate::model::host::HostPattern;
use crate::model::virtual_service::{Action, HttpForward, HttpRule, RetryPolicy, Rewrite, indexed};
use crate::objects::gateway_api::{self as raw, ParentReference};
use crate::objects::{GATEWAY_API, Meta, RawObject, Rejection};

pub use backends::{Backend, BackendTarget};
use filters::Filters;
pub use matching::Rank;

/// Answered where a route names nothing that could answer.
pub const NO_BACKEND: u16 = 500;

#[derive(Clone, Debug)]
pub struct HttpRoute {
    pub parents: Vec<ParentRef>,
    /// Empty for those of the listener.
    pub hostnames: Vec<HostPattern>,
    pub rules: Vec<RouteRule>,
}

/// A parent that a route names, and how it names it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentRef {
    pub kind: ParentKind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// The name of a Gateway's listener.
    pub section: Option<Arc<str>>,
    pub port: Option<u16>,
    /// As it is written, for the status.
    pub written: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentKind {
    Gateway,
    Service,
    /// Nothing that this mesh knows.
    Other,
}

#[derive(Clone, Debug)]
pub struct RouteRule {
    /// Each match with its rank among all; never empty.
    pub matches: Vec<Rank>,
    /// Without destinations where it forwards.
    pub rule: HttpRule,
    pub backends: Vec<Backend>,
    /// Neither scheme nor port is said: a redirect leads to the port of the listener.
    pub redirects_to_listener: bool,
}

impl HttpRoute {
    pub fn parse(spec: &raw::HttpRoute, meta: &Meta) -> Result<Self, Rejection> {
        Ok(Self {
            parents: parents(&spec.parent_refs, meta),
            hostnames: indexed(&spec.hostnames, "spec.hostnames", hostname)?,
            rules: rules(&spec.rules, &meta.namespace)?,
        })
    }
}

/// The parents of a route that may be wrong otherwise.
pub fn parents_of(raw: &RawObject, meta: &Meta) -> Vec<ParentRef> {
    let list = raw.value.pointer("/spec/parentRefs").and_then(Value::as_array);
    parents(list.map_or(&[][..], Vec::as_slice), meta)
}

pub(super) fn parents(list: &[Value], meta: &Meta) -> Vec<ParentRef> {
    list.iter()
        .filter_map(|value| ParentRef::read(value, &meta.namespace))
        .collect()
}

impl ParentRef {
    /// `None` for what is no reference at all.
    fn read(written: &Value, namespace: &Arc<str>) -> Option<Self> {
        let reference: ParentReference = serde_json::from_value(written.clone()).ok()?;
        let group = reference.group.as_deref().unwrap_or(GATEWAY_API);
        let kind = match (group, reference.kind.as_deref().unwrap_or("Gateway")) {
            (GATEWAY_API, "Gateway") => ParentKind::Gateway,
            ("" | "core", "Service") => ParentKind::Service,
            _ => ParentKind::Other,
        };
        Some(Self {
            kind,
            namespace: reference.namespace.unwrap_or_else(|| namespace.clone()),
            name: reference.name,
            section: reference.section_name,
            port: reference.port,
            written: written.clone(),
        })
    }
}

pub(super) fn hostname(text: &Arc<str>, field: &str) -> Result<HostPattern, Rejection> {
    match HostPattern::parse(text, field)? {
        HostPattern::Any => Err(Rejection::invalid(
            field,
            "is *; leave hostnames out for all of the listener's",
        )),
        HostPattern::Exact(host) if host.parse::<std::net::IpAddr>().is_ok() => Err(Rejection::invalid(
            field,
            format!("{host} is an address; expected a name"),
        )),
        pattern => Ok(pattern),
    }
}

/// The API's own limit, in rules.
const MAX_RULES: usize = 16;

fn rules(list: &[raw::HttpRule], namespace: &Arc<str>) -> Result<Vec<RouteRule>, Rejection> {
    if list.len() > MAX_RULES {
        return Err(Rejection::invalid(
            "spec.rules",
            format!("has more than {MAX_RULES} rules"),
        ));
    }
    if list.is_empty() {
        // What the API's default would be: everything, with no backend.
        return Ok(vec![RouteRule::parse(
            &raw::HttpRule::default(),
            namespace,
            "spec.rules[0]",
        )?]);
    }
    indexed(list, "spec.rules", |rule, field| {
        RouteRule::parse(rule, namespace, field)
    })
}

impl RouteRule {
    fn parse(rule: &raw::HttpRule, namespace: &Arc<str>, field: &str) -> Result<Self, Rejection> {
        let at = |name: &str| format!("{field}.{name}");
        let matches = matching::parse(&rule.matches, &at("matches"))?;
        let filters = Filters::parse(&rule.filters, &matches, &at("filters"))?;
        let backends = indexed(&rule.backend_refs, &at("backendRefs"), |b, f| {
            Backend::parse(b, namespace, f)
        })?;
        let redirects_to_listener = filters.redirects_to_listener;
        let action = match filters.redirect {
            Some(_) if !backends.is_empty() => {
                let reason = "cannot be used together with a RequestRedirect";
                return Err(Rejection::invalid(at("backendRefs"), reason));
            }
            Some(redirect) => Action::Redirect(redirect),
            None => Action::Forward(Box::new(forward(rule.timeouts.as_ref(), filters.rewrite, field)?)),
        };
        Ok(Self {
            rule: HttpRule {
                name: rule.name.clone(),
                conditions: matches.iter().map(|m| m.condition.clone()).collect(),
                action,
                response_headers: filters.response_headers,
                request_headers: filters.request_headers,
            },
            matches,
            backends,
            redirects_to_listener,
        })
    }
}

fn forward(
    timeouts: Option<&raw::Timeouts>,
    rewrite: Rewrite,
    field: &str,
) -> Result<HttpForward, Rejection> {
    let limit = |name: &str, text: Option<&Arc<str>>| -> Result<Option<Duration>, Rejection> {
        let parse = |t: &Arc<str>| timeout(t, &format!("{field}.timeouts.{name}"));
        Ok(text.map(parse).transpose()?.filter(|t| !t.is_zero()))
    };
    let request = limit("request", timeouts.and_then(|t| t.request.as_ref()))?;
    let backend = limit(
        "backendRequest",
        timeouts.and_then(|t| t.backend_request.as_ref()),
    )?;
    if let (Some(request), Some(backend)) = (request, backend)
        && backend > request
    {
        let reason = "is longer than timeouts.request, in which it lies";
        return Err(Rejection::invalid(
            format!("{field}.timeouts.backendRequest"),
            reason,
        ));
    }
    Ok(HttpForward {
        destinations: Vec::new(),
        rewrite,
        timeout: request,
        retries: RetryPolicy {
            per_try_timeout: backend,
            ..RetryPolicy::default()
        },
        delay: None,
        abort: None,
        mirrors: Vec::new(),
        cors: None,
        not_found: NO_BACKEND,
    })
}

/// GEP-2257: whole numbers of h, m, s and ms, each of at most five digits.
fn timeout(text: &str, field: &str) -> Result<Duration, Rejection> {
    let whole = text.bytes().all(|b| b.is_ascii_digit() || b"hms".contains(&b));
    if !whole || text.len() > 28 {
        let reason = format!(
            "{:?} is not a duration such as 500ms or 1m30s",
            crate::model::field::shorten(text)
        );
        return Err(Rejection::invalid(field, reason));
    }
    duration(text, field)
}

#[cfg(test)]
mod tests;
