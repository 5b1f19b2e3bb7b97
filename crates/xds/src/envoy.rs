//! Envoy v3 resource types, for the control plane that writes them and the waypoint that reads them.

pub use envoy_types::pb;
