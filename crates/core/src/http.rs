//! Request routing: the model that RouteConfiguration is converted into, and the choice made for one request.
//!
//! Semantics are Envoy's, field by field, so that a real Envoy fed the same configuration is the oracle. Everything is
//! decided from immutable values: the request, one table, and a random number that the caller draws.
//!
//! Read first: [`table::RouteTable`] and [`decision::route`].

pub mod action;
pub mod balance;
pub mod cluster;
pub mod cors;
pub mod decision;
pub mod fault;
pub mod listener;
pub mod matching;
pub mod mutation;
pub mod normalize;
pub mod request;
pub mod retry;
pub mod rewrite;
pub mod server_tls;
pub mod table;
pub mod text;
