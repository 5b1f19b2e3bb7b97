//! The control plane's port: discovery and certificates, over TLS only.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::ads::AdsService;
use super::connection;
use crate::ca::CaService;

pub use super::tls::{ServingCertificate, ServingError};

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls on one connection: a stream, and certificates for a node's pods.
const MAX_CALLS: u32 = 100;
const MAX_HEADERS: u32 = 32 * 1024;
/// For streams to end after they were told to.
const DRAIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
#[error("the control plane's gRPC port failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves until cancelled, then lets streams end. The same token must have been given to [`AdsService::new`].
pub async fn serve(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    ads: AdsService,
    ca: CaService,
    cancel: CancellationToken,
) -> Result<(), ServeError> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_CALLS)
        .http2_max_header_list_size(MAX_HEADERS)
        .add_service(ads.into_server())
        .add_service(ca.into_server())
        .serve_with_incoming_shutdown(
            connection::incoming(listener, certificate.clone()),
            cancel.clone().cancelled_owned(),
        );
    let drained = async {
        cancel.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = server => Ok(result?),
        never = certificate.keep_fresh() => match never {},
        () = drained => Ok(()),
    }
}
