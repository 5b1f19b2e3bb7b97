//! The node agents end to end, in a lab: real redirection, real tunnels, policies, and what happens when agents die.
//!
//! Each test has a lab of its own. They need root; without it they are skipped, but not in CI.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod egress;
mod encryption;
mod families;
mod gateways;
mod lifecycle;
mod policies;
mod sniffer;
mod waypoints;
mod world;
