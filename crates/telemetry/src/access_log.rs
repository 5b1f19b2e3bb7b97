//! Access logs: one line per connection or request, written by one thread from a bounded queue.
//!
//! A slow disk or pipe never stalls the data path: when the queue is full, lines are dropped and counted.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use metrics::Counter;

use crate::peer::{PeerLabels, Reporter};
use crate::registry::Registry;
use crate::timestamp::rfc3339;

/// Lines that may wait.
const QUEUE: usize = 10_000;

/// The writer of access log lines. Clones share the queue.
#[derive(Clone)]
pub struct AccessLog {
    queue: Option<SyncSender<String>>,
    dropped: Counter,
}

impl AccessLog {
    /// Writes to standard output, as Istio's proxies do.
    pub fn stdout(registry: &Registry) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&lines))?;
        Ok(Self {
            queue: Some(queue),
            dropped: dropped_counter(registry),
        })
    }

    /// Writes nothing.
    pub fn disabled(registry: &Registry) -> Self {
        Self {
            queue: None,
            dropped: dropped_counter(registry),
        }
    }

    pub fn is_enabled(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands a line (without its end) to the writer; never blocks.
    pub fn line(&self, line: String) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.increment(1),
        }
    }
}

fn dropped_counter(registry: &Registry) -> Counter {
    registry.counter("aquifer_access_log_dropped_total", &[])
}

fn write_lines(lines: &Receiver<String>) {
    let mut out = std::io::BufWriter::new(std::io::stdout());
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            // A closed standard output must not stop the proxy; the lines go nowhere then.
            let _ = writeln!(out, "{line}");
            next = lines.try_recv().ok();
        }
        let _ = out.flush();
    }
}

/// One end of a connection in ztunnel's log format.
#[derive(Clone, Debug)]
pub struct LoggedPeer {
    pub address: SocketAddr,
    pub labels: PeerLabels,
}

/// A finished connection, as a node agent logs it.
#[derive(Clone, Debug)]
pub struct ConnectionEntry {
    pub reporter: Reporter,
    pub source: LoggedPeer,
    pub destination: LoggedPeer,
    /// The `:authority` of the tunnel, where there was one.
    pub hbone_target: Option<Arc<str>>,
    pub service: Option<Arc<str>>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub duration: Duration,
    /// Why the connection failed, in full.
    pub error: Option<String>,
}

impl ConnectionEntry {
    /// The line in ztunnel's text format: tab-separated head, then `key=value` pairs.
    pub fn line(&self, at: SystemTime) -> String {
        let (level, message) = match self.error {
            None => ("info", "connection complete"),
            Some(_) => ("error", "connection failed"),
        };
        let direction = if self.reporter == Reporter::Source {
            "outbound"
        } else {
            "inbound"
        };
        let mut line = format!("{}\t{level}\taccess\t{message}\t", rfc3339(at));
        self.write_peer(&mut line, "src", &self.source, None);
        self.write_peer(&mut line, "dst", &self.destination, self.hbone_target.as_deref());
        if let Some(service) = &self.service {
            let _ = write!(line, "dst.service={service:?} ");
        }
        let _ = write!(
            line,
            "direction=\"{direction}\" bytes_sent={} bytes_recv={} duration=\"{}ms\"",
            self.bytes_sent,
            self.bytes_received,
            self.duration.as_millis()
        );
        if let Some(error) = &self.error {
            let _ = write!(line, " error={error:?}");
        }
        line
    }

    fn write_peer(&self, line: &mut String, side: &str, peer: &LoggedPeer, hbone: Option<&str>) {
        let _ = write!(line, "{side}.addr={} ", peer.address);
        if let Some(target) = hbone {
            let _ = write!(line, "{side}.hbone_addr={target:?} ");
        }
        for (key, value) in [
            ("workload", &peer.labels.workload),
            ("namespace", &peer.labels.namespace),
            ("identity", &peer.labels.principal),
            ("cluster", &peer.labels.cluster),
        ] {
            if &**value != crate::UNKNOWN {
                let _ = write!(line, "{side}.{key}={value:?} ");
            }
        }
    }
}

/// A finished request, as waypoints and gateways log it.
#[derive(Clone, Debug, Default)]
pub struct RequestEntry {
    pub method: String,
    pub path: String,
    pub protocol: &'static str,
    pub response_code: u16,
    pub response_flags: &'static str,
    pub response_code_details: String,
    pub upstream_failure: String,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub duration: Duration,
    pub upstream_time: Option<Duration>,
    pub forwarded_for: String,
    pub user_agent: String,
    pub request_id: String,
    pub authority: String,
    pub upstream_host: Option<SocketAddr>,
    pub upstream_cluster: String,
    pub upstream_local: Option<SocketAddr>,
    pub downstream_local: Option<SocketAddr>,
    pub downstream_remote: Option<SocketAddr>,
    pub server_name: String,
    pub route_name: String,
}

impl RequestEntry {
    /// The line in Envoy's default text format as Istio configures it. `start` is when the request arrived.
    pub fn line(&self, start: SystemTime) -> String {
        let upstream_time = self
            .upstream_time
            .map_or_else(|| "-".to_owned(), |t| t.as_millis().to_string());
        format!(
            "[{}] \"{} {} {}\" {} {} {} - \"{}\" {} {} {} {} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\" {} {} {} {} {} {}",
            rfc3339(start),
            clean(&self.method),
            clean(&self.path),
            self.protocol,
            self.response_code,
            dash(self.response_flags),
            dash(&self.response_code_details),
            clean(&self.upstream_failure),
            self.bytes_received,
            self.bytes_sent,
            self.duration.as_millis(),
            upstream_time,
            clean(&self.forwarded_for),
            clean(&self.user_agent),
            clean(&self.request_id),
            clean(&self.authority),
            address(self.upstream_host),
            dash(&self.upstream_cluster),
            address(self.upstream_local),
            address(self.downstream_local),
            address(self.downstream_remote),
            clean(&self.server_name),
            clean(&self.route_name),
        )
    }
}

fn address(a: Option<SocketAddr>) -> String {
    a.map_or_else(|| "-".to_owned(), |a| a.to_string())
}

fn dash(s: &str) -> &str {
    if s.is_empty() { "-" } else { s }
}

/// Longest value that a client may put into a log line, in characters.
const MAX_FIELD: usize = 512;

/// A client chooses these values: no quotes or control characters that would forge a line, and not too long.
fn clean(s: &str) -> String {
    if s.is_empty() {
        return "-".to_owned();
    }
    s.chars()
        .take(MAX_FIELD)
        .map(|c| if c == '"' || c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_forge_a_request_line() {
        let entry = RequestEntry {
            method: "GET".into(),
            path: "/a\"\n[x] b".into(),
            protocol: "HTTP/1.1",
            ..RequestEntry::default()
        };
        let line = entry.line(SystemTime::UNIX_EPOCH);
        assert_eq!(line.lines().count(), 1);
        assert!(
            line.starts_with("[1970-01-01T00:00:00.000Z] \"GET /a??[x] b HTTP/1.1\" 0 - - - \"-\""),
            "{line}"
        );
    }

    #[test]
    fn connection_lines_have_the_five_tab_fields_that_kiali_wants() {
        let peer = |a: &str| LoggedPeer {
            address: a.parse().unwrap(),
            labels: PeerLabels::unknown(),
        };
        let entry = ConnectionEntry {
            reporter: Reporter::Source,
            source: peer("10.0.0.1:1"),
            destination: peer("10.0.0.2:2"),
            hbone_target: Some("10.0.0.2:2".into()),
            service: None,
            bytes_sent: 1,
            bytes_received: 2,
            duration: Duration::from_millis(3),
            error: Some("policy rejection: explicitly denied by ns/p".into()),
        };
        let line = entry.line(SystemTime::UNIX_EPOCH);
        assert_eq!(line.split('\t').count(), 5, "{line}");
        assert!(
            line.contains("direction=\"outbound\" bytes_sent=1 bytes_recv=2 duration=\"3ms\" error=\"policy"),
            "{line}"
        );
    }
}
