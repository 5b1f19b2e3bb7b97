//! The model of the mesh: identities, workloads, services, policies, routes, and the decisions made from them.
//!
//! Nothing here performs I/O, reads a clock or knows a wire format: no tokio, prost, kube or rustls.
//! Every edge (xDS, Kubernetes, HBONE headers) parses into these types once; after that nothing is validated again.
//!
//! Read first: [`workload::Workload`] and [`identity::SpiffeId`].
#![forbid(unsafe_code)]

pub mod address;
pub mod authority;
pub mod baggage;
pub mod enrolment;
pub mod forwarded;
pub mod http;
pub mod identity;
pub mod names;
pub mod policy;
pub mod resolve;
pub mod service;
pub mod snapshot;
pub mod workload;
