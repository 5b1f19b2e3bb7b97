//! What Kubernetes and the mesh would make of manifests: pods of workloads, namespaces that nobody described, the
//! chart's gateways.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use serde_json::{Value, json};

use crate::compile::discovery::REDIRECTION;
use crate::objects::{ObjectKey, RawObject};
use crate::validate::View;

/// The gateways that the chart installs where its values say so.
const GATEWAYS: [&str; 2] = ["ingressgateway", "egressgateway"];
/// More workloads than this in one input get no pods of their own.
const MAX_PODS: u64 = 100_000;

/// Objects that the given ones imply; those that are there already win.
pub(super) fn of<'o>(
    objects: impl Iterator<Item = &'o RawObject>,
    view: View,
    root_namespace: &str,
) -> Vec<RawObject> {
    let mut implied = Vec::new();
    let mut namespaces = BTreeSet::new();
    let mut pods = 0;
    for object in objects {
        if !object.key.namespace.is_empty() {
            namespaces.insert(object.key.namespace.to_string());
        }
        if let Some(template) = template(object).filter(|_| pods < MAX_PODS) {
            pods += 1;
            let name = format!("{}-preview", object.key.name);
            implied.push(pod(&object.key.namespace, &name, template, pods));
        }
    }
    if view == View::Files {
        namespaces.insert(root_namespace.to_owned());
        implied.extend(namespaces.iter().map(|name| namespace(name, root_namespace)));
        for (i, gateway) in GATEWAYS.iter().enumerate() {
            implied.extend(installed_gateway(
                root_namespace,
                gateway,
                MAX_PODS + 1 + i as u64,
            ));
        }
    }
    implied
}

/// The pod template of a workload.
fn template(object: &RawObject) -> Option<&Value> {
    let spec = object.value.get("spec")?;
    let found = match (&*object.key.group, &*object.key.kind) {
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch", "Job") => {
            spec.get("template")
        }
        ("batch", "CronJob") => spec.pointer("/jobTemplate/spec/template"),
        _ => None,
    };
    found.filter(|t| t.is_object())
}

fn pod(namespace: &str, name: &str, template: &Value, number: u64) -> RawObject {
    let mut value = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template.get("metadata").cloned().filter(Value::is_object).unwrap_or_else(|| json!({})),
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
        "status": {
            "phase": "Running",
            "podIP": address(number),
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    });
    let metadata = &mut value["metadata"];
    metadata["name"] = name.into();
    metadata["namespace"] = namespace.into();
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][REDIRECTION] = "enabled".into();
    raw("Pod", namespace, name, value)
}

/// RFC 6666: addresses that lead nowhere.
fn address(number: u64) -> String {
    Ipv6Addr::from((0x100_u128 << 112) | u128::from(number)).to_string()
}

/// A namespace that nobody described counts as enrolled: the manifests are for the mesh.
fn namespace(name: &str, root_namespace: &str) -> RawObject {
    let mode = if name == root_namespace { "none" } else { "ambient" };
    let labels = json!({ "istio.io/dataplane-mode": mode });
    let value =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    raw("Namespace", "", name, value)
}

fn installed_gateway(namespace: &str, gateway: &str, number: u64) -> [RawObject; 2] {
    let name = format!("istio-{gateway}");
    let labels = json!({ "app": name, "istio": gateway });
    let template = json!({
        "metadata": { "labels": labels },
        "spec": { "containers": [{ "name": "istio-proxy" }] },
    });
    let ports = [("http2", 80), ("https", 443), ("status-port", 15021)];
    let ports = ports.map(|(name, port)| json!({ "name": name, "port": port }));
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": { "selector": labels, "ports": ports },
    });
    [
        pod(namespace, &format!("{name}-preview"), &template, number),
        raw("Service", namespace, &name, service),
    ]
}

fn raw(kind: &str, namespace: &str, name: &str, value: Value) -> RawObject {
    RawObject {
        key: ObjectKey::new("", kind, namespace, name),
        api_version: "v1".into(),
        value,
    }
}
