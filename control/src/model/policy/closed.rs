//! What a policy means of which no version was ever understood.
//!
//! Refused policies keep nobody out, so what can still be read of one decides, and the rest counts against the caller:
//!
//! - An AuthorizationPolicy that allows, allows nothing.
//! - One that denies, or whose action is not an action, denies everything: it does not say who may come.
//! - A PeerAuthentication means STRICT.
//!
//! Nothing can be done for a policy that does not say whom it selects: closing the whole namespace, or from the root
//! namespace the whole mesh, for a word that is misspelt would harm more than it protects. Its status says that it is
//! not in effect. The same holds for what this version does not support (AUDIT, CUSTOM, policies of waypoints), which
//! it would not enforce either if it were spelt right.

use aquifer_core::policy::{Action, Group};
use serde_json::{Map, Value};

use crate::model::policy::{AuthorizationPolicy, Labels, MtlsMode, PeerAuthentication};
use crate::objects::{Meta, Object, RawObject, SECURITY};

/// Fields of the two kinds' specs.
const AUTHORIZATION: [&str; 6] = [
    "selector",
    "targetRef",
    "targetRefs",
    "rules",
    "action",
    "provider",
];
const PEER: [&str; 3] = ["selector", "mtls", "portLevelMtls"];

/// The policy to enforce in the place of one that was rejected; `None` where there is none.
pub fn closed(raw: &RawObject, meta: &Meta) -> Option<Object> {
    if &*raw.key.group != SECURITY {
        return None;
    }
    let spec = raw.value.get("spec")?.as_object()?;
    match &*raw.key.kind {
        "AuthorizationPolicy" => authorization(spec, meta).map(|p| Object::AuthorizationPolicy(p.into())),
        "PeerAuthentication" => peer(spec, meta).map(|p| Object::PeerAuthentication(p.into())),
        _ => None,
    }
}

fn authorization(spec: &Map<String, Value>, meta: &Meta) -> Option<AuthorizationPolicy> {
    let action = spec.get("action").and_then(Value::as_str);
    let for_others = spec.contains_key("targetRef") || spec.contains_key("targetRefs");
    if for_others || matches!(action, Some("AUDIT" | "CUSTOM")) || meta.is_dry_run() {
        return None;
    }
    // A group without rules matches every connection.
    let (action, groups) = match action {
        None if !spec.contains_key("action") => (Action::Allow, Vec::new()),
        Some("" | "ALLOW") => (Action::Allow, Vec::new()),
        _ => (Action::Deny, vec![Group::default()]),
    };
    Some(AuthorizationPolicy {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        selector: selector(spec, &AUTHORIZATION)?,
        action,
        groups,
        dry_run: false,
        request_fields: Vec::new(),
    })
}

fn peer(spec: &Map<String, Value>, meta: &Meta) -> Option<PeerAuthentication> {
    Some(PeerAuthentication {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        selector: selector(spec, &PEER)?,
        mode: MtlsMode::Strict,
        ports: [].into(),
    })
}

/// Whom the policy selects (see [`super::selector`]); the outer `None` where that cannot be told, because it is spelt
/// wrong or because a word that is not known may have been meant to say it.
fn selector(spec: &Map<String, Value>, known: &[&str]) -> Option<Option<Labels>> {
    let Some(selector) = spec.get("selector").filter(|s| !s.is_null()) else {
        return spec
            .keys()
            .all(|key| known.contains(&key.as_str()))
            .then_some(None);
    };
    let selector = selector.as_object()?;
    if selector.keys().any(|key| key != "matchLabels") {
        return None;
    }
    let Some(labels) = selector.get("matchLabels").filter(|l| !l.is_null()) else {
        return Some(None);
    };
    let pairs = labels.as_object()?.iter();
    let labels: Option<Labels> = pairs
        .map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
        .collect();
    labels.map(|labels| Some(labels).filter(|l| !l.is_empty()))
}
