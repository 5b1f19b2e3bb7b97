//! Workloads, services and policies in the words of ztunnel's dump, which `istioctl ztunnel-config` reads.

use aquifer_core::policy::Authorization;
use aquifer_core::service::{PortMapping, Service};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::{GatewayAddress, GatewayDestination, Workload};
use serde_json::{Map, Value, json};

pub(super) fn workload(w: &Workload) -> Value {
    let services: Map<String, Value> = w
        .services
        .iter()
        .map(|(key, own)| (key.to_string(), ports(own)))
        .collect();
    json!({
        "uid": w.uid.as_str(),
        "name": w.name,
        "namespace": w.namespace,
        "workloadIps": w.addresses,
        "network": w.network,
        "protocol": w.tunnel,
        "nativeTunnel": w.native_tunnel,
        "networkMode": if w.host_network { "HostNetwork" } else { "Standard" },
        "waypoint": w.waypoint.as_ref().map(gateway),
        "trustDomain": w.trust_domain.as_str(),
        "serviceAccount": w.service_account,
        "workloadName": w.workload_name,
        "workloadType": w.workload_type,
        "canonicalName": w.canonical_name,
        "canonicalRevision": w.canonical_revision,
        "clusterId": w.cluster,
        "node": w.node,
        "authorizationPolicies": w.policies,
        "status": w.health,
        "capacity": w.capacity,
        "locality": { "region": w.region, "zone": w.zone },
        "services": services,
    })
}

pub(super) fn service(mesh: &MeshSnapshot, s: &Service) -> Value {
    let key = s.key();
    let endpoints: Map<String, Value> = mesh
        .endpoints(&key)
        .map(|w| {
            let own = w.services.get(&key).map(|own| ports(own));
            let endpoint = json!({ "workloadUid": w.uid.as_str(), "port": own, "status": w.health });
            (w.uid.to_string(), endpoint)
        })
        .collect();
    json!({
        "name": s.name,
        "namespace": s.namespace,
        "hostname": s.hostname,
        "vips": s.vips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ports": ports(&s.ports),
        "endpoints": endpoints,
        "subjectAltNames": s.subject_alt_names.iter().map(|id| id.as_str()).collect::<Vec<_>>(),
        "waypoint": s.waypoint.as_ref().map(gateway),
    })
}

pub(super) fn policy(p: &Authorization) -> Value {
    let rules: Vec<Vec<_>> = p
        .groups
        .iter()
        .map(|group| group.rules.iter().map(|rule| &rule.matches).collect())
        .collect();
    json!({
        "name": p.name,
        "namespace": p.namespace,
        "scope": p.scope,
        "action": p.action,
        "rules": rules,
        "dryRun": p.dry_run,
    })
}

fn ports(mappings: &[PortMapping]) -> Value {
    let ports: Map<String, Value> = mappings
        .iter()
        .map(|p| (p.service_port.to_string(), json!(p.target_port)))
        .collect();
    Value::Object(ports)
}

fn gateway(address: &GatewayAddress) -> Value {
    let destination = match &address.destination {
        GatewayDestination::Hostname(name) => name.to_string(),
        GatewayDestination::Address(ip) => ip.to_string(),
    };
    json!({ "destination": destination, "hboneMtlsPort": address.hbone_port })
}
