//! Envoy v3 resources to the routing model.
//!
//! Every message is taken apart field by field, and each field is on one of three lists: read, harmless (it cannot
//! change where traffic goes or what becomes of it: statistics, tracing, buffers), or refused. A refused field that is
//! set rejects its resource with the field's path: nothing that changes semantics is ignored in silence. The lists are
//! patterns without a rest, so that a field that a new version of the API adds does not compile until it is listed.

mod cluster;
mod endpoints;
mod filters;
mod headers;
mod listener;
mod matching;
mod retry;
mod routes;
mod secret;
mod server_tls;
mod text;
mod values;

#[cfg(test)]
mod tests;

use std::fmt;

use aquifer_core::http::cluster::{Cluster, Endpoints};
use aquifer_core::http::listener::Listener;
use aquifer_core::http::table::RouteTable;
use prost::Message;

pub use envoy_types::pb;
pub use secret::Secret;

use crate::handler::{Rejected, Update};

/// The metadata filter whose keys are the labels of a request's source.
pub const SOURCE_FILTER: &str = "aquifer.source";
/// The metadata filter with the namespace of a request's source under `name`.
pub const SOURCE_NAMESPACE_FILTER: &str = "aquifer.source_namespace";
/// The metadata filter of endpoints: `identity`, `tunnel`, `workload`.
pub const ENDPOINT_FILTER: &str = "aquifer";

/// Where in a resource something is wrong, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {reason}")]
pub struct FieldError {
    pub field: String,
    pub reason: String,
}

impl FieldError {
    fn new(field: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self {
            field: field.to_string(),
            reason: reason.to_string(),
        }
    }

    fn unsupported(field: impl fmt::Display) -> Self {
        Self::new(field, "is set, but this proxy does not support it; remove it")
    }

    /// The same error seen from the message that holds the field.
    fn within(self, outer: impl fmt::Display) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            ..self
        }
    }
}

type Result<T> = std::result::Result<T, FieldError>;

/// Takes a message apart; see the module's documentation.
macro_rules! fields {
    ($message:expr => $type:ident {
        read: [$($read:ident),* $(,)?],
        harmless: [$($harmless:ident),* $(,)?],
        refused: [$($refused:ident),* $(,)?] $(,)?
    }) => {{
        #[allow(deprecated, reason = "a deprecated field that is set must be refused as well")]
        let $type { $($read: _,)* $($harmless: _,)* $($refused,)* } = $message;
        $(
            if $crate::envoy::is_set($refused) {
                return Err($crate::envoy::FieldError::unsupported(stringify!($refused)));
            }
        )*
    }};
}
use fields;

fn is_set<T: Default + PartialEq>(value: &T) -> bool {
    *value != T::default()
}

/// A resource of one of Envoy's types.
pub trait Resource: Sized {
    type Wire: Message + Default;
    const MESSAGE: &'static str;

    fn from_wire(wire: &Self::Wire) -> std::result::Result<Self, FieldError>;
    /// The name that the resource gives itself.
    fn name(&self) -> &str;
}

impl Resource for Listener {
    type Wire = pb::envoy::config::listener::v3::Listener;
    const MESSAGE: &'static str = "Listener";
    fn from_wire(wire: &Self::Wire) -> Result<Self> {
        listener::convert(wire)
    }
    fn name(&self) -> &str {
        &self.name
    }
}

impl Resource for RouteTable {
    type Wire = pb::envoy::config::route::v3::RouteConfiguration;
    const MESSAGE: &'static str = "RouteConfiguration";
    fn from_wire(wire: &Self::Wire) -> Result<Self> {
        routes::convert(wire)
    }
    fn name(&self) -> &str {
        &self.name
    }
}

impl Resource for Cluster {
    type Wire = pb::envoy::config::cluster::v3::Cluster;
    const MESSAGE: &'static str = "Cluster";
    fn from_wire(wire: &Self::Wire) -> Result<Self> {
        cluster::convert(wire)
    }
    fn name(&self) -> &str {
        &self.name
    }
}

impl Resource for Endpoints {
    type Wire = pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    const MESSAGE: &'static str = "ClusterLoadAssignment";
    fn from_wire(wire: &Self::Wire) -> Result<Self> {
        endpoints::convert(wire)
    }
    fn name(&self) -> &str {
        &self.name
    }
}

impl Resource for Secret {
    type Wire = pb::envoy::extensions::transport_sockets::tls::v3::Secret;
    const MESSAGE: &'static str = "Secret";
    fn from_wire(wire: &Self::Wire) -> Result<Self> {
        secret::convert(wire)
    }
    fn name(&self) -> &str {
        &self.name
    }
}

/// Reads the resource of an update.
///
/// # Errors
/// [`Rejected`] with the resource's name, the field and the reason.
pub fn decode<R: Resource>(update: &Update) -> std::result::Result<R, Rejected> {
    let wire = R::Wire::decode(update.resource.value.as_slice())
        .map_err(|e| Rejected::new(&update.name, format!("not a valid {} message: {e}", R::MESSAGE)))?;
    let resource = R::from_wire(&wire).map_err(|e| Rejected::new(&update.name, e))?;
    if resource.name() != update.name {
        // A removal only has the name: content under another name could never be removed again.
        let reason = format!("resource says that its name is {:?}", resource.name());
        return Err(Rejected::new(&update.name, reason));
    }
    Ok(resource)
}
