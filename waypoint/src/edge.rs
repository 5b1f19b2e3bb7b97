//! Connections of a gateway's clients, mostly from outside the mesh: the client's first message chooses a chain, TLS ends or is passed on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::http::listener::{Chain, HttpListener, Listener, ListenerProtocol};
use aquifer_hbone::{Endpoint, Plain};
use aquifer_identity::edge::{EdgeError, HelloError, HelloReader, forwarded_client_certificate};
use bytes::BytesMut;
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::clients::Admission;
use crate::ending::Ending;
use crate::proxy::series::SeriesCache;
use crate::proxy::{ConnectionInfo, Downstream, Proxy, TlsFacts};
use crate::rewound::Rewound;
use crate::source::ClientInfo;
use crate::{policy, serving, tcp};

/// From the connection to the end of its handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// A connection that was just accepted, with the listener as it was then.
pub(crate) struct Arrival {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) client: ClientInfo,
    pub(crate) local: SocketAddr,
    /// Of a client outside the mesh.
    pub(crate) admission: Option<Arc<Admission>>,
}

/// Bytes of a client, from a socket or a tunnel.
pub(crate) trait Stream: Endpoint + AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: Endpoint + AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Why a connection was closed before it carried anything.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("no server for {}", .0.as_deref().unwrap_or("a client that names none"))]
    NoServer(Option<String>),
    #[error("the server ends no TLS now: {0}")]
    NotInEffect(EdgeError),
    #[error("the listener has just changed")]
    Changed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no handshake within {HANDSHAKE:?}")]
    Late,
}

/// A connection whose chain is known, as far as it was opened.
enum Opened<S> {
    /// TLS that is not ours to end.
    Passing(Chain, Rewound<S>),
    Ended(Chain, Box<TlsStream<Rewound<S>>>, TlsFacts),
}

impl Arrival {
    /// Serves the connection to its end, or until a policy that comes later keeps its client out.
    pub(crate) async fn serve<S: Stream>(self, stream: S, close: CancellationToken) {
        let proxy = self.proxy.clone();
        let (identity, ends) = (self.client.identity.clone(), (self.client.peer, self.local));
        if let Err(refusal) = policy::arrive(&proxy.shared.mesh(), &proxy.own, identity.as_ref(), ends) {
            tracing::info!(client = %ends.0, listener = %self.listener.name, error = %refusal, "connection closed");
            return;
        }
        let ousted = policy::ousted(&proxy.shared, &proxy.own, identity.as_ref(), ends);
        tokio::select! {
            () = self.served(stream, close) => {}
            denied = ousted => tracing::info!(client = %ends.0, error = %denied, "connection cut"),
        }
    }

    async fn served<S: Stream>(self, stream: S, close: CancellationToken) {
        if let Some(chain) = self.listener.chains.unseen() {
            return match &chain.protocol {
                ListenerProtocol::Http(http) => self.http(http, stream, None, close).await,
                ListenerProtocol::Tcp(_) => self.tcp(chain, stream).await,
            };
        }
        let opening = tokio::time::timeout(HANDSHAKE, self.open(stream));
        let opened = tokio::select! {
            () = close.cancelled() => return,
            opened = opening => opened.unwrap_or(Err(Refusal::Late)),
        };
        match opened {
            Ok(Opened::Passing(chain, stream)) => self.tcp(&chain, Plain(stream)).await,
            Ok(Opened::Ended(chain, stream, facts)) => self.ended(&chain, *stream, facts, close).await,
            // What strangers send is not worth a line each; a server without a certificate was logged once.
            Err(refusal) => {
                tracing::debug!(client = %self.client.peer, listener = %self.listener.name, error = %refusal, "connection closed");
            }
        }
    }

    async fn ended<S: Stream>(
        &self,
        chain: &Chain,
        stream: TlsStream<Rewound<S>>,
        facts: TlsFacts,
        close: CancellationToken,
    ) {
        match &chain.protocol {
            ListenerProtocol::Http(http) => self.http(http, stream, Some(facts), close).await,
            ListenerProtocol::Tcp(_) => self.tcp(chain, Plain(stream)).await,
        }
    }

    async fn open<S: Stream>(&self, mut stream: S) -> Result<Opened<S>, Refusal> {
        let (server_name, read) = hello(&mut stream).await?;
        let chain = self.listener.chains.choose(server_name.as_deref()).cloned();
        let Some(chain) = chain else {
            return Err(Refusal::NoServer(server_name));
        };
        let stream = Rewound::new(read.freeze(), stream);
        let Some(tls) = &chain.tls else {
            return Ok(Opened::Passing(chain, stream));
        };
        let state = self.proxy.shared.proxy();
        let config = state.edge.get(tls).ok_or(Refusal::Changed)?;
        let config = config.clone().map_err(Refusal::NotInEffect)?;
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let facts = TlsFacts {
            chain: chain.name.clone(),
            client_certificate: client_certificate(&stream),
            server_name,
        };
        Ok(Opened::Ended(chain, Box::new(stream), facts))
    }

    async fn http<S>(&self, http: &HttpListener, stream: S, tls: Option<TlsFacts>, close: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = ConnectionInfo {
            listener: self.listener.clone(),
            http: http.clone(),
            pod: None,
            client: self.client.clone(),
            local: self.local,
            series: SeriesCache::default(),
            tls,
            _admission: self.admission.clone(),
        };
        let downstream = Downstream {
            proxy: self.proxy.clone(),
            connection: Arc::new(connection),
        };
        // A client of the mesh is in a tunnel.
        let waits = self.admission.is_none().then_some(&self.proxy.tasks);
        serving::serve(Ending::new(stream, waits), downstream, close).await;
    }

    async fn tcp<S: Endpoint>(&self, chain: &Chain, stream: S) {
        if let ListenerProtocol::Tcp(tcp) = &chain.protocol {
            let way = tcp::Way::of(&self.proxy, tcp);
            tcp::accepted(&self.proxy, &way, self.client.clone(), stream).await;
        }
    }
}

/// Reads the client's first message; what was read is needed again.
async fn hello<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Option<String>, BytesMut), Refusal> {
    let mut reader = HelloReader::default();
    let mut read = BytesMut::with_capacity(1024);
    loop {
        let before = read.len();
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some(hello) = reader.read(&read[before..])? {
            return Ok((hello.server_name, read));
        }
    }
}

fn client_certificate<S>(stream: &TlsStream<S>) -> Option<HeaderValue> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    HeaderValue::try_from(forwarded_client_certificate(leaf)?).ok()
}
