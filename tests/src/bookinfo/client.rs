//! A small HTTP client that keeps its connections.
//!
//! Names are resolved by the system's resolver at each new connection, as the sample's languages do;
//! a kept connection lives briefly, so that new ones meet a mesh that changed.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{self, ServedBy};

/// Kept connections per target; more are closed after use.
const MAX_IDLE: usize = 32;
/// The sample opens a connection for each request; this is long enough to keep them under load.
const MAX_AGE: Duration = super::CONNECTION_AGE;
const MAX_BODY: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Target {
    /// `HOST` or `HOST:PORT`; an IPv6 address stands in brackets.
    pub(crate) fn parse(authority: &str, default_port: u16) -> Option<Self> {
        let authority: http::uri::Authority = authority.parse().ok()?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Some(Self {
            host,
            port: authority.port_u16().unwrap_or(default_port),
        })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

#[derive(Debug, Error)]
pub(crate) enum FetchError {
    #[error("cannot resolve or reach {target}: {source}")]
    Connect { target: Target, source: std::io::Error },
    #[error("{target} broke the exchange: {source}")]
    Http { target: Target, source: hyper::Error },
    #[error("the answer of {target} is not readable: {reason}")]
    Body { target: Target, reason: String },
    #[error("no answer of {target} within {deadline:?}")]
    Timeout { target: Target, deadline: Duration },
    #[error("{path:?} cannot be asked of {target}")]
    Request { target: Target, path: String },
}

pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) chain: Vec<ServedBy>,
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    opened: Instant,
    /// Drives the connection; ends with it.
    _driver: AbortOnDropHandle<()>,
}

#[derive(Default)]
pub(crate) struct Client {
    /// Connections waiting for their next request; never held across an await.
    idle: Mutex<HashMap<Target, Vec<Connection>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// GET `path` with `headers`, all of it within `deadline`.
    pub(crate) async fn get(
        &self,
        target: &Target,
        path: &str,
        headers: &HeaderMap,
        deadline: Duration,
    ) -> Result<Fetched, FetchError> {
        let exchange = self.exchange(target, path, headers);
        tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| FetchError::Timeout {
                target: target.clone(),
                deadline,
            })?
    }

    /// A kept connection may have been closed meanwhile: then the request, which is a GET, is sent
    /// once more over a fresh one.
    async fn exchange(
        &self,
        target: &Target,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Fetched, FetchError> {
        if let Some(kept) = self.take(target) {
            let result = self.send(target, kept, request(target, path, headers)?).await;
            if !matches!(result, Err(FetchError::Http { .. })) {
                return result;
            }
        }
        let fresh = connect(target).await?;
        self.send(target, fresh, request(target, path, headers)?).await
    }

    async fn send(
        &self,
        target: &Target,
        mut connection: Connection,
        request: Request<Empty<Bytes>>,
    ) -> Result<Fetched, FetchError> {
        let broken = |source| FetchError::Http {
            target: target.clone(),
            source,
        };
        connection.sender.ready().await.map_err(broken)?;
        let response = connection.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let chain = answer::chain(response.headers());
        let body = read(target, response.into_body()).await?;
        self.keep(target, connection);
        Ok(Fetched { status, body, chain })
    }

    fn take(&self, target: &Target) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(target)?;
        kept.retain(|connection| connection.is_usable(now));
        kept.pop()
    }

    fn keep(&self, target: &Target, connection: Connection) {
        let mut idle = self.idle.lock();
        let kept = idle.entry(target.clone()).or_default();
        if kept.len() < MAX_IDLE {
            kept.push(connection);
        }
    }
}

impl Connection {
    fn is_usable(&self, now: Instant) -> bool {
        !self.sender.is_closed() && now.duration_since(self.opened) < MAX_AGE
    }
}

async fn connect(target: &Target) -> Result<Connection, FetchError> {
    let stream = connect_tcp(target).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|source| FetchError::Http {
            target: target.clone(),
            source,
        })?;
    // An error of the connection reaches the request that it broke.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Connection {
        sender,
        opened: Instant::now(),
        _driver: AbortOnDropHandle::new(driver),
    })
}

/// Connects to the first address of `target` that answers.
pub(crate) async fn connect_tcp(target: &Target) -> Result<TcpStream, FetchError> {
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|source| FetchError::Connect {
            target: target.clone(),
            source,
        })?;
    // Without it small requests wait for the peer's delayed acknowledgement; failing costs only time.
    drop(stream.set_nodelay(true));
    Ok(stream)
}

fn request(target: &Target, path: &str, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, FetchError> {
    let refused = || FetchError::Request {
        target: target.clone(),
        path: path.to_owned(),
    };
    let uri: Uri = path.parse().map_err(|_| refused())?;
    let host = HeaderValue::from_str(&target.authority()).map_err(|_| refused())?;
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

async fn read(target: &Target, body: Incoming) -> Result<Bytes, FetchError> {
    let collected = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|error| FetchError::Body {
            target: target.clone(),
            reason: error.to_string(),
        })?;
    Ok(collected.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, u16)>) {
        let parsed = Target::parse(text, 1);
        assert_eq!(
            parsed.as_ref().map(|target| (target.host.as_str(), target.port)),
            expected,
            "{text}"
        );
    }

    #[test]
    fn targets_are_hosts_with_or_without_port() {
        check("ratings:9080", Some(("ratings", 9080)));
        check("ratings", Some(("ratings", 1)));
        check("[::1]:5", Some(("::1", 5)));
        check("", None);
    }

    #[test]
    fn an_ipv6_target_is_bracketed_in_the_host_header() {
        assert_eq!(
            Target {
                host: "::1".to_owned(),
                port: 5
            }
            .authority(),
            "[::1]:5"
        );
    }
}
