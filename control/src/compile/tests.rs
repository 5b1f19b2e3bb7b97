//! Objects in, facts about resources out. Every resource that is made is also read back as the waypoint reads it.

mod bookinfo;
mod entries;
pub(crate) mod fixture;
mod gateway_api;
mod gateway_tls;
mod gateways;
mod incremental;
mod listeners;
mod parameters;
mod pods;
mod policies;
mod properties;
mod routing;
mod scope;
mod service_routes;
mod shared_ports;
mod statuses;
mod waypoints;
