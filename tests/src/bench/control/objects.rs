//! What a mesh of a given size is made of: objects only, on nodes that nobody runs.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Namespaces that the pods and Services are spread over.
pub(super) const NAMESPACES: u32 = 20;
pub(super) const SERVICES: u32 = 2_000;
pub(super) const VIRTUAL_SERVICES: u32 = 500;
pub(super) const MESH_NAMESPACE: &str = "istio-system";
pub(super) const AGENT_ACCOUNT: &str = "ztunnel";
/// The control plane calls the waypoints so that rules need, and their Services.
pub(super) const WAYPOINT: &str = "waypoint";
pub(super) const WAYPOINT_POD: &str = "waypoint-0";

/// Where an object is created, and the object.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) collection: String,
    pub(super) object: Value,
    /// The `status` of a kind that has it apart.
    pub(super) status: Option<Value>,
}

impl Wanted {
    fn plain(collection: String, object: Value) -> Self {
        Self {
            collection,
            object,
            status: None,
        }
    }
}

pub(super) fn namespace_of(index: u32) -> String {
    format!("bench-{}", index % NAMESPACES)
}

pub(super) fn pod_name(index: u32) -> String {
    format!("pod-{index}")
}

pub(super) fn agent_name(node: u32) -> String {
    format!("agent-{node}")
}

/// The name under which the mesh knows a pod.
pub(super) fn workload_of(pod: u32) -> String {
    format!("Kubernetes//Pod/{}/{}", namespace_of(pod), pod_name(pod))
}

/// 10.0.0.0/8 holds the pods, from 10.1.0.0 on; agents have 10.255.0.0/16.
fn address_of(pod: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0A01_0000 + pod)
}

fn waypoint_address(namespace: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0AFE_0000 + namespace)
}

fn agent_address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0AFF_0000 + node)
}

fn core(namespace: &str, plural: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{plural}")
}

/// Namespaces and accounts: everything that the rest stands in.
pub(super) fn foundations() -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let labelled = |name: &str, labels: Value| {
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        Wanted::plain("/api/v1/namespaces".to_owned(), object)
    };
    let account = |namespace: &str, name: &str| {
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        Wanted::plain(core(namespace, "serviceaccounts"), object)
    };
    wanted.push(labelled(MESH_NAMESPACE, json!({})));
    wanted.push(account(MESH_NAMESPACE, AGENT_ACCOUNT));
    for index in 0..NAMESPACES {
        let name = namespace_of(index);
        wanted.push(labelled(&name, json!({"istio.io/dataplane-mode": "ambient"})));
        wanted.extend([account(&name, "app"), account(&name, WAYPOINT)]);
    }
    wanted
}

/// A made-up node, and the agent that a client will speak for.
pub(super) fn node(index: u32) -> [Wanted; 2] {
    let name = format!("made-up-{index}");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let agent = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": agent_name(index), "labels": {"app": "ztunnel", "istio.io/dataplane-mode": "none"}},
        "spec": {"nodeName": name, "serviceAccountName": AGENT_ACCOUNT, "containers": [{"name": "istio-proxy", "image": "made-up"}]},
    });
    [
        Wanted::plain("/api/v1/nodes".to_owned(), node),
        Wanted {
            collection: core(MESH_NAMESPACE, "pods"),
            object: agent,
            status: Some(running(agent_address(index))),
        },
    ]
}

/// The pod of the waypoint that the rules of a namespace need; a client will speak for it.
pub(super) fn waypoint(namespace: u32) -> Wanted {
    let labels = json!({
        "gateway.networking.k8s.io/gateway-name": WAYPOINT,
        "gateway.networking.k8s.io/gateway-class-name": "istio-waypoint",
        "istio.io/dataplane-mode": "none",
    });
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": WAYPOINT_POD, "labels": labels},
        "spec": {"nodeName": "made-up-0", "serviceAccountName": WAYPOINT, "containers": [{"name": "istio-proxy", "image": "made-up"}]},
    });
    Wanted {
        collection: core(&namespace_of(namespace), "pods"),
        object,
        status: Some(running(waypoint_address(namespace))),
    }
}

pub(super) fn pod(index: u32, nodes: u32) -> Wanted {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(index),
            "labels": {"app": service_name(index % SERVICES), "version": "v1"},
            "annotations": {"ambient.istio.io/redirection": "enabled"},
        },
        "spec": {
            "nodeName": format!("made-up-{}", index % nodes),
            "serviceAccountName": "app",
            "containers": [{"name": "app", "image": "made-up", "ports": [{"containerPort": 8080}]}],
        },
    });
    Wanted {
        collection: core(&namespace_of(index), "pods"),
        object,
        status: Some(running(address_of(index))),
    }
}

fn running(address: Ipv4Addr) -> Value {
    json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    })
}

fn service_name(index: u32) -> String {
    format!("service-{index}")
}

/// The host of a Service, and the names under which the mesh knows it and its route table.
fn host_of(service: u32) -> String {
    format!(
        "{}.{}.svc.cluster.local",
        service_name(service),
        namespace_of(service)
    )
}

pub(super) fn address_name_of(service: u32) -> String {
    format!("{}/{}", namespace_of(service), host_of(service))
}

pub(super) fn routes_of(service: u32) -> String {
    format!("inbound-vip|80|http|{}", host_of(service))
}

/// A change: where, and what is merged into the object.
pub(super) type Patch = (String, Value);

pub(super) fn pod_labelled(index: u32, value: &str) -> Patch {
    let path = format!("{}/{}", core(&namespace_of(index), "pods"), pod_name(index));
    (
        path,
        json!({"metadata": {"labels": {"service.istio.io/canonical-name": value}}}),
    )
}

/// Its pods are told of, too.
pub(super) fn service_leading_to(index: u32, port: u16) -> Patch {
    let path = format!(
        "{}/{}",
        core(&namespace_of(index), "services"),
        service_name(index)
    );
    let ports = json!([{"name": "http", "port": 80, "targetPort": port}]);
    (path, json!({"spec": {"ports": ports}}))
}

pub(super) fn rule_with_timeout(index: u32, seconds: u32) -> Patch {
    let path = format!("{}/{}", rules(&namespace_of(index)), service_name(index));
    let spec = virtual_service(index).object["spec"].clone();
    let mut patch = json!({"spec": spec});
    patch["spec"]["http"][0]["timeout"] = json!(format!("{seconds}s"));
    (path, patch)
}

fn rules(namespace: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/virtualservices")
}

/// Pods and Services of one index share a namespace: [`SERVICES`] is a multiple of [`NAMESPACES`].
pub(super) fn service(index: u32) -> Wanted {
    let name = service_name(index);
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    Wanted::plain(core(&namespace_of(index), "services"), object)
}

/// A Service's endpoints among the pods `0..pods`.
pub(super) fn endpoint_slice(service: u32, pods: u32) -> Wanted {
    let (namespace, name) = (namespace_of(service), service_name(service));
    let endpoints: Vec<Value> = (service..pods)
        .step_by(SERVICES as usize)
        .map(|pod| {
            json!({
                "addresses": [address_of(pod)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod_name(pod)},
            })
        })
        .collect();
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    let collection = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    Wanted::plain(collection, object)
}

/// A timeout for one service: a rule as people write it, which binds a waypoint.
pub(super) fn virtual_service(index: u32) -> Wanted {
    let (namespace, host) = (namespace_of(index), service_name(index));
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": host},
        "spec": {"hosts": [host], "http": [{"timeout": "10s", "route": [{"destination": {"host": host}}]}]},
    });
    Wanted::plain(rules(&namespace), object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_and_its_pods_share_a_namespace() {
        assert_eq!(SERVICES % NAMESPACES, 0);
        let slice = endpoint_slice(7, 2 * SERVICES + 8);
        let endpoints = slice.object["endpoints"].as_array().expect("a list");
        assert_eq!(endpoints.len(), 3);
        assert!(endpoints.iter().all(|e| e["targetRef"]["namespace"] == "bench-7"));
    }

    #[test]
    fn addresses_of_pods_and_agents_do_not_meet() {
        assert!(address_of(200_000) < waypoint_address(0));
        assert!(waypoint_address(NAMESPACES) < agent_address(0));
    }
}
