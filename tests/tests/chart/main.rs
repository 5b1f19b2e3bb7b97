//! The Helm chart: what it renders, what it refuses, and that its documents say the same.
//!
//! By the real helm, without a cluster.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod carried;
mod definitions;
mod documents;
mod helm;
mod istio;
mod pods;
mod rendered;
mod schema;
mod security;
mod values;
