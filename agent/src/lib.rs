//! The node agent.

pub mod capture;
