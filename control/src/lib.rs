//! The control plane: Kubernetes objects in; xDS, certificates and status out.
//!
//! Objects come from an [`source::ObjectSource`], are parsed once ([`objects`], [`model`]) and kept in a
//! [`store::Store`]. [`compile::compile`] turns the store into a model of the mesh, a pure function; [`proxies`] makes
//! each proxy's resources from it, [`snapshots`] hands them to the xDS server ([`serve`]). Statuses and rendered
//! objects go to an [`sink::ObjectSink`]. What reads objects never sees gRPC, and the server never sees objects.
//!
//! Read first: [`compile::Compiled`] and [`pipeline::Pipeline`].
#![forbid(unsafe_code)]

pub mod app;
pub mod auth;
pub mod authority;
pub mod ca;
pub mod compile;
pub mod config;
pub mod debug;
pub mod envoy;
pub mod kubernetes;
pub mod mesh_config;
pub mod metrics;
pub mod model;
pub mod objects;
pub mod peers;
pub mod pipeline;
pub mod proxies;
pub mod removal;
pub mod serve;
pub mod sink;
pub mod snapshots;
pub mod source;
pub mod status;
pub mod store;
pub mod validate;
pub mod webhook;
