//! A living Istio: both would answer to the same names, so nothing is installed beside it.

use anyhow::bail;
use serde_json::Value;

use crate::install::plain::PART_OF;
use crate::kubectl::Kubectl;

const MIGRATE: &str = "the two would answer to the same names. To migrate: keep your objects and the Secret `cacerts` or `istio-ca-secret`, remove Istio's own parts (`istioctl uninstall --purge` keeps its definitions only if you delete nothing by hand: prefer removing the releases istiod, istio-cni and ztunnel, not istio-base), then install. See \"Coming from Istio\" in docs/install.md";

/// What of Istio is here, in words; ours is not counted.
pub(crate) fn istio_parts(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<Vec<String>> {
    let mut parts = Vec::new();
    let workloads = kubectl.items(&["deployments,daemonsets", "-n", namespace])?;
    for object in workloads.iter().filter(|o| is_istio(o)) {
        parts.push(described(object));
    }
    let webhooks = kubectl.items(&["mutatingwebhookconfigurations", "-l", "app=sidecar-injector"])?;
    parts.extend(webhooks.iter().map(described));
    Ok(parts)
}

pub(crate) fn refuse(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<()> {
    let parts = istio_parts(kubectl, namespace)?;
    if parts.is_empty() {
        return Ok(());
    }
    bail!("Istio is here ({}): {MIGRATE}", parts.join(", "))
}

fn is_istio(object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    if labels[PART_OF] == "aquifer" {
        return false;
    }
    let named = ["istiod", "ztunnel", "istio-cni-node"]
        .iter()
        .any(|name| object["metadata"]["name"] == *name);
    named || labels["app"] == "istiod" || labels["app"] == "ztunnel"
}

fn described(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
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
