//! Resources as JSON for people: what a resource says, in few words.
//!
//! The proxies' own dumps show what is in use, in Envoy's and ztunnel's shapes; this shows what was sent.

use aquifer_core::http::action::{Action, Destinations};
use aquifer_core::http::cluster::{Cluster, Endpoint, Endpoints, Transport};
use aquifer_core::http::listener::{Chain, Listener, ListenerProtocol};
use aquifer_core::http::server_tls::ClientCertificates;
use aquifer_core::http::table::{Route, RouteTable};
use aquifer_core::service::{PortMapping, Service};
use aquifer_core::workload::Workload;
use aquifer_identity::edge::EdgeSecret;
use aquifer_telemetry::timestamp::rfc3339;
use aquifer_xds::convert::{Address, decode_authorization};
use aquifer_xds::envoy::{Resource, Secret, decode};
use aquifer_xds::handler::{Rejected, Update};
use aquifer_xds::type_url;
use serde_json::{Value, json};

/// The content of a resource, or why it cannot be read: then no proxy can either.
pub fn describe(url: &str, name: &str, any: &prost_types::Any) -> Value {
    let update = Update {
        name: name.to_owned(),
        version: String::new(),
        resource: any.clone(),
    };
    let described = match url {
        type_url::ADDRESS => Address::decode(&update).map(|a| address(&a)),
        type_url::AUTHORIZATION => decode_authorization(&update).map(|p| json!(p)),
        type_url::LISTENER => read(&update, listener),
        type_url::ROUTES => read(&update, routes),
        type_url::CLUSTER => read(&update, cluster),
        type_url::SECRET => read(&update, secret),
        type_url::ENDPOINTS => read(&update, |e: &Endpoints| e.list.iter().map(endpoint).collect()),
        _ => Ok(json!({ "bytes": any.value.len() })),
    };
    described.unwrap_or_else(|rejected| json!({ "unreadable": rejected.reason }))
}

fn read<R: Resource>(update: &Update, describe: impl Fn(&R) -> Value) -> Result<Value, Rejected> {
    decode(update).map(|resource| describe(&resource))
}

fn address(address: &Address) -> Value {
    match address {
        Address::Workload(workload) => self::workload(workload),
        Address::Service(service) => self::service(service),
    }
}

fn workload(w: &Workload) -> Value {
    let services = w
        .services
        .iter()
        .map(|(key, list)| (key.to_string(), ports(list)));
    json!({
        "workload": w.name, "namespace": w.namespace, "addresses": w.addresses, "node": w.node,
        "identity": w.identity().ok().map(|i| i.to_string()),
        "protocol": w.tunnel, "nativeTunnel": w.native_tunnel, "waypoint": w.waypoint, "status": w.health,
        "canonicalName": w.canonical_name, "canonicalRevision": w.canonical_revision,
        "workloadType": w.workload_type, "workloadName": w.workload_name, "clusterId": w.cluster,
        "hostNetwork": w.host_network, "authorizationPolicies": w.policies, "labels": w.labels,
        "services": services.collect::<serde_json::Map<_, _>>(),
    })
}

fn service(s: &Service) -> Value {
    json!({
        "service": s.name, "namespace": s.namespace, "hostname": s.hostname,
        "addresses": s.vip_ips().collect::<Vec<_>>(), "ports": ports(&s.ports), "waypoint": s.waypoint,
    })
}

fn ports(list: &[PortMapping]) -> Value {
    list.iter()
        .map(|p| json!({ "port": p.service_port, "target": p.target_port, "protocol": p.protocol }))
        .collect()
}

fn listener(l: &Listener) -> Value {
    let mut value = json!({ "addresses": l.addresses, "binding": format!("{:?}", l.binding) });
    match l.chains.unseen() {
        Some(only) => protocol(&only.protocol, &mut value),
        None => value["chains"] = l.chains.iter().map(chain).collect(),
    }
    value
}

fn chain(c: &Chain) -> Value {
    let mut value = json!({ "name": c.name, "serverNames": c.server_names });
    if let Some(tls) = &c.tls {
        value["secrets"] = tls.secrets().map(|name| json!(name)).collect();
        value["clients"] = match &tls.clients {
            ClientCertificates::NotAsked => json!("not asked"),
            ClientCertificates::Optional(_) => json!("optional"),
            ClientCertificates::Required(_) => json!("required"),
        };
    }
    protocol(&c.protocol, &mut value);
    value
}

fn protocol(protocol: &ListenerProtocol, value: &mut Value) {
    match protocol {
        ListenerProtocol::Http(http) => value["routes"] = json!(http.routes),
        ListenerProtocol::Tcp(tcp) => value["destinations"] = destinations(&tcp.destinations),
    }
}

/// What a secret is, and never what it holds.
fn secret(s: &Secret) -> Value {
    match &s.content {
        EdgeSecret::KeyPair(pair) => json!({
            "kind": "certificate", "serial": pair.serial(), "dnsNames": pair.dns_names(),
            "notAfter": rfc3339(pair.not_after()),
        }),
        EdgeSecret::Roots(_) => json!({ "kind": "authorities" }),
    }
}

fn routes(table: &RouteTable) -> Value {
    let hosts = table.virtual_hosts().iter().map(|host| {
        json!({
            "name": host.name, "domains": host.domains,
            "routes": host.routes.iter().map(route).collect::<Vec<_>>(),
        })
    });
    json!({ "virtualHosts": hosts.collect::<Vec<_>>() })
}

fn route(route: &Route) -> Value {
    let mut value = json!({ "name": route.name, "match": format!("{:?}", route.matches) });
    match &route.action {
        Action::Forward(forward) => {
            value["destinations"] = destinations(&forward.destinations);
            value["timeout"] = json!(forward.timeout.map(|t| format!("{t:?}")));
            value["retries"] = json!(forward.retry.as_ref().map(|r| r.attempts));
        }
        Action::Redirect(redirect) => value["redirect"] = json!(redirect.status),
        Action::DirectResponse(direct) => value["directResponse"] = json!(direct.status),
    }
    value
}

fn destinations(list: &Destinations) -> Value {
    list.iter()
        .map(|d| json!({ "cluster": d.cluster, "weight": d.weight }))
        .collect()
}

fn cluster(c: &Cluster) -> Value {
    json!({
        "endpoints": c.service_name, "balance": format!("{:?}", c.balance),
        "connectTimeout": format!("{:?}", c.connect_timeout), "http": format!("{:?}", c.http),
    })
}

fn endpoint(e: &Endpoint) -> Value {
    let identity = match &e.transport {
        Transport::Plaintext | Transport::Outside => None,
        Transport::Hbone(identity) => Some(identity.to_string()),
    };
    json!({ "address": e.address, "healthy": e.healthy, "weight": e.weight, "identity": identity, "workload": e.workload })
}
