//! What the mesh reads of a cluster, by kubectl.

use std::collections::BTreeSet;

use anyhow::Context as _;
use aquifer_control::model::secret::DATA_KEYS;
use aquifer_control::validate::{Document, Mesh, SecretName};
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

/// The objects, and what the control plane runs with.
pub(super) fn read(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<(Vec<Document>, Mesh)> {
    let control = kubectl.object(&["deployment", "aquifer-control", "-n", namespace])?;
    let mesh = running(control.as_ref(), namespace)?;
    Ok((documents(kubectl, namespace)?, mesh))
}

/// As the chart has it where there is no control plane.
fn running(control: Option<&Value>, namespace: &str) -> anyhow::Result<Mesh> {
    let mut mesh = Mesh::in_namespace(namespace);
    let containers = control.and_then(|c| c["spec"]["template"]["spec"]["containers"].as_array());
    let variables = containers
        .into_iter()
        .flatten()
        .filter_map(|c| c["env"].as_array());
    for variable in variables.flatten() {
        let value = variable["value"].as_str().unwrap_or_default();
        match variable["name"].as_str() {
            Some("ROOT_NAMESPACE") if !value.is_empty() => mesh.root_namespace = value.into(),
            Some("TRUST_DOMAIN") => {
                let why = "the trust domain of Deployment aquifer-control cannot be read";
                mesh.trust_domain = value.parse().context(why)?;
            }
            _ => {}
        }
    }
    Ok(mesh)
}

/// Every object as a document of its own.
fn documents(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<Vec<Document>> {
    let known = kubectl.text(&["api-resources", "--verbs=list", "-o", "name"])?;
    let ours = known
        .lines()
        .filter(|kind| GROUPS.iter().any(|group| kind.ends_with(group)));
    let kinds: Vec<&str> = KINDS.into_iter().chain(ours).collect();
    let mut objects = kubectl.items(&[&kinds.join(","), "--all-namespaces"])?;
    objects.extend(kubectl.object(&["configmap", "istio", "-n", namespace])?);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_control_plane_runs_with_is_read_from_its_deployment() {
        let env = json!([
            { "name": "ROOT_NAMESPACE", "value": "mesh" },
            { "name": "TRUST_DOMAIN", "value": "td.example" },
            { "name": "POD_NAME", "valueFrom": {} },
        ]);
        let control = json!({ "spec": { "template": { "spec": { "containers": [{ "env": env }] } } } });
        let mesh = running(Some(&control), "istio-system").unwrap();
        let told = (
            &*mesh.namespace,
            &*mesh.root_namespace,
            mesh.trust_domain.as_str(),
        );
        assert_eq!(told, ("istio-system", "mesh", "td.example"));
        let mesh = running(None, "x").unwrap();
        assert_eq!((&*mesh.namespace, &*mesh.root_namespace), ("x", "x"));
    }
}
