//! The node agent: captures the traffic of enrolled pods and carries it through mutual TLS tunnels.
//!
//! One process per node. The kernel hands it the connections of enrolled pods ([`capture`]); it decides each from an
//! immutable snapshot of the mesh, tunnels it (HBONE) or refuses it, and enforces policies at the destination.
//! It refuses to know where its pods come from ([`pods::NodePods`]) and what HTTP is: that is a waypoint's.
//!
//! Read first: [`run::run`] and the `pod` module.

mod admin;
pub mod capture;
pub mod cni;
pub mod config;
mod connections;
mod enrol;
mod forward;
mod inbound;
mod mesh;
mod network;
mod node;
mod outbound;
mod pod;
pub mod pods;
pub mod run;
mod telemetry;
mod watched;
