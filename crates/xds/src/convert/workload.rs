//! `istio.workload.Workload`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::identity::TrustDomain;
use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::PortMapping;
use aquifer_core::workload::{Health, TunnelProtocol, Workload, WorkloadType, WorkloadUid};

use super::{ConvertError, address, labels};
use crate::pb::istio::workload as pb;

const DEFAULT_SERVICE_ACCOUNT: &str = "default";
const DEFAULT_CLUSTER: &str = "Kubernetes";

pub fn workload_from_pb(wire: pb::Workload) -> Result<Workload, ConvertError> {
    refuse_unsupported(&wire)?;
    if wire.uid.is_empty() {
        return Err(ConvertError::Missing { field: "uid" });
    }
    let locality = wire.locality.unwrap_or_default();
    let workload = Workload {
        uid: WorkloadUid::new(&wire.uid),
        addresses: addresses(&wire.addresses)?,
        trust_domain: trust_domain(&wire.trust_domain)?,
        service_account: address::text_or(&wire.service_account, DEFAULT_SERVICE_ACCOUNT),
        tunnel: tunnel(wire.tunnel_protocol)?,
        waypoint: wire
            .waypoint
            .map(|gateway| address::gateway("waypoint", gateway))
            .transpose()?,
        workload_type: workload_type(wire.workload_type),
        cluster: address::text_or(&wire.cluster_id, DEFAULT_CLUSTER),
        health: health(wire.status)?,
        policies: wire
            .authorization_policies
            .iter()
            .map(|name| Arc::from(name.as_str()))
            .collect(),
        services: services(&wire.services)?,
        capacity: wire.capacity.unwrap_or(1),
        host_network: host_network(wire.network_mode)?,
        labels: labels::from_extensions(&wire.extensions)?,
        name: wire.name.into(),
        namespace: wire.namespace.into(),
        network: wire.network.into(),
        hostname: wire.hostname.into(),
        native_tunnel: wire.native_tunnel,
        node: wire.node.into(),
        canonical_name: wire.canonical_name.into(),
        canonical_revision: wire.canonical_revision.into(),
        workload_name: wire.workload_name.into(),
        region: locality.region.into(),
        zone: locality.zone.into(),
    };
    if workload.tunnel == TunnelProtocol::Hbone {
        // Whoever dials it must be able to say which identity it expects.
        workload
            .identity()
            .map_err(|error| ConvertError::invalid("service_account", error))?;
    }
    Ok(workload)
}

/// What would be misdelivered if it were ignored.
fn refuse_unsupported(wire: &pb::Workload) -> Result<(), ConvertError> {
    if wire.network_gateway.is_some() {
        return Err(ConvertError::unsupported(
            "network_gateway",
            "more than one network",
        ));
    }
    if wire
        .application_tunnel
        .as_ref()
        .is_some_and(|t| t.protocol != 0 || t.port != 0)
    {
        return Err(ConvertError::unsupported(
            "application_tunnel",
            "the PROXY protocol towards the application",
        ));
    }
    Ok(())
}

fn addresses(wire: &[bytes::Bytes]) -> Result<Vec<IpAddr>, ConvertError> {
    wire.iter().map(|bytes| address::ip("addresses", bytes)).collect()
}

fn trust_domain(wire: &str) -> Result<TrustDomain, ConvertError> {
    if wire.is_empty() {
        return Ok(TrustDomain::default());
    }
    TrustDomain::parse(wire).map_err(|error| ConvertError::invalid("trust_domain", error))
}

fn tunnel(wire: i32) -> Result<TunnelProtocol, ConvertError> {
    match pb::TunnelProtocol::try_from(wire) {
        Ok(pb::TunnelProtocol::None) => Ok(TunnelProtocol::None),
        Ok(pb::TunnelProtocol::Hbone) => Ok(TunnelProtocol::Hbone),
        Ok(pb::TunnelProtocol::LegacyIstioMtls) => Err(ConvertError::unsupported(
            "tunnel_protocol",
            "LEGACY_ISTIO_MTLS, a sidecar's protocol",
        )),
        Err(_) => Err(ConvertError::unsupported(
            "tunnel_protocol",
            format!("unknown number {wire}"),
        )),
    }
}

/// Telemetry only, so a newer kind is not worth losing the workload.
fn workload_type(wire: i32) -> WorkloadType {
    match pb::WorkloadType::try_from(wire) {
        Ok(pb::WorkloadType::Cronjob) => WorkloadType::CronJob,
        Ok(pb::WorkloadType::Pod) => WorkloadType::Pod,
        Ok(pb::WorkloadType::Job) => WorkloadType::Job,
        Ok(pb::WorkloadType::Deployment) | Err(_) => WorkloadType::Deployment,
    }
}

fn health(wire: i32) -> Result<Health, ConvertError> {
    match pb::WorkloadStatus::try_from(wire) {
        Ok(pb::WorkloadStatus::Healthy) => Ok(Health::Healthy),
        Ok(pb::WorkloadStatus::Unhealthy) => Ok(Health::Unhealthy),
        Err(_) => Err(ConvertError::unsupported(
            "status",
            format!("unknown number {wire}"),
        )),
    }
}

fn host_network(wire: i32) -> Result<bool, ConvertError> {
    match pb::NetworkMode::try_from(wire) {
        Ok(mode) => Ok(mode == pb::NetworkMode::HostNetwork),
        Err(_) => Err(ConvertError::unsupported(
            "network_mode",
            format!("unknown number {wire}"),
        )),
    }
}

fn services(
    wire: &BTreeMap<String, pb::PortList>,
) -> Result<BTreeMap<NamespacedHostname, Vec<PortMapping>>, ConvertError> {
    wire.iter()
        .map(|(key, list)| {
            Ok((
                address::namespaced("services", key)?,
                address::ports("services", &list.ports)?,
            ))
        })
        .collect()
}

pub fn workload_to_pb(workload: &Workload) -> pb::Workload {
    pb::Workload {
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        addresses: workload
            .addresses
            .iter()
            .map(|ip| address::ip_bytes(*ip))
            .collect(),
        network: workload.network.to_string(),
        tunnel_protocol: tunnel_to_pb(workload.tunnel).into(),
        trust_domain: workload.trust_domain.to_string(),
        service_account: workload.service_account.to_string(),
        waypoint: workload.waypoint.as_ref().map(address::gateway_to_pb),
        node: workload.node.to_string(),
        canonical_name: workload.canonical_name.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        workload_type: workload_type_to_pb(workload.workload_type).into(),
        workload_name: workload.workload_name.to_string(),
        native_tunnel: workload.native_tunnel,
        authorization_policies: workload.policies.iter().map(|name| name.to_string()).collect(),
        status: health_to_pb(workload.health).into(),
        cluster_id: workload.cluster.to_string(),
        uid: workload.uid.as_str().to_owned(),
        hostname: workload.hostname.to_string(),
        services: services_to_pb(&workload.services),
        locality: locality_to_pb(workload),
        network_mode: network_mode_to_pb(workload.host_network).into(),
        extensions: labels::to_extension(&workload.labels).into_iter().collect(),
        // Absent means 1; 0 takes the workload out of balancing and must be said.
        capacity: (workload.capacity != 1).then_some(workload.capacity),
        network_gateway: None,
        application_tunnel: None,
    }
}

fn tunnel_to_pb(tunnel: TunnelProtocol) -> pb::TunnelProtocol {
    match tunnel {
        TunnelProtocol::None => pb::TunnelProtocol::None,
        TunnelProtocol::Hbone => pb::TunnelProtocol::Hbone,
    }
}

fn workload_type_to_pb(kind: WorkloadType) -> pb::WorkloadType {
    match kind {
        WorkloadType::Deployment => pb::WorkloadType::Deployment,
        WorkloadType::CronJob => pb::WorkloadType::Cronjob,
        WorkloadType::Pod => pb::WorkloadType::Pod,
        WorkloadType::Job => pb::WorkloadType::Job,
    }
}

fn health_to_pb(health: Health) -> pb::WorkloadStatus {
    match health {
        Health::Healthy => pb::WorkloadStatus::Healthy,
        Health::Unhealthy => pb::WorkloadStatus::Unhealthy,
    }
}

fn network_mode_to_pb(host_network: bool) -> pb::NetworkMode {
    if host_network {
        pb::NetworkMode::HostNetwork
    } else {
        pb::NetworkMode::Standard
    }
}

fn locality_to_pb(workload: &Workload) -> Option<pb::Locality> {
    let known = !workload.region.is_empty() || !workload.zone.is_empty();
    known.then(|| pb::Locality {
        region: workload.region.to_string(),
        zone: workload.zone.to_string(),
        subzone: String::new(),
    })
}

fn services_to_pb(
    services: &BTreeMap<NamespacedHostname, Vec<PortMapping>>,
) -> BTreeMap<String, pb::PortList> {
    services
        .iter()
        .map(|(name, ports)| {
            (
                name.to_string(),
                pb::PortList {
                    ports: address::ports_to_pb(ports),
                },
            )
        })
        .collect()
}
