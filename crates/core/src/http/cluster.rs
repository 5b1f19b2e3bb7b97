//! Clusters and their endpoints: where a route leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::SpiffeId;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalancePolicy {
    RoundRobin,
    #[default]
    LeastRequest,
    Random,
}

/// The HTTP version spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamHttp {
    Http1,
    Http2,
    /// That of the client's request: the mesh adds no translation that was not asked for.
    #[default]
    AsDownstream,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub name: Arc<str>,
    pub balance: BalancePolicy,
    pub connect_timeout: Duration,
    pub http: UpstreamHttp,
    /// Name of the endpoints' resource.
    pub service_name: Arc<str>,
    /// Where its endpoints are found by name instead.
    pub names: Option<Names>,
}

/// Endpoints that are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Whose objects ask for them: a proxy looks up as many for one namespace as for another.
    pub namespace: Arc<str>,
    pub list: Vec<NamedEndpoint>,
    /// Only the first address of each answer is used.
    pub first_only: bool,
}

/// A name or an address, outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEndpoint {
    pub host: Arc<str>,
    pub port: u16,
    pub weight: u32,
}

/// How an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Plaintext,
    /// An address that somebody wrote down or that a name server gave: plaintext, unless it is a pod's of the mesh.
    Outside,
    /// The endpoint must prove exactly this identity.
    Hbone(SpiffeId),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub transport: Transport,
    pub weight: u32,
    pub healthy: bool,
    /// 0 is tried first.
    pub priority: u32,
    /// Key of its workload record, for telemetry; empty where unknown.
    pub workload: Arc<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    /// As in [`Cluster::service_name`].
    pub name: Arc<str>,
    pub list: Vec<Endpoint>,
}

/// The parts of a cluster's name: `outbound|9080|v1|reviews.bookinfo.svc.cluster.local` or
/// `inbound-vip|9080|http/v1|reviews.bookinfo.svc.cluster.local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterNameParts<'a> {
    pub port: u16,
    pub subset: &'a str,
    pub host: &'a str,
}

/// Reads a name in the form that Istio gives to clusters and listeners.
pub fn parse_cluster_name(name: &str) -> Option<ClusterNameParts<'_>> {
    let mut parts = name.splitn(4, '|');
    let (direction, port, kind, host) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let subset = match direction {
        "outbound" => kind,
        _ => kind.split_once('/').map_or("", |(_, subset)| subset),
    };
    Some(ClusterNameParts {
        port: port.parse().ok()?,
        subset,
        host,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_of_both_directions() {
        let parts =
            parse_cluster_name("inbound-vip|9080|http/v1|reviews.bookinfo.svc.cluster.local").unwrap();
        assert_eq!((parts.port, parts.subset), (9080, "v1"));
        let parts = parse_cluster_name("outbound|80||a.b").unwrap();
        assert_eq!((parts.port, parts.subset, parts.host), (80, "", "a.b"));
        assert_eq!(parse_cluster_name("inbound-vip|1|tcp|h").unwrap().subset, "");
        assert_eq!(parse_cluster_name("BlackHoleCluster"), None);
    }
}
