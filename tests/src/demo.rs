//! The main job, told and proved: bookinfo's canary through the mesh on two nodes.
//!
//! In the lab or on a real cluster ([`place`]), and looks from outside: packets on the links, answers at the client,
//! metrics that the proxies show. Each step either ends with a figure or with a [`failure::Failure`]
//! that says which step, why, and what to do. Read [`story`] for the order of events and [`report`]
//! for what is held to be proved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::foreign::{Access, Terms};

mod client;
mod failure;
mod identities;
mod manifests;
mod place;
mod progress;
mod report;
mod story;
mod tally;

pub mod capture;
pub mod load;
pub mod namespace;

pub use failure::Failure;
pub use report::Report;

/// What a person may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lab's or cluster's name; an older one of that name is cleared first.
    pub name: String,
    pub stage: Stage,
    /// Leave it running at the end.
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

impl Options {
    /// Folder of the programs of this build.
    pub fn programs(&self) -> &Path {
        self.bookinfo.parent().unwrap_or_else(|| Path::new("."))
    }
}

/// Where the demo plays.
#[derive(Clone, Debug)]
pub enum Stage {
    Lab,
    /// A cluster of real parts, with the mesh installed by helm.
    Kubernetes,
    /// A cluster that is there, on these terms.
    Foreign(Terms, Access),
}

/// Runs the demo and takes the lab down, whatever happens, unless it is to be kept.
pub fn run(options: &Options) -> Result<Report, Failure> {
    story::tell(options)
}
