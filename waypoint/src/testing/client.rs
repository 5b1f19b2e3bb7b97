//! Clients of the test mesh: pods that reach the waypoint through a tunnel.

use std::net::{IpAddr, SocketAddr};

use aquifer_core::authority::Authority;
use aquifer_hbone::{ConnectError, Pool, PoolConfig, PoolKey, TunnelRequest, TunnelStream};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::{DEADLINE, Mesh, id};

/// A pod that sends.
pub(crate) struct Client<'m> {
    mesh: &'m Mesh,
    pool: Pool,
    service_account: String,
    /// Its address.
    from: IpAddr,
    waypoint: SocketAddr,
}

impl Mesh {
    pub(crate) fn client(&self, waypoint: SocketAddr, service_account: &str, from: IpAddr) -> Client<'_> {
        Client {
            mesh: self,
            pool: Pool::new(PoolConfig::default()),
            service_account: service_account.to_owned(),
            from,
            waypoint,
        }
    }
}

impl Client<'_> {
    pub(crate) async fn tunnel(&self, authority: &str) -> Result<TunnelStream, ConnectError> {
        let source = self
            .mesh
            .certificates
            .certificate(&id(&self.service_account))
            .await
            .unwrap();
        let key = PoolKey {
            source,
            peer: self.waypoint,
            expected: vec![id("waypoint")],
            local: self.from,
        };
        let request = TunnelRequest {
            authority: Authority::parse(authority).unwrap(),
            headers: HeaderMap::new(),
        };
        let (from, to) = (SocketAddr::new(self.from, 0), self.waypoint);
        let dial = || async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(from)?;
            socket.connect(to).await
        };
        let opened = tokio::time::timeout(DEADLINE, self.pool.connect(key, request, dial)).await;
        opened.unwrap().map(|(stream, _)| stream)
    }

    /// A connection for several requests.
    pub(crate) async fn http(&self, authority: &str) -> Http {
        Http::over(self.tunnel(authority).await.unwrap()).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, authority: &str, request: http::request::Builder) -> Response<Bytes> {
        self.http(authority).await.send(request, Bytes::new()).await
    }

    pub(crate) async fn get(&self, authority: &str, path: &str) -> Response<Bytes> {
        self.send(authority, Request::get(path)).await
    }
}

pub(crate) struct Http(
    http1::SendRequest<Full<Bytes>>,
    tokio::task::JoinHandle<hyper::Result<()>>,
);

impl Http {
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        Self(sender, tokio::spawn(connection))
    }

    pub(crate) async fn try_send(
        &mut self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Bytes>, hyper::Error> {
        let mut request = request.body(Full::new(body)).unwrap();
        if !request.headers().contains_key("host") {
            request
                .headers_mut()
                .insert("host", "reviews:9080".parse().unwrap());
        }
        self.0.ready().await?;
        let exchange = async {
            let (parts, body) = self.0.send_request(request).await?.into_parts();
            Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
        };
        tokio::time::timeout(DEADLINE, exchange).await.unwrap()
    }

    /// Waits until the server has ended the connection.
    pub(crate) async fn ended(self) {
        let ended = tokio::time::timeout(DEADLINE, self.1).await;
        ended.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn send(&mut self, request: http::request::Builder, body: Bytes) -> Response<Bytes> {
        self.try_send(request, body).await.unwrap()
    }
}

/// Sends bytes as they are, ends the writing side, and answers everything that comes back.
pub(crate) async fn raw(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    let mut stream = stream;
    // The other side may have answered and closed before everything is written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The application that answered.
pub(crate) fn app(response: &Response<Bytes>) -> &str {
    response
        .headers()
        .get("x-app")
        .map_or("", |v| v.to_str().unwrap())
}
