//! Where a pod's connection goes: straight on, through a tunnel, or nowhere.
//!
//! Decided from one snapshot. What advertises HBONE is never dialled in plaintext; what has a waypoint is never reached
//! around it; what cannot be decided is refused with a reason, not sent somewhere.
//! The one exception: a pod that reaches itself through a Service. That never leaves the pod, and the kernel lets a pod
//! call its own address without the mesh as well.

mod balance;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;

use crate::address::NetworkAddress;
use crate::authority::Authority;
use crate::identity::SpiffeId;
use crate::names::NamespacedHostname;
use crate::service::{BalanceMode, Service};
use crate::snapshot::MeshSnapshot;
use crate::workload::{GatewayAddress, GatewayDestination, TunnelProtocol, Workload, WorkloadUid};

/// The port of HBONE in every pod.
pub const HBONE_PORT: u16 = 15008;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct OutboundQuery<'a> {
    pub source: &'a Workload,
    /// The address that the client dialled.
    pub destination: SocketAddr,
    /// Endpoints that were tried for this connection and could not be reached.
    pub failed: &'a [WorkloadUid],
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Through a tunnel to the pod or its waypoint.
    Hbone(HboneRoute),
    /// Plain TCP, from the client's own pod.
    Plain(PlainRoute),
    Refuse(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HboneRoute {
    /// Where the tunnel's TCP connection goes.
    pub peer: SocketAddr,
    /// The pod's own address that it comes from.
    pub local: IpAddr,
    /// What the CONNECT request asks for.
    pub authority: Authority,
    /// The identities of which the peer must prove one, exactly.
    pub expected: Vec<SpiffeId>,
    pub via: Via,
    /// The workload that ends the tunnel.
    pub workload: Arc<Workload>,
    /// The service that the client addressed.
    pub service: Option<Arc<Service>>,
}

/// What ends the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Endpoint,
    Waypoint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainRoute {
    pub peer: SocketAddr,
    /// Unknown for a destination outside the mesh.
    pub workload: Option<Arc<Workload>>,
    pub service: Option<Arc<Service>>,
}

/// Why a connection is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoHealthyEndpoints {
        service: NamespacedHostname,
        known: usize,
    },
    NoSuchPort {
        service: NamespacedHostname,
        port: u16,
    },
    NoWaypoint {
        of: String,
        waypoint: String,
    },
    NoCommonFamily {
        peer: IpAddr,
    },
    EndpointFailed {
        uid: WorkloadUid,
    },
    InvalidIdentity {
        uid: WorkloadUid,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHealthyEndpoints { service, known } => {
                write!(f, "no healthy endpoints for {service} ({known} known)")
            }
            Self::NoSuchPort { service, port } => write!(f, "service {service} has no port {port}"),
            Self::NoWaypoint { of, waypoint } => {
                write!(
                    f,
                    "waypoint {waypoint} of {of} has no healthy endpoint; is it running?"
                )
            }
            Self::NoCommonFamily { peer } => {
                write!(f, "the client's pod has no address of the family of {peer}")
            }
            Self::EndpointFailed { uid } => write!(f, "workload {uid} cannot be reached"),
            Self::InvalidIdentity { uid } => {
                write!(
                    f,
                    "workload {uid} has no valid identity: its namespace or service account is malformed"
                )
            }
        }
    }
}

/// Decides where a connection goes.
pub fn resolve_outbound(mesh: &MeshSnapshot, query: &OutboundQuery<'_>, rng: &mut impl Rng) -> Outbound {
    route(mesh, query, rng).unwrap_or_else(Outbound::Refuse)
}

fn route(mesh: &MeshSnapshot, query: &OutboundQuery<'_>, rng: &mut impl Rng) -> Result<Outbound, Refusal> {
    let destination = SocketAddr::new(query.destination.ip().to_canonical(), query.destination.port());
    let address = NetworkAddress::new(&query.source.network, destination.ip());
    if let Some(service) = mesh.service_at(&address, &query.source.namespace) {
        return to_service(mesh, query, service, destination, rng);
    }
    let Some(workload) = mesh.workload_at(&address) else {
        return Ok(passthrough(destination, None));
    };
    to_pod(mesh, query, workload, destination, None, rng)
}

/// To the pod that has the address, through the waypoint of that address where it has one. `service` is one that only
/// says the address: what is written down about a pod is no way around its waypoint.
fn to_pod(
    mesh: &MeshSnapshot,
    query: &OutboundQuery<'_>,
    workload: &Arc<Workload>,
    destination: SocketAddr,
    service: Option<&Arc<Service>>,
    rng: &mut impl Rng,
) -> Result<Outbound, Refusal> {
    match &workload.waypoint {
        Some(waypoint) if !is_waypoint(query.source, waypoint) && workload.uid != query.source.uid => {
            let of = workload.uid.to_string();
            to_waypoint(mesh, query, waypoint, of, service, destination, rng)
        }
        _ => to_workload(query, workload, destination, service),
    }
}

fn passthrough(peer: SocketAddr, service: Option<Arc<Service>>) -> Outbound {
    Outbound::Plain(PlainRoute {
        peer,
        workload: None,
        service,
    })
}

fn to_service(
    mesh: &MeshSnapshot,
    query: &OutboundQuery<'_>,
    service: &Arc<Service>,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Outbound, Refusal> {
    let Some(port) = service.port(destination.port()) else {
        return Err(Refusal::NoSuchPort {
            service: service.key(),
            port: destination.port(),
        });
    };
    if let Some(waypoint) = &service.waypoint
        && !is_waypoint(query.source, waypoint)
    {
        let of = service.key().to_string();
        return to_waypoint(mesh, query, waypoint, of, Some(service), destination, rng);
    }
    if service.load_balancing.mode == BalanceMode::Passthrough {
        let address = NetworkAddress::new(&query.source.network, destination.ip());
        return match mesh.workload_at(&address) {
            Some(workload) => to_pod(mesh, query, workload, destination, Some(service), rng),
            None => Ok(passthrough(destination, Some(service.clone()))),
        };
    }
    let endpoint = balance::choose(mesh, query, service, port, rng)?;
    // An address that somebody wrote down may be a pod's, which is reached as what it is.
    let address = NetworkAddress::new(&query.source.network, endpoint.address.ip());
    let owner = match endpoint.workload.host_network {
        true => mesh.workload_at(&address),
        false => None,
    };
    match owner {
        Some(owner) => to_pod(mesh, query, owner, endpoint.address, Some(service), rng),
        None => to_workload(query, endpoint.workload, endpoint.address, Some(service)),
    }
}

/// Whether the client is the waypoint itself, which reaches the endpoints behind it directly.
fn is_waypoint(source: &Workload, waypoint: &GatewayAddress) -> bool {
    match &waypoint.destination {
        GatewayDestination::Hostname(service) => source.services.contains_key(service),
        GatewayDestination::Address(ip) => source.addresses.contains(ip),
    }
}

fn to_waypoint(
    mesh: &MeshSnapshot,
    query: &OutboundQuery<'_>,
    waypoint: &GatewayAddress,
    of: String,
    service: Option<&Arc<Service>>,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Outbound, Refusal> {
    let Some((workload, peer)) = find_waypoint(mesh, query, waypoint, destination.ip(), rng) else {
        let waypoint = match &waypoint.destination {
            GatewayDestination::Hostname(name) => name.to_string(),
            GatewayDestination::Address(ip) => ip.to_string(),
        };
        return Err(Refusal::NoWaypoint { of, waypoint });
    };
    Ok(Outbound::Hbone(HboneRoute {
        peer,
        local: local_address(query.source, peer.ip())?,
        authority: Authority::from(destination),
        expected: vec![identity_of(workload)?],
        via: Via::Waypoint,
        workload: workload.clone(),
        service: service.cloned(),
    }))
}

/// The waypoint's pod to use and its HBONE address.
fn find_waypoint<'a>(
    mesh: &'a MeshSnapshot,
    query: &OutboundQuery<'_>,
    waypoint: &GatewayAddress,
    like: IpAddr,
    rng: &mut impl Rng,
) -> Option<(&'a Arc<Workload>, SocketAddr)> {
    let service = match &waypoint.destination {
        GatewayDestination::Hostname(name) => mesh.service(name)?,
        GatewayDestination::Address(ip) => {
            let address = NetworkAddress::new(&query.source.network, *ip);
            if let Some(workload) = mesh.workload_at(&address) {
                let usable = !query.failed.contains(&workload.uid);
                return usable.then(|| (workload, SocketAddr::new(address.ip(), waypoint.hbone_port)));
            }
            mesh.service_at(&address, &query.source.namespace)?
        }
    };
    let target = service.port(waypoint.hbone_port).copied();
    let port = target.unwrap_or_else(|| balance::same_port(waypoint.hbone_port));
    // The family that the client uses first; a waypoint may lack it.
    let query = OutboundQuery {
        destination: SocketAddr::new(like, waypoint.hbone_port),
        ..*query
    };
    let endpoint = balance::choose(mesh, &query, service, &port, rng).ok()?;
    Some((endpoint.workload, endpoint.address))
}

fn to_workload(
    query: &OutboundQuery<'_>,
    workload: &Arc<Workload>,
    target: SocketAddr,
    service: Option<&Arc<Service>>,
) -> Result<Outbound, Refusal> {
    if query.failed.contains(&workload.uid) {
        return Err(Refusal::EndpointFailed {
            uid: workload.uid.clone(),
        });
    }
    if workload.tunnel == TunnelProtocol::None || workload.uid == query.source.uid {
        return Ok(Outbound::Plain(PlainRoute {
            peer: target,
            workload: Some(workload.clone()),
            service: service.cloned(),
        }));
    }
    let mut expected = vec![identity_of(workload)?];
    expected.extend(service.iter().flat_map(|s| s.subject_alt_names.iter().cloned()));
    Ok(Outbound::Hbone(HboneRoute {
        peer: SocketAddr::new(target.ip(), HBONE_PORT),
        local: local_address(query.source, target.ip())?,
        authority: Authority::from(target),
        expected,
        via: Via::Endpoint,
        workload: workload.clone(),
        service: service.cloned(),
    }))
}

fn identity_of(workload: &Workload) -> Result<SpiffeId, Refusal> {
    workload.identity().map_err(|_| Refusal::InvalidIdentity {
        uid: workload.uid.clone(),
    })
}

/// The client pod's own address of the peer's family.
fn local_address(source: &Workload, peer: IpAddr) -> Result<IpAddr, Refusal> {
    let own = source.addresses.iter().find(|ip| ip.is_ipv4() == peer.is_ipv4());
    own.copied().ok_or(Refusal::NoCommonFamily { peer })
}

#[cfg(test)]
mod tests;
