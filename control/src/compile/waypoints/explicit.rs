//! Waypoints that users made: Gateways of class `istio-waypoint`, and the labels that name them.

use std::collections::BTreeMap;

use crate::compile::discovery::{WAYPOINT_CLASS, is_waypoint_class};
use crate::compile::inputs::{Inputs, Labels};
use crate::compile::waypoints::{Serves, Waypoint, WaypointKey};
use crate::objects::Meta;
use crate::objects::gateway_api::Gateway;

pub(super) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";

pub(super) enum Choice {
    /// No label says anything.
    Unsaid,
    /// `istio.io/use-waypoint: none`.
    None,
    Named(WaypointKey),
}

pub(super) fn waypoints(inputs: &Inputs) -> BTreeMap<WaypointKey, Waypoint> {
    let of_class = inputs
        .kube_gateways
        .iter()
        .filter(|g| is_waypoint_class(&g.spec.gateway_class_name));
    let made = of_class.map(|gateway| {
        let key = WaypointKey::new(&gateway.meta.namespace, &gateway.meta.name);
        (
            key.clone(),
            Waypoint {
                key,
                explicit: true,
                owner: gateway.meta.uid.clone(),
                infrastructure: gateway.spec.infrastructure.clone(),
                pods: Vec::new(),
                serves: serves(&gateway.meta.labels),
                bound: gateway.spec.bound,
            },
        )
    });
    made.collect()
}

fn serves(labels: &Labels) -> Serves {
    match labels.get(WAYPOINT_FOR).map(|v| &**v) {
        Some("workload") => Serves::Workloads,
        Some("all") => Serves::All,
        Some("none") => Serves::None,
        _ => Serves::Services,
    }
}

/// The object's own label, else its namespace's.
pub(super) fn choice(inputs: &Inputs, meta: &Meta) -> Choice {
    let namespace = inputs.namespace_labels(&meta.namespace);
    let labels = [&meta.labels, namespace]
        .into_iter()
        .find(|labels| labels.contains_key(USE_WAYPOINT));
    let Some((labels, name)) = labels.and_then(|l| Some((l, l.get(USE_WAYPOINT)?))) else {
        return Choice::Unsaid;
    };
    if &**name == "none" || name.is_empty() {
        return Choice::None;
    }
    let home = labels.get(USE_WAYPOINT_NAMESPACE).unwrap_or(&meta.namespace);
    Choice::Named(WaypointKey {
        namespace: home.clone(),
        name: name.clone(),
    })
}

/// What wants a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Service,
    Pod,
}

/// Why a waypoint does not take something. Thousands of pods may be refused, and hardly ever is it said why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoGateway,
    NotFor(Kind),
    NotOpen,
}

impl Refusal {
    /// Of that waypoint to what is in `namespace`.
    pub fn text(self, key: &WaypointKey, namespace: &str) -> String {
        match self {
            Self::NoGateway => format!(
                "waypoint {key} does not exist; create a Gateway of class {WAYPOINT_CLASS} with that name"
            ),
            Self::NotFor(kind) => {
                let what = match kind {
                    Kind::Service => "services",
                    Kind::Pod => "pods' own addresses",
                };
                format!("waypoint {key} is not for {what} (label {WAYPOINT_FOR})")
            }
            Self::NotOpen => format!(
                "waypoint {key} does not allow namespace {namespace} (allowedRoutes.namespaces of its listener, from: All or Selector, does)"
            ),
        }
    }
}

/// Whether the waypoint takes services, or pods, of `namespace`; why not.
pub(super) fn admits(
    inputs: &Inputs,
    all: &BTreeMap<WaypointKey, Waypoint>,
    key: &WaypointKey,
    (namespace, kind): (&str, Kind),
) -> Result<(), Refusal> {
    let waypoint = all.get(key).ok_or(Refusal::NoGateway)?;
    let serves = match kind {
        Kind::Service => waypoint.serves.services(),
        Kind::Pod => waypoint.serves.workloads(),
    };
    if !serves {
        return Err(Refusal::NotFor(kind));
    }
    if !is_open(inputs, key, namespace) {
        return Err(Refusal::NotOpen);
    }
    Ok(())
}

/// Whether the waypoint is for what is in that namespace: its own, or one that its listeners admit.
fn is_open(inputs: &Inputs, key: &WaypointKey, namespace: &str) -> bool {
    if *key.namespace == *namespace {
        return true;
    }
    let gateway = inputs.kube_gateways.get(&key.namespace, &key.name);
    gateway.is_some_and(|g| admits_namespace(inputs, &g.spec, &key.namespace, namespace))
}

fn admits_namespace(inputs: &Inputs, gateway: &Gateway, own: &str, namespace: &str) -> bool {
    let labels = inputs.namespace_labels(namespace);
    let mut listeners = gateway.listeners.iter();
    listeners.any(|l| l.allowed_routes.namespaces.admit(own, namespace, labels))
}
