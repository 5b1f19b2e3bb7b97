//! Secrets that gateways name.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::model::termination::CA_SUFFIX;
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

/// All Secrets that the objects name, beside the `pods` of gateways for Istio's Gateway.
pub fn references<'o>(
    objects: impl IntoIterator<Item = &'o RawObject>,
    pods: &[&RawObject],
) -> BTreeSet<SecretName> {
    let of = |object: &RawObject| match (&*object.key.group, &*object.key.kind) {
        (NETWORKING, "Gateway") => of_istio(object, pods),
        _ => of_gateway_api(object).into_iter().map(|r| r.secret).collect(),
    };
    objects.into_iter().flat_map(of).collect()
}

/// Every Secret that may be meant, in every namespace that has pods of the gateway.
fn of_istio(object: &RawObject, pods: &[&RawObject]) -> Vec<SecretName> {
    let selector = object.value.pointer("/spec/selector").and_then(Value::as_object);
    let selected = |pod: &&&RawObject| {
        let labels = pod.value.pointer("/metadata/labels");
        let mut wanted = selector.into_iter().flatten();
        wanted.all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
    };
    let namespaces: BTreeSet<&Arc<str>> = pods
        .iter()
        .filter(selected)
        .map(|pod| &pod.key.namespace)
        .collect();
    let names: Vec<String> = list(object.value.pointer("/spec/servers"))
        .flat_map(credential_names)
        .collect();
    let secret = |namespace: &Arc<str>, name: &String| SecretName {
        namespace: namespace.clone(),
        name: name.as_str().into(),
    };
    let all = namespaces
        .into_iter()
        .flat_map(|namespace| names.iter().map(move |name| secret(namespace, name)));
    all.collect()
}

fn credential_names(server: &Value) -> Vec<String> {
    let tls = server.get("tls").unwrap_or(&Value::Null);
    let one = ["credentialName", "caCertCredentialName"].map(|field| tls.get(field));
    let named = one.into_iter().flatten().chain(list(tls.get("credentialNames")));
    let named: Vec<&str> = named.filter_map(Value::as_str).collect();
    let beside = named.iter().map(|name| format!("{name}{CA_SUFFIX}"));
    let own = named.iter().map(|name| (*name).to_owned());
    own.chain(beside).collect()
}

/// The Gateway API names Secrets beside the object, or where it says.
pub(super) fn of_gateway_api(object: &RawObject) -> Vec<Reference> {
    if (&*object.key.group, &*object.key.kind) != (GATEWAY_API, "Gateway") {
        return Vec::new();
    }
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
