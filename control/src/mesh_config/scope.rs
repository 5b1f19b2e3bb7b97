//! `discoverySelectors`: which namespaces the mesh looks at. What is in another one is as if it were not there.

use std::sync::Arc;

use serde_json::Value;

use crate::compile::inputs::Labels;
use crate::objects::gateway_api::NamespaceSelector;

/// Every namespace is compared with every selector.
const MOST_SELECTORS: usize = 100;
const MOST_REQUIREMENTS: usize = 100;

/// All namespaces where nothing is said. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Scope(Option<Arc<Limits>>);

#[derive(Debug, PartialEq, Eq)]
struct Limits {
    /// One of them has to select the namespace.
    selectors: Vec<NamespaceSelector>,
    /// The mesh's own, whatever labels they have: their policies are everybody's.
    always: [Arc<str>; 2],
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{at}{reason}; none of the selectors is in effect, and every namespace is looked at")]
pub(super) struct ScopeError {
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

impl Scope {
    /// The selectors as Kubernetes writes such: one that says nothing selects all.
    pub(super) fn parse(value: &Value, always: [&str; 2]) -> Result<Self, ScopeError> {
        let Value::Array(list) = value else {
            return Err(ScopeError::new("", "is not a list of label selectors"));
        };
        if list.len() > MOST_SELECTORS {
            return Err(ScopeError::new(
                "",
                format!(
                    "has {} selectors, but at most {MOST_SELECTORS} are read",
                    list.len()
                ),
            ));
        }
        if list.is_empty() {
            return Ok(Self::default());
        }
        let selectors: Result<Vec<_>, _> = list.iter().enumerate().map(|(n, one)| selector(n, one)).collect();
        Ok(Self(Some(Arc::new(Limits {
            selectors: selectors?,
            always: always.map(Arc::from),
        }))))
    }

    pub fn is_everything(&self) -> bool {
        self.0.is_none()
    }

    /// Whether objects of a namespace with these labels are the mesh's; an empty name is that of the cluster's own objects.
    pub fn includes(&self, namespace: &str, labels: &Labels) -> bool {
        let Some(limits) = &self.0 else { return true };
        namespace.is_empty()
            || limits.always.iter().any(|own| **own == *namespace)
            || limits.selectors.iter().any(|selector| selector.matches(labels))
    }
}

impl ScopeError {
    fn new(at: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            reason: reason.into(),
        }
    }
}

fn selector(number: usize, value: &Value) -> Result<NamespaceSelector, ScopeError> {
    let wrong = |reason: String| Err(ScopeError::new(format!("selector {number} "), reason));
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
    match expressions.iter().find_map(|expression| expression.fault()) {
        Some(fault) => wrong(fault),
        None => Ok(selector),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(yaml: &str) -> Result<Scope, ScopeError> {
        Scope::parse(&serde_saphyr::from_str(yaml).unwrap(), ["mesh-system", "mesh"])
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
        ] {
            let error = scope(yaml).unwrap_err().to_string();
            assert!(error.contains(fault), "{yaml}: {error}");
        }
        let many = format!("[{}]", "{},".repeat(MOST_SELECTORS + 1));
        assert!(scope(&many).unwrap_err().to_string().contains("at most 100"));
    }
}
