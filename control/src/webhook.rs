//! The validating webhook: the API server asks before it stores an object of the mesh.
//!
//! Every replica answers, by the same validator as `aquifer analyze` and beside the model it serves; so nothing here
//! waits for another process. Where no replica answers, the chart's failure policy lets objects in, and they are
//! checked when they are read.

mod body;
mod bundle;
mod review;
mod server;

#[cfg(test)]
mod tests;

pub use bundle::Bundle;
pub use server::serve;
