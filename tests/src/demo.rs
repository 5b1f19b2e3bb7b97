//! The main job, told and proved: bookinfo's canary through the mesh on two nodes.
//!
//! Uses only [`crate::lab::Lab`] and looks from outside: packets on the links, answers at the client,
//! metrics that the proxies show. Each step either ends with a figure or with a [`failure::Failure`]
//! that says which step, why, and what to do. Read [`story`] for the order of events and [`report`]
//! for what is held to be proved.

use std::path::PathBuf;
use std::time::Duration;

mod capture;
mod client;
mod failure;
mod identities;
mod manifests;
mod progress;
mod report;
mod story;
mod tally;

pub mod namespace;

pub use failure::Failure;
pub use report::Report;

/// What a person may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lab's name; an older lab of that name is cleared first.
    pub name: String,
    /// Leave the lab running at the end.
    pub keep: bool,
    /// Requests for `/productpage` once the namespace is in the mesh.
    pub requests: usize,
    /// How long the load runs on before and after the weights change.
    pub load: Duration,
    /// Folder of the sample manifests.
    pub samples: PathBuf,
    /// The program that stands for bookinfo's images.
    pub bookinfo: PathBuf,
}

/// Runs the demo and takes the lab down, whatever happens, unless it is to be kept.
pub fn run(options: &Options) -> Result<Report, Failure> {
    story::tell(options)
}
