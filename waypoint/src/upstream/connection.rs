//! HTTP client connections to an endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;

use super::UpstreamIo;
use super::endpoint::{ConnectionSlot, EndpointState};
use crate::ending::Ending;
use crate::proxy::upload::RequestBody;

/// Headers of a response; a longer block ends the connection.
const MAX_RESPONSE_HEADERS: usize = 200;
const MAX_BUFFER: usize = 256 * 1024;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// An HTTP/1.1 connection that carries one request at a time.
pub(crate) struct Http1Sender {
    sender: http1::SendRequest<RequestBody>,
    pub(crate) local: Option<SocketAddr>,
}

impl Http1Sender {
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// An HTTP/2 connection that carries many.
#[derive(Clone)]
pub(crate) struct Http2Sender {
    sender: http2::SendRequest<RequestBody>,
    pub(crate) local: Option<SocketAddr>,
}

impl Http2Sender {
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// A connection that a request may be sent on.
pub(crate) enum Connection {
    Http1(Http1Sender),
    Http2(Http2Sender),
}

/// How sending ended without a response.
pub(crate) struct SendError {
    pub(crate) cause: hyper::Error,
    /// The request, where nothing of it was sent.
    pub(crate) unsent: Option<Request<RequestBody>>,
}

impl Connection {
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Http1(c) => c.local,
            Self::Http2(c) => c.local,
        }
    }

    /// Waits until the connection takes a request; an error means that it has ended.
    pub(crate) async fn ready(&mut self) -> Result<(), hyper::Error> {
        match self {
            Self::Http1(c) => c.sender.ready().await,
            Self::Http2(c) => c.sender.ready().await,
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let result = match self {
            Self::Http1(c) => c.sender.try_send_request(request).await,
            Self::Http2(c) => c.sender.try_send_request(request).await,
        };
        result.map_err(|mut e| SendError {
            unsent: e.take_message(),
            cause: e.into_error(),
        })
    }
}

/// Owner of the tasks that drive connections.
#[derive(Clone, Default)]
pub(crate) struct Drivers {
    tasks: TaskTracker,
}

impl Drivers {
    /// Starts HTTP/1.1 on a stream.
    pub(crate) async fn http1(
        &self,
        io: UpstreamIo,
        slot: ConnectionSlot,
    ) -> Result<Http1Sender, hyper::Error> {
        let local = io.local_addr();
        let waits = matches!(io, UpstreamIo::Tunnel(_)).then_some(&self.tasks);
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_RESPONSE_HEADERS)
            .max_buf_size(MAX_BUFFER)
            .preserve_header_case(false)
            .handshake(TokioIo::new(Ending::new(io, waits)))
            .await?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
            drop(slot);
        });
        Ok(Http1Sender { sender, local })
    }

    /// Starts HTTP/2 on a stream and keeps the connection with its endpoint.
    pub(crate) async fn http2(
        &self,
        io: UpstreamIo,
        slot: ConnectionSlot,
        endpoint: &Arc<EndpointState>,
    ) -> Result<Http2Sender, hyper::Error> {
        let local = io.local_addr();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .handshake(TokioIo::new(io))
            .await?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
            drop(slot);
        });
        let sender = Http2Sender { sender, local };
        endpoint.put_http2(sender.clone());
        Ok(sender)
    }
}
