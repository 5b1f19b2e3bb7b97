//! The control plane: Kubernetes objects in; xDS, certificates and status out.
#![forbid(unsafe_code)]

pub mod auth;
pub mod ca;
pub mod serve;
