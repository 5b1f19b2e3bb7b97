//! What is said about routes of the Gateway API: one entry for each parent that is ours.

use std::collections::BTreeSet;

use aquifer_core::names::NamespacedHostname;
use serde::Serialize;
use serde_json::Value;

use super::findings::without_waypoint;
use super::{Audience, Condition, MAX_FINDINGS, ObjectReport, PodName};
use crate::compile::Compiled;
use crate::compile::discovery::hostname;
use crate::compile::gateway_api::attach::is_ours;
use crate::compile::gateway_api::backends::Problem;
use crate::compile::gateway_api::{ParentState, RouteState};
use crate::model::http_route::{ParentKind, ParentRef, parents_of};
use crate::model::stream_route::RouteKind;
use crate::objects::{Notice, NoticeKind, ParsedObject};

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

/// `None` for a route none of whose parents is ours.
pub(super) fn route(
    compiled: &Compiled,
    object: &ParsedObject,
    kind: RouteKind,
    parents: &[ParentRef],
    report: &mut ObjectReport,
) -> Option<()> {
    let name = (object.meta.namespace.clone(), object.meta.name.clone());
    let state = compiled.gateway_api.routes.get(&(kind, name))?;
    for parent in parents.iter().filter(|p| p.kind == ParentKind::Gateway) {
        report.notices.extend(missing_gateway(compiled, parent));
    }
    if state.parents.is_empty() && report.notices.is_empty() {
        return None;
    }
    let resolved = resolved(kind, state);
    let parent = |p: &ParentState| ParentReport {
        parent_ref: p.parent.written.clone(),
        conditions: vec![p.accepted.clone(), resolved.clone()],
    };
    report.parents = Some(state.parents.iter().map(parent).collect());
    report.accepted = state.parents.iter().any(|p| p.accepted.status == "True");
    report.audience = Audience::Pods(audience(compiled, state));
    report.notices.extend(notices(compiled, state));
    Some(())
}

fn missing_gateway(compiled: &Compiled, parent: &ParentRef) -> Option<Notice> {
    let found = compiled.inputs.kube_gateways.get(&parent.namespace, &parent.name);
    let message = format!("no Gateway {}/{}", parent.namespace, parent.name);
    found
        .is_none()
        .then(|| Notice::unresolved("spec.parentRefs", message))
}

fn resolved(kind: RouteKind, state: &RouteState) -> Condition {
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
        .take(MAX_FINDINGS)
        .map(|p| format!("{}: {}", p.field, p.message))
        .collect();
    let share = match kind {
        RouteKind::Http => "requests gets 500",
        RouteKind::Tls | RouteKind::Tcp => "connections is closed",
    };
    let message = format!("{}; their share of the {share}", texts.join("; "));
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
    let of_backend = |p: &Problem| match p.reason {
        "RefNotPermitted" => Notice::not_permitted(&*p.field, &*p.message),
        _ => Notice::unresolved(&*p.field, &*p.message),
    };
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
    let host = hostname(&parent.name, &parent.namespace);
    let service = NamespacedHostname::new(&parent.namespace, &host);
    without_waypoint(compiled, &service, "spec.parentRefs")
}

/// The pods of all Gateways and waypoints that have to hold the route.
fn audience(compiled: &Compiled, state: &RouteState) -> BTreeSet<PodName> {
    let accepted = state.parents.iter().filter(|p| p.accepted.status == "True");
    let services = accepted.filter_map(|p| match p.parent.kind {
        ParentKind::Service => {
            let host = hostname(&p.parent.name, &p.parent.namespace);
            let service = NamespacedHostname::new(&p.parent.namespace, &host);
            let waypoint = compiled.waypoints.bindings.get(&service)?.waypoint()?;
            Some((waypoint.service(), true))
        }
        _ => {
            let key = (p.parent.namespace.clone(), p.parent.name.clone());
            Some((compiled.gateway_api.gateways.get(&key)?.service.clone(), false))
        }
    });
    // A Service of a waypoint's name may have other pods, which hold nothing.
    let pods = services.flat_map(|(service, of_waypoint)| {
        let endpoints = compiled.discovery.endpoints(&service);
        endpoints.filter(move |w| w.native_tunnel || !of_waypoint)
    });
    pods.map(|w| (w.namespace.clone(), w.name.clone())).collect()
}

/// A route that was rejected, at those of its parents that are ours.
pub(super) fn rejected(
    compiled: &Compiled,
    object: &ParsedObject,
    refusal: &Condition,
    report: &mut ObjectReport,
) -> Option<()> {
    let parents = parents_of(&object.raw, &object.meta);
    let ours = parents.iter().filter(|p| is_ours(&compiled.inputs, p));
    let said = ours.map(|parent| ParentReport {
        parent_ref: parent.written.clone(),
        conditions: vec![refusal.clone()],
    });
    report.parents = Some(said.collect()).filter(|said: &Vec<_>| !said.is_empty());
    report.parents.is_some().then_some(())
}
