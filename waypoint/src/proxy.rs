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

use aquifer_core::http::listener::{HttpListener, Listener};
use tokio_util::task::TaskTracker;

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
    /// Connections that outlive a request: upgraded ones.
    pub(crate) tasks: TaskTracker,
}

/// The connection that requests come in on.
pub(crate) struct ConnectionInfo {
    pub(crate) listener: Arc<Listener>,
    pub(crate) http: HttpListener,
    pub(crate) client: ClientInfo,
    /// The address that the client dialled.
    pub(crate) local: SocketAddr,
    pub(crate) series: SeriesCache,
}
