//! What is told of a request once it is over: one access log line and one set of metrics, exactly once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_core::http::cluster::{Endpoint, parse_cluster_name};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_telemetry::access_log::RequestEntry;
use aquifer_telemetry::http::{RequestLabels, RequestProtocol};
use aquifer_telemetry::peer::{PeerLabels, ServiceLabels, TrafficLabels};
use http::{HeaderMap, HeaderValue, Method, Version};

use super::head::Head;
use super::headers::{X_FORWARDED_FOR, X_REQUEST_ID};
use super::series::SeriesKey;
use super::upload::UploadCounter;
use super::{ConnectionInfo, Proxy};
use crate::telemetry::{endpoint_labels, service_labels};

/// The connection's end, the request's beginning, and what has become of it so far. Reported when dropped.
pub(crate) struct Record {
    proxy: Arc<Proxy>,
    connection: Arc<ConnectionInfo>,
    started: Instant,
    started_at: SystemTime,
    pub(crate) request: Option<RequestFacts>,
    pub(crate) upload: Option<UploadCounter>,
    pub(crate) code: u16,
    pub(crate) flags: &'static str,
    pub(crate) details: &'static str,
    pub(crate) upstream_failure: String,
    pub(crate) upstream: Option<UpstreamFacts>,
    pub(crate) cluster: Arc<str>,
    pub(crate) route: Arc<str>,
    pub(crate) upstream_time: Option<Duration>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) bytes_sent: u64,
    /// From the client, beyond the request's body: what an upgraded connection carried.
    pub(crate) bytes_received: u64,
    /// The response was handed over in full; otherwise the client left before.
    pub(crate) complete: bool,
}

/// Parts of the request's head; cheap copies of what was received.
pub(crate) struct RequestFacts {
    method: Method,
    path: String,
    authority: String,
    version: Version,
    forwarded_for: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    protocol: RequestProtocol,
    client: SocketAddr,
}

impl RequestFacts {
    pub(crate) fn of(head: &Head, client: SocketAddr) -> Self {
        let grpc = head.headers.get(http::header::CONTENT_TYPE);
        let grpc = grpc.is_some_and(|v| aquifer_core::http::request::is_grpc_content_type(v.as_bytes()));
        Self {
            method: head.method.clone(),
            path: head.path_and_query(),
            authority: head.host.clone(),
            version: head.version,
            forwarded_for: head.headers.get(X_FORWARDED_FOR).cloned(),
            user_agent: head.headers.get(http::header::USER_AGENT).cloned(),
            request_id: head.headers.get(X_REQUEST_ID).cloned(),
            protocol: if grpc {
                RequestProtocol::Grpc
            } else {
                RequestProtocol::Http
            },
            client,
        }
    }
}

/// The endpoint of the last attempt.
pub(crate) struct UpstreamFacts {
    pub(crate) endpoint: Endpoint,
    pub(crate) local: Option<SocketAddr>,
}

impl Record {
    pub(crate) fn new(proxy: Arc<Proxy>, connection: Arc<ConnectionInfo>) -> Self {
        Self {
            proxy,
            connection,
            started: Instant::now(),
            started_at: SystemTime::now(),
            request: None,
            upload: None,
            code: 0,
            flags: "-",
            details: "-",
            upstream_failure: String::new(),
            upstream: None,
            cluster: "".into(),
            route: "".into(),
            upstream_time: None,
            grpc_status: None,
            bytes_sent: 0,
            bytes_received: 0,
            complete: false,
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Takes the gRPC status from headers or trailers.
    pub(crate) fn note_grpc(&mut self, headers: &HeaderMap) {
        let status = headers.get("grpc-status").and_then(|v| v.to_str().ok());
        if let Some(status) = status.and_then(|s| s.parse().ok()) {
            self.grpc_status = Some(status);
        }
    }

    fn report(&mut self) {
        let duration = self.started.elapsed();
        let received = self.bytes_received + self.upload.as_ref().map_or(0, UploadCounter::bytes);
        if !self.complete {
            self.flags = "DC";
            self.details = "downstream_remote_disconnect";
        }
        self.count(duration, received);
        let log = &self.proxy.telemetry.log;
        if log.is_enabled() {
            log.line(self.entry(duration, received).line(self.started_at));
        }
    }

    fn count(&self, duration: Duration, received: u64) {
        let protocol = self
            .request
            .as_ref()
            .map_or(RequestProtocol::Http, |r| r.protocol);
        let mesh = self.proxy.shared.mesh();
        let key = SeriesKey {
            generation: mesh.generation(),
            cluster: self.cluster.clone(),
            endpoint: self.upstream.as_ref().map(|u| u.endpoint.address),
            protocol,
            code: self.code,
            flags: self.flags,
            grpc_status: self.grpc_status.filter(|_| protocol == RequestProtocol::Grpc),
        };
        let series = self.connection.series.get(&key, || {
            let labels = self.labels(&mesh, &key);
            self.proxy.telemetry.http.series(&labels)
        });
        series.requests.increment(1);
        series.duration.record(duration.as_secs_f64() * 1000.0);
        series.request_size.record(received as f64);
        series.response_size.record(self.bytes_sent as f64);
    }

    fn labels(&self, mesh: &MeshSnapshot, key: &SeriesKey) -> RequestLabels {
        let destination = self.upstream.as_ref().map(|u| endpoint_labels(mesh, &u.endpoint));
        RequestLabels {
            traffic: TrafficLabels {
                reporter: self.proxy.telemetry.reporter,
                source: self.connection.client.labels.clone(),
                destination: destination.unwrap_or_else(PeerLabels::unknown),
                service: self.service(mesh),
                security: self.connection.client.security(),
            },
            protocol: key.protocol,
            response_code: key.code,
            response_flags: key.flags,
            grpc_status: key.grpc_status,
        }
    }

    /// The service that the request was for: its cluster's, or where it has none, its listener's.
    fn service(&self, mesh: &MeshSnapshot) -> ServiceLabels {
        let parts = parse_cluster_name(&self.cluster);
        let parts = parts.or_else(|| parse_cluster_name(&self.connection.listener.name));
        parts.map_or_else(ServiceLabels::unknown, |parts| service_labels(mesh, parts.host))
    }

    fn entry(&self, duration: Duration, received: u64) -> RequestEntry {
        let text = |value: &Option<HeaderValue>| {
            let value = value.as_ref().map(|v| String::from_utf8_lossy(v.as_bytes()));
            value.map(|v| v.into_owned()).unwrap_or_default()
        };
        let mut entry = RequestEntry {
            response_code: self.code,
            response_flags: self.flags,
            response_code_details: self.details.to_owned(),
            upstream_failure: self.upstream_failure.clone(),
            bytes_received: received,
            bytes_sent: self.bytes_sent,
            duration,
            upstream_time: self.upstream_time,
            upstream_host: self.upstream.as_ref().map(|u| u.endpoint.address),
            upstream_cluster: self.cluster.to_string(),
            upstream_local: self.upstream.as_ref().and_then(|u| u.local),
            downstream_local: Some(self.connection.local),
            downstream_remote: Some(self.connection.client.address),
            server_name: self
                .connection
                .tls
                .as_ref()
                .and_then(|t| t.server_name.clone())
                .unwrap_or_default(),
            route_name: self.route.to_string(),
            ..RequestEntry::default()
        };
        if let Some(request) = &self.request {
            entry.method = request.method.to_string();
            entry.path = request.path.clone();
            entry.protocol = protocol(request.version);
            entry.authority = request.authority.clone();
            entry.forwarded_for = text(&request.forwarded_for);
            entry.user_agent = text(&request.user_agent);
            entry.request_id = text(&request.request_id);
            entry.downstream_remote = Some(request.client);
        }
        entry
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.report();
    }
}
