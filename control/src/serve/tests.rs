//! Client and server together, over real TLS on the loopback.

mod calls;
pub(crate) mod fixture;
mod hostile;
mod sync;
mod trust;
