//! Between the wire and the model, both ways.
//!
//! From the wire every value is checked once and a bad one is rejected with its field and reason: the bytes come from
//! a peer. A setting that the model cannot express and that would change who may talk to whom, or where traffic goes,
//! is rejected as well, never dropped in silence.

mod address;
mod labels;
mod policy;
mod service;
mod workload;

#[cfg(test)]
mod tests;

use aquifer_core::policy::Authorization;
use aquifer_core::service::Service;
use aquifer_core::workload::Workload;
use prost::Message;
use prost_types::Any;

use crate::handler::{Rejected, Update};
use crate::pb::istio::{security, workload as pb};
use crate::type_url;

pub use labels::LABELS_EXTENSION;
pub use policy::{authorization_from_pb, authorization_to_pb};
pub use service::{service_from_pb, service_to_pb};
pub use workload::{workload_from_pb, workload_to_pb};

/// Why one resource cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("field {field} is missing")]
    Missing { field: &'static str },
    #[error("field {field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("field {field} is set to something this proxy does not support: {reason}")]
    Unsupported { field: &'static str, reason: String },
    #[error("not a valid {message} message: {reason}")]
    Decode { message: &'static str, reason: String },
    #[error("resource is named {name:?} but its content says {key:?}")]
    Name { name: String, key: String },
}

impl ConvertError {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors and texts are both given by value"
    )]
    fn invalid(field: &'static str, reason: impl ToString) -> Self {
        Self::Invalid {
            field,
            reason: reason.to_string(),
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors and texts are both given by value"
    )]
    fn unsupported(field: &'static str, reason: impl ToString) -> Self {
        Self::Unsupported {
            field,
            reason: reason.to_string(),
        }
    }
}

/// One `istio.workload.Address` resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    Workload(Box<Workload>),
    Service(Box<Service>),
}

impl Address {
    /// The resource name: a workload's uid, or `namespace/hostname` of a service.
    pub fn resource_name(&self) -> String {
        match self {
            Self::Workload(workload) => workload.uid.as_str().to_owned(),
            Self::Service(service) => service.key().to_string(),
        }
    }

    /// The resource as it goes into a response.
    pub fn to_any(&self) -> Any {
        let kind = match self {
            Self::Workload(workload) => pb::address::Type::Workload(workload_to_pb(workload)),
            Self::Service(service) => pb::address::Type::Service(service_to_pb(service)),
        };
        encode(type_url::ADDRESS, &pb::Address { r#type: Some(kind) })
    }

    /// Reads the resource of an update and checks that it is the one it is named as.
    ///
    /// # Errors
    /// [`Rejected`] with the resource's name.
    pub fn decode(update: &Update) -> Result<Self, Rejected> {
        let read = || {
            let message: pb::Address = decode("istio.workload.Address", &update.resource)?;
            let address = Self::from_pb(message)?;
            check_name(&update.name, address.resource_name())?;
            Ok::<_, ConvertError>(address)
        };
        read().map_err(|error| Rejected::new(&update.name, error))
    }

    pub fn from_pb(message: pb::Address) -> Result<Self, ConvertError> {
        match message.r#type {
            Some(pb::address::Type::Workload(w)) => Ok(Self::Workload(Box::new(workload_from_pb(w)?))),
            Some(pb::address::Type::Service(s)) => Ok(Self::Service(Box::new(service_from_pb(s)?))),
            None => Err(ConvertError::Missing { field: "type" }),
        }
    }
}

/// Reads the `istio.security.Authorization` of an update and checks its name.
///
/// # Errors
/// [`Rejected`] with the resource's name.
pub fn decode_authorization(update: &Update) -> Result<Authorization, Rejected> {
    let read = || {
        let message: security::Authorization = decode("istio.security.Authorization", &update.resource)?;
        let policy = authorization_from_pb(message)?;
        check_name(&update.name, policy.key())?;
        Ok::<_, ConvertError>(policy)
    };
    read().map_err(|error| Rejected::new(&update.name, error))
}

/// A policy as it goes into a response; its resource name is [`Authorization::key`].
pub fn authorization_to_any(policy: &Authorization) -> Any {
    encode(type_url::AUTHORIZATION, &authorization_to_pb(policy))
}

/// Wraps a message with its type URL.
pub fn encode<M: Message>(type_url: &str, message: &M) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

fn decode<M: Message + Default>(message: &'static str, any: &Any) -> Result<M, ConvertError> {
    M::decode(any.value.as_slice()).map_err(|error| ConvertError::Decode {
        message,
        reason: error.to_string(),
    })
}

fn check_name(name: &str, key: String) -> Result<(), ConvertError> {
    // A removal only has the name: content under another name could never be removed again.
    if name == key {
        Ok(())
    } else {
        Err(ConvertError::Name {
            name: name.to_owned(),
            key,
        })
    }
}
