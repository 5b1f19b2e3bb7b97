//! Connections that the pod opens: found out where to, then through a tunnel, straight on, or refused.

mod connect;
mod headers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::connections::{Direction, Open};
use crate::forward;
use crate::network;
use crate::pod::PodProxy;
use connect::{Made, Upstream};

/// Serves one captured connection.
pub(crate) async fn serve(pod: Arc<PodProxy>, stream: TcpStream, client: SocketAddr) {
    let started = Instant::now();
    let Some(destination) = pod.network.original_destination(client) else {
        // Someone in the pod dialled the listener itself.
        tracing::debug!(pod = %pod.pod.name, %client, "connection refused: it was not captured");
        return network::reset(stream);
    };
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let client = own_address(&pod, client, destination);
    let open = pod
        .connections
        .add(Open::new(Direction::Outbound, client, destination, None));
    // On the heap, to be given back when the connection stands: handshakes need much room, and only for a moment.
    match Box::pin(connect::connect(&pod, client, destination)).await {
        Ok(Made {
            upstream,
            facts,
            peer,
        }) => {
            let _ = open.peer.set(peer);
            let record = pod.shared.telemetry.opened(facts, started);
            match upstream {
                Upstream::Tunnel(tunnel) => forward::copy(stream, tunnel, record, &open).await,
                Upstream::Plain(plain) => forward::copy(stream, plain, record, &open).await,
            }
        }
        Err(failed) => {
            tracing::debug!(pod = %pod.pod.name, %client, %destination, error = %failed.failure.reason, "connection refused");
            pod.shared
                .telemetry
                .failed(&failed.facts, started, &failed.failure);
            network::reset(stream);
        }
    }
}

/// A captured client comes from loopback; the mesh knows it by the pod's address of the destination's family.
fn own_address(pod: &PodProxy, client: SocketAddr, destination: SocketAddr) -> SocketAddr {
    let same_family = |ip: &&std::net::IpAddr| ip.is_ipv4() == destination.is_ipv4();
    let own = pod
        .pod
        .ips
        .iter()
        .find(same_family)
        .or_else(|| pod.pod.ips.first());
    SocketAddr::new(own.copied().unwrap_or_else(|| client.ip()), client.port())
}
