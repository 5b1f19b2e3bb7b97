//! The Gateway API's objects, field by field, in its standard channel.
//!
//! Gateways and classes are read leniently, since those of other implementations stand beside ours and are none of our
//! business; routes strictly: a field that is not known would be a rule that is not kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::istio::raw;
use super::read::{lenient, noting, or_default};
use super::{RawObject, Rejection};
use crate::compile::report::bound_waypoint;

type Text = Arc<str>;
type Labels = BTreeMap<Text, Text>;

raw!(HttpRoute {
    parent_refs: Vec<Value>,
    hostnames: Vec<Text>,
    rules: Vec<HttpRule>,
});

raw!(HttpRule {
    name: Text,
    matches: Vec<HttpMatch>,
    filters: Vec<HttpFilter>,
    backend_refs: Vec<HttpBackend>,
    timeouts: Option<Timeouts>,
});

raw!(HttpMatch {
    path: Option<ValueMatch>,
    headers: Vec<ValueMatch>,
    query_params: Vec<ValueMatch>,
    method: Option<Text>,
});

raw!(ValueMatch {
    r#type: Option<Text>,
    name: Text,
    value: Option<Text>,
});

raw!(HttpFilter {
    r#type: Text,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_mirror: Option<Value>,
    request_redirect: Option<RequestRedirect>,
    url_rewrite: Option<UrlRewrite>,
    extension_ref: Option<Value>,
});

raw!(HeaderModifier {
    set: Vec<NamedValue>,
    add: Vec<NamedValue>,
    remove: Vec<Text>,
});

raw!(NamedValue {
    name: Text,
    value: Text,
});

raw!(RequestRedirect {
    scheme: Option<Text>,
    hostname: Option<Text>,
    path: Option<PathModifier>,
    port: Option<u16>,
    status_code: Option<u32>,
});

raw!(UrlRewrite {
    hostname: Option<Text>,
    path: Option<PathModifier>,
});

raw!(PathModifier {
    r#type: Text,
    replace_full_path: Option<Text>,
    replace_prefix_match: Option<Text>,
});

raw!(HttpBackend {
    group: Text,
    kind: Option<Text>,
    name: Text,
    namespace: Option<Text>,
    port: Option<u16>,
    weight: Option<i64>,
    filters: Vec<HttpFilter>,
});

raw!(Timeouts {
    request: Option<Text>,
    backend_request: Option<Text>,
});

raw!(TlsRoute {
    parent_refs: Vec<Value>,
    hostnames: Vec<Text>,
    rules: Vec<StreamRule>,
});

raw!(TcpRoute {
    parent_refs: Vec<Value>,
    rules: Vec<StreamRule>,
});

raw!(StreamRule {
    name: Text,
    backend_refs: Vec<StreamBackend>,
});

raw!(StreamBackend {
    group: Text,
    kind: Option<Text>,
    name: Text,
    namespace: Option<Text>,
    port: Option<u16>,
    weight: Option<i64>,
});

impl StreamBackend {
    /// As a backend of requests, to which nothing is done on the way.
    pub fn without_filters(&self) -> HttpBackend {
        HttpBackend {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
            weight: self.weight,
            filters: Vec::new(),
        }
    }
}

/// A reference to a parent, as far as it can be read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ParentReference {
    pub group: Option<Text>,
    pub kind: Option<Text>,
    pub namespace: Option<Text>,
    #[serde(deserialize_with = "or_default")]
    pub name: Text,
    pub section_name: Option<Text>,
    pub port: Option<u16>,
}

raw!(ReferenceGrant {
    from: Vec<GrantFrom>,
    to: Vec<GrantTo>,
});

raw!(GrantFrom {
    group: Text,
    kind: Text,
    namespace: Text,
});

raw!(GrantTo {
    group: Text,
    kind: Text,
    name: Option<Text>,
});

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayClass {
    #[serde(deserialize_with = "or_default")]
    pub controller_name: Text,
}

impl GatewayClass {
    pub(super) fn read(raw: &RawObject) -> Result<Self, Rejection> {
        lenient(raw.value.get("spec").unwrap_or(&Value::Null), "spec")
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Gateway {
    #[serde(deserialize_with = "or_default")]
    pub gateway_class_name: Text,
    #[serde(deserialize_with = "or_default")]
    pub listeners: Vec<Listener>,
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<Address>,
    #[serde(deserialize_with = "or_default")]
    pub infrastructure: Infrastructure,
    /// Of all listeners together; not part of the standard channel that the chart brings.
    pub tls: Option<Value>,
    /// Of a waypoint: its status says that pods' own addresses are behind it.
    #[serde(skip)]
    pub bound: bool,
    /// Fields that nobody here knows.
    #[serde(skip)]
    pub unknown: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Address {
    #[serde(rename = "type")]
    pub kind: Option<Text>,
    #[serde(deserialize_with = "or_default")]
    pub value: Text,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Infrastructure {
    #[serde(deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub annotations: Labels,
    pub parameters_ref: Option<ParametersRef>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct ParametersRef {
    #[serde(deserialize_with = "or_default")]
    pub group: Text,
    #[serde(deserialize_with = "or_default")]
    pub kind: Text,
    #[serde(deserialize_with = "or_default")]
    pub name: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Listener {
    #[serde(deserialize_with = "or_default")]
    pub name: Text,
    #[serde(deserialize_with = "or_default")]
    pub hostname: Text,
    pub port: u16,
    #[serde(deserialize_with = "or_default")]
    pub protocol: Text,
    pub tls: Option<ListenerTls>,
    #[serde(deserialize_with = "or_default")]
    pub allowed_routes: AllowedRoutes,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerTls {
    pub mode: Option<Text>,
    #[serde(deserialize_with = "or_default")]
    pub certificate_refs: Vec<ObjectReference>,
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<Text, Value>,
    pub frontend_validation: Option<Value>,
}

/// An object, by default a Secret of the same namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ObjectReference {
    pub group: Option<Text>,
    pub kind: Option<Text>,
    #[serde(deserialize_with = "or_default")]
    pub name: Text,
    pub namespace: Option<Text>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    #[serde(deserialize_with = "or_default")]
    pub namespaces: RouteNamespaces,
    #[serde(deserialize_with = "or_default")]
    pub kinds: Vec<RouteKind>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    pub from: Option<Text>,
    #[serde(deserialize_with = "or_default")]
    pub selector: NamespaceSelector,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct RouteKind {
    pub group: Option<Text>,
    #[serde(deserialize_with = "or_default")]
    pub kind: Text,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamespaceSelector {
    #[serde(deserialize_with = "or_default")]
    pub match_labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub match_expressions: Vec<LabelExpression>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LabelExpression {
    #[serde(deserialize_with = "or_default")]
    pub key: Text,
    #[serde(deserialize_with = "or_default")]
    pub operator: Text,
    #[serde(deserialize_with = "or_default")]
    pub values: Vec<Text>,
}

impl Gateway {
    pub(super) fn read(raw: &RawObject) -> Result<Self, Rejection> {
        let (gateway, unknown) = noting(raw.value.get("spec").unwrap_or(&Value::Null), "spec")?;
        Ok(Self {
            bound: bound_waypoint(&raw.value).is_some(),
            unknown,
            ..gateway
        })
    }
}

impl RouteNamespaces {
    /// Whether routes of a namespace with these labels may attach to a Gateway of the namespace `own`.
    pub fn admit(&self, own: &str, namespace: &str, labels: &Labels) -> bool {
        match self.from.as_deref().unwrap_or("Same") {
            "All" => true,
            "Same" => own == namespace,
            "Selector" => self.selector.selects(labels),
            _ => false,
        }
    }
}

impl NamespaceSelector {
    /// One that says nothing selects nothing: it is a mistake, and the other meaning would open the Gateway to all.
    fn selects(&self, labels: &Labels) -> bool {
        self.requirements() > 0 && self.matches(labels)
    }

    /// How many things it asks for.
    pub fn requirements(&self) -> usize {
        self.match_labels.len() + self.match_expressions.len()
    }

    /// Whether everything that it asks for holds; that is so where it asks for nothing.
    pub fn matches(&self, labels: &Labels) -> bool {
        let has = |(key, value): (&Text, &Text)| labels.get(key) == Some(value);
        self.match_labels.iter().all(has) && self.match_expressions.iter().all(|e| e.holds(labels))
    }
}

impl LabelExpression {
    /// What Kubernetes would not take of it.
    pub fn fault(&self) -> Option<String> {
        let (key, operator) = (&self.key, &self.operator);
        if key.is_empty() {
            return Some("has an expression that names no label".to_owned());
        }
        match (&**operator, self.values.is_empty()) {
            ("In" | "NotIn", false) | ("Exists" | "DoesNotExist", true) => None,
            ("In" | "NotIn", true) => Some(format!("names no value of {key:?} for the operator {operator}")),
            ("Exists" | "DoesNotExist", false) => Some(format!(
                "names values of {key:?}, but the operator {operator} takes no values"
            )),
            _ => Some(format!(
                "has the operator {operator:?} for {key:?}; there are In, NotIn, Exists and DoesNotExist"
            )),
        }
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let is_listed = value.is_some_and(|v| self.values.contains(v));
        match &*self.operator {
            "In" => is_listed,
            "NotIn" => !is_listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_admitted_as_the_listener_says() {
        let labels: Labels = [("team".into(), "a".into())].into();
        let admits = |text: &str, namespace: &str| {
            let value: RouteNamespaces = serde_json::from_str(text).unwrap();
            value.admit("own", namespace, &labels)
        };
        assert!(admits("{}", "own") && !admits("{}", "other"));
        assert!(admits(r#"{"from":"All"}"#, "other"));
        assert!(!admits(r#"{"from":"None"}"#, "own"));
        assert!(admits(
            r#"{"from":"Selector","selector":{"matchLabels":{"team":"a"}}}"#,
            "other"
        ));
        assert!(!admits(
            r#"{"from":"Selector","selector":{"matchLabels":{"team":"b"}}}"#,
            "own"
        ));
        assert!(!admits(r#"{"from":"Selector"}"#, "own"));
        for (expression, holds) in [
            (r#"{"key":"team","operator":"In","values":["a","b"]}"#, true),
            (r#"{"key":"team","operator":"NotIn","values":["b"]}"#, true),
            (r#"{"key":"team","operator":"NotIn","values":["a"]}"#, false),
            (r#"{"key":"team","operator":"Exists"}"#, true),
            (r#"{"key":"team","operator":"DoesNotExist"}"#, false),
            (r#"{"key":"team","operator":"Guess"}"#, false),
        ] {
            let text = format!(r#"{{"from":"Selector","selector":{{"matchExpressions":[{expression}]}}}}"#);
            assert_eq!(admits(&text, "other"), holds, "{expression}");
        }
    }
}
