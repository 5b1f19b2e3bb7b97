//! What of an object the model reads; the rest is dropped on arrival.
//!
//! Memory is one reason: a Pod has some ten kilobytes, of which the model reads one. The other is quiet: a change of
//! what nobody reads (a heartbeat, the control plane's own status) must not look like a change of the object.

use serde_json::{Map, Value};

use crate::compile::report::WAYPOINT_BOUND;
use crate::model::secret::DATA_KEYS;
use crate::objects::{GATEWAY_API, NETWORKING};

const METADATA: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
];
const POD_SPEC: [&str; 4] = ["nodeName", "serviceAccountName", "hostNetwork", "containers"];
const POD_STATUS: [&str; 6] = ["phase", "podIP", "podIPs", "hostIP", "hostIPs", "conditions"];
const CONTAINER: [&str; 2] = ["name", "ports"];
const CONTAINER_PORT: [&str; 2] = ["name", "containerPort"];
const ENDPOINT: [&str; 3] = ["addresses", "conditions", "targetRef"];
const ENDPOINT_PORT: [&str; 2] = ["name", "port"];
const SERVICE_SPEC: [&str; 10] = [
    "type",
    "clusterIP",
    "clusterIPs",
    "externalName",
    "externalIPs",
    "ports",
    "selector",
    "publishNotReadyAddresses",
    "internalTrafficPolicy",
    "trafficDistribution",
];
/// Who manages an object is the mesh's own, or says who deployed it.
const OWNER: [&str; 4] = ["kind", "name", "controller", "apiVersion"];
/// The part of an annotation's key that makes it the mesh's.
const MESH_ANNOTATION: &str = "istio.io/";

/// Reduces an object of `group` and `kind` to what is read of it.
pub(super) fn trim(group: &str, kind: &str, value: &mut Value) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    let status = object.remove("status");
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        trim_metadata(metadata);
    }
    match (group, kind) {
        ("", "Pod") => trim_pod(object, status),
        ("", "Service") => trim_service(object, status.as_ref()),
        (NETWORKING, "ServiceEntry") | (GATEWAY_API, "Gateway") => {
            keep_status(object, bound_condition(status.as_ref()));
        }
        ("", "Secret") => trim_secret(object),
        ("", "Namespace") => object.retain(|key, _| key == "metadata" || is_type(key)),
        ("discovery.k8s.io", "EndpointSlice") => {
            each(object.get_mut("endpoints"), trim_endpoint);
            each(object.get_mut("ports"), |port| keep(port, &ENDPOINT_PORT));
        }
        _ => {}
    }
}

fn is_type(key: &str) -> bool {
    key == "apiVersion" || key == "kind"
}

fn keep(map: &mut Map<String, Value>, fields: &[&str]) {
    map.retain(|key, _| fields.contains(&key.as_str()));
}

fn each(list: Option<&mut Value>, mut change: impl FnMut(&mut Map<String, Value>)) {
    for item in list.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(map) = item.as_object_mut() {
            change(map);
        }
    }
}

fn trim_metadata(metadata: &mut Map<String, Value>) {
    let owners = metadata.remove("ownerReferences");
    keep(metadata, &METADATA);
    if let Some(mut owners) = owners {
        each(Some(&mut owners), |owner| keep(owner, &OWNER));
        metadata.insert("ownerReferences".to_owned(), owners);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| key.contains(MESH_ANNOTATION));
        // That a sidecar was injected is read, not what it consists of.
        if let Some(sidecar) = annotations.get_mut("sidecar.istio.io/status") {
            *sidecar = Value::String(String::new());
        }
    }
}

fn trim_pod(object: &mut Map<String, Value>, status: Option<Value>) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        keep(spec, &POD_SPEC);
        each(spec.get_mut("containers"), |container| {
            keep(container, &CONTAINER);
            each(container.get_mut("ports"), |port| keep(port, &CONTAINER_PORT));
        });
    }
    let Some(Value::Object(mut status)) = status else {
        return;
    };
    keep(&mut status, &POD_STATUS);
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|c| c.get("type").and_then(Value::as_str) == Some("Ready"));
    }
    each(status.get_mut("conditions"), |c| keep(c, &["type", "status"]));
    object.insert("status".to_owned(), Value::Object(status));
}

/// Of a Service's status only which waypoint it is behind, for every replica must hold to that, and the addresses that
/// a load balancer has given it.
fn trim_service(object: &mut Map<String, Value>, status: Option<&Value>) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        keep(spec, &SERVICE_SPEC);
    }
    let mut kept = bound_condition(status);
    let balanced = status.and_then(|s| s.pointer("/loadBalancer/ingress"));
    if let Some(mut ingress) = balanced.cloned() {
        each(Some(&mut ingress), |one| keep(one, &["ip", "hostname"]));
        kept.insert(
            "loadBalancer".to_owned(),
            serde_json::json!({ "ingress": ingress }),
        );
    }
    keep_status(object, kept);
}

fn keep_status(object: &mut Map<String, Value>, status: Map<String, Value>) {
    if !status.is_empty() {
        object.insert("status".to_owned(), Value::Object(status));
    }
}

/// A status that says no more than which waypoint serves the object.
fn bound_condition(status: Option<&Value>) -> Map<String, Value> {
    let conditions = status.and_then(|s| s.get("conditions")).and_then(Value::as_array);
    let mut all = conditions.into_iter().flatten().filter_map(Value::as_object);
    let bound = all.find(|c| c.get("type").and_then(Value::as_str) == Some(WAYPOINT_BOUND));
    let mut kept = Map::new();
    if let Some(bound) = bound {
        let mut bound = bound.clone();
        keep(&mut bound, &["type", "status", "message"]);
        kept.insert("conditions".to_owned(), serde_json::json!([bound]));
    }
    kept
}

/// Of a Secret what TLS is ended with. The authority's own key may lie in the same namespace, and is not kept here.
fn trim_secret(object: &mut Map<String, Value>) {
    object.retain(|key, _| key == "metadata" || key == "data" || is_type(key));
    if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
        keep(data, &DATA_KEYS);
    }
}

fn trim_endpoint(endpoint: &mut Map<String, Value>) {
    keep(endpoint, &ENDPOINT);
    if let Some(target) = endpoint.get_mut("targetRef").and_then(Value::as_object_mut) {
        keep(target, &["kind", "name"]);
    }
    if let Some(conditions) = endpoint.get_mut("conditions").and_then(Value::as_object_mut) {
        keep(conditions, &["ready"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(heartbeat: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "a", "namespace": "b", "uid": "u", "resourceVersion": heartbeat, "labels": {"app": "a"},
                "annotations": {"sidecar.istio.io/status": "{\"a\": 1}", "kubectl.kubernetes.io/restartedAt": heartbeat},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "x", "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": {
                "nodeName": "n", "serviceAccountName": "s", "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "image": "i", "env": [{"name": "E"}], "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIPs": [{"ip": "172.18.0.2"}], "startTime": "t",
                "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": heartbeat}, {"type": "Initialized", "status": "True"}],
                "containerStatuses": [{"name": "c"}],
            },
        })
    }

    #[test]
    fn a_heartbeat_is_no_change() {
        let (mut one, mut two) = (pod("1"), pod("2"));
        trim("", "Pod", &mut one);
        trim("", "Pod", &mut two);
        assert_eq!(one, two);
        assert_eq!(
            one["spec"],
            json!({"nodeName": "n", "serviceAccountName": "s", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]})
        );
        assert_eq!(
            one["status"]["conditions"],
            json!([{"type": "Ready", "status": "True"}])
        );
        assert_eq!(one["status"]["hostIPs"], json!([{"ip": "172.18.0.2"}]));
        assert_eq!(
            one["metadata"]["annotations"],
            json!({"sidecar.istio.io/status": ""})
        );
    }

    #[test]
    fn a_status_of_ours_is_no_change() {
        let rules = |status: &str| {
            json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a", "generation": 3},
                "spec": {"hosts": ["a"]}, "status": {"conditions": [{"type": "Accepted", "status": status}]}})
        };
        let (mut one, mut two) = (rules("True"), rules("False"));
        trim("networking.istio.io", "VirtualService", &mut one);
        trim("networking.istio.io", "VirtualService", &mut two);
        assert_eq!(one, two);
        assert_eq!(one["metadata"]["generation"], 3);
    }

    #[test]
    fn which_waypoint_a_service_is_behind_is_kept() {
        let mut service = json!({"metadata": {"name": "a"}, "spec": {"ports": [], "sessionAffinity": "None"}, "status": {
        "loadBalancer": {}, "conditions": [
            {"type": "istio.io/WaypointBound", "status": "True", "message": "all traffic goes through waypoint b/w", "lastTransitionTime": "t"},
            {"type": "Other", "status": "True"},
        ]}});
        trim("", "Service", &mut service);
        let bound = json!({"type": "istio.io/WaypointBound", "status": "True", "message": "all traffic goes through waypoint b/w"});
        assert_eq!(service["status"], json!({"conditions": [bound]}));
        assert_eq!(service["spec"], json!({"ports": []}));
    }

    #[test]
    fn addresses_of_a_load_balancer_are_kept() {
        let mut service = json!({"metadata": {"name": "a"}, "spec": {}, "status": {
            "loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "lb.example"}]},
        }});
        trim("", "Service", &mut service);
        let kept = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]}});
        assert_eq!(service["status"], kept);
    }

    #[test]
    fn only_what_tls_is_ended_with_is_kept_of_a_secret() {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "a"},
            "data": {"tls.crt": "YQ==", "tls.key": "Yg==", "ca-key.pem": "Yw=="}});
        trim("", "Secret", &mut secret);
        assert_eq!(secret["data"], json!({"tls.crt": "YQ==", "tls.key": "Yg=="}));
        assert_eq!(secret["type"], Value::Null);
    }

    #[test]
    fn odd_shapes_do_no_harm() {
        for mut value in [
            json!(null),
            json!([]),
            json!({"metadata": 1, "spec": [], "status": "x", "endpoints": {}}),
            json!({"status": {"conditions": 1}}),
        ] {
            for (group, kind) in [
                ("", "Pod"),
                ("", "Service"),
                ("discovery.k8s.io", "EndpointSlice"),
                ("", "Namespace"),
                ("", "Secret"),
            ] {
                trim(group, kind, &mut value);
            }
        }
    }
}
