//! What is to be said about every object: accepted or why not, what leads nowhere, what has no effect.
//!
//! Whether an accepted object has reached the proxies is not known here; [`crate::status`] adds that.

mod audience;
mod certificates;
mod entries;
mod findings;
mod gateway;
mod gateway_api;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aquifer_core::enrolment::{PodFacts, decide};
use aquifer_core::names::NamespacedHostname;
use serde::Serialize;
use serde_json::Value;

use crate::compile::Compiled;
use crate::compile::discovery::hostname;
use crate::compile::inputs::{Inputs, Labels};
use crate::compile::waypoints::{Binding, WaypointKey};
use crate::mesh_config;
use crate::model::stream_route::RouteKind;
use crate::objects::{
    GATEWAY_API, Meta, Notice, NoticeKind, Object, ObjectKey, ParsedObject, Rejection, RejectionKind,
};
use crate::store::{StandIn, Store};

pub use gateway_api::ListenerReport;
pub use routes::ParentReport;

/// A condition in the form of Kubernetes, without what only its writer knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Condition {
    pub fn new(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: if holds { "True" } else { "False" },
            reason,
            message: message.into(),
        }
    }
}

/// Which proxies an object has to reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Audience {
    Agents,
    WaypointsAndGateways,
    /// The pods of these waypoints and gateways, by namespace and name, connected or not.
    Pods(BTreeSet<PodName>),
    /// Nothing is sent for it.
    Nobody,
}

pub type PodName = (Arc<str>, Arc<str>);

impl Audience {
    /// Whether proxies that route requests are concerned.
    fn routes(&self) -> bool {
        matches!(self, Self::WaypointsAndGateways | Self::Pods(_))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReport {
    pub accepted: bool,
    pub conditions: Vec<Condition>,
    pub notices: Vec<Notice>,
    pub audience: Audience,
    /// Further fields of the status.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<&'static str, Value>,
    /// For a route of the Gateway API, whose status has nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parents: Option<Vec<ParentReport>>,
    /// For a Gateway of that API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerReport>,
}

impl ObjectReport {
    /// As far as the object itself says it.
    fn new(object: &ParsedObject) -> Self {
        Self {
            accepted: object.outcome.is_ok(),
            conditions: Vec::new(),
            notices: object.notices.clone(),
            audience: Audience::Nobody,
            fields: BTreeMap::new(),
            parents: None,
            listeners: Vec::new(),
        }
    }

    /// Whether the other says the same; who has to hear it may differ.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.accepted == other.accepted
            && self.conditions == other.conditions
            && self.notices == other.notices
            && self.fields == other.fields
            && self.parents == other.parents
            && self.listeners == other.listeners
    }
}

/// The condition that an implicit or explicit waypoint has taken the service.
pub const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
/// Messages name only so many findings; the debug endpoint has all.
const MAX_FINDINGS: usize = 8;
/// Of ports and addresses so many are named in one message.
const MAX_LISTED: usize = 16;

/// Reports by object; clones share them.
pub type Reports = imbl::OrdMap<ObjectKey, Arc<ObjectReport>>;

/// Says anew what is to be said about these objects; a report that says the same stays the same. Gives the number of
/// objects that are not accepted.
pub fn update<'k>(
    reports: &mut Reports,
    store: &Store,
    compiled: &Compiled,
    keys: impl Iterator<Item = &'k ObjectKey>,
) -> usize {
    let refused = |report: Option<&Arc<ObjectReport>>| usize::from(report.is_some_and(|r| !r.accepted));
    let mut rejected = compiled.rejected;
    for key in keys {
        rejected -= refused(reports.get(key));
        let report = store
            .object(key)
            .and_then(|object| whole(store, compiled, key, object));
        match report {
            // Of most objects nothing is said; a map that loses nothing stays the same one.
            None if !reports.contains_key(key) => {}
            None => drop(reports.remove(key)),
            Some(report) if reports.get(key).is_some_and(|old| **old == report) => {}
            Some(report) => drop(reports.insert(key.clone(), Arc::new(report))),
        }
        rejected += refused(reports.get(key));
    }
    rejected
}

fn whole(store: &Store, compiled: &Compiled, key: &ObjectKey, object: &ParsedObject) -> Option<ObjectReport> {
    // Another mesh may have it, and say so in its status.
    if !compiled.inputs.has_in_scope(&key.namespace) {
        return None;
    }
    let mut report = report(compiled, object)?;
    for duplicate in store.duplicates(key) {
        let message = format!(
            "{} has the same object; the one of {} is in effect",
            duplicate.origin, duplicate.in_effect
        );
        report.notices.push(Notice::warning("metadata.name", message));
    }
    if let Some(stand_in) = store.stand_in(key) {
        say_instead(&mut report, stand_in);
    }
    finish(&mut report);
    Some(report)
}

/// What is to be said about one object, in the model or not yet, beside the others of the model.
pub fn report(compiled: &Compiled, object: &ParsedObject) -> Option<ObjectReport> {
    let mut report = ObjectReport::new(object);
    match &object.outcome {
        Err(rejection) if &*object.raw.key.group == GATEWAY_API => {
            gateway_api::rejected(compiled, object, rejection, &mut report)?;
        }
        Err(rejection) => report.conditions.push(rejected(rejection)),
        Ok(accepted) => describe(compiled, object, accepted, &mut report)?,
    }
    Some(report)
}

fn rejected(rejection: &Rejection) -> Condition {
    let reason = match rejection.kind {
        RejectionKind::Invalid => "Invalid",
        RejectionKind::Unsupported => "Unsupported",
    };
    Condition::new("Accepted", false, reason, rejection.to_string())
}

/// What is to be said about a rejected object before there is a model.
pub fn before_all(object: &ParsedObject) -> ObjectReport {
    let mut report = ObjectReport::new(object);
    report
        .conditions
        .extend(object.outcome.as_ref().err().map(rejected));
    report
}

/// Says what is in effect in the place of a rejected object.
fn say_instead(report: &mut ObjectReport, stand_in: &StandIn) {
    let instead = stand_in.to_string();
    let parents = report.parents.iter_mut().flatten();
    let of_parents = parents.flat_map(|p| &mut p.conditions);
    for condition in report.conditions.iter_mut().chain(of_parents) {
        condition.message = format!("{}; {instead}", condition.message);
    }
    if report.parents.is_some() {
        return;
    }
    let condition = Condition::new("InEffect", false, stand_in.reason(), instead);
    report.conditions.push(condition);
}

/// `None` for objects that are not the mesh's own and have nothing to be said about.
fn describe(
    compiled: &Compiled,
    object: &ParsedObject,
    accepted: &Object,
    report: &mut ObjectReport,
) -> Option<()> {
    let meta = &object.meta;
    match accepted {
        Object::VirtualService(rules) => {
            report.audience = Audience::Pods(audience::of_rules(compiled, rules));
            report
                .notices
                .extend(findings::virtual_service(compiled, meta, rules));
        }
        Object::DestinationRule(rule) => {
            report.audience = Audience::WaypointsAndGateways;
            report.notices.extend(findings::destination_rule(compiled, rule));
        }
        Object::Gateway(gateway) => {
            report.audience = Audience::Pods(audience::of_gateway(compiled, gateway));
            report.notices.extend(gateway::notices(compiled, meta, gateway));
            let addresses = gateway::addresses(compiled, gateway);
            if !addresses.is_empty() {
                report.fields.insert("addresses", addresses.into());
            }
        }
        Object::ServiceEntry(entry) => entries::entry(compiled, meta, entry, report),
        Object::PeerAuthentication(_) => report.audience = Audience::Agents,
        Object::AuthorizationPolicy(policy) => {
            report.audience = Audience::Agents;
            report.conditions.push(enforcement(&policy.request_fields));
        }
        Object::KubeGateway(gateway) => return gateway_api::gateway(compiled, object, gateway, report),
        Object::GatewayClass(class) => return gateway_api::class(class, report),
        Object::HttpRoute(route) => {
            return routes::route(compiled, object, RouteKind::Http, &route.parents, report);
        }
        Object::StreamRoute(route) => {
            return routes::route(compiled, object, route.kind, &route.parents, report);
        }
        Object::Service(_) => return service(compiled, object, report),
        Object::MeshSettings(_) => {
            report
                .notices
                .extend(compiled.mesh_config.notices.iter().cloned());
            report.notices.extend(out_of_scope(&compiled.inputs));
            return (!report.notices.is_empty()).then_some(());
        }
        _ => return None,
    }
    report.conditions.insert(
        0,
        Condition::new("Accepted", true, "Accepted", "the object is valid"),
    );
    Some(())
}

fn enforcement(request_fields: &[Notice]) -> Condition {
    if request_fields.is_empty() {
        return Condition::new("ZtunnelAccepted", true, "Accepted", "enforced by the node agents");
    }
    Condition::new(
        "ZtunnelAccepted",
        false,
        "UnsupportedValue",
        joined(request_fields),
    )
}

/// The conditions that come from findings.
fn finish(report: &mut ObjectReport) {
    if report.parents.is_some() {
        return;
    }
    let of = |kinds: &[NoticeKind]| -> Vec<Notice> {
        report
            .notices
            .iter()
            .filter(|n| kinds.contains(&n.kind))
            .cloned()
            .collect()
    };
    let (unresolved, unsupported, warnings) = (
        of(&[
            NoticeKind::Unresolved,
            NoticeKind::BadSecret,
            NoticeKind::NotPermitted,
        ]),
        of(&[NoticeKind::NotSupported, NoticeKind::UnknownField]),
        of(&[
            NoticeKind::Warning,
            NoticeKind::Conflict,
            NoticeKind::Unserved,
            NoticeKind::NoWaypoint,
            NoticeKind::Refused,
        ]),
    );
    if report.accepted && report.audience.routes() {
        report.conditions.push(match unresolved.is_empty() {
            true => Condition::new(
                "ResolvedRefs",
                true,
                "ResolvedRefs",
                "everything that the object names exists",
            ),
            false => Condition::new(
                "ResolvedRefs",
                false,
                unresolved_reason(&unresolved),
                joined(&unresolved),
            ),
        });
    }
    if !unsupported.is_empty() {
        report.conditions.push(Condition::new(
            "FullySupported",
            false,
            "NotSupported",
            joined(&unsupported),
        ));
    }
    if !warnings.is_empty() {
        report
            .conditions
            .push(Condition::new("Warning", true, "Warning", joined(&warnings)));
    }
}

/// The Gateway API's word where nothing is missing, but a Secret is of no use.
fn unresolved_reason(unresolved: &[Notice]) -> &'static str {
    match unresolved.iter().all(|n| n.kind == NoticeKind::BadSecret) {
        true => "InvalidCertificateRef",
        false => "NotFound",
    }
}

pub fn joined(notices: &[Notice]) -> String {
    let shown = notices
        .iter()
        .take(MAX_FINDINGS)
        .map(|n| format!("{}: {}", n.field, n.message));
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if notices.len() > MAX_FINDINGS {
        text.push_str(&format!("; and {} more", notices.len() - MAX_FINDINGS));
    }
    text
}

/// The first of many, and how many more there are.
pub fn listed(mut many: impl Iterator<Item: ToString>) -> String {
    let named = many.by_ref().take(MAX_LISTED).map(|one| one.to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    match many.count() {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// What is said of the mesh's settings.
pub fn of_settings(compiled: &Compiled) -> Option<&ObjectReport> {
    let key = mesh_config::key(&compiled.settings.namespace);
    compiled.reports.get(&key).map(|report| &**report)
}

/// Agents go by labels alone: they capture pods there, and have nothing to serve them with.
fn out_of_scope(inputs: &Inputs) -> Option<Notice> {
    let facts = PodFacts {
        host_network: false,
        has_sidecar: false,
    };
    let in_mesh = |meta: &Meta| decide(&meta.labels, &Labels::new(), facts).is_wanted();
    let outside = inputs.namespaces.iter();
    let mut outside = outside.filter(|(name, meta)| !inputs.has_in_scope(name) && in_mesh(meta));
    let shown: Vec<&str> = outside
        .by_ref()
        .take(MAX_FINDINGS)
        .map(|(name, _)| &**name)
        .collect();
    if shown.is_empty() {
        return None;
    }
    let more = match outside.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "leaves out {}{more}, whose labels ask for the mesh: pods there are captured and not served; take the label istio.io/dataplane-mode away, or select them",
        shown.join(", ")
    );
    Some(Notice::warning("data.mesh.discoverySelectors", message))
}

fn service(compiled: &Compiled, object: &ParsedObject, report: &mut ObjectReport) -> Option<()> {
    let meta = &object.meta;
    let key = NamespacedHostname::new(&meta.namespace, &hostname(&meta.name, &meta.namespace));
    report.conditions.push(bound(compiled, &key)?);
    Some(())
}

/// What became of the service's wish for a waypoint, where it has one.
fn bound(compiled: &Compiled, key: &NamespacedHostname) -> Option<Condition> {
    let condition = match compiled.waypoints.bindings.get(key)? {
        // The message ends with the waypoint: after a restart it is read from there.
        Binding::Bound(waypoint) => {
            let message = format!("all traffic goes through waypoint {waypoint}");
            Condition::new(WAYPOINT_BOUND, true, "WaypointAccepted", message)
        }
        Binding::Moving { from, to } => {
            let message = format!("until waypoint {to} serves it, all traffic goes through waypoint {from}");
            Condition::new(WAYPOINT_BOUND, true, "WaypointAccepted", message)
        }
        Binding::Waiting(waypoint) => {
            let message = format!(
                "traffic stays at layer 4, without its rules, until it is served by waypoint {waypoint}"
            );
            Condition::new(WAYPOINT_BOUND, false, "WaypointIsNotReady", message)
        }
        Binding::Refused { waypoint, refusal } => {
            let reason = refusal.text(waypoint, &key.namespace);
            Condition::new(WAYPOINT_BOUND, false, "AttachmentDenied", reason)
        }
    };
    Some(condition)
}

/// The waypoint that a service's status says it is bound to.
pub fn bound_waypoint(status: &Value) -> Option<WaypointKey> {
    let conditions = status.get("status")?.get("conditions")?.as_array()?;
    let bound = conditions.iter().find(|c| {
        c.get("type").and_then(Value::as_str) == Some(WAYPOINT_BOUND)
            && c.get("status").and_then(Value::as_str) == Some("True")
    })?;
    WaypointKey::parse(bound.get("message")?.as_str()?.rsplit(' ').next()?)
}
