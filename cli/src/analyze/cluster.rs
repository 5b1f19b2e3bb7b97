//! What the mesh reads of a cluster, by kubectl.

use std::collections::BTreeSet;

use anyhow::Context as _;
use aquifer_control::model::secret::DATA_KEYS;
use aquifer_control::validate::{Document, SecretName};
use serde_json::Value;

use crate::kubectl::Kubectl;

/// Kubernetes' own kinds that decide what becomes of the mesh's.
const KINDS: [&str; 4] = [
    "namespaces",
    "pods",
    "services",
    "endpointslices.discovery.k8s.io",
];
/// Groups of the mesh's kinds.
const GROUPS: [&str; 5] = [
    ".networking.istio.io",
    ".security.istio.io",
    ".telemetry.istio.io",
    ".extensions.istio.io",
    ".gateway.networking.k8s.io",
];

/// Every object as a document of its own.
pub(super) fn documents(kubectl: &Kubectl, root_namespace: &str) -> anyhow::Result<Vec<Document>> {
    let known = kubectl.text(&["api-resources", "--verbs=list", "-o", "name"])?;
    let ours = known
        .lines()
        .filter(|kind| GROUPS.iter().any(|group| kind.ends_with(group)));
    let kinds: Vec<&str> = KINDS.into_iter().chain(ours).collect();
    let mut objects = kubectl.items(&[&kinds.join(","), "--all-namespaces"])?;
    objects.extend(kubectl.object(&["configmap", "istio", "-n", root_namespace])?);
    objects.iter().map(document).collect()
}

fn document(object: &Value) -> anyhow::Result<Document> {
    Ok(Document {
        origin: "cluster".into(),
        bytes: serde_json::to_vec(object).context("an object of the cluster cannot be written")?,
    })
}

/// Those of the Secrets that exist; of their content what TLS is ended with, which is judged and never shown.
pub(super) fn secrets(kubectl: &Kubectl, named: &BTreeSet<SecretName>) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for secret in named {
        let arguments = ["secret", &*secret.name, "-n", &*secret.namespace];
        if let Some(mut object) = kubectl.object(&arguments)? {
            if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
                data.retain(|key, _| DATA_KEYS.contains(&key.as_str()));
            }
            documents.push(document(&object)?);
        }
    }
    Ok(documents)
}
