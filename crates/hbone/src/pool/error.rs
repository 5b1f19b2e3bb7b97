//! How a tunnel can fail to open.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::identity::SpiffeId;
use aquifer_identity::PeerRejected;
use http::StatusCode;

use super::PoolKey;
use crate::fault::{Fault, Retry};

/// What a caller was waiting for when the time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its turn on a connection.
    Wait,
    /// TCP, TLS and HTTP/2.
    Connect,
    /// The peer's answer.
    Response,
}

impl Phase {
    fn describe(self) -> &'static str {
        match self {
            Self::Wait => "no connection became free",
            Self::Connect => "the connection was not established",
            Self::Response => "the peer did not answer the request",
        }
    }
}

/// Why a tunnel was not opened. Shared by all callers who waited; the message is complete in itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to {peer}: {cause}")]
    Dial { peer: SocketAddr, cause: Arc<io::Error> },
    #[error("tunnel to {peer}: {} within {} s", .phase.describe(), .after.as_secs_f32())]
    Timeout {
        peer: SocketAddr,
        phase: Phase,
        after: Duration,
    },
    #[error("tunnel from {source_identity} to {peer} refused by us: {rejected}")]
    Rejected {
        source_identity: SpiffeId,
        peer: SocketAddr,
        rejected: Box<PeerRejected>,
    },
    #[error("TLS handshake with {peer} failed: {cause}")]
    Tls { peer: SocketAddr, cause: String },
    #[error("{peer} did not choose HTTP/2 (ALPN h2); is it an HBONE port?")]
    Alpn { peer: SocketAddr },
    #[error(
        "tunnel from {source_identity} to {peer} broke before it was answered: {cause}; \
         a fatal alert here means that the peer did not accept our certificate"
    )]
    Lost {
        source_identity: SpiffeId,
        peer: SocketAddr,
        cause: String,
    },
    #[error("{peer} reset the tunnel request: {cause}")]
    Reset { peer: SocketAddr, cause: h2::Reason },
    #[error("{peer} refused the tunnel with status {status}: {reason}")]
    Refused {
        peer: SocketAddr,
        status: StatusCode,
        reason: String,
    },
    #[error("the request to {peer} cannot be sent: {cause}")]
    Invalid { peer: SocketAddr, cause: String },
    #[error("no room for a tunnel to {peer}: {limit} {what}")]
    Exhausted {
        peer: SocketAddr,
        limit: usize,
        what: &'static str,
    },
    #[error("no tunnel to {peer}: the pool is closing")]
    Closed { peer: SocketAddr },
}

impl ConnectError {
    pub(crate) fn dial(peer: SocketAddr, cause: io::Error) -> Self {
        let cause = Arc::new(cause);
        Self::Dial { peer, cause }
    }

    pub(crate) fn lost(key: &PoolKey, cause: &h2::Error) -> Self {
        Self::Lost {
            source_identity: key.source.identity().clone(),
            peer: key.peer,
            cause: cause.to_string(),
        }
    }

    pub(super) fn timeout(key: &PoolKey, phase: Phase, after: Duration) -> Self {
        let peer = key.peer;
        Self::Timeout { peer, phase, after }
    }

    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused { status, .. } if *status == StatusCode::UNAUTHORIZED => Fault::Client,
            Self::Refused { status, .. } if status.is_server_error() => Fault::Upstream,
            Self::Dial { .. } => Fault::Upstream,
            Self::Timeout { phase, .. } if *phase != Phase::Wait => Fault::Upstream,
            _ => Fault::Mesh,
        }
    }

    /// Until a tunnel is open no byte of the application has left, so that a connection which broke or never came to be
    /// may be tried again; an answer of the peer stands.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Lost { .. } => Retry::FreshConnection,
            Self::Reset { cause, .. } if *cause == h2::Reason::REFUSED_STREAM => Retry::FreshConnection,
            Self::Dial { .. } | Self::Tls { .. } | Self::Exhausted { .. } => Retry::Safe,
            Self::Timeout { phase, .. } if *phase != Phase::Response => Retry::Safe,
            _ => Retry::Never,
        }
    }
}
