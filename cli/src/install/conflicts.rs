//! A living Istio: both would answer to the same names, so nothing is installed beside it.

use anyhow::bail;
use serde_json::Value;

use crate::install::plain::PART_OF;
use crate::kubectl::Kubectl;

const MIGRATE: &str = "the two would answer to the same names. To migrate: keep your objects and the Secret `cacerts` or `istio-ca-secret`, remove Istio's own parts (`istioctl uninstall --purge` keeps its definitions only if you delete nothing by hand: prefer removing the releases istiod, istio-cni and ztunnel, not istio-base), then install. See \"Coming from Istio\" in docs/install.md";

/// Labels of Istio's control planes and node agents, wherever they are.
const LIVING: [&str; 2] = ["app in (istiod,ztunnel)", "k8s-app=istio-cni-node"];
/// Cluster-wide, and Istio's wherever it is: its injectors and its validators.
const WEBHOOKS: [(&str, &str); 2] = [
    ("mutatingwebhookconfigurations", "app=sidecar-injector"),
    ("validatingwebhookconfigurations", "app=istiod"),
];

/// What of Istio is here, in words; ours is not counted.
pub(crate) fn istio_parts(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<Vec<String>> {
    let mut found = kubectl.items(&["deployments,daemonsets", "-n", namespace])?;
    for labels in LIVING {
        found.extend(kubectl.items(&["deployments,daemonsets", "--all-namespaces", "-l", labels])?);
    }
    found.retain(is_istio);
    for (kind, labels) in WEBHOOKS {
        let webhooks = kubectl.items(&[kind, "-l", labels])?;
        found.extend(webhooks.into_iter().filter(|webhook| !is_ours(webhook)));
    }
    let mut parts: Vec<String> = Vec::new();
    for part in found.iter().map(described) {
        // One in the mesh's own namespace is found twice.
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    Ok(parts)
}

pub(crate) fn refuse(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<()> {
    let parts = istio_parts(kubectl, namespace)?;
    if parts.is_empty() {
        return Ok(());
    }
    bail!("Istio is here ({}): {MIGRATE}", parts.join(", "))
}

fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"][PART_OF] == "aquifer"
}

fn is_istio(object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    if is_ours(object) {
        return false;
    }
    let named = ["istiod", "ztunnel", "istio-cni-node"]
        .iter()
        .any(|name| object["metadata"]["name"] == *name);
    named || labels["app"] == "istiod" || labels["app"] == "ztunnel" || labels["k8s-app"] == "istio-cni-node"
}

fn described(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ours_is_told_from_istios() {
        let object = |name: &str, labels: Value| json!({ "metadata": { "name": name, "labels": labels } });
        assert!(is_istio(&object("istiod", json!({ "app": "istiod" }))));
        assert!(is_istio(&object("istiod-1-24", json!({ "app": "istiod" }))));
        assert!(is_istio(&object("ztunnel", json!({}))));
        assert!(!is_istio(&object(
            "aquifer-control",
            json!({ "app": "istiod", PART_OF: "aquifer" })
        )));
        assert!(!is_istio(&object("grafana", json!({ "app": "grafana" }))));
    }
}
