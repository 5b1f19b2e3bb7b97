//! Listening on both address families, and serving until told to stop.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::HttpPart;
use super::database::Database;

const BACKLOG: i32 = 1024;
const MAX_CONNECTIONS: usize = 4096;
/// A client that sends no request for this long is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// How long requests under way may take after the signal to stop.
const GRACE: Duration = Duration::from_secs(5);

/// One socket for both families; IPv4 alone where the machine has no IPv6.
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = bind(Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| bind(Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
    TcpListener::from_std(socket.into())
}

fn bind(domain: Domain, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

pub(crate) async fn serve_http(listener: TcpListener, part: Arc<HttpPart>, stop: CancellationToken) {
    let stopping = stop.clone();
    serve(listener, stop, move |stream| {
        http_connection(stream, Arc::clone(&part), stopping.clone())
    })
    .await;
}

pub(crate) async fn serve_lines(listener: TcpListener, database: Arc<Database>, stop: CancellationToken) {
    let stopping = stop.clone();
    let connection = move |stream| {
        let (database, stopping) = (Arc::clone(&database), stopping.clone());
        async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                result = database.serve(stream) => report(result.err()),
            }
        }
    };
    serve(listener, stop, connection).await;
}

/// Accepts until `stop`, then lets connections end for a while; those that the kernel has accepted by then too.
async fn serve<F>(listener: TcpListener, stop: CancellationToken, connection: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let spawn = |stream: TcpStream, permit: OwnedSemaphorePermit| {
        drop(stream.set_nodelay(true));
        let serving = connection(stream);
        tasks.spawn(async move {
            serving.await;
            drop(permit);
        });
    };
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => spawn(stream, permit),
            Err(error) => accept_failed(&error).await,
        }
    }
    for stream in waiting(listener) {
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            break;
        };
        spawn(stream, permit);
    }
    tasks.close();
    drop(tokio::time::timeout(GRACE, tasks.wait()).await);
}

/// The connections that a listener has not given out. It is closed after the last one.
fn waiting(listener: TcpListener) -> impl Iterator<Item = TcpStream> {
    let listener = listener.into_std().ok();
    std::iter::from_fn(move || {
        let (stream, _) = listener.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    })
}

/// Out of descriptors: the next accept would fail as fast, so wait a little.
async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "cannot accept");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Whoever has just connected is answered once, also after the signal to stop: its request is on the way.
async fn http_connection(stream: TcpStream, part: Arc<HttpPart>, stop: CancellationToken) {
    let asked = CancellationToken::new();
    let mark = asked.clone();
    let service = service_fn(move |request| {
        mark.cancel();
        let part = Arc::clone(&part);
        async move { Ok::<_, std::convert::Infallible>(part.handle(request).await) }
    });
    // HTTP/2 as well: gRPC's health service speaks nothing else.
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let may_end = async {
        stop.cancelled().await;
        asked.cancelled().await;
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = may_end => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    report(result.err());
}

fn report(error: Option<impl std::fmt::Display>) {
    if let Some(error) = error {
        tracing::debug!(%error, "connection ended");
    }
}
