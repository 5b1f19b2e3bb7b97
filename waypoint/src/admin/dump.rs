//! `/config_dump` in Envoy's shape: listeners, routes, clusters, endpoints and secrets as they are in use.

use aquifer_core::http::cluster::{Endpoint, Transport, UpstreamHttp};
use aquifer_core::http::listener::{Binding, Listener};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_identity::edge::EdgeSecret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::chains::chain;
use super::routes::route_configuration;
use super::{AdminState, certificates};
use crate::state::{ClusterState, ProxyState};

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";

pub(super) fn config_dump(state: &AdminState) -> Value {
    let proxy = state.shared.proxy();
    json!({
        "configs": [clusters(&proxy), endpoints(&proxy), listeners(&proxy), routes(&proxy), secrets(&proxy)],
        // Beside what Envoy has, in the keys of a node agent's dump.
        "workloads": workloads(&state.shared.mesh()),
        "certificates": certificates(&state.certificates)["certificates"],
    })
}

fn workloads(mesh: &MeshSnapshot) -> Value {
    let mut list: Vec<_> = mesh.workloads().collect();
    list.sort_by(|a, b| a.uid.cmp(&b.uid));
    let list = list.into_iter().map(|w| {
        json!({
            "uid": w.uid.as_str(),
            "name": w.name,
            "namespace": w.namespace,
            "workloadIps": w.addresses,
            "serviceAccount": w.service_account,
            "protocol": w.tunnel,
            "node": w.node,
            "labels": w.labels,
        })
    });
    list.collect()
}

fn sorted<'s, T>(items: impl Iterator<Item = (&'s std::sync::Arc<str>, &'s T)>) -> Vec<&'s T>
where
    T: 's,
{
    let mut items: Vec<_> = items.collect();
    items.sort_by(|a, b| a.0.cmp(b.0));
    items.into_iter().map(|(_, item)| item).collect()
}

fn clusters(state: &ProxyState) -> Value {
    let list = sorted(state.clusters.iter()).into_iter();
    let list = list.map(|c| json!({ "cluster": cluster(c) }));
    json!({ "@type": format!("{ADMIN}ClustersConfigDump"), "dynamic_active_clusters": list.collect::<Vec<_>>() })
}

fn cluster(state: &ClusterState) -> Value {
    let cluster = &state.cluster;
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": cluster.name,
        "type": match &cluster.names {
            None => "EDS",
            Some(names) if names.first_only => "LOGICAL_DNS",
            Some(_) => "STRICT_DNS",
        },
        "names": cluster.names.iter().flat_map(|names| &names.list).map(|n| format!("{}:{}", n.host, n.port)).collect::<Vec<_>>(),
        "eds_cluster_config": { "service_name": cluster.service_name },
        "lb_policy": match cluster.balance {
            aquifer_core::http::cluster::BalancePolicy::RoundRobin => "ROUND_ROBIN",
            aquifer_core::http::cluster::BalancePolicy::LeastRequest => "LEAST_REQUEST",
            aquifer_core::http::cluster::BalancePolicy::Random => "RANDOM",
        },
        "connect_timeout": format!("{}s", cluster.connect_timeout.as_secs_f64()),
        "upstream_http": match cluster.http {
            UpstreamHttp::Http1 => "http1",
            UpstreamHttp::Http2 => "http2",
            UpstreamHttp::AsDownstream => "as downstream",
        },
    })
}

fn endpoints(state: &ProxyState) -> Value {
    let list = sorted(state.clusters.iter()).into_iter().map(|c| {
        let endpoints = c.endpoints.iter().zip(&c.states);
        let endpoints = endpoints.map(|(e, s)| endpoint(e, s.active()));
        json!({ "endpoint_config": {
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": c.cluster.service_name,
            "endpoints": [{ "lb_endpoints": endpoints.collect::<Vec<_>>() }],
        }})
    });
    json!({ "@type": format!("{ADMIN}EndpointsConfigDump"), "dynamic_endpoint_configs": list.collect::<Vec<_>>() })
}

fn endpoint(endpoint: &Endpoint, active: u32) -> Value {
    let (tunnel, identity) = match &endpoint.transport {
        Transport::Plaintext => ("none", None),
        Transport::Outside => ("outside", None),
        Transport::Hbone(identity) => ("hbone", Some(identity.as_str())),
    };
    json!({
        "endpoint": { "address": socket(&endpoint.address) },
        "health_status": if endpoint.healthy { "HEALTHY" } else { "UNHEALTHY" },
        "load_balancing_weight": endpoint.weight,
        "metadata": { "filter_metadata": { "aquifer": {
            "tunnel": tunnel, "identity": identity, "workload": endpoint.workload,
        }}},
        "active_requests": active,
    })
}

fn socket(address: &std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn listeners(state: &ProxyState) -> Value {
    let list = sorted(state.listeners.iter()).into_iter();
    let list = list.map(|l| json!({ "name": l.name, "active_state": { "listener": listener(l) } }));
    json!({ "@type": format!("{ADMIN}ListenersConfigDump"), "dynamic_listeners": list.collect::<Vec<_>>() })
}

fn listener(listener: &Listener) -> Value {
    let mut addresses = listener.addresses.iter().map(socket);
    let first = addresses.next();
    let more: Vec<_> = addresses.map(|a| json!({ "address": a })).collect();
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": listener.name,
        "address": first,
        "additional_addresses": more,
        "bind_to_port": listener.binding == Binding::Bound,
        "filter_chains": listener.chains.iter().map(chain).collect::<Vec<_>>(),
    })
}

fn secrets(state: &ProxyState) -> Value {
    let list = state.edge.secrets().map(|(name, content)| secret(name, content));
    json!({ "@type": format!("{ADMIN}SecretsConfigDump"), "dynamic_active_secrets": list.collect::<Vec<_>>() })
}

/// Keys are shown as Envoy shows them: not at all.
fn secret(name: &str, content: &EdgeSecret) -> Value {
    let bytes = |pem: &str| json!({ "inline_bytes": STANDARD.encode(pem) });
    let mut secret = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": name,
    });
    match content {
        EdgeSecret::KeyPair(pair) => {
            secret["tls_certificate"] = json!({
                "certificate_chain": bytes(&pair.chain_pem()), "private_key": bytes("[redacted]"),
            });
        }
        EdgeSecret::Roots(roots) => {
            secret["validation_context"] = json!({ "trusted_ca": bytes(&roots.pem()) });
        }
    }
    json!({ "name": name, "secret": secret })
}

fn routes(state: &ProxyState) -> Value {
    let list = sorted(state.routes.iter()).into_iter();
    let list = list.map(|table| json!({ "route_config": route_configuration(table) }));
    json!({ "@type": format!("{ADMIN}RoutesConfigDump"), "dynamic_route_configs": list.collect::<Vec<_>>() })
}
