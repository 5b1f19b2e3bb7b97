//! Choosing one endpoint of a service: health, then distance, then weighted chance.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;

use super::{OutboundQuery, Refusal};
use crate::service::{AppProtocol, BalanceMode, BalanceScope, LoadBalancing, PortMapping, Service};
use crate::snapshot::MeshSnapshot;
use crate::workload::{Health, Workload};

/// One pod of a service, and the address at which it serves a port of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint<'a> {
    pub(super) workload: &'a Arc<Workload>,
    pub(super) address: SocketAddr,
}

pub(super) fn same_port(port: u16) -> PortMapping {
    PortMapping {
        service_port: port,
        target_port: port,
        protocol: AppProtocol::Unknown,
    }
}

/// Chooses an endpoint that the client can reach.
pub(super) fn choose<'a>(
    mesh: &'a MeshSnapshot,
    query: &OutboundQuery<'_>,
    service: &Service,
    port: &PortMapping,
    rng: &mut impl Rng,
) -> Result<Endpoint<'a>, Refusal> {
    let key = service.key();
    let mut known = 0;
    let mut best = 0;
    let mut candidates: Vec<Endpoint<'a>> = Vec::new();
    for workload in mesh.endpoints(&key) {
        known += 1;
        let Some(endpoint) = candidate(query, service, port, workload) else {
            continue;
        };
        let Some(rank) = rank(&service.load_balancing, query.source, workload) else {
            continue;
        };
        if rank > best {
            best = rank;
            candidates.clear();
        }
        if rank == best {
            candidates.push(endpoint);
        }
    }
    weighted(&candidates, rng).ok_or(Refusal::NoHealthyEndpoints { service: key, known })
}

fn candidate<'a>(
    query: &OutboundQuery<'_>,
    service: &Service,
    port: &PortMapping,
    workload: &'a Arc<Workload>,
) -> Option<Endpoint<'a>> {
    let healthy = workload.health == Health::Healthy || service.load_balancing.allow_unhealthy;
    // Another network is reached through its gateway only, which needs a tunnel in a tunnel.
    let reachable = workload.network == query.source.network && !query.failed.contains(&workload.uid);
    if !healthy || !reachable {
        return None;
    }
    let ip = address(query, workload)?;
    let own = workload.services.get(&service.key())?;
    let own = own.iter().find(|p| p.service_port == port.service_port);
    let target = own
        .map(|p| p.target_port)
        .filter(|p| *p != 0)
        .unwrap_or(port.target_port);
    (target != 0).then(|| Endpoint {
        workload,
        address: SocketAddr::new(ip, target),
    })
}

/// An address of the family that the client dialled, else one of another family that the client's pod has too.
fn address(query: &OutboundQuery<'_>, workload: &Workload) -> Option<IpAddr> {
    let dialled_v4 = query.destination.ip().to_canonical().is_ipv4();
    let usable = |ip: &&IpAddr| {
        query
            .source
            .addresses
            .iter()
            .any(|own| own.is_ipv4() == ip.is_ipv4())
    };
    let usable = || workload.addresses.iter().filter(usable);
    usable()
        .find(|ip| ip.is_ipv4() == dialled_v4)
        .or_else(|| usable().next())
        .copied()
}

/// How near a workload is: the number of preferred scopes that match, counted until the first that does not.
///
/// None where the service wants only endpoints that match all.
fn rank(policy: &LoadBalancing, source: &Workload, workload: &Workload) -> Option<usize> {
    let matching = policy
        .preference
        .iter()
        .take_while(|scope| same(**scope, source, workload))
        .count();
    match policy.mode {
        BalanceMode::Strict => (matching == policy.preference.len()).then_some(matching),
        BalanceMode::Failover => Some(matching),
        BalanceMode::Unspecified | BalanceMode::Passthrough => Some(0),
    }
}

fn same(scope: BalanceScope, a: &Workload, b: &Workload) -> bool {
    match scope {
        BalanceScope::Region => a.region == b.region,
        BalanceScope::Zone => a.zone == b.zone,
        // The model does not carry sub-zones; zones are the finest place it knows.
        BalanceScope::Subzone => a.zone == b.zone,
        BalanceScope::Node => a.node == b.node,
        BalanceScope::Cluster => a.cluster == b.cluster,
        BalanceScope::Network => a.network == b.network,
    }
}

/// Chance in proportion to capacity; all alike where every capacity is 0.
fn weighted<'a>(candidates: &[Endpoint<'a>], rng: &mut impl Rng) -> Option<Endpoint<'a>> {
    let total: u64 = candidates.iter().map(|e| u64::from(e.workload.capacity)).sum();
    if candidates.is_empty() {
        return None;
    }
    if total == 0 {
        return candidates.get(rng.random_range(0..candidates.len())).copied();
    }
    let mut point = rng.random_range(0..total);
    for endpoint in candidates {
        let weight = u64::from(endpoint.workload.capacity);
        if point < weight {
            return Some(*endpoint);
        }
        point -= weight;
    }
    None
}
