//! Port 15008 of a waypoint or gateway: connections accepted, tunnels served.

use std::sync::Arc;
use std::time::Duration;

use aquifer_core::identity::SpiffeId;
use aquifer_hbone::{Fault, ServeError, TunnelHandler};
use aquifer_identity::{CertificateManager, tunnel_server_config};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections, each with up to 200 tunnels.
const MAX_CONNECTIONS: usize = 10_000;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts the mesh's connections as one identity.
pub(crate) struct Inbound<H> {
    pub(crate) tunnels: Arc<H>,
    pub(crate) certificates: CertificateManager,
    pub(crate) identity: SpiffeId,
    pub(crate) drain: CancellationToken,
    pub(crate) connections: TaskTracker,
}

impl<H: TunnelHandler> Inbound<H> {
    /// Runs until the drain.
    pub(crate) async fn run(self, socket: TcpListener) {
        let this = Arc::new(self);
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = this.drain.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a tunnel connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                tracing::warn!(
                    limit = MAX_CONNECTIONS,
                    "tunnel connection refused: the limit is reached"
                );
                continue;
            };
            let connection = this.clone();
            this.connections.spawn(async move {
                connection.serve(stream).await;
                drop(permit);
            });
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let certificate = match self.certificates.certificate(&self.identity).await {
            Ok(certificate) => certificate,
            Err(error) => return tracing::warn!(%error, "tunnel connection closed"),
        };
        let config = tunnel_server_config(&certificate, self.identity.trust_domain());
        let served = aquifer_hbone::serve(stream, config, self.tunnels.clone(), self.drain.clone()).await;
        match served {
            Ok(()) => {}
            Err(error @ ServeError::Lost { .. }) => tracing::debug!(%error, "tunnel connection ended"),
            Err(error) if error.fault() == Fault::Client => {
                tracing::info!(%error, "tunnel connection refused")
            }
            Err(error) => tracing::warn!(%error, "tunnel connection failed"),
        }
    }
}
