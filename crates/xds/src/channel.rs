//! The connection to the control plane: gRPC over server-authenticated TLS, never without.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aquifer_identity::TrustBundle;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// For TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A first response may hold the whole mesh.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// More than any bundle of roots; a wrong path must not fill the memory.
const MAX_ROOTS: u64 = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
#[error("control plane address {address:?} is not HOST:PORT, such as istiod.istio-system.svc:15012")]
pub struct AddressError {
    address: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "cannot read the control plane's root certificate {path}: {source}; has the control plane written it yet?"
    )]
    Root { path: String, source: io::Error },
    #[error("root certificate {path} cannot be used: {reason}")]
    RootForm { path: String, reason: String },
    #[error("cannot connect to the control plane at {address}: {source}")]
    Tcp { address: String, source: io::Error },
    #[error("TLS with the control plane at {address} failed: {source}; is {root} the root it was signed by?")]
    Tls {
        address: String,
        root: String,
        source: io::Error,
    },
    #[error("control plane at {address} did not answer within 5s")]
    Timeout { address: String },
    #[error("control plane at {address} does not speak HTTP/2: {reason}")]
    Http { address: String, reason: String },
}

/// Where the control plane is, and the root that it must be signed by.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    inner: Arc<Inner>,
    /// The address that connections come from, where it is not the machine's choice.
    source: Option<IpAddr>,
    /// Trusted besides the file, which reaches a pod some time after the control plane has changed it.
    trust: TrustBundle,
}

#[derive(Debug)]
struct Inner {
    /// `HOST:PORT`.
    address: String,
    name: ServerName<'static>,
    uri: Uri,
    root: PathBuf,
}

impl ControlPlane {
    /// `root` is a PEM file; it is read again for each connection, so that a new root needs no restart.
    pub fn new(address: &str, root: impl Into<PathBuf>) -> Result<Self, AddressError> {
        let malformed = || AddressError {
            address: address.to_owned(),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
        port.parse::<u16>().map_err(|_| malformed())?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            inner: Arc::new(Inner {
                name: ServerName::try_from(bare.to_owned()).map_err(|_| malformed())?,
                uri: format!("https://{address}").parse().map_err(|_| malformed())?,
                address: address.to_owned(),
                root: root.into(),
            }),
            source: None,
            trust: TrustBundle::default(),
        })
    }

    /// Trusts what the control plane itself has told of roots besides the file.
    #[must_use]
    pub fn trusting(self, trust: TrustBundle) -> Self {
        Self { trust, ..self }
    }

    /// The same one, with connections that come from this address: the control plane bounds how many one address has.
    #[must_use]
    pub fn from_address(&self, source: IpAddr) -> Self {
        Self {
            source: Some(source),
            ..self.clone()
        }
    }

    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Connects now.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        // Connected here and handed over, not from inside the channel: its errors hide their cause.
        let stream = self.open().await?;
        let mut once = Some(stream);
        let connector = tower::service_fn(move |_: Uri| {
            let stream = once
                .take()
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            async move { stream.map(TokioIo::new) }
        });
        let connected = self.endpoint().connect_with_connector(connector).await;
        connected.map_err(|error| ConnectError::Http {
            address: self.inner.address.clone(),
            reason: error.to_string(),
        })
    }

    /// A channel that connects at its first call, and again when the connection was lost.
    pub fn connect_lazy(&self) -> Channel {
        let plane = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let plane = plane.clone();
            async move { plane.open().await.map(TokioIo::new) }
        });
        self.endpoint().connect_with_connector_lazy(connector)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.inner.uri.clone())
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
    }

    async fn open(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let attempt = timeout(CONNECT_TIMEOUT, self.open_without_deadline());
        attempt.await.unwrap_or_else(|_| {
            Err(ConnectError::Timeout {
                address: self.inner.address.clone(),
            })
        })
    }

    async fn open_without_deadline(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let connector = self.tls().await?;
        let address = || self.inner.address.clone();
        let tcp = self.open_tcp().await.map_err(|source| ConnectError::Tcp {
            address: address(),
            source,
        })?;
        // Acknowledgements are small and must not wait for more.
        tcp.set_nodelay(true).map_err(|source| ConnectError::Tcp {
            address: address(),
            source,
        })?;
        connector
            .connect(self.inner.name.clone(), tcp)
            .await
            .map_err(|source| ConnectError::Tls {
                address: address(),
                root: self.inner.root.display().to_string(),
                source,
            })
    }

    async fn open_tcp(&self) -> io::Result<TcpStream> {
        let Some(source) = self.source else {
            return TcpStream::connect(&self.inner.address).await;
        };
        let mut found = tokio::net::lookup_host(&self.inner.address).await?;
        let to = found.find(|to| to.is_ipv4() == source.is_ipv4());
        let to = to.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let socket = if source.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.bind((source, 0).into())?;
        socket.connect(to).await
    }

    async fn tls(&self) -> Result<TlsConnector, ConnectError> {
        let path = || self.inner.root.display().to_string();
        let mut pem = self
            .read_root()
            .await
            .map_err(|source| ConnectError::Root { path: path(), source })?;
        if let Some(told) = self.trust.roots_pem() {
            pem.push(b'\n');
            pem.extend(told.into_bytes());
        }
        let config =
            aquifer_identity::control_client_config(&pem).map_err(|error| ConnectError::RootForm {
                path: path(),
                reason: error.to_string(),
            })?;
        Ok(TlsConnector::from(config))
    }

    async fn read_root(&self) -> io::Result<Vec<u8>> {
        use tokio::io::AsyncReadExt;
        let mut pem = Vec::new();
        tokio::fs::File::open(&self.inner.root)
            .await?
            .take(MAX_ROOTS)
            .read_to_end(&mut pem)
            .await?;
        Ok(pem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_and_addresses_with_a_port() {
        for good in ["istiod.istio-system.svc:15012", "127.0.0.1:1", "[fd00::1]:15012"] {
            assert_eq!(ControlPlane::new(good, "/root.pem").unwrap().address(), good);
        }
        for bad in [
            "",
            "istiod",
            "istiod:",
            "istiod:x",
            "istiod:99999",
            ":15012",
            "a b:1",
        ] {
            assert!(ControlPlane::new(bad, "/root.pem").is_err(), "{bad}");
        }
    }
}
