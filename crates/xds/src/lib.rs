//! xDS: the wire between the control plane and its proxies.
//!
//! Generated protobuf ([`pb`]), its conversion to and from the model ([`convert`]), the delta-ADS client as a state
//! machine without I/O ([`delta`]) and a thin skin around it ([`client`]), and the certificate client ([`ca`]).
//! This crate refuses to know what a proxy does with a resource: handlers do ([`handler::ResourceHandler`]).
//!
//! Read first: [`delta::DeltaState`] and [`handler::ResourceHandler`].
#![forbid(unsafe_code)]

pub mod backoff;
pub mod ca;
pub mod channel;
pub mod client;
pub mod convert;
pub mod delta;
#[cfg(feature = "envoy")]
pub mod envoy;
pub mod handler;
pub mod pb;
pub mod token;
pub mod trust;
pub mod type_url;

pub use ca::CaClient;
pub use client::AdsClient;
pub use delta::DeltaState;
pub use handler::ResourceHandler;
pub use token::TokenFile;
