//! HTTP on one byte stream from a client: its version found out, its requests answered, its end made graceful.

mod sniff;
pub(crate) mod speech;
mod tracked;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Response, StatusCode};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::proxy::record::Record;
use crate::proxy::response::ResponseBody;
use crate::proxy::{ConnectionInfo, Downstream, Proxy};
use crate::rewound::Rewound;
use sniff::{Version, sniff};
use tracked::TrackedExecutor;

/// Envoy's limits of a request's head.
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 60 * 1024;
/// Concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// For the first byte.
const FIRST_BYTE: Duration = Duration::from_secs(60);
/// For a request's head, the pause since the last request included.
const HEAD: Duration = Duration::from_secs(3600);
/// At the edge, where clients are strangers.
const HEAD_AT_EDGE: Duration = Duration::from_secs(600);
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Serves a connection to its end. When `drain` is cancelled, requests that have begun are finished, and no others.
pub(crate) async fn serve<S>(stream: S, downstream: Downstream, drain: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(FIRST_BYTE, sniff(stream)) => sniffed,
        () = drain.cancelled() => return,
    };
    let (version, stream) = match sniffed {
        Ok(Ok(sniffed)) => sniffed,
        Ok(Err(error)) => return tracing::debug!(%error, "connection ended before a request"),
        Err(_) => return tracing::debug!("connection without a request closed"),
    };
    let result = match version {
        Version::Http1 => serve_http1(stream, downstream.clone(), &drain).await,
        Version::Http2 => serve_http2(stream, downstream.clone(), &drain).await,
    };
    if let Err(error) = result {
        report(&error, &downstream.proxy, &downstream.connection);
    }
}

async fn serve_http1<S>(
    stream: Rewound<S>,
    downstream: Downstream,
    drain: &CancellationToken,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head = if downstream.connection.http.edge {
        HEAD_AT_EDGE
    } else {
        HEAD
    };
    let service = service_fn(move |request| {
        let downstream = downstream.clone();
        async move {
            let mut response = downstream.handle(request).await;
            if downstream.proxy.leaving.has_begun() {
                is_the_last(&mut response);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        // A client that has sent its request and closed its side still gets its answer, as from most servers.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        result = &mut connection => return result,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Asks the client to use another connection for its next request (RFC 9112 section 9.6).
fn is_the_last(response: &mut Response<ResponseBody>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

async fn serve_http2<S>(
    stream: Rewound<S>,
    downstream: Downstream,
    drain: &CancellationToken,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let downstream = downstream.clone();
        async move { Ok::<_, Infallible>(downstream.handle(request).await) }
    });
    // Requests are tasks of this connection: they are waited for when it ends, and dropped with it.
    let requests = TrackedExecutor::default();
    let connection = http2::Builder::new(requests.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = &mut connection => return result,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// A request that could not even be read: hyper has answered 400 or 431, the log line is ours.
fn report(error: &hyper::Error, proxy: &Arc<Proxy>, connection: &Arc<ConnectionInfo>) {
    if !error.is_parse() {
        return tracing::debug!(%error, "downstream connection ended");
    }
    let mut record = Record::new(proxy.clone(), connection.clone());
    let too_large = error.is_parse_too_large();
    record.code = if too_large { 431 } else { 400 };
    record.flags = "DPE";
    record.details = if too_large {
        "request_headers_too_large"
    } else {
        "http1.codec_error"
    };
    record.upstream_failure = error.to_string();
    record.complete = true;
}
