//! Connections to the control plane's port: bounded in number, TLS or nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use parking_lot::Mutex;
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
/// One address can hold so many, so that no pod takes the places of all proxies; a proxy has two.
const MAX_PER_ADDRESS: usize = 100;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed accept, such as for lack of file descriptors: the listener is fine and will recover.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// One TLS connection; it gives its place back when it is dropped.
pub(super) struct Connection {
    tls: TlsStream<TcpStream>,
    _place: Place,
}

struct Incoming {
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    places: Arc<Semaphore>,
    addresses: Addresses,
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
        addresses: Addresses::default(),
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
                    Ok((tcp, peer)) => self.begin(tcp, peer, place),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }

    fn begin(&mut self, tcp: TcpStream, peer: SocketAddr, all: OwnedSemaphorePermit) {
        let Some(own) = self.addresses.enter(peer.ip().to_canonical()) else {
            tracing::debug!(%peer, "connection refused: too many from this address");
            return;
        };
        let acceptor = TlsAcceptor::from(self.certificate.config());
        self.handshakes.spawn(async move {
            tcp.set_nodelay(true)?;
            let tls = timeout(HANDSHAKE, acceptor.accept(tcp)).await??;
            Ok(Connection {
                tls,
                _place: Place { _all: all, _own: own },
            })
        });
    }
}

/// A connection's share of both bounds, given back together.
struct Place {
    _all: OwnedSemaphorePermit,
    _own: OwnPlace,
}

/// Connections per address; it has an entry only for addresses that have one.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

struct OwnPlace {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    fn enter(&self, address: IpAddr) -> Option<OwnPlace> {
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_insert(0);
        if *count >= MAX_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(OwnPlace {
            addresses: self.clone(),
            address,
        })
    }
}

impl Drop for OwnPlace {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.addresses.0.lock().entry(self.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_per_address_are_bounded_and_given_back() {
        let addresses = Addresses::default();
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let mut held: Vec<OwnPlace> = (0..MAX_PER_ADDRESS)
            .map(|_| addresses.enter(one).unwrap())
            .collect();
        assert!(addresses.enter(one).is_none());
        assert!(addresses.enter("10.0.0.2".parse().unwrap()).is_some());
        held.pop();
        assert!(addresses.enter(one).is_some());
        held.clear();
        assert!(addresses.0.lock().is_empty());
    }
}
