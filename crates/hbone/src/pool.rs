//! The dialling end of tunnels: connections shared by the streams that may share them.
//!
//! Two streams share a connection only if they have the same source certificate, the same accepted peers, the same
//! destination and the same local address. Callers who come while a connection is being opened wait for it; a full
//! connection takes new streams again as soon as old ones end.

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::authority::Authority;
use aquifer_core::identity::SpiffeId;
use aquifer_identity::WorkloadCertificate;
use http::HeaderMap;
use tokio::net::TcpStream;

use crate::establish::establish;
use crate::fault::Retry;
use crate::settings;
use crate::stream::TunnelStream;

mod driver;
mod error;
mod ledger;
mod request;

pub use error::{ConnectError, Phase};
pub(crate) use ledger::Slot;
use ledger::{Acquired, Freshness, Opening, Shared, Turn};

#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Streams on one connection; the peer's own limit holds as well.
    pub streams_per_connection: usize,
    /// Connections of the whole pool. Idle ones make room for new ones.
    pub max_connections: usize,
    /// Callers who wait for the same destination.
    pub max_waiting: usize,
    /// How long a connection without streams is kept.
    pub idle_timeout: Duration,
    /// For TCP, TLS and HTTP/2 together, and for waiting on somebody else's.
    pub connect_timeout: Duration,
    /// For the peer's answer to a CONNECT; the peer dials its application meanwhile.
    pub response_timeout: Duration,
}

impl Default for PoolConfig {
    /// As Istio's proxy (100 streams, idle 5 min, connect 10 s); 4,096 connections, 20 s for an answer.
    fn default() -> Self {
        Self {
            streams_per_connection: 100,
            max_connections: 4096,
            max_waiting: 16 * 1024,
            idle_timeout: Duration::from_secs(300),
            connect_timeout: settings::CONNECT_TIMEOUT,
            response_timeout: Duration::from_secs(20),
        }
    }
}

/// What two streams must have in common to share a connection.
#[derive(Clone, Debug)]
pub struct PoolKey {
    /// Who dials. A renewed certificate is another key: new streams prove themselves with the new one.
    pub source: Arc<WorkloadCertificate>,
    /// The peer's HBONE port.
    pub peer: SocketAddr,
    /// Who the peer may be, any of these.
    pub expected: Vec<SpiffeId>,
    /// The local address to dial from.
    pub local: IpAddr,
}

impl PartialEq for PoolKey {
    fn eq(&self, other: &Self) -> bool {
        self.peer == other.peer
            && self.local == other.local
            && self.source.identity() == other.source.identity()
            && self.source.serial() == other.source.serial()
            && self.expected == other.expected
    }
}

impl Eq for PoolKey {}

impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.peer.hash(state);
        self.local.hash(state);
        self.source.serial().hash(state);
        self.expected.hash(state);
    }
}

/// A tunnel to open.
#[derive(Clone, Debug)]
pub struct TunnelRequest {
    pub authority: Authority,
    pub headers: HeaderMap,
}

/// What a pool holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    pub destinations: usize,
    pub connections: usize,
    pub streams: usize,
    pub waiting: usize,
}

/// Connections to other workloads' HBONE ports. Dropping it cuts them all; [`Pool::close`] lets streams end first.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    pub fn new(config: PoolConfig) -> Self {
        Self {
            shared: Shared::new(config),
        }
    }

    /// Opens a tunnel: on a connection that is there, or on one that `dial` opens the socket for.
    ///
    /// `dial` is called at most once, and not at all where a connection has room. If a connection from the pool turns
    /// out to be dead before the peer has answered, the request is repeated once on a new one. Answers the stream and
    /// the headers of the peer's response.
    ///
    /// Cancel safe: who waits for a connection that a dropped caller was opening takes over.
    pub async fn connect<D, F>(
        &self,
        key: PoolKey,
        request: TunnelRequest,
        dial: D,
    ) -> Result<(TunnelStream, HeaderMap), ConnectError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<TcpStream>>,
    {
        let mut dial = Some(dial);
        let slot = self.slot(&key, &mut dial, Freshness::Any).await?;
        let first = request::send(slot, &key, &request, self.shared.config()).await;
        match first {
            // A dial that is left over means that the connection was not ours but one from the pool.
            Err(error) if error.retry() == Retry::FreshConnection && dial.is_some() => {
                tracing::debug!(peer = %key.peer, %error, "pooled tunnel was dead, dialling again");
                let slot = self.slot(&key, &mut dial, Freshness::New).await?;
                request::send(slot, &key, &request, self.shared.config()).await
            }
            other => other,
        }
    }

    /// Takes no more streams and closes each connection with its last stream.
    pub fn close(&self) {
        self.shared.close();
    }

    pub fn stats(&self) -> PoolStats {
        self.shared.stats()
    }

    async fn slot<D, F>(
        &self,
        key: &PoolKey,
        dial: &mut Option<D>,
        freshness: Freshness,
    ) -> Result<Slot, ConnectError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<TcpStream>>,
    {
        let opening = match self.shared.acquire(key, freshness)? {
            Acquired::Slot(slot) => return Ok(slot),
            Acquired::Open(opening) => opening,
            Acquired::Wait(turn) => {
                let after = self.shared.config().connect_timeout;
                let turn = tokio::time::timeout(after, turn)
                    .await
                    .map_err(|_| ConnectError::timeout(key, Phase::Wait, after))?;
                match turn {
                    Ok(Turn::Slot(slot)) => return Ok(slot),
                    Ok(Turn::Open(opening)) => opening,
                    Ok(Turn::Failed(error)) => return Err(error),
                    Err(_) => return Err(ConnectError::Closed { peer: key.peer }),
                }
            }
        };
        // The dial is there: it is taken once per call, and only a call that has not taken it comes here again.
        let dial = dial.take().ok_or(ConnectError::Closed { peer: key.peer })?;
        self.open(opening, key, dial()).await
    }

    async fn open<F>(&self, opening: Opening, key: &PoolKey, dial: F) -> Result<Slot, ConnectError>
    where
        F: Future<Output = io::Result<TcpStream>>,
    {
        let after = self.shared.config().connect_timeout;
        let opened = tokio::time::timeout(after, establish(key, dial))
            .await
            .unwrap_or_else(|_| Err(ConnectError::timeout(key, Phase::Connect, after)));
        match opened {
            Ok((requests, connection)) => {
                let (slot, id) = opening.succeed(requests)?;
                driver::spawn(&self.shared, connection, key.clone(), id);
                Ok(slot)
            }
            Err(error) => {
                opening.fail(&error);
                Err(error)
            }
        }
    }
}
