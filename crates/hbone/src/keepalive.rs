//! Finds out that a peer is gone although nothing says so: an HTTP/2 PING that is not answered.

use std::time::Duration;

use h2::{Ping, PingPong};

const INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns when the peer has not answered a PING in time, and never otherwise.
pub(crate) async fn watch(pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(INTERVAL).await;
        match tokio::time::timeout(TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended; whoever drives it knows why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
