//! The small HTTP servers of each process: metrics, health and debugging. Runs on the control runtime.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::process;
use crate::readiness::Readiness;
use crate::registry::Registry;

/// Connections that one admin server serves at a time.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a handler answers.
pub struct Reply {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Reply {
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    pub fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(body) => Self {
                status: StatusCode::OK,
                content_type: "application/json",
                body: body.into(),
            },
            Err(e) => Self::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("cannot write the answer as JSON: {e}\n"),
            ),
        }
    }

    pub fn error(status: StatusCode, message: impl Into<Bytes>) -> Self {
        Self {
            status,
            ..Self::text(message)
        }
    }
}

/// The parts of a request that handlers see.
pub struct Query {
    pub method: Method,
    pub path: String,
    pub query: BTreeMap<String, String>,
}

type Answer = Pin<Box<dyn Future<Output = Reply> + Send>>;
type Handler = Arc<dyn Fn(Query) -> Answer + Send + Sync>;

/// The routes of one admin server, by exact path.
#[derive(Clone, Default)]
pub struct Routes {
    handlers: BTreeMap<&'static str, Handler>,
}

impl Routes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler that runs off the data path and may take its time.
    #[must_use]
    pub fn add<F, Fut>(mut self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Query) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        self.handlers
            .insert(path, Arc::new(move |query| Box::pin(handler(query))));
        self
    }

    /// `/metrics` and `/stats/prometheus`.
    #[must_use]
    pub fn metrics(self, registry: &Registry) -> Self {
        let render = |registry: Registry| {
            move |_| {
                let registry = registry.clone();
                async move { render_metrics(registry).await }
            }
        };
        self.add("/metrics", render(registry.clone()))
            .add("/stats/prometheus", render(registry.clone()))
    }

    /// `/healthz/ready` and `/ready`: 200, or 503 with a line for each thing that is missing.
    #[must_use]
    pub fn readiness(self, readiness: &Readiness) -> Self {
        let answer = |readiness: Readiness| {
            move |_| {
                let missing = readiness.missing();
                async move { ready_reply(&missing) }
            }
        };
        self.add("/healthz/ready", answer(readiness.clone()))
            .add("/ready", answer(readiness.clone()))
    }

    fn find(&self, path: &str) -> Option<Handler> {
        self.handlers.get(path).cloned()
    }

    fn index(&self) -> String {
        self.handlers.keys().map(|path| format!("{path}\n")).collect()
    }
}

async fn render_metrics(registry: Registry) -> Reply {
    let rendered = tokio::task::spawn_blocking(move || {
        process::refresh(&registry);
        registry.render()
    });
    match rendered.await {
        Ok(body) => Reply {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..Reply::text(body)
        },
        Err(e) => Reply::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot render metrics: {e}\n"),
        ),
    }
}

fn ready_reply(missing: &[String]) -> Reply {
    if missing.is_empty() {
        return Reply::text("ready\n");
    }
    Reply::error(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not ready\n{}\n", missing.join("\n")),
    )
}

/// Serves `routes` until `stop`, then ends the connections that are open.
pub async fn serve(listener: TcpListener, routes: Routes, stop: CancellationToken) {
    let routes = Arc::new(routes);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, or the peer has gone: the next accept may succeed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            continue;
        };
        let (routes, stop) = (routes.clone(), stop.clone());
        connections.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve_connection(stream, routes) => {}
            }
            drop(permit);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(stream: TcpStream, routes: Arc<Routes>) {
    let service = service_fn(move |request| {
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(answer(&routes, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        tracing::debug!(error = %e, "admin connection ended");
    }
}

async fn answer(routes: &Routes, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let query = Query {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: parse_query(request.uri().query().unwrap_or_default()),
    };
    let reply = match routes.find(&query.path) {
        Some(handler) => handler(query).await,
        None if query.path == "/" => Reply::text(routes.index()),
        None => Reply::error(
            StatusCode::NOT_FOUND,
            format!("no such page; there are:\n{}", routes.index()),
        ),
    };
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(reply.content_type),
    );
    response
}

/// Query parameters as they are written; values that need percent-decoding are not used by these pages.
fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}
