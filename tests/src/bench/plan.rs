//! What is measured, in which order.

use std::collections::BTreeMap;

use crate::lab::Lab;

use super::measure::{self, Sample};
use super::report::{Report, Row};
use super::usage::Usage;
use super::{BenchError, Layer, Options, say};

/// The two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Plain,
    Mesh,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::Mesh];

    pub(super) fn namespace(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Mesh => "mesh",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    CrossNode,
    SameNode,
}

impl Path {
    const ALL: [Self; 2] = [Self::CrossNode, Self::SameNode];

    fn client(self) -> &'static str {
        match self {
            Self::CrossNode => "client-far-v1",
            Self::SameNode => "client-near-v1",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CrossNode => "cross-node",
            Self::SameNode => "same node",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measurement {
    Throughput,
    OneConnection,
    ManyConnections,
    NewConnections,
}

impl Measurement {
    /// Throughput is a matter of the tunnel alone.
    fn of(layer: Layer) -> &'static [Self] {
        match layer {
            Layer::L4 => &[
                Self::Throughput,
                Self::OneConnection,
                Self::ManyConnections,
                Self::NewConnections,
            ],
            Layer::L7 => &[Self::OneConnection, Self::ManyConnections, Self::NewConnections],
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput, 1 stream",
            Self::OneConnection => "http c=1",
            Self::ManyConnections => "http c=64",
            Self::NewConnections => "new connections, c=16",
        }
    }
}

/// Takes turns: within a round both sides are measured one right after the other.
pub(super) fn run(lab: &Lab, options: &Options) -> Result<Report, BenchError> {
    let mut rows: BTreeMap<(Path, Measurement, Side), Row> = BTreeMap::new();
    for path in Path::ALL {
        for &measurement in Measurement::of(options.layer) {
            for round in 0..options.rounds {
                for side in order(round) {
                    let row = rows.entry((path, measurement, side)).or_default();
                    row.add(turn(lab, options, path, measurement, side)?);
                }
            }
            say(format_args!("{}, {}: done", path.name(), measurement.name()));
        }
    }
    Ok(Report::new(options, rows, &Usage::read(&lab.status()?)))
}

/// Whoever goes first does so every other time.
fn order(round: u32) -> [Side; 2] {
    if round.is_multiple_of(2) {
        [Side::Plain, Side::Mesh]
    } else {
        [Side::Mesh, Side::Plain]
    }
}

fn turn(
    lab: &Lab,
    options: &Options,
    path: Path,
    measurement: Measurement,
    side: Side,
) -> Result<(Sample, Usage), BenchError> {
    let before = Usage::read(&lab.status()?);
    let client = format!("{}/{}", side.namespace(), path.client());
    let sample = measure::measure(lab, &client, measurement, options.seconds)?;
    let after = Usage::read(&lab.status()?);
    Ok((sample, after.since(&before)))
}
