//! Secrets that gateways name.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::objects::{GATEWAY_API, NETWORKING, RawObject};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Where an object names a Secret.
pub(super) struct Reference {
    pub(super) field: String,
    pub(super) secret: SecretName,
}

/// All Secrets that the objects name.
pub fn references<'o>(
    objects: impl IntoIterator<Item = &'o RawObject>,
    gateway_namespace: &str,
) -> BTreeSet<SecretName> {
    let all = objects
        .into_iter()
        .flat_map(|object| of(object, gateway_namespace));
    all.map(|reference| reference.secret).collect()
}

/// Istio's Gateway names Secrets beside the gateway's pods; the Gateway API beside the object, or where it says.
pub(super) fn of(object: &RawObject, gateway_namespace: &str) -> Vec<Reference> {
    match (&*object.key.group, &*object.key.kind) {
        (NETWORKING, "Gateway") => istio(object, gateway_namespace),
        (GATEWAY_API, "Gateway") => gateway_api(object),
        _ => Vec::new(),
    }
}

fn istio(object: &RawObject, namespace: &str) -> Vec<Reference> {
    let servers = list(object.value.pointer("/spec/servers"));
    let found = servers.enumerate().flat_map(|(i, server)| {
        let tls = server.get("tls");
        let names = ["credentialName", "caCertCredentialName"];
        names.into_iter().filter_map(move |field| {
            let name = tls?.get(field)?.as_str()?;
            Some(reference(
                format!("spec.servers[{i}].tls.{field}"),
                namespace,
                name,
            ))
        })
    });
    found.collect()
}

fn gateway_api(object: &RawObject) -> Vec<Reference> {
    let listeners = list(object.value.pointer("/spec/listeners"));
    let found = listeners.enumerate().flat_map(|(i, listener)| {
        let references = list(listener.pointer("/tls/certificateRefs"));
        references.enumerate().filter_map(move |(j, r)| {
            let kind = r.get("kind").and_then(Value::as_str).unwrap_or("Secret");
            let namespace = r
                .get("namespace")
                .and_then(Value::as_str)
                .unwrap_or(&object.key.namespace);
            let name = r.get("name")?.as_str()?;
            let field = format!("spec.listeners[{i}].tls.certificateRefs[{j}]");
            (kind == "Secret").then(|| reference(field, namespace, name))
        })
    });
    found.collect()
}

fn reference(field: String, namespace: &str, name: &str) -> Reference {
    // Istio's form kubernetes://NAME and NAMESPACE/NAME.
    let name = name.strip_prefix("kubernetes://").unwrap_or(name);
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    Reference {
        field,
        secret: SecretName {
            namespace: namespace.into(),
            name: name.into(),
        },
    }
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}
