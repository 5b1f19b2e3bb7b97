//! What is said about classes and Gateways of the Gateway API, in the form that it asks for.

use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Condition, ObjectReport, WAYPOINT_BOUND, certificates, routes};
use crate::compile::Compiled;
use crate::compile::gateway_api::classes::{self, Class};
use crate::compile::gateway_api::listeners::{OpenGateway, OpenListener};
use crate::compile::gateway_api::{CONTROLLER, Name, WAYPOINT_CONTROLLER, name, ready_pods};
use crate::compile::waypoints::{HBONE_PORT, Waypoint, WaypointKey};
use crate::model::stream_route::RouteKind;
use crate::objects::gateway_api::{Gateway, GatewayClass};
use crate::objects::{GATEWAY_API, Notice, ParsedObject, Rejection, RejectionKind};

/// What is said about a listener.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerReport {
    pub name: Arc<str>,
    pub supported_kinds: Vec<Value>,
    pub attached_routes: usize,
    pub conditions: Vec<Condition>,
}

/// Features by the names of the API's conformance tests.
const FEATURES: [&str; 21] = [
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
    "TLSRoute",
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
    let unknown = gateway.unknown.iter();
    report
        .notices
        .extend(unknown.map(|field| Notice::unknown_field(field.as_str())));
    Some(())
}

fn waypoint(compiled: &Compiled, object: &ParsedObject, report: &mut ObjectReport) {
    let key = WaypointKey::new(&object.meta.namespace, &object.meta.name);
    let name = (key.namespace.clone(), key.name.clone());
    let accepted = Condition::new("Accepted", true, "Accepted", "the waypoint is deployed");
    report
        .conditions
        .push(wrong_parameters(compiled, &name).unwrap_or(accepted));
    let waypoint = compiled.waypoints.all.get(&key);
    let ready = waypoint.is_some_and(Waypoint::is_ready);
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
    if waypoint.is_some_and(|w| w.serves.workloads()) {
        report.conditions.push(for_pods(compiled, &key));
    }
}

/// Whether pods that name the waypoint are behind it. The message ends with it: after a restart it is read from there.
fn for_pods(compiled: &Compiled, key: &WaypointKey) -> Condition {
    if compiled.waypoints.is_awake(key) {
        let message = format!("pods that name it are reached at their own addresses through waypoint {key}");
        return Condition::new(WAYPOINT_BOUND, true, "WaypointAccepted", message);
    }
    let message =
        format!("pods that name it are reached at layer 4 until a pod of it is ready: waypoint {key}");
    Condition::new(WAYPOINT_BOUND, false, "WaypointIsNotReady", message)
}

/// The addresses that a Service has in the cluster, and its name.
fn inside(compiled: &Compiled, service: &NamespacedHostname) -> Vec<Value> {
    let entry = compiled.discovery.services.get(service);
    let vips = entry.into_iter().flat_map(|s| s.service.vip_ips());
    let addresses = vips.map(|ip| json!({ "type": "IPAddress", "value": ip }));
    addresses
        .chain([json!({ "type": "Hostname", "value": *service.hostname })])
        .collect()
}

/// Where clients outside reach the Gateway; empty while nobody has assigned an address.
fn addresses(compiled: &Compiled, gateway: &OpenGateway) -> Vec<Value> {
    let service = compiled.discovery.services.get(&gateway.service);
    let Some(entry) = service.filter(|_| gateway.refused.is_none()) else {
        return Vec::new();
    };
    if &*entry.spec.kind != "LoadBalancer" {
        return inside(compiled, &gateway.service);
    }
    let assigned = entry.spec.load_balancer.iter().flat_map(|one| {
        let ip = one
            .ip
            .iter()
            .map(|ip| json!({ "type": "IPAddress", "value": **ip }));
        let host = one.hostname.iter();
        ip.chain(host.map(|host| json!({ "type": "Hostname", "value": **host })))
    });
    assigned.collect()
}

fn open(compiled: &Compiled, gateway: &OpenGateway, report: &mut ObjectReport) {
    let addresses = addresses(compiled, gateway);
    let name = name(&gateway.entry);
    let accepted = wrong_parameters(compiled, &name).unwrap_or_else(|| accepted(gateway));
    let programmed = programmed(compiled, gateway, &accepted, addresses.is_empty());
    let listeners = gateway.listeners.iter().map(|l| {
        let certificates = certificates::of(compiled, gateway, l);
        listener(l, &programmed, &certificates)
    });
    report.listeners = listeners.collect();
    report.accepted = accepted.status == "True";
    for (i, refused) in gateway
        .listeners
        .iter()
        .enumerate()
        .filter(|(_, l)| !l.is_served())
    {
        let message = format!(
            "listener {} is not served: {}",
            refused.name,
            refused.refusal().message
        );
        let field = format!("spec.listeners[{i}]");
        report.notices.push(match refused.accepted.status {
            "True" => Notice::conflict(field, message),
            _ => Notice::warning(field, message),
        });
    }
    report.notices.extend(certificates::notices(compiled, gateway));
    report.notices.extend(unknown_kinds(gateway));
    report.notices.extend(without_effect(&gateway.entry.spec));
    report.conditions.extend([accepted, programmed]);
    report.fields.insert("addresses", addresses.into());
}

/// Kinds of routes that a listener names and cannot have.
fn unknown_kinds(gateway: &OpenGateway) -> impl Iterator<Item = Notice> {
    let listeners = gateway.listeners.iter().enumerate();
    let unknown = listeners.filter(|(_, l)| l.resolved.status == "False");
    unknown.map(|(i, l)| {
        let field = format!("spec.listeners[{i}].allowedRoutes.kinds");
        Notice::not_supported(field, l.resolved.message.as_str())
    })
}

/// Of `spec.tls`; listeners refuse the rest of it.
fn without_effect(gateway: &Gateway) -> Option<Notice> {
    let backend = gateway.tls.as_ref()?.get("backend")?;
    let message = "the gateway shows backends no certificate of its own in this version";
    (!backend.is_null()).then(|| Notice::not_supported("spec.tls.backend", message))
}

/// The Gateway goes on as it was deployed last.
fn wrong_parameters(compiled: &Compiled, name: &Name) -> Option<Condition> {
    let problem = compiled.parameters.get(name)?.problem.as_ref()?;
    let message = format!("spec.infrastructure.parametersRef: {problem}; what was read last stays in effect");
    Some(Condition::new("Accepted", false, "InvalidParameters", message))
}

fn accepted(gateway: &OpenGateway) -> Condition {
    if let Some(refused) = &gateway.refused {
        return refused.clone();
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
    if let Some(refused) = &gateway.refused {
        return no(refused.reason, refused.message.clone());
    }
    if !gateway.listeners.iter().any(OpenListener::is_served) {
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

fn listener(
    listener: &OpenListener,
    gateway: &Condition,
    certificates: &certificates::Found<'_>,
) -> ListenerReport {
    let programmed = if !listener.is_served() {
        Condition::new("Programmed", false, "Invalid", "the listener is not valid")
    } else if certificates.are_lacking() {
        let message = "no certificate is of use; connections are closed";
        Condition::new("Programmed", false, "Invalid", message)
    } else {
        Condition {
            message: "as the Gateway".to_owned(),
            ..gateway.clone()
        }
    };
    let kind = |kind: &RouteKind| json!({ "group": GATEWAY_API, "kind": kind.as_str() });
    ListenerReport {
        name: listener.name.clone(),
        supported_kinds: listener.kinds.iter().map(kind).collect(),
        attached_routes: listener.routes.len() + listener.streams.len(),
        conditions: vec![
            listener.accepted.clone(),
            listener.conflicted.clone(),
            certificates
                .resolved()
                .unwrap_or_else(|| listener.resolved.clone()),
            programmed,
        ],
    }
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
    let refusal = Condition::new("Accepted", false, reason, rejection.to_string());
    let is_ours = match &*object.raw.key.kind {
        kind if kind.ends_with("Route") => return routes::rejected(compiled, object, &refusal, report),
        // Nothing reads its status.
        "ReferenceGrant" => false,
        "Gateway" => {
            let class = object.raw.value.pointer("/spec/gatewayClassName");
            let class = class.and_then(Value::as_str).unwrap_or_default();
            classes::of(&compiled.inputs, class) != Class::Foreign
        }
        _ => true,
    };
    report.conditions.extend(is_ours.then_some(refusal));
    is_ours.then_some(())
}
