//! Connections that the pod receives: tunnels on port 15008, plaintext on every other.

mod admit;
mod plaintext;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_core::resolve::HBONE_PORT;
use tokio::net::TcpStream;

use crate::network;
use crate::pod::PodProxy;

/// The agent's own listeners: a connection to one of them through a tunnel would be a loop.
const OWN_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

/// Serves one steered connection; its local address is what the client dialled.
pub(crate) async fn serve(pod: Arc<PodProxy>, stream: TcpStream, client: SocketAddr) {
    let local = match stream.local_addr() {
        Ok(local) => SocketAddr::new(local.ip().to_canonical(), local.port()),
        Err(error) => {
            tracing::debug!(pod = %pod.pod.name, %client, %error, "connection ended before it was served");
            return;
        }
    };
    if !pod.network.is_steered(local) {
        tracing::debug!(pod = %pod.pod.name, %client, "connection refused: it was not steered");
        return network::reset(stream);
    }
    if local.port() == HBONE_PORT {
        tunnel::serve(pod, stream, client, local).await;
    } else {
        plaintext::serve(pod, stream, client, local).await;
    }
}
