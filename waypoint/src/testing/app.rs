//! Applications of test pods.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves one connection.
pub(crate) trait App: Send + Sync + 'static {
    fn connection(self: Arc<Self>, stream: TcpStream) -> impl Future<Output = ()> + Send;
}

pub(crate) async fn serve(listener: TcpListener, app: impl App) {
    let app = Arc::new(app);
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(app.clone().connection(stream));
    }
}

/// Answers with its name, and shows in `x-seen-…` headers what it was sent; the body comes back.
pub(crate) struct Named(pub(crate) &'static str);

impl App for Named {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let name = self.0;
        let service = service_fn(move |request: Request<Incoming>| async move {
            Ok::<_, Infallible>(echo(name, request).await)
        });
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    }
}

async fn echo(name: &'static str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert("x-app", HeaderValue::from_static(name));
    let target = parts.uri.path_and_query().map_or("", |t| t.as_str());
    headers.insert("x-seen-path", target.parse().unwrap());
    for (key, value) in &parts.headers {
        let key = format!("x-seen-{key}");
        headers.append(key.parse::<HeaderName>().unwrap(), value.clone());
    }
    response
}

/// Answers every request with a status.
pub(crate) struct Status(pub(crate) u16);

impl App for Status {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|_: Request<Incoming>| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"status")));
            *response.status_mut() = self.0.try_into().unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }
}

/// Greets, and says again what it hears.
pub(crate) struct SpeaksFirst;

impl App for SpeaksFirst {
    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        let _ = stream.write_all(b"hello\n").await;
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

/// Reads requests and never answers.
pub(crate) struct Silent;

impl App for Silent {
    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        let mut buffer = [0; 1024];
        while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    }
}

/// Answers one request per connection and then closes without a word, as a server whose idle timeout is over.
pub(crate) struct ClosesIdle;

impl App for ClosesIdle {
    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        let mut buffer = [0; 4096];
        if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nx-app: closing\r\ncontent-length: 2\r\n\r\nok")
                .await;
        }
    }
}

/// Gives every connection the same bytes, and counts them.
pub(crate) struct Fixed {
    answer: &'static str,
    connections: Arc<AtomicU32>,
}

impl Fixed {
    pub(crate) fn new(answer: &'static str) -> Self {
        let connections = Arc::default();
        Self { answer, connections }
    }

    pub(crate) fn connections(&self) -> Arc<AtomicU32> {
        self.connections.clone()
    }
}

impl App for Fixed {
    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut buffer = [0; 4096];
        if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
            let _ = stream.write_all(self.answer.as_bytes()).await;
        }
    }
}

/// Agrees to a WebSocket and then sends every byte back.
pub(crate) struct Socket;

impl App for Socket {
    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let agreed = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        if stream.write_all(agreed).await.is_ok() {
            copy_back(stream).await;
        }
    }
}

/// Sends every byte back until the end of input.
pub(crate) struct Echo;

impl App for Echo {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        copy_back(stream).await;
    }
}

async fn copy_back(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}
