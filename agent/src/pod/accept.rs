//! The accept loop: one per listener, one task per connection, each with a permit of its pod.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use super::PodProxy;
use crate::network;

/// After accept() failed, as it does when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the pod stops, then takes what has already been queued: the kernel has promised those to the client.
pub(super) async fn accept<F, Fut>(pod: Arc<PodProxy>, listener: std::net::TcpListener, serve: F)
where
    F: Fn(Arc<PodProxy>, TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(pod = %pod.pod.name, namespace = %pod.pod.namespace, %error, "listener cannot be served");
            return;
        }
    };
    while let Some(accepted) = pod.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, client)) => admit(&pod, stream, client, &serve),
            Err(error) => {
                tracing::debug!(pod = %pod.pod.name, %error, "accept failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    while let Some(Ok((stream, client))) = listener.accept().now_or_never() {
        admit(&pod, stream, client, &serve);
    }
}

fn admit<F, Fut>(pod: &Arc<PodProxy>, stream: TcpStream, client: SocketAddr, serve: &F)
where
    F: Fn(Arc<PodProxy>, TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Some(permit) = pod.permit() else {
        let limit = pod.shared.config.max_connections_per_pod;
        tracing::debug!(pod = %pod.pod.name, %client, limit, "connection refused: the pod has reached its limit");
        return network::reset(stream);
    };
    network::tune(&stream);
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let serving = serve(pod.clone(), stream, client);
    pod.tasks.spawn(until_killed(pod.clone(), permit, serving));
}

async fn until_killed(pod: Arc<PodProxy>, _permit: OwnedSemaphorePermit, serving: impl Future<Output = ()>) {
    pod.kill.run_until_cancelled(serving).await;
}
