//! Where the rules of a route lead: backends that exist and may be referred to, and 500 for the share of the others.

use std::sync::Arc;

use crate::compile::discovery::{Discovery, hostname};
use crate::compile::inputs::{Entry, Inputs};
use crate::model::http_route::{Backend, BackendTarget, HttpRoute, NO_BACKEND, RouteRule};
use crate::model::virtual_service::{Action, Destination, HttpRule, Redirect, WeightedDestination};
use crate::objects::GATEWAY_API;

/// RFC 2606: no service is called so, and no cluster.
const NOWHERE: &str = "backend.invalid";

/// A backend that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As the Gateway API calls it.
    pub reason: &'static str,
    pub field: String,
    pub message: String,
}

/// All backends of the route that lead nowhere.
pub(super) fn problems(inputs: &Inputs, discovery: &Discovery, route: &Entry<HttpRoute>) -> Vec<Problem> {
    let backends = route.spec.rules.iter().flat_map(|rule| &rule.backends);
    let problem = |backend| find(inputs, discovery, &route.meta.namespace, backend).1;
    backends.filter_map(problem).collect()
}

/// The rule with its destinations, for requests that come in at `port`.
pub fn effective(
    inputs: &Inputs,
    discovery: &Discovery,
    namespace: &str,
    rule: &RouteRule,
    port: u16,
) -> HttpRule {
    let mut made = rule.rule.clone();
    let nothing = Action::Respond {
        status: u32::from(NO_BACKEND),
        body: Vec::new(),
    };
    match &mut made.action {
        Action::Respond { .. } => {}
        Action::Redirect(redirect) => {
            redirect.port = redirect_port(redirect, rule.redirects_to_listener, port)
        }
        Action::Forward(forward) => {
            let weighted = rule.backends.iter().filter(|b| b.weight > 0);
            let weighted = weighted.map(|backend| WeightedDestination {
                destination: find(inputs, discovery, namespace, backend).0,
                weight: backend.weight,
                request_headers: backend.request_headers.clone(),
                response_headers: backend.response_headers.clone(),
            });
            forward.destinations = weighted.collect();
            if forward.destinations.is_empty() {
                made.action = nothing;
            }
        }
    }
    made
}

/// The port in the location; none where it goes without saying.
fn redirect_port(redirect: &Redirect, to_listener: bool, listener: u16) -> Option<u16> {
    let port = if to_listener {
        Some(listener)
    } else {
        redirect.port
    };
    let known = match redirect.scheme.as_deref() {
        Some("https") => 443,
        // Listeners speak plain HTTP.
        _ => 80,
    };
    port.filter(|p| *p != known)
}

/// Where a backend leads, and why it leads nowhere.
fn find(
    inputs: &Inputs,
    discovery: &Discovery,
    from: &str,
    backend: &Backend,
) -> (Destination, Option<Problem>) {
    let problem = |(reason, message)| Problem {
        reason,
        field: backend.field.clone(),
        message,
    };
    match permitted(inputs, from, &backend.target) {
        Err(refusal) => (destination(NOWHERE, None, backend), Some(problem(refusal))),
        Ok((namespace, name, port)) => {
            let host = hostname(name, namespace);
            let found = destination(&host, Some(port), backend);
            let missing = missing(discovery, &host, port).map(|message| ("BackendNotFound", message));
            (found, missing.map(problem))
        }
    }
}

type Refusal = (&'static str, String);

/// The Service that the backend names, where it may.
fn permitted<'b>(
    inputs: &Inputs,
    from: &str,
    target: &'b BackendTarget,
) -> Result<(&'b Arc<str>, &'b Arc<str>, u16), Refusal> {
    match target {
        BackendTarget::Other(kind) => {
            let message = format!("{kind} is nothing that requests can be sent to; only Service is");
            Err(("InvalidKind", message))
        }
        BackendTarget::Service {
            namespace,
            name,
            port,
        } => {
            if **namespace == *from || is_granted(inputs, from, namespace, name) {
                return Ok((namespace, name, *port));
            }
            let message = format!(
                "no ReferenceGrant of namespace {namespace} allows HTTPRoutes of namespace {from} to refer to Service {name}"
            );
            Err(("RefNotPermitted", message))
        }
    }
}

fn missing(discovery: &Discovery, host: &str, port: u16) -> Option<String> {
    match discovery.service_by_host(host) {
        None => Some(format!("no Service has the host {host}")),
        Some(entry) if entry.service.port(port).is_none() => {
            Some(format!("Service {host} has no port {port}"))
        }
        Some(_) => None,
    }
}

fn destination(host: &str, port: Option<u16>, backend: &Backend) -> Destination {
    Destination {
        host: host.into(),
        subset: None,
        port,
        field: backend.field.clone(),
    }
}

/// Whether HTTPRoutes of one namespace may refer to a Service of another.
fn is_granted(inputs: &Inputs, from: &str, to: &str, name: &Arc<str>) -> bool {
    let grants = inputs.grants.iter().filter(|g| *g.meta.namespace == *to);
    grants.into_iter().any(|grant| {
        let comes = grant
            .spec
            .from
            .iter()
            .any(|f| &*f.group == GATEWAY_API && &*f.kind == "HTTPRoute" && *f.namespace == *from);
        let may = |t: &crate::objects::gateway_api::GrantTo| {
            t.group.is_empty()
                && &*t.kind == "Service"
                && t.name.as_ref().is_none_or(|n| n.is_empty() || n == name)
        };
        comes && grant.spec.to.iter().any(may)
    })
}
