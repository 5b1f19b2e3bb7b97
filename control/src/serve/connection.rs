//! Connections to the control plane's port: bounded in number, TLS or nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::tls::ServingCertificate;

/// Those that come when all are taken wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 10_000;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed accept, such as for lack of file descriptors: the listener is fine and will recover.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// One TLS connection; it gives its place back when it is dropped.
pub(super) struct Connection {
    tls: TlsStream<TcpStream>,
    _place: OwnedSemaphorePermit,
}

struct Incoming {
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    places: Arc<Semaphore>,
    handshakes: JoinSet<io::Result<Connection>>,
}

/// The connections that have finished their handshake; failed ones are only logged.
pub(super) fn incoming(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let incoming = Incoming {
        listener,
        certificate,
        places,
        handshakes: JoinSet::new(),
    };
    stream::unfold(incoming, |mut incoming| async {
        let connection = incoming.next().await;
        Some((Ok(connection), incoming))
    })
}

impl Incoming {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(finished) = self.handshakes.join_next() => match finished {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => tracing::debug!(%error, "tls handshake failed"),
                    Err(error) => tracing::error!(%error, "tls handshake panicked"),
                },
                (place, accepted) = accept(&self.places, &self.listener) => match accepted {
                    Ok((tcp, _peer)) => self.begin(tcp, place),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }

    fn begin(&mut self, tcp: TcpStream, place: OwnedSemaphorePermit) {
        let acceptor = TlsAcceptor::from(self.certificate.config());
        self.handshakes.spawn(async move {
            tcp.set_nodelay(true)?;
            let tls = timeout(HANDSHAKE, acceptor.accept(tcp)).await??;
            Ok(Connection { tls, _place: place })
        });
    }
}

/// Cancel safe: a place that was taken is given back, and no connection has been accepted yet then.
async fn accept(
    places: &Arc<Semaphore>,
    listener: &TcpListener,
) -> (OwnedSemaphorePermit, io::Result<(TcpStream, SocketAddr)>) {
    #[expect(clippy::expect_used, reason = "the semaphore is never closed")]
    let place = places
        .clone()
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    (place, listener.accept().await)
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
