//! The accepting end of a tunnel: TLS, HTTP/2, one task per CONNECT.
//!
//! Whatever arrives on the port is hostile until its certificate is verified, and limited after that: a handshake has a
//! deadline, a connection a number of streams, a request a size. What is not a well-formed CONNECT is answered here and
//! never reaches the handler.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{io, pin::pin};

use aquifer_core::identity::SpiffeId;
use aquifer_identity::{PeerIdentityError, PeerRejected, peer_identity};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::Request;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;
use crate::{keepalive, settings};

mod incoming;

pub use incoming::{AcceptError, IncomingTunnel};

/// Decides over the tunnels of a port; called once per CONNECT, each call in a task of its own.
pub trait TunnelHandler: Send + Sync + 'static {
    /// Accepts or rejects the tunnel and, if it accepts, serves it to its end.
    ///
    /// The task belongs to the connection: it is dropped when the future of [`serve`] is dropped.
    fn handle(&self, tunnel: IncomingTunnel) -> impl Future<Output = ()> + Send;
}

/// How a connection failed. A peer that leaves when no stream is open is no failure.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{peer} did not finish its handshake within {} s", after.as_secs_f32())]
    HandshakeTimeout { peer: SocketAddr, after: Duration },
    #[error("refused {peer}: {rejected}")]
    Rejected {
        peer: SocketAddr,
        rejected: Box<PeerRejected>,
    },
    #[error("TLS handshake with {peer} failed: {cause}")]
    Tls { peer: SocketAddr, cause: String },
    #[error("{peer} did not ask for HTTP/2 (ALPN h2); is it a tunnel client?")]
    Alpn { peer: SocketAddr },
    #[error("{peer} has no usable identity: {cause}")]
    Identity {
        peer: SocketAddr,
        cause: PeerIdentityError,
    },
    #[error("{peer} broke the rules of HTTP/2: {cause}")]
    Protocol { peer: SocketAddr, cause: h2::Error },
    #[error("lost {peer}: {cause}")]
    Lost { peer: SocketAddr, cause: String },
    #[error("the connection is not usable: {0}")]
    Socket(#[from] io::Error),
}

impl ServeError {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Socket(_) => Fault::Mesh,
            _ => Fault::Client,
        }
    }
}

/// Who is at the other end, proved by the handshake.
#[derive(Clone, Debug)]
struct Peer {
    identity: SpiffeId,
    address: SocketAddr,
    local: SocketAddr,
}

type Http2 = Connection<TlsStream<TcpStream>, Bytes>;

/// Serves one accepted connection until it ends.
///
/// When `drain` is cancelled the peer is told to open no more streams (GOAWAY) and the future ends with the last open
/// one; the owner decides when to drop it instead. Dropping it cuts everything.
pub async fn serve<H: TunnelHandler>(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    handler: Arc<H>,
    drain: CancellationToken,
) -> Result<(), ServeError> {
    tcp.set_nodelay(true)?;
    let (address, local) = (tcp.peer_addr()?, tcp.local_addr()?);
    let after = settings::HANDSHAKE_TIMEOUT;
    let (http2, identity) = tokio::time::timeout(after, handshake(tcp, config, address))
        .await
        .map_err(|_| ServeError::HandshakeTimeout { peer: address, after })??;
    let peer = Peer {
        identity,
        address,
        local,
    };
    let mut streams = JoinSet::new();
    let result = run(http2, &peer, &handler, &drain, &mut streams).await;
    // What a finished stream still has to deliver to its application is not lost with the connection.
    while let Some(ended) = streams.join_next().await {
        report(ended, &peer);
    }
    result
}

async fn handshake(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    peer: SocketAddr,
) -> Result<(Http2, SpiffeId), ServeError> {
    let tls = TlsAcceptor::from(config)
        .accept(tcp)
        .await
        .map_err(|e| tls_error(peer, &e))?;
    let session = tls.get_ref().1;
    if session.alpn_protocol() != Some(aquifer_identity::tls::ALPN_H2) {
        return Err(ServeError::Alpn { peer });
    }
    let identity =
        peer_identity(session.peer_certificates()).map_err(|cause| ServeError::Identity { peer, cause })?;
    let http2 = settings::server()
        .handshake(tls)
        .await
        .map_err(|e| http2_error(peer, e))?;
    Ok((http2, identity))
}

fn tls_error(peer: SocketAddr, error: &io::Error) -> ServeError {
    match PeerRejected::find(error) {
        Some(rejected) => ServeError::Rejected {
            peer,
            rejected: Box::new(rejected.clone()),
        },
        None => ServeError::Tls {
            peer,
            cause: error.to_string(),
        },
    }
}

fn http2_error(peer: SocketAddr, error: h2::Error) -> ServeError {
    if error.is_io() {
        let cause = error.to_string();
        return ServeError::Lost { peer, cause };
    }
    ServeError::Protocol { peer, cause: error }
}

/// Drives a connection: everything that its streams send and receive passes through here.
async fn run<H: TunnelHandler>(
    mut http2: Http2,
    peer: &Peer,
    handler: &Arc<H>,
    drain: &CancellationToken,
    streams: &mut JoinSet<()>,
) -> Result<(), ServeError> {
    let mut dead = pin!(keepalive::watch(http2.ping_pong()));
    let mut idle = pin!(tokio::time::sleep(settings::SERVER_IDLE));
    let mut drained = pin!(drain.cancelled());
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = &mut drained, if !draining => {
                draining = true;
                http2.graceful_shutdown();
            }
            Some(ended) = streams.join_next() => {
                report(ended, peer);
                idle.as_mut().reset(tokio::time::Instant::now() + settings::SERVER_IDLE);
            }
            request = http2.accept() => match request {
                Some(Ok((request, respond))) => start(streams, handler, peer, request, respond),
                // The peer closed first, and our goodbye was not heard: nobody misses anything.
                Some(Err(error)) if streams.is_empty() && error.is_io() => return Ok(()),
                Some(Err(error)) => return Err(http2_error(peer.address, error)),
                None => return Ok(()),
            },
            () = &mut idle, if streams.is_empty() && !draining => {
                draining = true;
                http2.graceful_shutdown();
            }
            () = &mut dead => {
                let cause = format!("no answer to a PING within {} s", keepalive::TIMEOUT.as_secs());
                return Err(ServeError::Lost { peer: peer.address, cause });
            }
        }
    }
}

/// Streams that were reset no longer count for HTTP/2's limit while their handlers still dial; these are limited here.
const MAX_HANDLERS: usize = 2 * settings::SERVER_STREAMS as usize;

fn start<H: TunnelHandler>(
    streams: &mut JoinSet<()>,
    handler: &Arc<H>,
    peer: &Peer,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    if streams.len() >= MAX_HANDLERS {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        return;
    }
    if let Some(tunnel) = incoming::admit(peer, request, respond) {
        let handler = handler.clone();
        streams.spawn(async move { handler.handle(tunnel).await });
    }
}

fn report(ended: Result<(), tokio::task::JoinError>, peer: &Peer) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(peer = %peer.identity, "a tunnel's handler panicked; its stream was reset");
    }
}
