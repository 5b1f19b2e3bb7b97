//! The pod's side of the network: where its connections come from and how the agent dials inside it.
//!
//! The seam between the proxy and kernel capture; tests dial plain loopback instead.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::capture::{Capture, DeliverySource, Netns};

/// How long a TCP connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// As Istio's proxies: a peer that vanished is noticed, an idle one is rarely disturbed.
const KEEPALIVE: Duration = Duration::from_secs(180);
const KEEPALIVE_RETRIES: u32 = 9;

pub(crate) trait PodNetwork: Send + Sync {
    /// What the client of a captured connection dialled, by the address that it comes from. Asked once per connection.
    fn original_destination(&self, client: SocketAddr) -> Option<SocketAddr>;

    /// Whether an inbound connection came from outside the pod. One on loopback was opened inside, towards the
    /// listener itself.
    fn is_steered(&self, local: SocketAddr) -> bool {
        !local.ip().is_loopback()
    }

    /// A socket in the pod, towards the mesh.
    fn socket(&self, ip: IpAddr) -> io::Result<TcpSocket>;

    /// A socket in the pod, towards the pod's own application, which will see `client` as its peer.
    fn upstream_socket(
        &self,
        source: DeliverySource,
        destination: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<TcpSocket>;
}

/// An enrolled pod.
pub(crate) struct CapturedPod {
    pub(crate) capture: Arc<Capture>,
    pub(crate) netns: Netns,
}

impl PodNetwork for CapturedPod {
    fn original_destination(&self, client: SocketAddr) -> Option<SocketAddr> {
        self.capture.original_destination(self.netns.cookie(), client)
    }

    fn socket(&self, ip: IpAddr) -> io::Result<TcpSocket> {
        self.netns.socket(ip)
    }

    fn upstream_socket(
        &self,
        source: DeliverySource,
        destination: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<TcpSocket> {
        self.capture
            .upstream_socket(source, &self.netns, destination, client)
    }
}

/// Connects out of the pod, from `local` where given.
pub(crate) async fn dial(
    network: &dyn PodNetwork,
    peer: SocketAddr,
    local: Option<IpAddr>,
) -> io::Result<TcpStream> {
    let socket = network.socket(peer.ip())?;
    if let Some(local) = local {
        // A port chosen here would be taken for every destination; the kernel chooses it at connect().
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(local, 0))?;
    }
    connect(socket, peer).await
}

/// Connects to the pod's application on behalf of `client`.
pub(crate) async fn dial_application(
    network: &dyn PodNetwork,
    destination: SocketAddr,
    client: SocketAddr,
) -> io::Result<TcpStream> {
    let dial = |source| async move {
        connect(network.upstream_socket(source, destination, client)?, destination).await
    };
    if destination.is_ipv4() {
        return dial(DeliverySource::Loopback).await;
    }
    match dial(DeliverySource::Pod).await {
        // Every port of the pod's address waits out its minute.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => dial(DeliverySource::Loopback).await,
        dialled => dialled,
    }
}

async fn connect(socket: TcpSocket, peer: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(peer))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s"))??;
    tune(&stream);
    Ok(stream)
}

/// Small writes go out at once and dead peers are noticed; a socket that refuses either still works.
pub(crate) fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Ends a connection so that its peer sees a reset, not an end of data.
pub(crate) fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}
