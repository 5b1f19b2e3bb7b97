//! The port that the API server calls: HTTP/1.1 over TLS, one path, everything bounded.

use std::convert::Infallible;
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
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::body::{BodyError, Budget, Held};
use super::review::answer;
use crate::serve::grpc::ServingCertificate;
use crate::snapshots::Snapshots;

pub(super) const PATH: &str = "/validate";
/// The API servers of a cluster keep a few each.
const MAX_CONNECTIONS: usize = 256;
/// Bodies that are judged at a time; the others wait within the API server's own deadline.
const AT_ONCE: usize = 8;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADER: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(10);
/// The API server's connection pool closes idle connections after 90 s; one that does not is closed here.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Judges what the API server asks about until cancelled.
pub async fn serve(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    snapshots: Arc<Snapshots>,
    cancel: CancellationToken,
) {
    let judge = Judge {
        snapshots,
        places: Arc::new(Semaphore::new(AT_ONCE)),
        budget: Budget::default(),
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let acceptor = TlsAcceptor::from(certificate.webhook_config());
                connections.spawn(timeout(LIFETIME, connection(stream, acceptor, judge.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the webhook");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, judge: Judge) {
    let tls = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "tls handshake of the webhook failed"),
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let judge = judge.clone();
        async move { Ok::<_, Infallible>(judge.reply(request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER);
    // How a client leaves is its own business.
    let _ = server.serve_connection(TokioIo::new(tls), service).await;
}

#[derive(Clone)]
struct Judge {
    snapshots: Arc<Snapshots>,
    places: Arc<Semaphore>,
    budget: Budget,
}

impl Judge {
    async fn reply(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return refusal(StatusCode::NOT_FOUND, "there is nothing here but /validate");
        }
        if request.method() != Method::POST {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "send an AdmissionReview by POST");
        }
        match timeout(BODY, self.budget.read(request.into_body())).await {
            Ok(Ok(body)) => {
                let Ok(_place) = self.places.acquire().await else {
                    return refused(&BodyError::Stopping);
                };
                self.judge(body).await
            }
            Ok(Err(error)) => refused(&error),
            Err(_) => refusal(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        }
    }

    /// Compiling takes a while in a large mesh; proxies are served meanwhile.
    async fn judge(&self, body: Held) -> Response<Full<Bytes>> {
        let compiled = self.snapshots.compiled();
        let judged = tokio::task::spawn_blocking(move || answer(&body.bytes, compiled.as_deref())).await;
        match judged {
            Ok(Ok(answer)) => reply(StatusCode::OK, "application/json", answer.to_string()),
            Ok(Err(error)) => refusal(StatusCode::BAD_REQUEST, &error.to_string()),
            Err(_) => refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the object could not be judged",
            ),
        }
    }
}

fn refused(error: &BodyError) -> Response<Full<Bytes>> {
    let status = match error {
        BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::Cut(_) => StatusCode::BAD_REQUEST,
        BodyError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    refusal(status, &error.to_string())
}

fn refusal(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", format!("{message}\n"))
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
