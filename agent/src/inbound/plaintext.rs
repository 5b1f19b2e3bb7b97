//! Plaintext from outside the mesh: no identity, so that only policies that ask for none let it in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aquifer_telemetry::tcp::TcpFlag;
use tokio::net::TcpStream;

use super::admit::{self, Hints, NotAdmitted};
use crate::connections::{Direction, Open};
use crate::pod::PodProxy;
use crate::telemetry::Failure;
use crate::{forward, network};

pub(super) async fn serve(pod: Arc<PodProxy>, stream: TcpStream, client: SocketAddr, local: SocketAddr) {
    let started = Instant::now();
    let open = pod
        .connections
        .add(Open::new(Direction::Inbound, client, local, None));
    let upstream = match reach(&pod, &open).await {
        Ok(upstream) => upstream,
        Err(failure) => {
            let facts = admit::facts(&pod, &open, Hints::default());
            pod.shared.telemetry.failed(&facts, started, &failure);
            return network::reset(stream);
        }
    };
    let _ = open.peer.set(local);
    let facts = admit::facts(&pod, &open, Hints::default());
    let record = pod.shared.telemetry.opened(facts, started);
    forward::copy(stream, upstream, record, &open).await;
}

async fn reach(pod: &PodProxy, open: &Open) -> Result<TcpStream, Failure> {
    admit::admit(pod, open).await.map_err(|error| match error {
        NotAdmitted::Denied(_) => Failure::new(TcpFlag::Deny, &error),
        NotAdmitted::Unknown(_) | NotAdmitted::NotSynced(_) => Failure::new(TcpFlag::Connect, &error),
    })?;
    let destination = open.destination;
    network::dial_application(&*pod.network, destination, open.source)
        .await
        .map_err(|error| {
            Failure::new(
                TcpFlag::Connect,
                &format!("cannot connect to {destination}: {error}"),
            )
        })
}
