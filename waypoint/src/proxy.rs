//! Requests: routed, sent to an endpoint, answered.

pub(crate) mod attempt;
pub(crate) mod failure;
mod forward;
mod head;
mod headers;
pub(crate) mod local;
pub(crate) mod record;
mod request;
pub(crate) mod response;
pub(crate) mod series;
mod upgrade;
pub(crate) mod upload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aquifer_core::http::listener::{HttpListener, Listener};
use aquifer_core::http::rewrite::without_port;
use aquifer_core::workload::WorkloadUid;
use http::HeaderValue;
use tokio_util::task::TaskTracker;

use crate::clients::Admission;
use crate::pods::Dialled;
use crate::source::ClientInfo;
use crate::state::Shared;
use crate::telemetry::Telemetry;
use crate::upstream::connection::Drivers;
use crate::upstream::dial::Dialer;

use series::SeriesCache;

pub(crate) use request::Downstream;

/// Everything that requests and connections need, whichever way they come in.
pub(crate) struct Proxy {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dialer: Dialer,
    pub(crate) drivers: Drivers,
    pub(crate) telemetry: Telemetry,
    /// This proxy's own pod.
    pub(crate) own: WorkloadUid,
    /// Connections that outlive a request: upgraded ones.
    pub(crate) tasks: TaskTracker,
    pub(crate) leaving: Leaving,
}

/// Whether this proxy has been told to end. It serves those who come all the same, and asks clients that speak HTTP/1.1 to
/// use another connection for their next request.
#[derive(Default)]
pub(crate) struct Leaving(AtomicBool);

impl Leaving {
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The connection that requests come in on.
pub(crate) struct ConnectionInfo {
    pub(crate) listener: Arc<Listener>,
    pub(crate) http: HttpListener,
    /// The pod that was dialled by its own address, where it was one.
    pub(crate) pod: Option<Arc<Dialled>>,
    pub(crate) client: ClientInfo,
    /// The address that the client dialled.
    pub(crate) local: SocketAddr,
    pub(crate) series: SeriesCache,
    /// Where TLS of a client outside the mesh ended here.
    pub(crate) tls: Option<TlsFacts>,
    /// Of a client outside the mesh, for as long as anything of its connection lives.
    pub(crate) _admission: Option<Arc<Admission>>,
}

/// What a handshake with a client outside the mesh has shown.
pub(crate) struct TlsFacts {
    /// The chain of the listener that ended it.
    pub(crate) chain: Arc<str>,
    pub(crate) server_name: Option<String>,
    /// The verified certificate as an upstream is told of it.
    pub(crate) client_certificate: Option<HeaderValue>,
}

impl ConnectionInfo {
    /// Whether a request for `host` belongs on a connection to another server of the listener: with a wildcard
    /// certificate, browsers ask for hosts on whichever connection they have (RFC 9113 section 9.1.1).
    pub(crate) fn is_misdirected(&self, host: &str) -> bool {
        let other = |tls: &TlsFacts| {
            let server = self.listener.chains.choose(Some(without_port(host)));
            server.is_some_and(|chain| chain.name != tls.chain)
        };
        self.tls.as_ref().is_some_and(other)
    }
}
