//! Where a route leads: backends that exist and may be referred to; for the share of the others requests get 500, and
//! connections are closed.

use std::sync::Arc;

use crate::compile::discovery::{Discovery, hostname};
use crate::compile::gateway_api::grants::{self, Referent, Referrer};
use crate::compile::gateway_api::route::Route;
use crate::compile::inputs::{Entry, Inputs};
use crate::model::http_route::{Backend, BackendTarget, NO_BACKEND, RouteRule};
use crate::model::stream_route::{RouteKind, StreamRoute};
use crate::model::virtual_service::{
    Action, Destination, HeaderEdits, HttpRule, Redirect, WeightedDestination,
};

/// RFC 2606: no service is called so, and no cluster.
pub const NOWHERE: &str = "backend.invalid";

/// A backend that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As the Gateway API calls it.
    pub reason: &'static str,
    pub field: String,
    pub message: String,
}

/// All backends of the route that lead nowhere.
pub(super) fn problems(inputs: &Inputs, discovery: &Discovery, route: Route<'_>) -> Vec<Problem> {
    let from = Referrer {
        kind: route.kind().as_str(),
        namespace: &route.meta().namespace,
    };
    let problem = |backend: &Backend| find(inputs, discovery, from, backend).1;
    route.backends().into_iter().filter_map(problem).collect()
}

/// Where the connections of a route go by weight; nowhere is a destination, too.
pub fn stream_destinations(
    inputs: &Inputs,
    discovery: &Discovery,
    route: &Entry<StreamRoute>,
) -> Vec<WeightedDestination> {
    let from = Referrer {
        kind: route.spec.kind.as_str(),
        namespace: &route.meta.namespace,
    };
    let weighted = route.spec.backends.iter().filter(|b| b.weight > 0);
    let found = weighted.map(|b| plain(find(inputs, discovery, from, b).0, b.weight));
    let found: Vec<_> = found.collect();
    if !found.is_empty() {
        return found;
    }
    let nowhere = Destination {
        host: NOWHERE.into(),
        subset: None,
        port: None,
        field: String::new(),
    };
    vec![plain(nowhere, 1)]
}

fn plain(destination: Destination, weight: u32) -> WeightedDestination {
    WeightedDestination {
        destination,
        weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    }
}

/// Where the requests of a rule come in.
#[derive(Clone, Copy, Debug)]
pub struct Entrance {
    pub port: u16,
    pub is_https: bool,
}

/// The rule with its destinations, for requests that come in there.
pub fn effective(
    inputs: &Inputs,
    discovery: &Discovery,
    namespace: &str,
    rule: &RouteRule,
    entrance: Entrance,
) -> HttpRule {
    let mut made = rule.rule.clone();
    let nothing = Action::Respond {
        status: u32::from(NO_BACKEND),
        body: Vec::new(),
    };
    match &mut made.action {
        Action::Respond { .. } => {}
        Action::Redirect(redirect) => {
            redirect.port = redirect_port(redirect, rule.redirects_to_listener, entrance)
        }
        Action::Forward(forward) => {
            let from = Referrer {
                kind: RouteKind::Http.as_str(),
                namespace,
            };
            let weighted = rule.backends.iter().filter(|b| b.weight > 0);
            let weighted = weighted.map(|backend| WeightedDestination {
                destination: find(inputs, discovery, from, backend).0,
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
fn redirect_port(redirect: &Redirect, to_listener: bool, entrance: Entrance) -> Option<u16> {
    let port = if to_listener {
        Some(entrance.port)
    } else {
        redirect.port
    };
    let known = match redirect.scheme.as_deref() {
        Some("https") => 443,
        None if entrance.is_https => 443,
        _ => 80,
    };
    port.filter(|p| *p != known)
}

/// Where a backend leads, and why it leads nowhere.
fn find(
    inputs: &Inputs,
    discovery: &Discovery,
    from: Referrer<'_>,
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
    from: Referrer<'_>,
    target: &'b BackendTarget,
) -> Result<(&'b Arc<str>, &'b Arc<str>, u16), Refusal> {
    match target {
        BackendTarget::Other(kind) => {
            let message = format!("{kind} is nothing that traffic can be sent to; only Service is");
            Err(("InvalidKind", message))
        }
        BackendTarget::Service {
            namespace,
            name,
            port,
        } => {
            let to = Referent {
                kind: "Service",
                namespace,
                name,
            };
            if grants::allow(inputs, from, to) {
                return Ok((namespace, name, *port));
            }
            Err(("RefNotPermitted", grants::missing(from, to)))
        }
    }
}

fn missing(discovery: &Discovery, host: &str, port: u16) -> Option<String> {
    match discovery.services_by_host(host).next() {
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
