//! `/debug/syncz`: every proxy and what it has acknowledged, in istiod's shape with the details of ours added.

use serde_json::{Map, Value, json};

use crate::debug::DebugState;
use crate::serve::ProxyType;
use crate::serve::registry::ProxyStatus;

/// istiod's name for each type, by the end of its type URL.
const NAMES: [(&str, &str); 6] = [
    ("Cluster", "cluster"),
    ("Listener", "listener"),
    ("RouteConfiguration", "route"),
    ("ClusterLoadAssignment", "endpoint"),
    ("Address", "address"),
    ("Authorization", "authorization"),
];

pub(super) fn proxies(state: &DebugState) -> Vec<Value> {
    let newest = state.snapshots.generation();
    state
        .registry
        .list()
        .iter()
        .map(|proxy| status(proxy, &state.cluster_id, newest))
        .collect()
}

fn status(proxy: &ProxyStatus, cluster: &str, newest: u64) -> Value {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    set("cluster_id", json!(cluster));
    set("proxy", json!(format!("{}.{}", proxy.pod, proxy.namespace)));
    set("proxy_type", json!(istio_type(proxy.proxy_type)));
    set("istio_version", json!(env!("CARGO_PKG_VERSION")));
    for (suffix, name) in NAMES {
        let types = proxy
            .types
            .iter()
            .find(|(url, _)| url.rsplit('.').next() == Some(suffix));
        let Some((_, sync)) = types else { continue };
        set(&format!("{name}_sent"), json!(sync.sent_nonce));
        set(&format!("{name}_acked"), json!(sync.acked_nonce));
    }
    set("node_id", json!(proxy.node_id));
    set("namespace", json!(proxy.namespace));
    set("pod", json!(proxy.pod));
    set("node", json!(proxy.node));
    set(
        "connected_since",
        json!(aquifer_telemetry::timestamp::rfc3339(proxy.connected_since)),
    );
    set("generation", json!(newest));
    set("generation_in_effect", json!(proxy.generation_in_effect));
    set("synced", json!(proxy.generation_in_effect == Some(newest)));
    set("types", json!(proxy.types));
    Value::Object(fields)
}

fn istio_type(kind: ProxyType) -> &'static str {
    match kind {
        ProxyType::Agent => "ztunnel",
        ProxyType::Waypoint => "waypoint",
        ProxyType::Gateway => "router",
    }
}
