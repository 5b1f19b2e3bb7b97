//! No mesh against Aquifer, interleaved in one run on one lab.
//!
//! Both sides run at the same time in the same lab, one namespace each, and are measured in turns: a
//! machine that drifts drifts under both. Everything shares the machine's processors, the load
//! generators too, so the ratios say something and the absolute figures little.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::lab::{Lab, LabError, LabOptions};

pub mod control;
pub mod enrol;
mod manifests;
mod measure;
mod plan;
mod report;
pub mod serve;
mod usage;

use measure::MeasureError;
pub use report::Report;

/// Which layer to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Node agents alone
    L4,
    /// Node agents and a waypoint that splits by weight
    L7,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    pub layer: Layer,
    /// Length of each measurement.
    pub seconds: u32,
    /// Turns that each side gets at each measurement; the report shows medians.
    pub rounds: u32,
    /// This crate's `aquifer-bench`, which is also the server.
    pub program: PathBuf,
}

#[derive(Debug, Error)]
pub enum BenchError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Measure(#[from] MeasureError),
    #[error("the lab has only {0} nodes; the benchmark takes two")]
    Nodes(usize),
}

const READY: Duration = Duration::from_secs(90);

/// Brings up a lab, measures, and takes it down, whatever happens.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    say(format_args!(
        "lab: two nodes, one namespace without and one with the mesh"
    ));
    let lab = Lab::up(&LabOptions::named(&options.name))?;
    let result = measure_all(&lab, options);
    let down = lab.down();
    let report = result?;
    down?;
    Ok(report)
}

fn measure_all(lab: &Lab, options: &Options) -> Result<Report, BenchError> {
    let status = lab.status()?;
    let [first, second] = status.nodes.as_slice() else {
        return Err(BenchError::Nodes(status.nodes.len()));
    };
    let program = options.program.display().to_string();
    for side in plan::Side::ALL {
        lab.apply("default", &manifests::namespace(side))?;
        lab.apply(
            side.namespace(),
            &manifests::workloads(&program, &first.name, &second.name),
        )?;
    }
    if options.layer == Layer::L7 {
        lab.apply(plan::Side::Mesh.namespace(), &manifests::routing())?;
        lab.wait_until("a waypoint is ready", READY, |status| {
            status
                .pods_of(plan::Side::Mesh.namespace(), "waypoint")
                .any(|pod| pod.ready)
        })?;
    }
    lab.wait_ready(READY)?;
    plan::run(lab, options)
}

fn say(what: std::fmt::Arguments<'_>) {
    eprintln!("==> {what}");
}
