//! Tunnels to the pod: HBONE on port 15008.

use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aquifer_core::authority::Authority;
use aquifer_core::baggage::Baggage;
use aquifer_core::forwarded::Forwarded;
use aquifer_hbone::{IncomingTunnel, TunnelHandler};
use aquifer_telemetry::tcp::TcpFlag;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::net::TcpStream;

use super::OWN_PORTS;
use super::admit::{self, Hints, NotAdmitted};
use crate::connections::{Direction, Listed, Open};
use crate::pod::PodProxy;
use crate::telemetry::Failure;
use crate::{forward, network};

/// Serves one connection to port 15008 with every tunnel in it.
pub(super) async fn serve(pod: Arc<PodProxy>, stream: TcpStream, client: SocketAddr, local: SocketAddr) {
    let certificate = match pod.shared.certificates.certificate(&pod.identity).await {
        Ok(certificate) => certificate,
        Err(error) => {
            tracing::warn!(pod = %pod.pod.name, namespace = %pod.pod.namespace, %client, %error, "tunnel refused");
            return network::reset(stream);
        }
    };
    let config = aquifer_identity::tunnel_server_config(&certificate, &pod.shared.config.trust_domain);
    let handler = Arc::new(Handler {
        pod: pod.clone(),
        local,
    });
    let served = aquifer_hbone::serve(stream, config, handler, pod.stop.clone()).await;
    if let Err(error) = served {
        tracing::debug!(pod = %pod.pod.name, namespace = %pod.pod.namespace, %client, %error, "tunnel connection failed");
    }
}

struct Handler {
    pod: Arc<PodProxy>,
    /// The pod's address that the connection arrived on.
    local: SocketAddr,
}

impl TunnelHandler for Handler {
    fn handle(&self, tunnel: IncomingTunnel) -> impl Future<Output = ()> + Send {
        self.serve(tunnel)
    }
}

/// Why a tunnel is not opened: the answer and what is told of it.
struct Rejection {
    status: StatusCode,
    failure: Failure,
}

impl Rejection {
    fn new(status: StatusCode, flag: TcpFlag, reason: &impl Display) -> Self {
        Self {
            status,
            failure: Failure::new(flag, reason),
        }
    }
}

impl Handler {
    async fn serve(&self, tunnel: IncomingTunnel) {
        let started = Instant::now();
        let pod = &self.pod;
        let forwarded = Forwarded::parse(header(&tunnel.headers, "forwarded"));
        let hints = Hints {
            host: forwarded.host.clone(),
            hbone_target: Some(tunnel.authority.to_string().into()),
        };
        let client = client(&tunnel, &forwarded);
        let destination = self.destination(&tunnel.authority);
        let listed = *destination.as_ref().unwrap_or(&self.local);
        let identity = Some(tunnel.peer_identity.clone());
        let open = pod
            .connections
            .add(Open::new(Direction::Inbound, client, listed, identity));
        // Held as long as the tunnel: its connection to the application counts like one that came without a tunnel.
        let permit = pod.permit();
        let upstream = match (destination, &permit) {
            (Ok(destination), Some(_)) => self.reach(&open, destination).await,
            (Ok(_), None) => Err(self.exhausted()),
            (Err(rejection), _) => Err(rejection),
        };
        match upstream {
            Ok(upstream) => self.forward(tunnel, upstream, &open, hints, started).await,
            Err(Rejection { status, failure }) => {
                let facts = admit::facts(pod, &open, hints);
                pod.shared.telemetry.failed(&facts, started, &failure);
                tunnel.reject(status, &failure.reason);
            }
        }
    }

    /// The pod's own address and the port that the authority asks for. Never another pod's.
    fn destination(&self, authority: &Authority) -> Result<SocketAddr, Rejection> {
        let bad = |reason: String| Rejection::new(StatusCode::BAD_REQUEST, TcpFlag::Connect, &reason);
        let own = self.local.ip();
        let port = match authority {
            Authority::Address(address) if address.ip() == own => address.port(),
            Authority::Address(address) => {
                return Err(bad(format!(
                    "tunnel for {address} arrived at {own}, which is another address"
                )));
            }
            Authority::Host { host, port } => self
                .target_port(host, *port)
                .ok_or_else(|| bad(format!("this pod serves no port {port} of a service {host}")))?,
        };
        if OWN_PORTS.contains(&port) {
            return Err(bad(format!("port {port} is the mesh's own")));
        }
        Ok(SocketAddr::new(own, port))
    }

    /// The pod's port for a service that it serves.
    fn target_port(&self, host: &str, service_port: u16) -> Option<u16> {
        let mesh = self.pod.shared.mesh.load();
        let own = self.pod.own_workload(&mesh)?;
        let service = mesh.service_named(host, &own.namespace)?;
        let ports = own.services.get(&service.key())?;
        let mapped = ports.iter().find(|p| p.service_port == service_port);
        let target = mapped.map(|p| p.target_port).filter(|p| *p != 0);
        target.or_else(|| {
            service
                .port(service_port)
                .map(|p| p.target_port)
                .filter(|p| *p != 0)
        })
    }

    fn exhausted(&self) -> Rejection {
        let limit = self.pod.shared.config.max_connections_per_pod;
        Rejection::new(
            StatusCode::SERVICE_UNAVAILABLE,
            TcpFlag::Connect,
            &format!("the pod has {limit} connections, which is its limit"),
        )
    }

    async fn reach(&self, open: &Open, destination: SocketAddr) -> Result<TcpStream, Rejection> {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        admit::admit(&self.pod, open).await.map_err(|error| match error {
            NotAdmitted::Denied(_) => Rejection::new(StatusCode::UNAUTHORIZED, TcpFlag::Deny, &error),
            NotAdmitted::Unknown(_) | NotAdmitted::NotSynced(_) => {
                Rejection::new(unavailable, TcpFlag::Connect, &error)
            }
        })?;
        network::dial_application(&*self.pod.network, destination, open.source)
            .await
            .map_err(|error| {
                let reason = format!("cannot connect to {destination}: {error}");
                Rejection::new(unavailable, TcpFlag::Connect, &reason)
            })
    }

    async fn forward(
        &self,
        tunnel: IncomingTunnel,
        upstream: TcpStream,
        open: &Listed,
        hints: Hints,
        started: Instant,
    ) {
        let pod = &self.pod;
        let _ = open.peer.set(open.destination);
        let facts = admit::facts(pod, open, hints);
        let headers = self.response_headers();
        match tunnel.accept(headers) {
            Ok(stream) => {
                let record = pod.shared.telemetry.opened(facts, started);
                forward::copy(stream, upstream, record, open).await;
            }
            Err(error) => {
                let failure = Failure::new(TcpFlag::Connect, &error);
                pod.shared.telemetry.failed(&facts, started, &failure);
                network::reset(upstream);
            }
        }
    }

    /// Tells the client's proxy which workload answered.
    fn response_headers(&self) -> HeaderMap {
        let mesh = self.pod.shared.mesh.load();
        let baggage = Baggage::of(&self.pod.as_source(&mesh)).to_header();
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&baggage) {
            headers.insert("baggage", value);
        }
        headers
    }
}

/// The client as the tunnel shows it. Its port is the peer's to tell, and believed for the address that was seen only.
fn client(tunnel: &IncomingTunnel, forwarded: &Forwarded) -> SocketAddr {
    let seen = SocketAddr::new(tunnel.peer_addr.ip().to_canonical(), tunnel.peer_addr.port());
    match forwarded.client {
        Some(told) if told.ip().to_canonical() == seen.ip() => SocketAddr::new(seen.ip(), told.port()),
        _ => seen,
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
