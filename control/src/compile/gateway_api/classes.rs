//! Whose Gateways are ours.

use crate::compile::discovery::{WAYPOINT_CLASS, is_waypoint_class};
use crate::compile::gateway_api::{CONTROLLER, WAYPOINT_CONTROLLER};
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::compile::inputs::Inputs;
use crate::compile::waypoints::MANAGED_LABEL;
use crate::kubernetes::{MADE_BY, MADE_BY_LABEL};
use crate::objects::{GATEWAY_API, ObjectKey};

/// Classes that are there without anybody's doing, with their controllers.
pub const BUILT_IN: [(&str, &str, &str); 4] = [
    ("istio", CONTROLLER, "Gateways of the mesh"),
    ("aquifer", CONTROLLER, "Gateways of the mesh"),
    (WAYPOINT_CLASS, WAYPOINT_CONTROLLER, "Waypoints of the mesh"),
    ("aquifer-waypoint", WAYPOINT_CONTROLLER, "Waypoints of the mesh"),
];
/// Istio's further classes, which this version has nothing for.
const UNSUPPORTED: [&str; 2] = ["istio-remote", "istio-east-west"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Gateway,
    Waypoint,
    /// Istio's, but not of this version.
    Unsupported,
    Foreign,
}

/// The built-in classes, where the cluster has the kind: those that nobody else has made.
pub fn missing(inputs: &Inputs) -> BTreeMap<ObjectKey, Value> {
    let is_others = |name: &str| {
        let made = |m: &crate::objects::Meta| m.labels.get(MADE_BY_LABEL).is_some_and(|by| &**by == MADE_BY);
        inputs
            .gateway_classes
            .iter()
            .any(|c| *c.meta.name == *name && !made(&c.meta))
    };
    let ours = BUILT_IN
        .iter()
        .filter(|(name, _, _)| inputs.has_gateway_classes && !is_others(name));
    let object = |(name, controller, description): &(&str, &str, &str)| {
        let value = json!({
            "apiVersion": format!("{GATEWAY_API}/v1"),
            "kind": "GatewayClass",
            "metadata": { "name": name, "labels": { MADE_BY_LABEL: MADE_BY, MANAGED_LABEL: controller.replace('/', "-") } },
            "spec": { "controllerName": controller, "description": description },
        });
        (ObjectKey::new(GATEWAY_API, "GatewayClass", "", name), value)
    };
    ours.map(object).collect()
}

/// A class by its name; one of a user's own by the controller that it names.
pub fn of(inputs: &Inputs, class: &str) -> Class {
    if is_waypoint_class(class) {
        return Class::Waypoint;
    }
    if UNSUPPORTED.contains(&class) {
        return Class::Unsupported;
    }
    let named = inputs.gateway_classes.get("", class);
    match named.map(|c| &*c.spec.controller_name) {
        Some(CONTROLLER) => Class::Gateway,
        Some(_) => Class::Foreign,
        None if BUILT_IN.iter().any(|(name, _, _)| *name == class) => Class::Gateway,
        None => Class::Foreign,
    }
}
