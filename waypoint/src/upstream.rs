//! Connections to endpoints: dialled through the mesh or in plaintext, kept for the next request.

pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod endpoint;
mod io;

pub(crate) use io::UpstreamIo;
