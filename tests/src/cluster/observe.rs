//! What runs on a cluster, in the lab's own terms: the demo and the suites read either.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::kubectl::{Kubectl, KubectlError};
use crate::lab::status::{NodeStatus, PodStatus, Status};

/// The annotation by which an agent reports a pod.
const REDIRECTION: &str = "ambient.istio.io/redirection";

/// Nodes and pods of all namespaces.
pub fn status(kubectl: &Kubectl) -> Result<Status, KubectlError> {
    let arguments = ["get", "nodes,pods", "--all-namespaces", "-o", "json"];
    let text = kubectl.run(&arguments)?;
    let list: Value = serde_json::from_str(&text).map_err(|error| KubectlError::Failed {
        arguments: arguments.join(" "),
        message: error.to_string(),
    })?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &'static str| items.iter().filter(move |item| item["kind"] == kind);
    Ok(Status {
        name: "kubernetes".to_owned(),
        nodes: of_kind("Node").map(node).collect(),
        pods: of_kind("Pod").map(pod).collect(),
        ..Status::default()
    })
}

/// Waits for a state of the cluster; the last one seen is told at the deadline.
pub fn until(
    kubectl: &Kubectl,
    what: &str,
    patience: Duration,
    wanted: impl Fn(&Status) -> bool,
) -> Result<Status, KubectlError> {
    kubectl.until(what, patience, || {
        let status = status(kubectl).map_err(|error| error.to_string())?;
        if wanted(&status) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
}

fn node(node: &Value) -> NodeStatus {
    let addresses = list(&node["status"]["addresses"]);
    NodeStatus {
        name: text(&node["metadata"]["name"]),
        addresses: addresses
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str()?.parse().ok())
            .collect(),
        netns: String::new(),
        ready: has_condition(node, "Ready"),
    }
}

fn pod(pod: &Value) -> PodStatus {
    let (metadata, status) = (&pod["metadata"], &pod["status"]);
    let ips: Vec<IpAddr> = list(&status["podIPs"])
        .filter_map(|ip| ip["ip"].as_str()?.parse().ok())
        .collect();
    let containers = list(&status["containerStatuses"]);
    PodStatus {
        namespace: text(&metadata["namespace"]),
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
        workload: workload(metadata),
        labels: serde_json::from_value(metadata["labels"].clone()).unwrap_or_default(),
        node: text(&pod["spec"]["nodeName"]),
        ip: ips.first().copied(),
        ips,
        netns: String::new(),
        cgroup: String::new(),
        phase: text(&status["phase"]),
        ready: has_condition(pod, "Ready"),
        enrolled: metadata["annotations"][REDIRECTION] == "enabled",
        wanted: false,
        restarts: containers
            .filter_map(|container| container["restartCount"].as_u64())
            .sum::<u64>()
            .try_into()
            .unwrap_or(u32::MAX),
        reason: text(&status["message"]),
        pids: Vec::new(),
    }
}

/// A Deployment's pods belong to a ReplicaSet that is named for the template's hash.
fn workload(metadata: &Value) -> String {
    let owner = &metadata["ownerReferences"][0];
    let name = owner["name"]
        .as_str()
        .or_else(|| metadata["name"].as_str())
        .unwrap_or_default();
    let hash = metadata["labels"]["pod-template-hash"].as_str();
    let of_deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    of_deployment.unwrap_or(name).to_owned()
}

fn has_condition(object: &Value, kind: &str) -> bool {
    list(&object["status"]["conditions"])
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_read_with_its_workload_and_report() {
        let object = json!({
            "metadata": {
                "namespace": "shop", "name": "web-5d4-x", "uid": "u",
                "labels": {"app": "web", "pod-template-hash": "5d4"},
                "annotations": {REDIRECTION: "enabled"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4"}],
            },
            "spec": {"nodeName": "node-1"},
            "status": {
                "phase": "Running",
                "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"restartCount": 2}, {"restartCount": 1}],
            },
        });
        let read = pod(&object);
        assert_eq!((read.workload.as_str(), read.restarts), ("web", 3));
        assert!(read.ready && read.enrolled);
        let bare = pod(&json!({"metadata": {"name": "alone"}}));
        assert_eq!((bare.workload.as_str(), bare.ready), ("alone", false));
    }
}
