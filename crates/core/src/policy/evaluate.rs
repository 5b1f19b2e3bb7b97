//! The decision: may this connection reach this workload?
//!
//! Order, as in Istio: a DENY that matches denies; without any ALLOW everything is allowed; an ALLOW that matches
//! allows; else denied. One difference: a policy that the workload lists and that is not known (its update is still on
//! its way) denies, because a DENY that is skipped would be open.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;

use super::{Action, Authorization, Group, Match, Rule, ServiceAccountMatch, StringMatch};
use crate::address::NetworkAddress;
use crate::identity::SpiffeId;
use crate::snapshot::MeshSnapshot;
use crate::workload::{GatewayDestination, Workload};

/// What a policy can be about: one connection as the destination sees it.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The identity that the client proved; none on a plaintext connection.
    pub source: Option<&'a SpiffeId>,
    pub source_addr: SocketAddr,
    /// The pod's own address and port.
    pub destination: SocketAddr,
}

/// Leave to connect, and the policy that gave it where one did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    pub policy: Option<Arc<str>>,
}

/// A refusal, with the policy that made it where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub policy: Option<Arc<str>>,
    pub reason: DenialReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialReason {
    /// A DENY policy matches.
    ExplicitDeny,
    /// There are ALLOW policies and none matches.
    NoAllowMatches,
    /// The workload lists a policy that has not arrived.
    UnknownPolicy,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.policy.as_deref().unwrap_or_default();
        match self.reason {
            DenialReason::ExplicitDeny => write!(f, "denied by policy {policy}"),
            DenialReason::NoAllowMatches => f.write_str("no allow policy matches"),
            DenialReason::UnknownPolicy => {
                write!(
                    f,
                    "policy {policy} selects the workload but has not been received; denied until it is"
                )
            }
        }
    }
}

/// Decides whether a connection may reach a workload.
pub fn authorize(
    snapshot: &MeshSnapshot,
    destination: &Workload,
    connection: &Connection<'_>,
) -> Result<Permit, Denial> {
    let mut allows = 0usize;
    let mut permit = None;
    let deny = |policy: &Arc<str>, reason| Denial {
        policy: Some(policy.clone()),
        reason,
    };
    for key in &destination.policies {
        if snapshot.policy(key).is_none() {
            return Err(deny(key, DenialReason::UnknownPolicy));
        }
    }
    let listed = destination.policies.iter().filter_map(|key| snapshot.policy(key));
    for policy in snapshot.unlisted_policies(&destination.namespace).chain(listed) {
        if policy.dry_run {
            continue;
        }
        allows += usize::from(policy.action == Action::Allow);
        if !policy.matches(connection) {
            continue;
        }
        let key: Arc<str> = policy.key().into();
        match policy.action {
            Action::Deny => return Err(deny(&key, DenialReason::ExplicitDeny)),
            Action::Allow => permit = permit.or(Some(Permit { policy: Some(key) })),
        }
    }
    match (permit, allows) {
        (Some(permit), _) => Ok(permit),
        (None, 0) => Ok(Permit { policy: None }),
        (None, _) => Err(Denial {
            policy: None,
            reason: DenialReason::NoAllowMatches,
        }),
    }
}

/// The decision at the destination's own node.
///
/// A connection from a waypoint of one of the workload's services was decided by that waypoint, for the client behind
/// it: here only the waypoint's own identity is left to see, and a policy about clients would match the wrong one. So it
/// is with a waypoint that was the workload's until a moment ago, see [`former`](super::former).
pub fn authorize_at_node(
    snapshot: &MeshSnapshot,
    destination: &Workload,
    connection: &Connection<'_>,
    now: Instant,
) -> Result<Permit, Denial> {
    match connection.source {
        Some(source) if is_own_waypoint(snapshot, destination, source, now) => Ok(Permit { policy: None }),
        _ => authorize(snapshot, destination, connection),
    }
}

/// Whether an identity is that of a pod of a waypoint that serves the workload or one of its services, or did.
fn is_own_waypoint(
    snapshot: &MeshSnapshot,
    destination: &Workload,
    identity: &SpiffeId,
    now: Instant,
) -> bool {
    let of_services = destination
        .services
        .keys()
        .filter_map(|key| snapshot.service(key)?.waypoint.as_ref());
    of_services
        .chain(&destination.waypoint)
        .map(|waypoint| &waypoint.destination)
        .chain(snapshot.former_waypoints().of(destination, now))
        .any(|waypoint| match waypoint {
            GatewayDestination::Hostname(name) => snapshot.endpoints(name).any(|pod| proves(pod, identity)),
            GatewayDestination::Address(ip) => {
                let address = NetworkAddress::new(&destination.network, *ip);
                snapshot
                    .workload_at(&address)
                    .is_some_and(|pod| proves(pod, identity))
            }
        })
}

fn proves(workload: &Workload, identity: &SpiffeId) -> bool {
    workload.native_tunnel && workload.identity().is_ok_and(|own| own == *identity)
}

impl Authorization {
    /// Whether any group matches; a policy without groups never does.
    pub fn matches(&self, connection: &Connection<'_>) -> bool {
        self.groups.iter().any(|group| group.matches(connection))
    }
}

impl Group {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        self.rules.iter().all(|rule| rule.matches(connection))
    }
}

impl Rule {
    /// A rule with no match is true; a match with no field set is skipped.
    fn matches(&self, connection: &Connection<'_>) -> bool {
        self.matches.is_empty()
            || self
                .matches
                .iter()
                .any(|m| *m != Match::default() && m.matches(connection))
    }
}

impl Match {
    fn matches(&self, c: &Connection<'_>) -> bool {
        let source_ip = c.source_addr.ip().to_canonical();
        let destination_ip = c.destination.ip().to_canonical();
        let port = c.destination.port();
        holds(&self.namespaces, &self.not_namespaces, |m| {
            c.source.is_some_and(|id| m.matches(id.namespace()))
        }) && holds(&self.service_accounts, &self.not_service_accounts, |m| {
            c.source.is_some_and(|id| m.matches(id))
        }) && holds(&self.principals, &self.not_principals, |m| {
            c.source.is_some_and(|id| m.matches_principal(id))
        }) && holds(&self.source_ips, &self.not_source_ips, |n| contains(n, source_ip))
            && holds(&self.destination_ips, &self.not_destination_ips, |n| {
                contains(n, destination_ip)
            })
            && holds(&self.destination_ports, &self.not_destination_ports, |p| {
                *p == port
            })
    }
}

/// OR inside the wanted (nothing wanted holds), and none of the unwanted.
fn holds<T>(wanted: &[T], unwanted: &[T], is: impl Fn(&T) -> bool) -> bool {
    (wanted.is_empty() || wanted.iter().any(&is)) && !unwanted.iter().any(&is)
}

/// A range in the IPv4-mapped form is compared as the IPv4 range that it is.
fn contains(net: &IpNet, ip: IpAddr) -> bool {
    match (net, ip) {
        (IpNet::V6(net), IpAddr::V4(ip)) if net.prefix_len() >= 96 => net.contains(&ip.to_ipv6_mapped()),
        _ => net.contains(&ip),
    }
}

impl StringMatch {
    /// An absent value is not passed here: it matches nothing, not even presence.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(want) => value == &**want,
            Self::Prefix(want) => value.starts_with(&**want),
            Self::Suffix(want) => value.ends_with(&**want),
            Self::Presence => !value.is_empty(),
        }
    }

    /// Istio writes principals without `spiffe://`; one written with it is taken too.
    fn matches_principal(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(want) | Self::Prefix(want) if want.starts_with("spiffe://") => {
                self.matches(id.as_str())
            }
            _ => self.matches(id.principal()),
        }
    }
}

impl ServiceAccountMatch {
    fn matches(&self, id: &SpiffeId) -> bool {
        id.namespace() == &*self.namespace && id.service_account() == &*self.service_account
    }
}

#[cfg(test)]
mod tests;
