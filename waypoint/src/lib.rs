//! The L7 proxy of the mesh: waypoint and ingress gateway in one binary.
//!
//! A waypoint terminates tunnels and routes the requests inside; a gateway listens on real ports. Both are fed by xDS,
//! choose an endpoint, verify exactly its identity and forward. The crate refuses to know Kubernetes and how
//! configuration came to be: it has listeners, route tables, clusters and the mesh's workloads.
//!
//! Read first: `proxy::Downstream` (one request) and `state::Shared` (what it is decided from).
#![forbid(unsafe_code)]

mod admin;
mod clients;
pub mod config;
mod edge;
mod ending;
mod inbound;
mod names;
mod pods;
mod policy;
mod proxy;
mod rewound;
pub mod run;
mod serving;
mod sockets;
mod source;
mod state;
mod tcp;
mod telemetry;
mod tunnel;
mod upstream;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
