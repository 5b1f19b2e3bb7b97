//! `istio.workload.Service`.

use aquifer_core::identity::SpiffeId;
use aquifer_core::service::{BalanceMode, BalanceScope, LoadBalancing, Service};

use super::{ConvertError, address};
use crate::pb::istio::workload as pb;
use pb::load_balancing::{HealthPolicy, Mode, Scope};

pub fn service_from_pb(wire: pb::Service) -> Result<Service, ConvertError> {
    refuse_unsupported(&wire)?;
    let key = address::namespaced("hostname", &format!("{}/{}", wire.namespace, wire.hostname))?;
    Ok(Service {
        name: wire.name.into(),
        namespace: key.namespace,
        hostname: key.hostname,
        vips: wire
            .addresses
            .iter()
            .map(address::vip)
            .collect::<Result<_, _>>()?,
        ports: address::ports("ports", &wire.ports)?,
        subject_alt_names: subject_alt_names(&wire.subject_alt_names)?,
        waypoint: wire
            .waypoint
            .map(|gateway| address::gateway("waypoint", gateway))
            .transpose()?,
        load_balancing: wire
            .load_balancing
            .as_ref()
            .map(load_balancing)
            .transpose()?
            .unwrap_or_default(),
        canonical: wire.canonical,
        ingress_use_waypoint: wire.ingress_use_waypoint,
        namespace_only: wire.visibility == i32::from(pb::ServiceVisibility::NamespaceOnly),
    })
}

fn refuse_unsupported(wire: &pb::Service) -> Result<(), ConvertError> {
    if !wire.weighted_waypoints.is_empty() {
        return Err(ConvertError::unsupported(
            "weighted_waypoints",
            "more than one waypoint",
        ));
    }
    if pb::ServiceVisibility::try_from(wire.visibility).is_err() {
        return Err(unknown("visibility", wire.visibility));
    }
    Ok(())
}

/// Names that are no SPIFFE ids (a ServiceEntry may list DNS names) cannot match a mesh certificate and are left out;
/// one that is meant as a SPIFFE id must be one.
fn subject_alt_names(wire: &[String]) -> Result<Vec<SpiffeId>, ConvertError> {
    wire.iter()
        .filter(|name| name.starts_with("spiffe://"))
        .map(|name| SpiffeId::parse(name).map_err(|error| ConvertError::invalid("subject_alt_names", error)))
        .collect()
}

fn load_balancing(wire: &pb::LoadBalancing) -> Result<LoadBalancing, ConvertError> {
    let mode = match Mode::try_from(wire.mode) {
        Ok(Mode::UnspecifiedMode) => BalanceMode::Unspecified,
        Ok(Mode::Strict) => BalanceMode::Strict,
        Ok(Mode::Failover) => BalanceMode::Failover,
        Ok(Mode::Passthrough) => BalanceMode::Passthrough,
        Err(_) => return Err(unknown("load_balancing.mode", wire.mode)),
    };
    let policy = HealthPolicy::try_from(wire.health_policy)
        .map_err(|_| unknown("load_balancing.health_policy", wire.health_policy))?;
    Ok(LoadBalancing {
        mode,
        preference: wire
            .routing_preference
            .iter()
            .map(|n| scope(*n))
            .collect::<Result<_, _>>()?,
        allow_unhealthy: policy == HealthPolicy::AllowAll,
    })
}

fn scope(wire: i32) -> Result<BalanceScope, ConvertError> {
    match Scope::try_from(wire) {
        Ok(Scope::Region) => Ok(BalanceScope::Region),
        Ok(Scope::Zone) => Ok(BalanceScope::Zone),
        Ok(Scope::Subzone) => Ok(BalanceScope::Subzone),
        Ok(Scope::Node) => Ok(BalanceScope::Node),
        Ok(Scope::Cluster) => Ok(BalanceScope::Cluster),
        Ok(Scope::Network) => Ok(BalanceScope::Network),
        Ok(Scope::UnspecifiedScope) | Err(_) => Err(unknown("load_balancing.routing_preference", wire)),
    }
}

fn unknown(field: &'static str, number: i32) -> ConvertError {
    ConvertError::unsupported(field, format!("unknown number {number}"))
}

pub fn service_to_pb(service: &Service) -> pb::Service {
    pb::Service {
        name: service.name.to_string(),
        namespace: service.namespace.to_string(),
        hostname: service.hostname.to_string(),
        addresses: service.vips.iter().map(address::vip_to_pb).collect(),
        ports: address::ports_to_pb(&service.ports),
        subject_alt_names: service
            .subject_alt_names
            .iter()
            .map(|id| id.to_string())
            .collect(),
        waypoint: service.waypoint.as_ref().map(address::gateway_to_pb),
        load_balancing: load_balancing_to_pb(&service.load_balancing),
        ip_families: pb::IpFamilies::Automatic.into(),
        extensions: Vec::new(),
        canonical: service.canonical,
        ingress_use_waypoint: service.ingress_use_waypoint,
        weighted_waypoints: Vec::new(),
        visibility: match service.namespace_only {
            true => pb::ServiceVisibility::NamespaceOnly.into(),
            false => pb::ServiceVisibility::Public.into(),
        },
    }
}

fn load_balancing_to_pb(model: &LoadBalancing) -> Option<pb::LoadBalancing> {
    if *model == LoadBalancing::default() {
        return None;
    }
    let mode = match model.mode {
        BalanceMode::Unspecified => Mode::UnspecifiedMode,
        BalanceMode::Strict => Mode::Strict,
        BalanceMode::Failover => Mode::Failover,
        BalanceMode::Passthrough => Mode::Passthrough,
    };
    let policy = if model.allow_unhealthy {
        HealthPolicy::AllowAll
    } else {
        HealthPolicy::OnlyHealthy
    };
    Some(pb::LoadBalancing {
        routing_preference: model
            .preference
            .iter()
            .map(|scope| scope_to_pb(*scope).into())
            .collect(),
        mode: mode.into(),
        health_policy: policy.into(),
    })
}

fn scope_to_pb(scope: BalanceScope) -> Scope {
    match scope {
        BalanceScope::Region => Scope::Region,
        BalanceScope::Zone => Scope::Zone,
        BalanceScope::Subzone => Scope::Subzone,
        BalanceScope::Node => Scope::Node,
        BalanceScope::Cluster => Scope::Cluster,
        BalanceScope::Network => Scope::Network,
    }
}
