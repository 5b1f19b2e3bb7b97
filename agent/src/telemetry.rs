//! What the agent tells of each connection: counters and one access log line, from the same facts.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_core::identity::SpiffeId;
use aquifer_core::workload::Workload;
use aquifer_hbone::ByteCounters;
use aquifer_telemetry::access_log::{AccessLog, ConnectionEntry, LoggedPeer};
use aquifer_telemetry::peer::{PeerLabels, Reporter, Security, ServiceLabels, TrafficLabels};
use aquifer_telemetry::registry::Registry;
use aquifer_telemetry::tcp::{TcpFlag, TcpMetrics, TcpSeries};

/// How often the byte counters of a living connection are brought up to date.
pub(crate) const FLUSH: Duration = Duration::from_secs(5);

/// Why a connection was not made, or ended early.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) flag: TcpFlag,
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(flag: TcpFlag, reason: &(impl Display + ?Sized)) -> Self {
        Self {
            flag,
            reason: reason.to_string(),
        }
    }
}

pub(crate) struct Telemetry {
    metrics: TcpMetrics,
    access_log: AccessLog,
}

/// What is known of a connection when it is made.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) reporter: Reporter,
    pub(crate) source: LoggedPeer,
    pub(crate) destination: LoggedPeer,
    pub(crate) service: ServiceLabels,
    pub(crate) security: Security,
    /// The authority of the tunnel.
    pub(crate) hbone_target: Option<Arc<str>>,
}

impl Facts {
    fn labels(&self) -> TrafficLabels {
        TrafficLabels {
            reporter: self.reporter,
            source: self.source.labels.clone(),
            destination: self.destination.labels.clone(),
            service: self.service.clone(),
            security: self.security,
        }
    }
}

impl Telemetry {
    pub(crate) fn new(registry: &Registry, access_log: AccessLog) -> Self {
        Self {
            metrics: TcpMetrics::new(registry),
            access_log,
        }
    }

    /// Notes that a connection has been made.
    pub(crate) fn opened(self: &Arc<Self>, facts: Facts, started: Instant) -> Record {
        let series = self.metrics.series(&facts.labels(), TcpFlag::None);
        series.opened.increment(1);
        Record {
            telemetry: self.clone(),
            facts,
            series,
            started,
            bytes: Arc::default(),
            flushed: (0, 0),
            failure: None,
        }
    }

    /// Notes that a connection was not made.
    pub(crate) fn failed(&self, facts: &Facts, started: Instant, failure: &Failure) {
        self.metrics
            .series(&facts.labels(), failure.flag)
            .failed
            .increment(1);
        self.log(facts, started, (0, 0), Some(failure));
    }

    fn log(&self, facts: &Facts, started: Instant, (forth, back): (u64, u64), failure: Option<&Failure>) {
        if !self.access_log.is_enabled() {
            return;
        }
        // As ztunnel: what was sent is seen from the proxied side that the bytes leave.
        let (sent, received) = match facts.reporter {
            Reporter::Source => (forth, back),
            Reporter::Destination | Reporter::Waypoint => (back, forth),
        };
        let entry = ConnectionEntry {
            reporter: facts.reporter,
            source: facts.source.clone(),
            destination: facts.destination.clone(),
            hbone_target: facts.hbone_target.clone(),
            service: known(&facts.service.host),
            bytes_sent: sent,
            bytes_received: received,
            duration: started.elapsed(),
            error: failure.map(|f| f.reason.clone()),
        };
        self.access_log.line(entry.line(SystemTime::now()));
    }
}

fn known(label: &Arc<str>) -> Option<Arc<str>> {
    (&**label != aquifer_telemetry::UNKNOWN).then(|| label.clone())
}

/// An open connection; counted and logged as closed when dropped, however it ends.
pub(crate) struct Record {
    telemetry: Arc<Telemetry>,
    facts: Facts,
    series: Arc<TcpSeries>,
    started: Instant,
    /// From the client (a) to the server (b) and back.
    pub(crate) bytes: Arc<ByteCounters>,
    flushed: (u64, u64),
    failure: Option<Failure>,
}

impl Record {
    pub(crate) fn broke(&mut self, failure: Failure) {
        self.failure = Some(failure);
    }

    /// Adds to the metrics what was copied since the last time.
    pub(crate) fn flush(&mut self) {
        let now = (self.bytes.a_to_b(), self.bytes.b_to_a());
        self.series.received_bytes.increment(now.0 - self.flushed.0);
        self.series.sent_bytes.increment(now.1 - self.flushed.1);
        self.flushed = now;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.flush();
        self.series.closed.increment(1);
        self.telemetry
            .log(&self.facts, self.started, self.flushed, self.failure.as_ref());
    }
}

/// One end of a connection, as far as it is known.
pub(crate) fn peer(
    address: SocketAddr,
    workload: Option<&Workload>,
    identity: Option<&SpiffeId>,
) -> LoggedPeer {
    let labels = match (workload, identity) {
        (Some(workload), _) => PeerLabels::of(workload, identity),
        (None, Some(identity)) => PeerLabels::principal(identity),
        (None, None) => PeerLabels::unknown(),
    };
    LoggedPeer { address, labels }
}
