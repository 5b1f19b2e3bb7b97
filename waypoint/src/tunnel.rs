//! Tunnels: an authority leads to a listener, the listener to requests or to a copy.

use std::sync::Arc;

use aquifer_core::authority::Authority;
use aquifer_core::forwarded::Forwarded;
use aquifer_core::http::listener::{Listener, ListenerProtocol};
use aquifer_hbone::{IncomingTunnel, TunnelHandler};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::edge::Arrival;
use crate::ending::Ending;
use crate::pods::{Dialled, Own, Speaks};
use crate::proxy::series::SeriesCache;
use crate::proxy::{ConnectionInfo, Downstream, Proxy};
use crate::source::ClientInfo;
use crate::tcp::Way;
use crate::{pods, policy, serving, tcp};

pub(crate) struct WaypointTunnels {
    pub(crate) proxy: Arc<Proxy>,
    /// The network that this proxy is on.
    pub(crate) network: Arc<str>,
    /// By what pods name this waypoint.
    pub(crate) own: Option<Own>,
    pub(crate) drain: CancellationToken,
}

impl TunnelHandler for WaypointTunnels {
    async fn handle(&self, tunnel: IncomingTunnel) {
        // A pod's address is the pod's: what others write about it comes after.
        if let Some(pod) = self.pod(&tunnel.authority) {
            return self.serve_pod(Arc::new(pod), tunnel).await;
        }
        let listener = self
            .proxy
            .shared
            .proxy()
            .tunnel_listener(&tunnel.authority)
            .cloned();
        if let Some(listener) = listener {
            return self.serve(listener, tunnel).await;
        }
        if let Some(pod) = self.late_pod(&tunnel.authority).await {
            return self.serve_pod(Arc::new(pod), tunnel).await;
        }
        tracing::warn!(peer = %tunnel.peer_identity, authority = %tunnel.authority, "no listener for a tunnel, nor a pod that names this waypoint");
        let reason = format!("this waypoint serves nothing at {}", tunnel.authority);
        tunnel.reject(StatusCode::BAD_REQUEST, &reason);
    }
}

impl WaypointTunnels {
    async fn serve(&self, listener: Arc<Listener>, tunnel: IncomingTunnel) {
        let client = self.client(&tunnel);
        let local = listener.addresses.first().copied().unwrap_or(tunnel.local_addr);
        let Some(chain) = listener.chains.unseen().cloned() else {
            let reason = "this waypoint ends no TLS inside tunnels";
            return tunnel.reject(StatusCode::BAD_REQUEST, reason);
        };
        match &chain.protocol {
            ListenerProtocol::Http(http) => {
                let connection = ConnectionInfo {
                    http: http.clone(),
                    listener,
                    pod: None,
                    client,
                    local,
                    series: SeriesCache::default(),
                    tls: None,
                    _admission: None,
                };
                if let Some(stream) = accept(tunnel) {
                    self.serve_http(stream, connection, self.drain.clone()).await;
                }
            }
            ListenerProtocol::Tcp(tcp) => {
                let way = Way::of(&self.proxy, tcp);
                tcp::tunnelled(&self.proxy, &way, client, tunnel).await;
            }
        }
    }

    /// The pod with that address, where this waypoint is for it.
    fn pod(&self, authority: &Authority) -> Option<Dialled> {
        let place = pods::place(authority, &self.network)?;
        Dialled::find(self.own.as_ref()?, &self.proxy.shared, &place)
    }

    /// The same, for a client that knows of it earlier.
    async fn late_pod(&self, authority: &Authority) -> Option<Dialled> {
        let place = pods::place(authority, &self.network)?;
        let found = Dialled::find_late(self.own.as_ref()?, &self.proxy.shared, &place);
        tokio::select! {
            found = found => found,
            () = self.drain.cancelled() => None,
        }
    }

    async fn serve_pod(&self, pod: Arc<Dialled>, tunnel: IncomingTunnel) {
        let client = self.client(&tunnel);
        match pod.speaks {
            Speaks::Http => {
                if let Some(stream) = accept(tunnel) {
                    self.serve_requests(stream, &pod, client).await;
                }
            }
            Speaks::Bytes => tcp::tunnelled(&self.proxy, &Way::to_pod(&pod), client, tunnel).await,
            Speaks::Unsaid => {
                let Some(stream) = accept(tunnel) else {
                    return;
                };
                let way = Way::to_pod(&pod);
                if let Some(stream) = tcp::unless_http(&self.proxy, &way, &client, stream).await {
                    self.serve_requests(stream, &pod, client).await;
                }
            }
        }
    }

    /// Requests to a pod. When it goes, its clients are told that the connection ends: kept open, it would lead nowhere.
    async fn serve_requests<S>(&self, stream: S, pod: &Arc<Dialled>, client: ClientInfo)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let drain = self.drain.child_token();
        let served = self.serve_http(stream, of_pod(pod, client), drain.clone());
        let ended = async {
            if let Some(own) = &self.own {
                pod.gone(own, &self.proxy.shared).await;
            }
            drain.cancel();
        };
        let mut served = std::pin::pin!(served);
        tokio::select! {
            () = &mut served => return,
            () = ended => {}
        }
        served.await;
    }

    async fn serve_http<S>(&self, stream: S, connection: ConnectionInfo, drain: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let downstream = Downstream {
            proxy: self.proxy.clone(),
            connection: Arc::new(connection),
        };
        let stream = Ending::new(stream, Some(&self.proxy.tasks));
        serving::serve(stream, downstream, drain).await;
    }

    fn client(&self, tunnel: &IncomingTunnel) -> ClientInfo {
        client(&self.proxy, &self.network, tunnel)
    }
}

fn of_pod(pod: &Arc<Dialled>, client: ClientInfo) -> ConnectionInfo {
    ConnectionInfo {
        listener: pod.listener.clone(),
        http: pod.http.clone(),
        pod: Some(pod.clone()),
        client,
        local: pod.address(),
        series: SeriesCache::default(),
        tls: None,
        _admission: None,
    }
}

fn client(proxy: &Proxy, network: &Arc<str>, tunnel: &IncomingTunnel) -> ClientInfo {
    let header = tunnel
        .headers
        .get(http::header::FORWARDED)
        .and_then(|v| v.to_str().ok());
    let told = header.and_then(|header| Forwarded::parse(header).client);
    let mesh = proxy.shared.mesh();
    ClientInfo::tunnelled(&mesh, network, &tunnel.peer_identity, tunnel.peer_addr, told)
}

/// Tunnels of the mesh's pods to a gateway: what a plain connection to the port would get, over mutual TLS.
pub(crate) struct GatewayTunnels {
    pub(crate) proxy: Arc<Proxy>,
    /// The network that this proxy is on.
    pub(crate) network: Arc<str>,
    pub(crate) drain: CancellationToken,
}

impl TunnelHandler for GatewayTunnels {
    async fn handle(&self, tunnel: IncomingTunnel) {
        let state = self.proxy.shared.proxy();
        let found = match &tunnel.authority {
            // Of this pod's own addresses the one that the tunnel came to.
            Authority::Address(address) if address.ip() == tunnel.local_addr.ip().to_canonical() => {
                let listener = state.bound_at(address.port()).cloned();
                listener.map(|listener| (listener, *address))
            }
            Authority::Address(_) | Authority::Host { .. } => None,
        };
        let Some((listener, local)) = found else {
            tracing::info!(peer = %tunnel.peer_identity, authority = %tunnel.authority, "no listener for a tunnel");
            let reason = format!("this gateway serves nothing at {}", tunnel.authority);
            return tunnel.reject(StatusCode::BAD_REQUEST, &reason);
        };
        let client = ClientInfo {
            of_gateway: true,
            ..client(&self.proxy, &self.network, &tunnel)
        };
        let ends = (client.peer, local);
        let mesh = self.proxy.shared.mesh();
        if let Err(refusal) = policy::arrive(&mesh, &self.proxy.own, client.identity.as_ref(), ends) {
            tracing::info!(peer = %tunnel.peer_identity, authority = %tunnel.authority, error = %refusal, "tunnel refused");
            return tunnel.reject(refusal.status(), &refusal.to_string());
        }
        let arrival = Arrival {
            proxy: self.proxy.clone(),
            listener,
            client,
            local,
            admission: None,
        };
        if let Some(stream) = accept(tunnel) {
            arrival.serve(stream, self.drain.clone()).await;
        }
    }
}

fn accept(tunnel: IncomingTunnel) -> Option<aquifer_hbone::TunnelStream> {
    match tunnel.accept(HeaderMap::new()) {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::debug!(%error, "tunnel given up");
            None
        }
    }
}
