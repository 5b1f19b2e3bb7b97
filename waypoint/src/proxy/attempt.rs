//! One attempt: a connection, the request on it, the head of its response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::http::cluster::{Cluster, UpstreamHttp};
use http::header::{HOST, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;

use super::Proxy;
use super::failure::Failure;
use super::headers::ATTEMPT_COUNT;
use super::response::Lease;
use super::upload::{RequestBody, Upload};
use crate::upstream::connection::{Connection, SendError};
use crate::upstream::endpoint::{ActiveRequest, EndpointState};

/// What every attempt of a request sends.
pub(crate) struct Template {
    pub(crate) method: Method,
    pub(crate) scheme: &'static str,
    pub(crate) host: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    /// The client spoke HTTP/2.
    pub(crate) http2: bool,
    pub(crate) websocket: bool,
    pub(crate) count_attempts: bool,
    pub(crate) client: SocketAddr,
}

/// The head of a response, and what its body still needs.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Option<Lease>,
    pub(crate) active: ActiveRequest,
    pub(crate) local: Option<SocketAddr>,
    /// From sending the request to the response's head.
    pub(crate) took: Duration,
}

/// Where a connection came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Fresh,
    /// It has carried a request before, and its server may be closing it at this moment.
    Reused,
}

/// How one send ended, if not with a response.
enum Unanswered {
    /// Nothing was sent: another connection may take it.
    Unsent(Failure),
    Lost(Failure),
    /// There was an answer, which cannot be read.
    Unreadable(Failure),
}

impl Template {
    pub(crate) async fn send(
        &self,
        proxy: &Arc<Proxy>,
        cluster: &Cluster,
        endpoint: &Arc<EndpointState>,
        upload: &Upload,
        attempt: u32,
    ) -> Result<Answer, Failure> {
        let active = endpoint.begin();
        let version = self.version(cluster.http);
        let mut origin = Origin::Reused;
        loop {
            let (mut connection, from) = self.connection(proxy, cluster, endpoint, version, origin).await?;
            let request = self.request(version, upload.attempt(), attempt)?;
            let started = Instant::now();
            match send_on(&mut connection, request).await {
                Ok(response) => {
                    let local = connection.local_addr();
                    return Ok(Answer {
                        response,
                        lease: self.lease(connection, endpoint, upload),
                        active,
                        local,
                        took: started.elapsed(),
                    });
                }
                // A server may close an idle connection at the moment it is used again. That is no failure of the
                // service: what was not sent, or can be sent twice without harm, goes out on a new connection.
                Err(Unanswered::Unsent(_)) if from == Origin::Reused && upload.can_repeat() => {}
                Err(Unanswered::Lost(_)) if from == Origin::Reused && self.is_repeatable(upload) => {
                    origin = Origin::Fresh;
                }
                Err(_) if upload.is_broken() => {
                    return Err(Failure::BadRequest("the request's body is malformed"));
                }
                Err(
                    Unanswered::Unsent(failure) | Unanswered::Lost(failure) | Unanswered::Unreadable(failure),
                ) => return Err(failure),
            }
        }
    }

    /// RFC 9110 section 9.2.2: methods whose effect is the same when they are sent twice, without a body.
    fn is_repeatable(&self, upload: &Upload) -> bool {
        self.method.is_idempotent() && upload.is_empty() && !self.websocket
    }

    fn version(&self, upstream: UpstreamHttp) -> Version {
        match upstream {
            _ if self.websocket => Version::HTTP_11,
            UpstreamHttp::Http1 => Version::HTTP_11,
            UpstreamHttp::Http2 => Version::HTTP_2,
            UpstreamHttp::AsDownstream if self.http2 => Version::HTTP_2,
            UpstreamHttp::AsDownstream => Version::HTTP_11,
        }
    }

    async fn connection(
        &self,
        proxy: &Arc<Proxy>,
        cluster: &Cluster,
        endpoint: &Arc<EndpointState>,
        version: Version,
        wanted: Origin,
    ) -> Result<(Connection, Origin), Failure> {
        if wanted == Origin::Reused
            && let Some(connection) = reuse(endpoint, version).await
        {
            return Ok((connection, Origin::Reused));
        }
        let slot = endpoint.connection().ok_or(Failure::Overflow)?;
        let client = self.websocket.then_some(self.client);
        let io = proxy
            .dialer
            .connect(&endpoint.key, cluster.connect_timeout, client)
            .await?;
        let started = match version {
            Version::HTTP_2 => proxy
                .drivers
                .http2(io, slot, endpoint)
                .await
                .map(Connection::Http2),
            _ => proxy.drivers.http1(io, slot).await.map(Connection::Http1),
        };
        let mut connection = started.map_err(|e| reset(&e, false))?;
        connection.ready().await.map_err(|e| reset(&e, false))?;
        Ok((connection, Origin::Fresh))
    }

    fn request(
        &self,
        version: Version,
        body: RequestBody,
        attempt: u32,
    ) -> Result<Request<RequestBody>, Failure> {
        let malformed = |_| Failure::BadRequest("the rewritten path or host is not valid");
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        if version == Version::HTTP_2 {
            let uri = Uri::builder().scheme(self.scheme).authority(self.host.as_str());
            *request.uri_mut() = uri
                .path_and_query(self.target.as_str())
                .build()
                .map_err(malformed)?;
        } else {
            *request.uri_mut() = Uri::try_from(self.target.as_str()).map_err(|_| malformed_target())?;
            let host = HeaderValue::try_from(&self.host);
            let host = host.map_err(|_| Failure::BadRequest("the rewritten host is not valid"))?;
            request.headers_mut().insert(HOST, host);
        }
        if self.count_attempts {
            request
                .headers_mut()
                .insert(ATTEMPT_COUNT, HeaderValue::from(attempt));
        }
        Ok(request)
    }

    /// An HTTP/1.1 connection goes back when the response has ended; an upgraded one never does.
    fn lease(&self, connection: Connection, endpoint: &Arc<EndpointState>, upload: &Upload) -> Option<Lease> {
        match connection {
            Connection::Http1(sender) if !self.websocket => Some(Lease {
                sender,
                endpoint: endpoint.clone(),
                upload: upload.counter(),
            }),
            _ => None,
        }
    }
}

fn malformed_target() -> Failure {
    Failure::BadRequest("the rewritten path is not valid")
}

/// A connection that waits for a request; those that have ended meanwhile are dropped.
async fn reuse(endpoint: &Arc<EndpointState>, version: Version) -> Option<Connection> {
    if version == Version::HTTP_2 {
        let mut connection = Connection::Http2(endpoint.http2()?);
        return connection.ready().await.ok().map(|()| connection);
    }
    while let Some(sender) = endpoint.take_http1() {
        let mut connection = Connection::Http1(sender);
        // Its last response has ended: it is ready at once, or has been closed.
        if connection.ready().await.is_ok() {
            return Some(connection);
        }
    }
    None
}

async fn send_on(
    connection: &mut Connection,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Unanswered> {
    connection
        .send(request)
        .await
        .map_err(|SendError { cause, unsent }| {
            if unsent.is_some() {
                Unanswered::Unsent(reset(&cause, false))
            } else if cause.is_parse() {
                Unanswered::Unreadable(Failure::Protocol(with_causes(&cause)))
            } else {
                Unanswered::Lost(reset(&cause, true))
            }
        })
}

fn reset(error: &hyper::Error, sent: bool) -> Failure {
    let cause = with_causes(error);
    Failure::Reset { cause, sent }
}

/// An error of hyper's says only its kind; its sources say why.
fn with_causes(error: &hyper::Error) -> String {
    let mut cause = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        cause = format!("{cause}: {inner}");
        source = inner.source();
    }
    cause
}
