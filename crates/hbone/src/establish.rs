//! Opens one tunnel connection: TCP by the caller's hand, then TLS, then HTTP/2.

use std::future::Future;
use std::io;

use aquifer_identity::{ExpectedPeers, PeerRejected, tunnel_client_config};
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pool::{ConnectError, PoolKey};
use crate::settings;

pub(crate) type Driver = Connection<TlsStream<TcpStream>, Bytes>;

/// Dials, proves who we are, has the peer prove that it is one of the expected, and starts HTTP/2.
pub(crate) async fn establish<F>(key: &PoolKey, dial: F) -> Result<(SendRequest<Bytes>, Driver), ConnectError>
where
    F: Future<Output = io::Result<TcpStream>>,
{
    let peer = key.peer;
    let tcp = dial.await.map_err(|cause| ConnectError::dial(peer, cause))?;
    tcp.set_nodelay(true)
        .map_err(|cause| ConnectError::dial(peer, cause))?;
    let tls = secure(key, tcp).await?;
    settings::client()
        .handshake(tls)
        .await
        .map_err(|e| ConnectError::lost(key, &e))
}

async fn secure(key: &PoolKey, tcp: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
    let expected = ExpectedPeers::any_of(key.expected.iter().cloned());
    let config = tunnel_client_config(&key.source, expected);
    // rustls wants a name; the verifier ignores it and it is not sent.
    let name = ServerName::IpAddress(key.peer.ip().into());
    let tls = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|e| tls_error(key, &e))?;
    if tls.get_ref().1.alpn_protocol() != Some(aquifer_identity::tls::ALPN_H2) {
        return Err(ConnectError::Alpn { peer: key.peer });
    }
    Ok(tls)
}

fn tls_error(key: &PoolKey, error: &io::Error) -> ConnectError {
    match PeerRejected::find(error) {
        Some(rejected) => ConnectError::Rejected {
            source_identity: key.source.identity().clone(),
            peer: key.peer,
            rejected: Box::new(rejected.clone()),
        },
        None => ConnectError::Tls {
            peer: key.peer,
            cause: error.to_string(),
        },
    }
}
