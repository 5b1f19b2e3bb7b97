//! What runs in each namespace of a benchmark.

use serde_json::{Value, json};

use super::plan::Side;

pub(super) const HTTP_PORT: u16 = 8080;
pub(super) const IPERF_PORT: u16 = 5201;
/// Servers of the routed service, and the share of requests that each is to get.
const WEIGHTS: [(&str, u32); 3] = [("v1", 25), ("v2", 25), ("v3", 50)];

pub(super) fn namespace(side: Side) -> String {
    let labels = match side {
        Side::Plain => json!({}),
        Side::Mesh => json!({ "istio.io/dataplane-mode": "ambient" }),
    };
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": side.namespace(), "labels": labels } })
        .to_string()
}

/// Servers on `near`, a client on each node.
pub(super) fn workloads(program: &str, near: &str, far: &str) -> String {
    let serve = json!([program, "serve", "--port", HTTP_PORT.to_string()]);
    let mut documents = vec![
        service("http", "http", HTTP_PORT),
        service("iperf", "tcp", IPERF_PORT),
        deployment(
            "iperf",
            "v1",
            near,
            &json!(["iperf3", "-s", "-p", IPERF_PORT.to_string()]),
        ),
        deployment("client-near", "v1", near, &json!(["sleep", "infinity"])),
        deployment("client-far", "v1", far, &json!(["sleep", "infinity"])),
    ];
    documents.extend(WEIGHTS.map(|(version, _)| deployment("http", version, near, &serve)));
    to_text(&documents)
}

/// A weighted split over the versions of the HTTP server.
pub(super) fn routing() -> String {
    let subsets: Vec<Value> = WEIGHTS
        .iter()
        .map(|(version, _)| json!({ "name": version, "labels": { "version": version } }))
        .collect();
    let routes: Vec<Value> = WEIGHTS
        .iter()
        .map(|(version, weight)| json!({ "destination": { "host": "http", "subset": version }, "weight": weight }))
        .collect();
    to_text(&[
        istio("DestinationRule", json!({ "host": "http", "subsets": subsets })),
        istio(
            "VirtualService",
            json!({ "hosts": ["http"], "http": [{ "route": routes }] }),
        ),
    ])
}

fn istio(kind: &str, spec: Value) -> Value {
    let mut object =
        json!({ "apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": { "name": "http" } });
    object["spec"] = spec;
    object
}

fn service(app: &str, port_name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": app },
        "spec": { "selector": { "app": app }, "ports": [{ "name": port_name, "port": port }] },
    })
}

fn deployment(app: &str, version: &str, node: &str, command: &Value) -> Value {
    let labels = json!({ "app": app, "version": version });
    let container = json!({ "name": app, "image": format!("bench/{app}"), "command": command });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": format!("{app}-{version}") },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "nodeName": node, "containers": [container] } },
        },
    })
}

fn to_text(documents: &[Value]) -> String {
    documents
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join("\n---\n")
}
