//! The Deployment, Service and ServiceAccount of a waypoint.

use serde_json::{Value, json};

use crate::compile::Settings;
use crate::compile::discovery::WAYPOINT_CLASS;
use crate::compile::waypoints::{GATEWAY_NAME_LABEL, HBONE_PORT, MANAGED_BY, MANAGED_LABEL, WaypointKey};
use crate::kubernetes::kinds::ROOT_CONFIG_MAP;
use crate::kubernetes::{MADE_BY, MADE_BY_LABEL};
use crate::objects::{GATEWAY_API, ObjectKey};

/// Nobody: the images' own user.
const USER: u32 = 65532;

pub(super) fn waypoint(key: &WaypointKey, owner: &str, settings: &Settings) -> Vec<(ObjectKey, Value)> {
    let objects = [service_account(key), service(key), deployment(key, settings)];
    let complete = |(group, kind, mut value): (&str, &str, Value)| {
        value["metadata"]["labels"][MADE_BY_LABEL] = json!(MADE_BY);
        if settings.deployment.owned && !owner.is_empty() {
            value["metadata"]["ownerReferences"] = json!([owner_reference(key, owner)]);
        }
        (object_key(group, kind, key), value)
    };
    objects.into_iter().map(complete).collect()
}

/// The Gateway object: the cluster deletes what it owns with it.
fn owner_reference(key: &WaypointKey, uid: &str) -> Value {
    json!({
        "apiVersion": format!("{GATEWAY_API}/v1"),
        "kind": "Gateway",
        "name": *key.name,
        "uid": uid,
        "controller": true,
    })
}

fn object_key(group: &str, kind: &str, key: &WaypointKey) -> ObjectKey {
    ObjectKey::new(group, kind, &key.namespace, &key.name)
}

fn labels(key: &WaypointKey) -> Value {
    json!({
        GATEWAY_NAME_LABEL: *key.name,
        "gateway.networking.k8s.io/gateway-class-name": WAYPOINT_CLASS,
        MANAGED_LABEL: MANAGED_BY,
        "istio.io/dataplane-mode": "none",
        "sidecar.istio.io/inject": "false",
        "service.istio.io/canonical-name": *key.name,
        "service.istio.io/canonical-revision": "latest",
    })
}

fn metadata(key: &WaypointKey) -> Value {
    json!({ "name": *key.name, "namespace": *key.namespace, "labels": labels(key) })
}

fn service_account(key: &WaypointKey) -> (&'static str, &'static str, Value) {
    let value = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(key) });
    ("", "ServiceAccount", value)
}

fn service(key: &WaypointKey) -> (&'static str, &'static str, Value) {
    let value = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(key),
        "spec": {
            "type": "ClusterIP",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": { GATEWAY_NAME_LABEL: *key.name },
            "ports": [
                { "name": "status-port", "port": 15021, "protocol": "TCP", "appProtocol": "tcp" },
                { "name": "mesh", "port": HBONE_PORT, "protocol": "TCP", "appProtocol": "all" },
            ],
        },
    });
    ("", "Service", value)
}

fn deployment(key: &WaypointKey, settings: &Settings) -> (&'static str, &'static str, Value) {
    let value = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(key),
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { GATEWAY_NAME_LABEL: *key.name } },
            "template": {
                "metadata": {
                    "labels": labels(key),
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": "15020",
                        "prometheus.io/path": "/stats/prometheus",
                    },
                },
                "spec": pod_spec(key, settings),
            },
        },
    });
    ("apps", "Deployment", value)
}

fn pod_spec(key: &WaypointKey, settings: &Settings) -> Value {
    let secrets = &settings.deployment.pull_secrets;
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({ "name": **name })).collect();
    json!({
        "serviceAccountName": *key.name,
        // It speaks to the control plane, never to the API server.
        "automountServiceAccountToken": false,
        "imagePullSecrets": secrets,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "containers": [container(key, settings)],
        "volumes": [
            {
                "name": "istio-token",
                "projected": { "sources": [{ "serviceAccountToken": {
                    "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token",
                } }] },
            },
            { "name": "istiod-ca-cert", "configMap": { "name": ROOT_CONFIG_MAP } },
        ],
    })
}

fn container(key: &WaypointKey, settings: &Settings) -> Value {
    json!({
        "name": "istio-proxy",
        "image": *settings.waypoint_image,
        "imagePullPolicy": *settings.deployment.pull_policy,
        "args": ["--role", "waypoint"],
        "env": env(key, settings),
        "ports": [
            { "name": "mesh", "containerPort": HBONE_PORT, "protocol": "TCP" },
            { "name": "metrics", "containerPort": 15020, "protocol": "TCP" },
            { "name": "status-port", "containerPort": 15021, "protocol": "TCP" },
        ],
        "readinessProbe": {
            "httpGet": { "path": "/healthz/ready", "port": 15021 },
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": 4,
        },
        "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            { "name": "istio-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true },
            { "name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio", "readOnly": true },
        ],
    })
}

fn env(key: &WaypointKey, settings: &Settings) -> Value {
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    json!([
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("NODE_NAME", "spec.nodeName"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        { "name": "CLUSTER_ID", "value": *settings.cluster_id },
        { "name": "NETWORK", "value": *settings.network },
        { "name": "XDS_ADDRESS", "value": *settings.deployment.xds_address },
        { "name": "TRUST_DOMAIN", "value": settings.trust_domain.as_str() },
        { "name": "GATEWAY_NAME", "value": *key.name },
    ])
}
