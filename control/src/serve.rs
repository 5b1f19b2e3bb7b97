//! The delta ADS server: every proxy gets what changed for it, and nothing else.
//!
//! The model hands out a [`watch`] of immutable snapshots per client ([`ResourceSnapshots`]); a stream compares what
//! its client holds with the newest one. Read first: [`ResourceSnapshot`] and [`stream`].

pub mod ads;
mod connection;
pub mod grpc;
mod message;
mod metrics;
pub mod registry;
mod resource;
mod stream;
mod tls;
pub(crate) mod trust;
mod turns;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::auth::Caller;

pub(crate) use metrics::ServeMetrics;
pub use resource::{Resources, Version, VersionedResource};

/// What a proxy says it is in the first part of its node id, once the Pod object agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyType {
    /// A node agent: `ztunnel~…`.
    Agent,
    /// `waypoint~…`.
    Waypoint,
    /// An ingress or egress gateway: `router~…`.
    Gateway,
}

/// An authenticated xDS client.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    pub caller: Caller,
    pub proxy_type: ProxyType,
    /// `TYPE~IP~POD.NAMESPACE~DOMAIN` as the client sent it; for display only.
    pub node_id: Arc<str>,
    /// Labels of the pod that the token is bound to: these decide what is served, such as the gateway's name.
    pub pod_labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// Why a client is served nothing; sent to it as `PERMISSION_DENIED`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    pub reason: String,
}

/// Everything that one client should hold at a moment.
#[derive(Clone, Debug)]
pub struct ResourceSnapshot {
    /// Grows with every change of the model; what "in effect at N of M proxies" is counted by. A snapshot is published
    /// to a client for every generation, also where its resources are the same: that costs the stream next to nothing.
    pub generation: u64,
    /// When the event that made this snapshot came in; the start of `pilot_proxy_convergence_time`.
    pub changed_at: Instant,
    /// Type URL (`type.googleapis.com/…`) to resources. A type that is missing has none.
    pub types: BTreeMap<&'static str, Resources>,
}

/// The model, as the server sees it.
pub trait ResourceSnapshots: Send + Sync {
    /// The snapshots for this client, for as long as its stream lives.
    ///
    /// # Errors
    /// [`Denied`] where the model has no place for the client, such as a waypoint whose Gateway does not exist.
    fn subscribe(&self, client: &ClientIdentity) -> Result<watch::Receiver<Arc<ResourceSnapshot>>, Denied>;
}
