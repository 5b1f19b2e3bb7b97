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
    #[error(
        "{address} was written down or looked up as an address outside the mesh, but is that of {owner}, which only tunnels may lead to; name the Service, or pods by the workloadSelector of a ServiceEntry"
    )]
    OfTheMesh { address: SocketAddr, owner: String },
    #[error("no connection to {address} within {} ms", after.as_millis())]
    Timeout { address: SocketAddr, after: Duration },
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

    /// Nothing goes in plaintext to what takes tunnels, and nobody leads to this proxy itself, whoever wrote the address.
    fn check_outside(&self, address: SocketAddr) -> Result<(), DialError> {
        let ip = address.ip().to_canonical();
        let (mesh, key) = (self.mesh.mesh(), NetworkAddress::new(&self.network, ip));
        let pod = mesh
            .workload_at(&key)
            .filter(|pod| pod.tunnel == TunnelProtocol::Hbone)
            .map(|pod| format!("the pod {}/{}", pod.namespace, pod.name));
        let service = mesh
            .service_at(&key, "")
            .filter(|service| service.canonical)
            .map(|service| format!("the Service {}", service.hostname));
        let own = (ip == self.local.to_canonical()).then(|| "this proxy".to_owned());
        match own.or(pod).or(service) {
            None => Ok(()),
            Some(owner) => Err(DialError::OfTheMesh { address, owner }),
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

async fn plain(address: SocketAddr) -> Result<UpstreamIo, DialError> {
    let connected = TcpStream::connect(address).await;
    let tcp = connected.map_err(|source| DialError::Plain { address, source })?;
    // Small requests must not wait for more.
    tcp.set_nodelay(true)
        .map_err(|source| DialError::Plain { address, source })?;
    Ok(UpstreamIo::Plain(tcp))
}
