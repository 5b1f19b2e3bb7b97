//! The objects after validation: what the compiler works on. Nothing here is checked again.

pub mod destination_rule;
pub mod field;
pub mod gateway;
pub mod host;
pub mod http_route;
pub mod policy;
pub mod secret;
pub mod service_entry;
pub mod stream_route;
pub mod termination;
pub mod virtual_service;
pub mod visibility;
