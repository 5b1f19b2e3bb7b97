//! What the mesh tells about itself: metrics, access logs, readiness and the admin server, decided once.
//!
//! Names and labels are Istio's, so that Prometheus queries, Kiali and Grafana work as they are.
//! The crate knows the model ([`aquifer_core`]) but neither xDS nor TLS nor the tunnel.
//!
//! Read first: [`peer::PeerLabels`] and [`registry::Registry`].
#![forbid(unsafe_code)]

pub mod access_log;
pub mod admin;
pub mod edge;
pub mod http;
pub mod logging;
pub mod names;
pub mod peer;
pub mod process;
pub mod readiness;
pub mod registry;
pub mod tcp;
pub mod timestamp;

/// The label value of everything that is not known.
///
/// Kiali drops a whole series if one label is missing, and Prometheus drops empty labels: none is ever empty.
pub const UNKNOWN: &str = "unknown";
