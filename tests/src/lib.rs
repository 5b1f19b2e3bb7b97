//! The lab (a cluster on one machine) and the parts that several test suites share.
//!
//! Nothing here is deployed. Read [`lab::Lab`] first.

pub mod bench;
pub mod bookinfo;
pub mod cluster;
pub mod demo;
pub mod interrupt;
pub mod lab;
pub mod skip;
