//! `spec.infrastructure.parametersRef` of Gateways: ConfigMaps with what is laid over the objects that are made for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::compile::gateway_api::Name;
use crate::compile::gateway_api::classes::{self, Class};
use crate::compile::inputs::{Entry, Inputs};
use crate::objects::gateway_api::{Gateway, ParametersRef};
use crate::objects::kube::ConfigMap;

/// Keys of such a ConfigMap, with the kind that each is for.
pub const KEYS: [(&str, &str); 5] = [
    ("deployment", "Deployment"),
    ("service", "Service"),
    ("serviceAccount", "ServiceAccount"),
    ("horizontalPodAutoscaler", "HorizontalPodAutoscaler"),
    ("podDisruptionBudget", "PodDisruptionBudget"),
];

/// What is laid over each kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlays(BTreeMap<&'static str, Value>);

impl Overlays {
    pub fn of(&self, kind: &str) -> Option<&Value> {
        self.0.get(kind)
    }
}

/// The parameters of one Gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// The last that could be read.
    pub overlays: Overlays,
    /// Why what is there now cannot.
    pub problem: Option<String>,
}

/// By the Gateway; `before` holds what was last in effect, which stays where an edit went wrong.
pub(super) fn all(inputs: &Inputs, before: &BTreeMap<Name, Overlays>) -> BTreeMap<Name, Parameters> {
    let is_ours = |g: &&Entry<Gateway>| {
        let class = classes::of(inputs, &g.spec.gateway_class_name);
        matches!(class, Class::Gateway | Class::Waypoint)
    };
    let named = inputs.kube_gateways.iter().filter(is_ours).filter_map(|gateway| {
        let reference = gateway.spec.infrastructure.parameters_ref.as_ref()?;
        let name = (gateway.meta.namespace.clone(), gateway.meta.name.clone());
        let parameters = match read(inputs, &gateway.meta.namespace, reference) {
            Ok(overlays) => Parameters {
                overlays,
                problem: None,
            },
            Err(problem) => Parameters {
                overlays: before.get(&name).cloned().unwrap_or_default(),
                problem: Some(problem),
            },
        };
        Some((name, parameters))
    });
    named.collect()
}

/// What is laid over the objects of each Gateway.
pub(super) fn overlays(parameters: &BTreeMap<Name, Parameters>) -> BTreeMap<Name, Overlays> {
    let all = parameters.iter();
    all.map(|(name, p)| (name.clone(), p.overlays.clone())).collect()
}

fn read(inputs: &Inputs, namespace: &Arc<str>, reference: &ParametersRef) -> Result<Overlays, String> {
    let ParametersRef { group, kind, name } = reference;
    if !group.is_empty() || &**kind != "ConfigMap" {
        return Err(format!("parametersRef names a {kind}; only a ConfigMap is read"));
    }
    let is_it = |m: &&Entry<ConfigMap>| m.meta.namespace == *namespace && m.meta.name == *name;
    let Some(map) = inputs.config_maps.iter().find(is_it) else {
        return Err(format!("no ConfigMap {namespace}/{name}"));
    };
    let mut overlays = BTreeMap::new();
    for (key, text) in &map.spec.data {
        let Some((_, kind)) = KEYS.iter().find(|(known, _)| *known == &**key) else {
            let known = KEYS.map(|(key, _)| key).join(", ");
            return Err(format!(
                "ConfigMap {namespace}/{name} has the key {key:?}; expected {known}"
            ));
        };
        let value: Value = serde_saphyr::from_str(text)
            .map_err(|_| format!("key {key} of ConfigMap {namespace}/{name} is not YAML"))?;
        if !value.is_object() {
            return Err(format!(
                "key {key} of ConfigMap {namespace}/{name} is not an object"
            ));
        }
        overlays.insert(*kind, value);
    }
    Ok(Overlays(overlays))
}
