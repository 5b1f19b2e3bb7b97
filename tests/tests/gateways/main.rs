//! Gateways that end TLS or pass it on, in a lab, for clients that others wrote: curl and OpenSSL.
//!
//! They need root; without it they are skipped, but not in CI.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod authority;
mod clients;
mod listeners;
mod load;
mod mutual;
mod names;
mod passthrough;
mod rotation;
mod world;
