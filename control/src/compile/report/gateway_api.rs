//! What is said about Gateways, classes and routes of the Gateway API, in the form that it asks for.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Audience, Condition, ObjectReport, PodName};
use crate::compile::Compiled;
use crate::compile::discovery::is_waypoint_class;
use crate::compile::gateway_api::attach::is_ours;
use crate::compile::gateway_api::classes::{self, Class};
use crate::compile::gateway_api::listeners::{OpenGateway, OpenListener};
use crate::compile::gateway_api::{CONTROLLER, RouteState, WAYPOINT_CONTROLLER, ready_pods};
use crate::compile::waypoints::{HBONE_PORT, WaypointKey};
use crate::model::http_route::{HttpRoute, ParentKind, ParentRef, parents_of};
use crate::objects::gateway_api::{Gateway, GatewayClass};
use crate::objects::{GATEWAY_API, Notice, NoticeKind, ParsedObject, Rejection, RejectionKind};

/// What is said about a route at one parent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReport {
    /// The reference as it is written.
    pub parent_ref: Value,
    pub conditions: Vec<Condition>,
}

impl ParentReport {
    pub fn is_accepted(&self) -> bool {
        self.conditions
            .iter()
            .any(|c| c.kind == "Accepted" && c.status == "True")
    }
}

/// What is said about a listener.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerReport {
    pub name: std::sync::Arc<str>,
    pub supported_kinds: Vec<Value>,
    pub attached_routes: usize,
    pub conditions: Vec<Condition>,
}

/// Features by the names of the API's conformance tests.
const FEATURES: [&str; 20] = [
    "Gateway",
    "GatewayHTTPListenerIsolation",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "Mesh",
    "MeshConsumerRoute",
    "ReferenceGrant",
];

/// `None` for a class of another implementation.
pub(super) fn class(class: &GatewayClass, report: &mut ObjectReport) -> Option<()> {
    if ![CONTROLLER, WAYPOINT_CONTROLLER].contains(&&*class.controller_name) {
        return None;
    }
    let accepted = Condition::new(
        "Accepted",
        true,
        "Accepted",
        "the mesh answers for Gateways of this class",
    );
    report.conditions.push(accepted);
    if &*class.controller_name == CONTROLLER {
        let features: Vec<Value> = FEATURES.iter().map(|name| json!({ "name": name })).collect();
        report.fields.insert("supportedFeatures", features.into());
    }
    Some(())
}

/// `None` for a Gateway of another implementation: its status is not ours to write.
pub(super) fn gateway(
    compiled: &Compiled,
    object: &ParsedObject,
    gateway: &Gateway,
    report: &mut ObjectReport,
) -> Option<()> {
    let class = &gateway.gateway_class_name;
    match classes::of(&compiled.inputs, class) {
        Class::Foreign => return None,
        Class::Waypoint => waypoint(compiled, object, report),
        Class::Unsupported => {
            report.accepted = false;
            let message = format!("class {class:?} is not supported by this version");
            report
                .conditions
                .push(Condition::new("Accepted", false, "Unsupported", message));
        }
        Class::Gateway => {
            let key = (object.meta.namespace.clone(), object.meta.name.clone());
            open(compiled, compiled.gateway_api.gateways.get(&key)?, report);
        }
    }
    Some(())
}

fn waypoint(compiled: &Compiled, object: &ParsedObject, report: &mut ObjectReport) {
    let key = WaypointKey::new(&object.meta.namespace, &object.meta.name);
    let name = (key.namespace.clone(), key.name.clone());
    let accepted = Condition::new("Accepted", true, "Accepted", "the waypoint is deployed");
    report
        .conditions
        .push(wrong_parameters(compiled, &name).unwrap_or(accepted));
    let ready = compiled.waypoints.all.get(&key).is_some_and(|w| w.is_ready());
    let (reason, message) = match ready {
        true => (
            "Programmed",
            format!("waypoint {key} is ready on port {HBONE_PORT}"),
        ),
        false => ("Pending", format!("no pod of waypoint {key} is ready yet")),
    };
    report
        .conditions
        .push(Condition::new("Programmed", ready, reason, message));
    if ready {
        let addresses = inside(compiled, &key.service());
        report.fields.insert("addresses", addresses.into());
    }
}

/// The addresses that a Service has in the cluster, and its name.
fn inside(compiled: &Compiled, service: &aquifer_core::names::NamespacedHostname) -> Vec<Value> {
    let entry = compiled.discovery.services.get(service);
    let vips = entry.into_iter().flat_map(|s| s.service.vip_ips());
    let addresses = vips.map(|ip| json!({ "type": "IPAddress", "value": ip }));
    addresses
        .chain([json!({ "type": "Hostname", "value": *service.hostname })])
        .collect()
}

/// Where clients outside reach the Gateway; empty while nobody has assigned an address.
fn addresses(compiled: &Compiled, gateway: &OpenGateway) -> Vec<Value> {
    let Some(entry) = compiled.discovery.services.get(&gateway.service) else {
        return Vec::new();
    };
    if &*entry.spec.kind != "LoadBalancer" {
        return inside(compiled, &gateway.service);
    }
    let assigned = entry.spec.ingress.iter().map(|ingress| match &*ingress.ip {
        "" => json!({ "type": "Hostname", "value": *ingress.hostname }),
        ip => json!({ "type": "IPAddress", "value": ip }),
    });
    assigned.collect()
}

fn open(compiled: &Compiled, gateway: &OpenGateway, report: &mut ObjectReport) {
    let addresses = addresses(compiled, gateway);
    let name = crate::compile::gateway_api::name(&gateway.entry);
    let accepted = wrong_parameters(compiled, &name).unwrap_or_else(|| accepted(gateway));
    let programmed = programmed(compiled, gateway, &accepted, addresses.is_empty());
    let listeners = gateway.listeners.iter().map(|l| listener(l, &programmed));
    report.listeners = listeners.collect();
    report.accepted = accepted.status == "True";
    for refused in gateway.listeners.iter().filter(|l| !l.is_served()) {
        let why = if refused.accepted.status == "True" {
            &refused.conflicted
        } else {
            &refused.accepted
        };
        let message = format!("listener {} is not served: {}", refused.name, why.message);
        report.notices.push(Notice::warning("spec.listeners", message));
    }
    report.conditions.extend([accepted, programmed]);
    report.fields.insert("addresses", addresses.into());
}

/// The Gateway goes on as it was deployed last.
fn wrong_parameters(compiled: &Compiled, name: &crate::compile::gateway_api::Name) -> Option<Condition> {
    let problem = compiled.parameters.get(name)?.problem.as_ref()?;
    let message = format!("spec.infrastructure.parametersRef: {problem}; what was read last stays in effect");
    Some(Condition::new("Accepted", false, "InvalidParameters", message))
}

fn accepted(gateway: &OpenGateway) -> Condition {
    if let Some(reason) = &gateway.refused {
        return Condition::new("Accepted", false, "Invalid", reason.clone());
    }
    let served = gateway.listeners.iter().filter(|l| l.is_served()).count();
    let message = format!("{served} of {} listeners are valid", gateway.listeners.len());
    let reason = if served == gateway.listeners.len() {
        "Accepted"
    } else {
        "ListenersNotValid"
    };
    Condition::new("Accepted", served > 0, reason, message)
}

fn programmed(compiled: &Compiled, gateway: &OpenGateway, accepted: &Condition, homeless: bool) -> Condition {
    let no = |reason, message: String| Condition::new("Programmed", false, reason, message);
    let service = &gateway.service;
    if !gateway.listeners.iter().any(OpenListener::is_served) || gateway.refused.is_some() {
        return no("Invalid", accepted.message.clone());
    }
    if homeless {
        return no(
            "AddressNotAssigned",
            format!("Service {service} has no address yet"),
        );
    }
    match ready_pods(&compiled.discovery, gateway) {
        0 => no("Pending", format!("no pod behind Service {service} is ready yet")),
        ready => Condition::new(
            "Programmed",
            true,
            "Programmed",
            format!("served by {ready} pods behind Service {service}"),
        ),
    }
}

fn listener(listener: &OpenListener, gateway: &Condition) -> ListenerReport {
    let programmed = match listener.is_served() {
        true => Condition {
            message: "as the Gateway".to_owned(),
            ..gateway.clone()
        },
        false => Condition::new("Programmed", false, "Invalid", "the listener is not valid"),
    };
    let kind = |kind: &&str| json!({ "group": GATEWAY_API, "kind": kind });
    ListenerReport {
        name: listener.name.clone(),
        supported_kinds: listener.kinds.iter().map(kind).collect(),
        attached_routes: listener.routes.len(),
        conditions: vec![
            listener.accepted.clone(),
            listener.conflicted.clone(),
            listener.resolved.clone(),
            programmed,
        ],
    }
}

/// `None` for a route none of whose parents is ours.
pub(super) fn route(
    compiled: &Compiled,
    object: &ParsedObject,
    route: &HttpRoute,
    report: &mut ObjectReport,
) -> Option<()> {
    let key = (object.meta.namespace.clone(), object.meta.name.clone());
    // An object that is judged and not in the model yet, as by the webhook, has no state.
    let state = compiled.gateway_api.routes.get(&key)?;
    for parent in route.parents.iter().filter(|p| p.kind == ParentKind::Gateway) {
        report.notices.extend(missing_gateway(compiled, parent));
    }
    if state.parents.is_empty() && report.notices.is_empty() {
        return None;
    }
    let resolved = resolved(state);
    let parent = |p: &crate::compile::gateway_api::ParentState| ParentReport {
        parent_ref: p.parent.written.clone(),
        conditions: vec![p.accepted.clone(), resolved.clone()],
    };
    report.parents = Some(state.parents.iter().map(parent).collect());
    report.accepted = state.parents.iter().any(|p| p.accepted.status == "True");
    report.audience = Audience::Pods(audience(compiled, object, state));
    report.notices.extend(notices(compiled, state));
    Some(())
}

fn missing_gateway(compiled: &Compiled, parent: &ParentRef) -> Option<Notice> {
    let is_it = |m: &crate::objects::Meta| m.namespace == parent.namespace && m.name == parent.name;
    let exists = compiled.inputs.kube_gateways.iter().any(|g| is_it(&g.meta));
    let message = format!("no Gateway {}/{}", parent.namespace, parent.name);
    (!exists).then(|| Notice::unresolved("spec.parentRefs", message))
}

fn resolved(state: &RouteState) -> Condition {
    let Some(first) = state.problems.first() else {
        return Condition::new(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "everything that the route names exists",
        );
    };
    let texts: Vec<String> = state
        .problems
        .iter()
        .take(super::MAX_FINDINGS)
        .map(|p| format!("{}: {}", p.field, p.message))
        .collect();
    let message = format!("{}; their share of the requests gets 500", texts.join("; "));
    Condition::new("ResolvedRefs", false, first.reason, message)
}

fn notices(compiled: &Compiled, state: &RouteState) -> Vec<Notice> {
    let refused = state.parents.iter().filter(|p| p.accepted.status == "False");
    let mut notices: Vec<Notice> = refused
        .map(|p| {
            let kind = match p.accepted.reason {
                "ParentRefConflict" => NoticeKind::Conflict,
                _ => NoticeKind::Warning,
            };
            let message = format!(
                "{} {}/{}: {}",
                kind_of(&p.parent),
                p.parent.namespace,
                p.parent.name,
                p.accepted.message
            );
            Notice {
                kind,
                field: "spec.parentRefs".to_owned(),
                message,
            }
        })
        .collect();
    let of_backend =
        |p: &crate::compile::gateway_api::backends::Problem| Notice::unresolved(&*p.field, &*p.message);
    notices.extend(state.problems.iter().map(of_backend));
    for parent in state.parents.iter().filter(|p| p.accepted.status == "True") {
        notices.extend(unserved(compiled, &parent.parent));
    }
    notices
}

fn kind_of(parent: &ParentRef) -> &'static str {
    if parent.kind == ParentKind::Service {
        "Service"
    } else {
        "Gateway"
    }
}

/// A Service parent that no waypoint serves yet.
fn unserved(compiled: &Compiled, parent: &ParentRef) -> Option<Notice> {
    if parent.kind != ParentKind::Service {
        return None;
    }
    let host = crate::compile::discovery::hostname(&parent.name, &parent.namespace);
    let service = aquifer_core::names::NamespacedHostname::new(&parent.namespace, &host);
    super::findings::without_waypoint(compiled, &service)
        .map(|message| Notice::unserved("spec.parentRefs", message))
}

/// The pods of all Gateways and waypoints that have to hold the route.
fn audience(compiled: &Compiled, object: &ParsedObject, state: &RouteState) -> BTreeSet<PodName> {
    let accepted = state.parents.iter().filter(|p| p.accepted.status == "True");
    let services = accepted.filter_map(|p| match p.parent.kind {
        ParentKind::Service => {
            let host = crate::compile::discovery::hostname(&p.parent.name, &p.parent.namespace);
            let service = aquifer_core::names::NamespacedHostname::new(&p.parent.namespace, &host);
            Some(compiled.waypoints.bindings.get(&service)?.waypoint()?.service())
        }
        _ => {
            let key = (p.parent.namespace.clone(), p.parent.name.clone());
            Some(compiled.gateway_api.gateways.get(&key)?.service.clone())
        }
    });
    debug_assert!(object.outcome.is_ok());
    let pods = services.filter_map(|service| compiled.discovery.endpoints.get(&service));
    pods.flatten()
        .map(|w| (w.namespace.clone(), w.name.clone()))
        .collect()
}

/// What is said about an object that was rejected, where it is ours.
pub(super) fn rejected(
    compiled: &Compiled,
    object: &ParsedObject,
    rejection: &Rejection,
    report: &mut ObjectReport,
) -> Option<()> {
    let reason = match rejection.kind {
        RejectionKind::Invalid => "Invalid",
        RejectionKind::Unsupported => "UnsupportedValue",
    };
    let accepted = Condition::new("Accepted", false, reason, rejection.to_string());
    match &*object.raw.key.kind {
        "ReferenceGrant" => return None,
        kind if kind.ends_with("Route") => {
            let parents = parents_of(&object.raw, &object.meta);
            let ours = parents.iter().filter(|p| is_ours(&compiled.inputs, p));
            let reports: Vec<ParentReport> = ours
                .map(|p| ParentReport {
                    parent_ref: p.written.clone(),
                    conditions: vec![accepted.clone()],
                })
                .collect();
            report.parents = Some(reports).filter(|r| !r.is_empty());
            report.parents.as_ref()?;
        }
        "Gateway" => {
            let class = object
                .raw
                .value
                .pointer("/spec/gatewayClassName")
                .and_then(Value::as_str);
            let class = class.unwrap_or_default();
            let ours = is_waypoint_class(class) || classes::of(&compiled.inputs, class) != Class::Foreign;
            report.conditions.extend(ours.then_some(accepted));
            return ours.then_some(());
        }
        _ => report.conditions.push(accepted),
    }
    Some(())
}
