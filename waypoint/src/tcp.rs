//! TCP services: a weighted cluster, an endpoint, and a copy in both directions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_core::http::cluster::{Endpoint, parse_cluster_name};
use aquifer_core::http::listener::TcpListener;
use aquifer_hbone::{ByteCounters, Endpoint as CopyEnd, IncomingTunnel, copy_bidirectional};
use aquifer_telemetry::access_log::{ConnectionEntry, LoggedPeer};
use aquifer_telemetry::peer::{PeerLabels, ServiceLabels, TrafficLabels};
use aquifer_telemetry::tcp::{TcpFlag, TcpSeries};
use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncReadExt;

use crate::edge::Stream;
use crate::pods::Dialled;
use crate::policy::{self, NotAdmitted};
use crate::proxy::Proxy;
use crate::rewound::Rewound;
use crate::serving::speech::{self, Speech};
use crate::source::ClientInfo;
use crate::state::ClusterState;
use crate::telemetry::{endpoint_labels, service_labels};
use crate::upstream::UpstreamIo;
use crate::upstream::dial::DialError;

/// How often counters of a living connection are brought up to date.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Endpoints tried before the connection is refused.
const MAX_ATTEMPTS: usize = 3;
/// A connection to a pod's own address that carries nothing, as Envoy counts it where nothing is said.
const POD_IDLE: Duration = Duration::from_secs(3600);
/// A client that says nothing for so long may wait for the other side to begin.
const SILENCE: Duration = Duration::from_millis(200);
/// For the rest of a first line that has begun.
const FIRST_LINE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum TcpError {
    #[error("cluster {0} does not exist")]
    NoCluster(String),
    #[error("cluster {0} has no healthy endpoint")]
    NoEndpoint(String),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
}

impl TcpError {
    /// What a tunnel is answered: ztunnel says 401 where a policy refuses.
    fn status(&self) -> StatusCode {
        match self {
            Self::NotAdmitted(refusal) => refusal.status(),
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn flag(&self) -> TcpFlag {
        match self {
            Self::NotAdmitted(NotAdmitted::Denied(_)) => TcpFlag::Deny,
            _ => TcpFlag::Connect,
        }
    }
}

/// Where a connection goes.
pub(crate) struct Way {
    name: Arc<str>,
    /// `None` while there is none of that name.
    cluster: Option<Arc<ClusterState>>,
    service: ServiceLabels,
    idle: Option<Duration>,
    /// The pod that was dialled by its own address, where it was one.
    pod: Option<Arc<Dialled>>,
}

impl Way {
    /// To one of the listener's clusters.
    pub(crate) fn of(proxy: &Proxy, listener: &TcpListener) -> Self {
        let name = &listener.destinations.choose(rand::random()).cluster;
        let service = parse_cluster_name(name).map_or_else(ServiceLabels::unknown, |parts| {
            service_labels(&proxy.shared.mesh(), parts.host)
        });
        Self {
            name: name.clone(),
            cluster: proxy.shared.proxy().clusters.get(name).cloned(),
            service,
            idle: listener.idle_timeout,
            pod: None,
        }
    }

    pub(crate) fn to_pod(pod: &Arc<Dialled>) -> Self {
        Self {
            name: pod.cluster.cluster.name.clone(),
            cluster: Some(pod.cluster.clone()),
            service: ServiceLabels::unknown(),
            idle: Some(POD_IDLE),
            pod: Some(pod.clone()),
        }
    }
}

/// Serves a tunnel that leads to a TCP service. The tunnel is opened only when an endpoint is connected, so that the
/// client learns of a failure as a failure to connect.
pub(crate) async fn tunnelled(proxy: &Arc<Proxy>, way: &Way, client: ClientInfo, tunnel: IncomingTunnel) {
    let mut report = Report::new(proxy, &client, &way.service, Instant::now());
    match connect(proxy, way, &client, &mut report).await {
        Ok((upstream, endpoint)) => {
            let Ok(stream) = tunnel.accept(HeaderMap::new()) else {
                return;
            };
            copy_while_admitted((stream, upstream), way, &endpoint, &mut report).await;
        }
        Err(error) => {
            report.failed(&error);
            tunnel.reject(error.status(), &error.to_string());
        }
    }
}

/// Serves a connection from outside the mesh. Its client, already connected, learns of a failure by the end of it.
pub(crate) async fn accepted<S: CopyEnd>(proxy: &Arc<Proxy>, way: &Way, client: ClientInfo, mut stream: S) {
    let mut report = Report::new(proxy, &client, &way.service, Instant::now());
    match connect(proxy, way, &client, &mut report).await {
        Ok((upstream, _)) => {
            let error = copy(stream, upstream, way.idle, &mut report).await;
            report.closed(error);
        }
        Err(error) => {
            report.failed(&error);
            stream.abort();
        }
    }
}

/// Serves a client of which nobody said what it speaks; gives it back where that turns out to be HTTP.
///
/// Who says nothing at first is connected, for the other side may be the one that speaks first; the connection is of no use
/// where the client then asks by HTTP, and it is told so by its end.
pub(crate) async fn unless_http<S: Stream>(
    proxy: &Arc<Proxy>,
    way: &Way,
    client: &ClientInfo,
    mut stream: S,
) -> Option<Rewound<S>> {
    let mut read = BytesMut::with_capacity(1024);
    let first = match first_words(&mut stream, &mut read).await {
        Ok(Some(Speech::Http)) => return Some(Rewound::new(read.freeze(), stream)),
        Ok(first) => first,
        Err(error) => {
            tracing::debug!(%error, "connection ended before it was clear what it speaks");
            stream.abort();
            return None;
        }
    };
    let mut report = Report::new(proxy, client, &way.service, Instant::now());
    let (mut upstream, endpoint) = match connect(proxy, way, client, &mut report).await {
        Ok(connected) => connected,
        Err(error) => {
            report.failed(&error);
            stream.abort();
            return None;
        }
    };
    let mut said = BytesMut::new();
    if first.is_none() {
        let spoken = tokio::select! {
            spoken = late_words(&mut stream, &mut read) => spoken.map_err(|error| error.to_string()),
            // Also its end and its failure, which the copy meets again.
            _ = upstream.read_buf(&mut said) => Ok(Speech::Other),
            denied = policy::denied(&proxy.shared, client, &endpoint) => Err(denied.to_string()),
        };
        match spoken {
            Ok(Speech::Http) => return Some(Rewound::new(read.freeze(), stream)),
            Ok(Speech::Other) => {}
            Err(error) => {
                report.closed(Some(error));
                stream.abort();
                return None;
            }
        }
    }
    let stream = Rewound::new(read.freeze(), stream);
    let upstream = Rewound::new(said.freeze(), upstream);
    copy_while_admitted((stream, upstream), way, &endpoint, &mut report).await;
    None
}

/// What a client speaks; `None` where it says nothing for a moment.
async fn first_words<S: Stream>(stream: &mut S, read: &mut BytesMut) -> io::Result<Option<Speech>> {
    match tokio::time::timeout(SILENCE, speech::listen(stream, read)).await {
        Ok(speech) => speech.map(Some),
        Err(_) if read.is_empty() => Ok(None),
        Err(_) => first_line(stream, read).await.map(Some),
    }
}

/// The same of one that said nothing at first.
async fn late_words<S: Stream>(stream: &mut S, read: &mut BytesMut) -> io::Result<Speech> {
    if tokio::time::timeout(POD_IDLE, stream.read_buf(read)).await?? == 0 {
        return Ok(Speech::Other);
    }
    first_line(stream, read).await
}

async fn first_line<S: Stream>(stream: &mut S, read: &mut BytesMut) -> io::Result<Speech> {
    tokio::time::timeout(FIRST_LINE, speech::listen(stream, read)).await?
}

async fn connect(
    proxy: &Arc<Proxy>,
    way: &Way,
    client: &ClientInfo,
    report: &mut Report<'_>,
) -> Result<(UpstreamIo, Endpoint), TcpError> {
    let cluster = way.cluster.as_ref();
    let cluster = cluster.ok_or_else(|| TcpError::NoCluster(way.name.to_string()))?;
    let mut tried = Vec::new();
    loop {
        let chosen = cluster.choose(rand::random(), &tried);
        let (endpoint, state) =
            chosen.ok_or_else(|| TcpError::NoEndpoint(cluster.cluster.name.to_string()))?;
        report.chose(endpoint);
        let mesh = proxy.shared.mesh();
        if let Some(pod) = &way.pod {
            pod.check(&mesh)?;
        }
        policy::admit(&mesh, client, endpoint)?;
        let timeout = cluster.cluster.connect_timeout;
        match proxy
            .dialer
            .connect(&state.key, timeout, Some(client.address))
            .await
        {
            Ok(upstream) => return Ok((upstream, endpoint.clone())),
            // Nothing was sent yet: another endpoint may serve the connection.
            Err(error) if tried.len() + 1 < MAX_ATTEMPTS && !tried.contains(&endpoint.address) => {
                tracing::debug!(%error, endpoint = %endpoint.address, "trying another endpoint");
                tried.push(endpoint.address);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Copies until both sides have ended, or a policy that comes later keeps the client out.
async fn copy_while_admitted<A: CopyEnd, B: CopyEnd>(
    (stream, upstream): (A, B),
    way: &Way,
    endpoint: &Endpoint,
    report: &mut Report<'_>,
) {
    let mut denied = std::pin::pin!(policy::denied(&report.proxy.shared, report.client, endpoint));
    let copied = copy(stream, upstream, way.idle, report);
    let error = tokio::select! {
        error = copied => error,
        denied = &mut denied => Some(denied.to_string()),
    };
    report.closed(error);
}

/// Copies until both sides have ended, and tells what went wrong.
async fn copy<A: CopyEnd, B: CopyEnd>(
    client: A,
    upstream: B,
    idle: Option<Duration>,
    report: &mut Report<'_>,
) -> Option<String> {
    let counters = ByteCounters::default();
    report.opened();
    let mut copying = std::pin::pin!(copy_bidirectional(client, upstream, &counters));
    let mut quiet = Duration::ZERO;
    let result = loop {
        match tokio::time::timeout(REPORT_INTERVAL, &mut copying).await {
            Ok(result) => break result.map(|_| ()).map_err(|e| e.to_string()),
            Err(_) if report.counted(&counters) => quiet = Duration::ZERO,
            Err(_) => quiet += REPORT_INTERVAL,
        }
        if idle.is_some_and(|idle| quiet >= idle) {
            break Err(format!("idle for {} s", quiet.as_secs()));
        }
    };
    report.counted(&counters);
    result.err()
}

/// What is told of one connection, while it lives and at its end.
struct Report<'a> {
    proxy: &'a Arc<Proxy>,
    client: &'a ClientInfo,
    service: &'a ServiceLabels,
    started: Instant,
    destination: Option<(SocketAddr, PeerLabels)>,
    series: Option<Arc<TcpSeries>>,
    sent: u64,
    received: u64,
}

impl<'a> Report<'a> {
    fn new(
        proxy: &'a Arc<Proxy>,
        client: &'a ClientInfo,
        service: &'a ServiceLabels,
        started: Instant,
    ) -> Self {
        Self {
            proxy,
            client,
            service,
            started,
            destination: None,
            series: None,
            sent: 0,
            received: 0,
        }
    }

    fn chose(&mut self, endpoint: &Endpoint) {
        let labels = endpoint_labels(&self.proxy.shared.mesh(), endpoint);
        self.destination = Some((endpoint.address, labels));
    }

    fn labels(&self) -> TrafficLabels {
        let destination = self.destination.as_ref();
        TrafficLabels {
            reporter: self.proxy.telemetry.reporter,
            source: self.client.labels.clone(),
            destination: destination.map_or_else(PeerLabels::unknown, |(_, labels)| labels.clone()),
            service: self.service.clone(),
            security: self.client.security(),
        }
    }

    fn opened(&mut self) {
        let series = self.proxy.telemetry.tcp.series(&self.labels(), TcpFlag::None);
        series.opened.increment(1);
        self.series = Some(series);
    }

    /// Adds what was copied since the last time; answers whether there was anything.
    fn counted(&mut self, counters: &ByteCounters) -> bool {
        let received = counters.a_to_b() - self.received;
        let sent = counters.b_to_a() - self.sent;
        self.received += received;
        self.sent += sent;
        if let Some(series) = &self.series {
            series.received_bytes.increment(received);
            series.sent_bytes.increment(sent);
        }
        received + sent > 0
    }

    fn closed(&self, error: Option<String>) {
        if let Some(series) = &self.series {
            series.closed.increment(1);
        }
        self.log(error);
    }

    fn failed(&self, error: &TcpError) {
        let series = self.proxy.telemetry.tcp.series(&self.labels(), error.flag());
        series.failed.increment(1);
        self.log(Some(error.to_string()));
    }

    fn log(&self, error: Option<String>) {
        let log = &self.proxy.telemetry.log;
        if !log.is_enabled() {
            return;
        }
        let (address, labels) = match &self.destination {
            Some((address, labels)) => (*address, labels.clone()),
            None => (SocketAddr::from(([0, 0, 0, 0], 0)), PeerLabels::unknown()),
        };
        let entry = ConnectionEntry {
            reporter: self.proxy.telemetry.reporter,
            source: LoggedPeer {
                address: self.client.address,
                labels: self.client.labels.clone(),
            },
            destination: LoggedPeer { address, labels },
            hbone_target: None,
            service: Some(self.service.host.clone()),
            bytes_sent: self.received,
            bytes_received: self.sent,
            duration: self.started.elapsed(),
            error,
        };
        log.line(entry.line(SystemTime::now()));
    }
}
