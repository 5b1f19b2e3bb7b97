//! Opens a byte stream to an endpoint: through a tunnel with the exact identity proven, or in plaintext.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::address::NetworkAddress;
use aquifer_core::authority::Authority;
use aquifer_core::forwarded::Forwarded;
use aquifer_core::http::cluster::Transport;
use aquifer_core::identity::SpiffeId;
use aquifer_core::names::NamespacedHostname;
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::TunnelProtocol;
use aquifer_hbone::{ConnectError, Pool, PoolKey, TunnelRequest};
use aquifer_identity::{CertificateManager, FetchError};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpStream;

use super::UpstreamIo;
use super::endpoint::EndpointKey;
use crate::state::Shared;

/// The port on which the agents of the mesh accept tunnels.
const HBONE_PORT: u16 = 15008;
const X_ISTIO_SOURCE: HeaderName = HeaderName::from_static("x-istio-source");

#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Certificate(#[from] FetchError),
    #[error(transparent)]
    Tunnel(#[from] ConnectError),
    #[error("cannot connect to {address}: {source}")]
    Plain { address: SocketAddr, source: io::Error },
    #[error("{address} was written down or looked up as an address outside the mesh, but is {owner}")]
    NotOutside { address: SocketAddr, owner: Owner },
    #[error("no connection to {address} within {} ms", after.as_millis())]
    Timeout { address: SocketAddr, after: Duration },
}

/// Who has an address that was taken for one outside the mesh.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Owner {
    #[error("this proxy's own")]
    ThisProxy,
    #[error(
        "that of the pod {0}, which only tunnels may lead to; name its Service, or pods by the workloadSelector of a ServiceEntry"
    )]
    Pod(String),
    #[error("that of the Service {0}; name that")]
    Service(Arc<str>),
    #[error("the API server's; pods connect to kubernetes.default.svc, without a ServiceEntry")]
    ApiServer,
    #[error(
        "that of node {0}, whose own servers trust what comes from inside; name a Service of what runs there"
    )]
    Node(Arc<str>),
}

/// Dials endpoints as one workload: this proxy.
pub(crate) struct Dialer {
    certificates: CertificateManager,
    identity: SpiffeId,
    local: IpAddr,
    tunnels: Pool,
    mesh: Arc<Shared>,
    /// The network that this proxy is on.
    network: Arc<str>,
    /// `waypoint` or `gateway`; an east-west gateway reads it.
    origin: HeaderValue,
    hbone_port: u16,
}

impl Dialer {
    pub(crate) fn new(
        certificates: CertificateManager,
        identity: SpiffeId,
        local: IpAddr,
        tunnels: Pool,
        (mesh, network): (Arc<Shared>, &str),
        origin: &'static str,
    ) -> Self {
        Self {
            certificates,
            identity,
            local,
            tunnels,
            mesh,
            network: network.into(),
            origin: HeaderValue::from_static(origin),
            hbone_port: HBONE_PORT,
        }
    }

    /// Dials tunnels on another port; several servers on one address, as tests have, need it.
    #[cfg(test)]
    pub(crate) fn with_hbone_port(mut self, port: u16) -> Self {
        self.hbone_port = port;
        self
    }

    /// Connects within `timeout`. `client` is told to the other end of a tunnel that carries one connection only.
    pub(crate) async fn connect(
        &self,
        endpoint: &EndpointKey,
        timeout: Duration,
        client: Option<SocketAddr>,
    ) -> Result<UpstreamIo, DialError> {
        let attempt = async {
            match &endpoint.transport {
                Transport::Plaintext => plain(endpoint.address).await,
                Transport::Outside => {
                    self.check_outside(endpoint.address)?;
                    plain(endpoint.address).await
                }
                Transport::Hbone(identity) => self.tunnel(endpoint.address, identity, client).await,
            }
        };
        let timed_out = |_| DialError::Timeout {
            address: endpoint.address,
            after: timeout,
        };
        tokio::time::timeout(timeout, attempt).await.map_err(timed_out)?
    }

    /// Nothing goes in plaintext to what takes tunnels, and nobody leads to this proxy itself, to nodes or to the API server,
    /// whoever wrote the address: these may let a proxy in that would not let its clients in.
    fn check_outside(&self, address: SocketAddr) -> Result<(), DialError> {
        let key = NetworkAddress::new(&self.network, address.ip());
        let own = (key.ip() == self.local.to_canonical()).then_some(Owner::ThisProxy);
        match own.or_else(|| owner(&self.mesh.mesh(), &key)) {
            None => Ok(()),
            Some(owner) => Err(DialError::NotOutside { address, owner }),
        }
    }

    async fn tunnel(
        &self,
        address: SocketAddr,
        expected: &SpiffeId,
        client: Option<SocketAddr>,
    ) -> Result<UpstreamIo, DialError> {
        let peer = SocketAddr::new(address.ip(), self.hbone_port);
        let key = PoolKey {
            source: self.certificates.certificate(&self.identity).await?,
            peer,
            expected: vec![expected.clone()],
            local: self.local,
        };
        let request = TunnelRequest {
            authority: Authority::from(address),
            headers: self.headers(client),
        };
        let (stream, _) = self
            .tunnels
            .connect(key, request, || TcpStream::connect(peer))
            .await?;
        Ok(UpstreamIo::Tunnel(Box::new(stream)))
    }

    fn headers(&self, client: Option<SocketAddr>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(X_ISTIO_SOURCE, self.origin.clone());
        let forwarded = client.map(|client| Forwarded {
            client: Some(client),
            host: None,
        });
        if let Some(value) = forwarded.and_then(|f| HeaderValue::try_from(f.to_header()).ok()) {
            headers.insert(http::header::FORWARDED, value);
        }
        headers
    }
}

/// Whose address it is, if it is of the mesh or of the cluster's own parts.
fn owner(mesh: &MeshSnapshot, key: &NetworkAddress) -> Option<Owner> {
    let pod = mesh.workload_at(key);
    let pod = pod.filter(|pod| pod.tunnel == TunnelProtocol::Hbone);
    let pod = pod.map(|pod| Owner::Pod(format!("{}/{}", pod.namespace, pod.name)));
    let service = || {
        let service = mesh.service_at(key, "").filter(|service| service.canonical);
        service.map(|service| Owner::Service(service.hostname.clone()))
    };
    let api_server = || {
        let api = NamespacedHostname::new("default", "kubernetes.default.svc.cluster.local");
        let mut addresses = mesh.endpoints(&api).flat_map(|endpoint| &endpoint.addresses);
        addresses
            .any(|ip| ip.to_canonical() == key.ip())
            .then_some(Owner::ApiServer)
    };
    let node = || mesh.node_at(key).map(|on| Owner::Node(on.node.clone()));
    pod.or_else(service).or_else(api_server).or_else(node)
}

async fn plain(address: SocketAddr) -> Result<UpstreamIo, DialError> {
    let connected = TcpStream::connect(address).await;
    let tcp = connected.map_err(|source| DialError::Plain { address, source })?;
    // Small requests must not wait for more.
    tcp.set_nodelay(true)
        .map_err(|source| DialError::Plain { address, source })?;
    Ok(UpstreamIo::Plain(tcp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_core::service::{LoadBalancing, Service};
    use aquifer_core::snapshot::Change;
    use aquifer_core::workload::{Workload, WorkloadUid};

    fn workload(name: &str, ip: &str, change: impl FnOnce(&mut Workload)) -> Change {
        let mut w = Workload::empty(WorkloadUid::new(name));
        (w.name, w.namespace) = (name.into(), "ns".into());
        w.addresses = vec![ip.parse().unwrap()];
        change(&mut w);
        Change::Workload(Arc::new(w))
    }

    fn mesh() -> MeshSnapshot {
        let api = NamespacedHostname::new("default", "kubernetes.default.svc.cluster.local");
        let vip = NetworkAddress::new(&"".into(), "10.96.0.10".parse().unwrap());
        let service = Service {
            name: "dns".into(),
            namespace: "kube-system".into(),
            hostname: "dns.kube-system.svc.cluster.local".into(),
            vips: vec![vip],
            ports: Vec::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            load_balancing: LoadBalancing::default(),
            canonical: true,
            ingress_use_waypoint: false,
            namespace_only: false,
        };
        MeshSnapshot::default().apply([
            workload("meshed", "10.244.0.1", |w| w.tunnel = TunnelProtocol::Hbone),
            workload("other", "10.244.0.2", |_| {}),
            workload("proxy", "172.18.0.2", |w| {
                (w.host_network, w.node) = (true, "worker".into());
            }),
            workload("written", "192.0.2.1", |w| w.host_network = true),
            workload("api", "172.18.0.9", |w| {
                w.host_network = true;
                w.services.insert(api, Vec::new());
            }),
            Change::Service(Arc::new(service)),
        ])
    }

    #[test]
    fn what_is_the_meshs_or_the_clusters_is_not_outside() {
        let check = |ip: &str, owner: Option<Owner>| {
            let key = NetworkAddress::new(&"".into(), ip.parse().unwrap());
            assert_eq!(super::owner(&mesh(), &key), owner, "{ip}");
        };
        check("10.244.0.1", Some(Owner::Pod("ns/meshed".into())));
        check("::ffff:10.244.0.1", Some(Owner::Pod("ns/meshed".into())));
        check(
            "10.96.0.10",
            Some(Owner::Service("dns.kube-system.svc.cluster.local".into())),
        );
        check("172.18.0.2", Some(Owner::Node("worker".into())));
        check("172.18.0.9", Some(Owner::ApiServer));
        for outside in ["10.244.0.2", "192.0.2.1", "192.0.2.2", "2001:db8::1"] {
            check(outside, None);
        }
    }
}
