//! `discoverySelectors`: which namespaces the mesh looks at. What is in another one is as if it were not there.

use std::sync::Arc;

use serde_json::Value;

use crate::compile::inputs::Labels;
use crate::objects::gateway_api::NamespaceSelector;

/// Every namespace is compared with every selector.
const MOST_SELECTORS: usize = 100;
const MOST_REQUIREMENTS: usize = 100;
/// Kubernetes' limits of labels.
const LONGEST_DOMAIN: usize = 253;
const LONGEST_NAME: usize = 63;

/// The selectors as they are written, each of which Kubernetes would take: one of them has to select a namespace. None
/// are no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selectors(Arc<[NamespaceSelector]>);

/// All namespaces where nothing is said. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Scope(Option<Arc<Limits>>);

#[derive(Debug, PartialEq, Eq)]
struct Limits {
    selectors: Selectors,
    /// The mesh's own, whatever labels they have: their policies are everybody's.
    always: [Arc<str>; 2],
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{at}{reason}")]
pub(super) struct SelectorError {
    at: String,
    reason: String,
}

impl PartialEq for Scope {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (a, b) => a.is_none() && b.is_none(),
        }
    }
}

impl Selectors {
    /// As Kubernetes writes such: one that says nothing selects all.
    pub(super) fn parse(value: &Value) -> Result<Self, SelectorError> {
        let list = match value {
            Value::Array(list) => list,
            // The key alone.
            Value::Null => return Ok(Self::default()),
            _ => return Err(SelectorError::new("", "is not a list of label selectors")),
        };
        if list.len() > MOST_SELECTORS {
            let many = format!(
                "has {} selectors, but at most {MOST_SELECTORS} are read",
                list.len()
            );
            return Err(SelectorError::new("", many));
        }
        let selectors = list.iter().enumerate().map(|(n, one)| selector(n, one));
        Ok(Self(selectors.collect::<Result<_, _>>()?))
    }

    /// What they come to for a mesh with these namespaces of its own.
    pub(super) fn with(&self, always: [&str; 2]) -> Scope {
        if self.0.is_empty() {
            return Scope::default();
        }
        Scope(Some(Arc::new(Limits {
            selectors: self.clone(),
            always: always.map(Arc::from),
        })))
    }
}

impl Scope {
    pub fn is_everything(&self) -> bool {
        self.0.is_none()
    }

    /// Whether objects of a namespace with these labels are the mesh's; an empty name is that of the cluster's own objects.
    pub fn includes(&self, namespace: &str, labels: &Labels) -> bool {
        let Some(limits) = &self.0 else { return true };
        namespace.is_empty()
            || limits.always.iter().any(|own| **own == *namespace)
            || limits.selectors.0.iter().any(|selector| selector.matches(labels))
    }
}

impl SelectorError {
    fn new(at: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            reason: reason.into(),
        }
    }
}

fn selector(number: usize, value: &Value) -> Result<NamespaceSelector, SelectorError> {
    let wrong = |reason: String| Err(SelectorError::new(format!("selector {number} "), reason));
    let Value::Object(fields) = value else {
        return wrong("is not a label selector".to_owned());
    };
    let unknown = fields
        .keys()
        .find(|key| !matches!(key.as_str(), "matchLabels" | "matchExpressions"));
    if let Some(key) = unknown {
        return wrong(format!("has the unknown field {key:?}"));
    }
    let selector: NamespaceSelector = match serde_json::from_value(value.clone()) {
        Ok(selector) => selector,
        Err(error) => return wrong(format!("cannot be read: {error}")),
    };
    if selector.requirements() > MOST_REQUIREMENTS {
        return wrong(format!("has more than {MOST_REQUIREMENTS} requirements"));
    }
    let expressions = &selector.match_expressions;
    let fault = expressions.iter().find_map(|expression| expression.fault());
    match fault.or_else(|| no_label(&selector)) {
        Some(fault) => wrong(fault),
        None => Ok(selector),
    }
}

/// What no namespace can have, since the API server takes no such label.
fn no_label(selector: &NamespaceSelector) -> Option<String> {
    let expressions = &selector.match_expressions;
    let mut keys = selector
        .match_labels
        .keys()
        .chain(expressions.iter().map(|e| &e.key));
    let mut values = selector
        .match_labels
        .values()
        .chain(expressions.iter().flat_map(|e| &e.values));
    let key = keys.find(|key| !is_key(key));
    let key = key.map(|key| format!("names {key:?}, which cannot be a label"));
    key.or_else(|| {
        let value = values.find(|value| !(value.is_empty() || is_name(value)))?;
        Some(format!("names {value:?}, which cannot be a label's value"))
    })
}

/// `NAME`, or `DOMAIN/NAME`.
fn is_key(key: &str) -> bool {
    let (domain, name) = key
        .split_once('/')
        .map_or((None, key), |(domain, name)| (Some(domain), name));
    let is_domain = |domain: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        !domain.is_empty() && domain.len() <= LONGEST_DOMAIN && domain.chars().all(plain)
    };
    domain.is_none_or(is_domain) && is_name(name)
}

fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= LONGEST_NAME
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(yaml: &str) -> Result<Scope, SelectorError> {
        let selectors = Selectors::parse(&serde_saphyr::from_str(yaml).unwrap())?;
        Ok(selectors.with(["mesh-system", "mesh"]))
    }

    fn includes(yaml: &str, labels: &str) -> bool {
        let labels: Labels = serde_saphyr::from_str(labels).unwrap();
        scope(yaml).unwrap().includes("shop", &labels)
    }

    #[test]
    fn one_selector_has_to_match_whole() {
        let two = "[{matchLabels: {mesh: a, env: prod}}, {matchExpressions: [{key: team, operator: In, values: [x]}]}]";
        assert!(includes(two, "{mesh: a, env: prod}"));
        assert!(includes(two, "{team: x}"));
        assert!(!includes(two, "{mesh: a}"));
        assert!(!includes(two, "{}"));
        let not = "[{matchExpressions: [{key: mesh, operator: DoesNotExist}, {key: env, operator: NotIn, values: [dev]}]}]";
        assert!(includes(not, "{}") && includes(not, "{env: prod}"));
        assert!(!includes(not, "{mesh: a}") && !includes(not, "{env: dev}"));
    }

    #[test]
    fn labels_are_written_as_kubernetes_takes_them() {
        let labels = "{example.com/a_B.c-1: '', mesh: Team_A.1-x}";
        assert!(includes(&format!("[{{matchLabels: {labels}}}]"), labels));
    }

    #[test]
    fn what_says_nothing_limits_nothing() {
        assert!(includes("[]", "{}") && includes("[{}]", "{}"));
        assert!(scope("[]").unwrap().is_everything());
    }

    #[test]
    fn the_meshs_own_namespaces_and_the_clusters_objects_are_always_in() {
        let scope = scope("[{matchLabels: {mesh: a}}]").unwrap();
        for namespace in ["mesh-system", "mesh", ""] {
            assert!(scope.includes(namespace, &Labels::new()), "{namespace:?}");
        }
        assert!(!scope.includes("shop", &Labels::new()));
    }

    #[test]
    fn a_selector_that_is_wrong_is_named() {
        for (yaml, fault) in [
            ("{matchLabels: {mesh: a}}", "is not a list"),
            ("[a]", "selector 0 is not a label selector"),
            (
                "[{}, {labels: {}}]",
                "selector 1 has the unknown field \"labels\"",
            ),
            ("[{matchLabels: [a]}]", "selector 0 cannot be read"),
            (
                "[{matchExpressions: [{key: a, operator: Is, values: [b]}]}]",
                "operator \"Is\"",
            ),
            ("[{matchExpressions: [{key: a, operator: In}]}]", "names no value"),
            (
                "[{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]",
                "takes no values",
            ),
            ("[{matchExpressions: [{operator: Exists}]}]", "names no label"),
            (
                "[{matchLabels: {mesh enabled: a}}]",
                "\"mesh enabled\", which cannot be a label",
            ),
            (
                "[{matchLabels: {mesh: a b}}]",
                "\"a b\", which cannot be a label's value",
            ),
            (
                "[{matchExpressions: [{key: /mesh, operator: Exists}]}]",
                "cannot be a label",
            ),
        ] {
            let error = scope(yaml).unwrap_err().to_string();
            assert!(error.contains(fault), "{yaml}: {error}");
        }
        let many = format!("[{}]", "{},".repeat(MOST_SELECTORS + 1));
        assert!(scope(&many).unwrap_err().to_string().contains("at most 100"));
    }
}
