//! Medians, ratios, and what they are worth.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::measure::Sample;
use super::plan::{Measurement, Path, Side};
use super::usage::Usage;
use super::{Layer, Options};

/// The turns of one side at one measurement.
#[derive(Debug, Default)]
pub(super) struct Row {
    samples: Vec<Sample>,
    /// What the proxies used during these turns.
    agents_cpu: f64,
    waypoints_cpu: f64,
}

#[derive(Debug)]
pub struct Report {
    layer: Layer,
    seconds: u32,
    rounds: u32,
    rows: BTreeMap<(Path, Measurement, Side), Row>,
    agents_megabytes: f64,
    waypoints_megabytes: f64,
}

impl Row {
    pub(super) fn add(&mut self, (sample, usage): (Sample, Usage)) {
        self.samples.push(sample);
        self.agents_cpu += usage.agents.cpu_seconds;
        self.waypoints_cpu += usage.waypoints.cpu_seconds;
    }

    fn median(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let mut figures: Vec<f64> = self.samples.iter().filter_map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    }

    /// Answered or not.
    fn requests(&self) -> u64 {
        self.samples
            .iter()
            .map(|sample| sample.requests + sample.errors)
            .sum()
    }

    fn errors(&self) -> u64 {
        self.samples.iter().map(|sample| sample.errors).sum()
    }
}

/// The figures of a sample, and whether more is better.
type Figure = (&'static str, fn(&Sample) -> Option<f64>);
const FIGURES: [Figure; 4] = [
    ("Gbit/s", |sample| sample.gigabits),
    ("per second", |sample| sample.rate),
    ("p50 us", |sample| sample.p50_micros),
    ("p99 us", |sample| sample.p99_micros),
];

impl Report {
    pub(super) fn new(
        options: &Options,
        rows: BTreeMap<(Path, Measurement, Side), Row>,
        usage: &Usage,
    ) -> Self {
        Self {
            layer: options.layer,
            seconds: options.seconds,
            rounds: options.rounds,
            rows,
            agents_megabytes: usage.agents.rss_megabytes,
            waypoints_megabytes: usage.waypoints.rss_megabytes,
        }
    }

    /// Measurements in which more than one request of a hundred failed: their figures say nothing.
    pub fn spoilt(&self) -> Vec<String> {
        let spoilt = self
            .rows
            .iter()
            .filter(|(_, row)| row.errors() * 100 > row.requests());
        spoilt
            .map(|((path, measurement, side), row)| {
                let (name, side) = (measurement.name(), side.namespace());
                format!(
                    "{}, {name} ({side}): {} of {} failed",
                    path.name(),
                    row.errors(),
                    row.requests()
                )
            })
            .collect()
    }

    pub fn to_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|(key, row)| row_json(*key, row)).collect();
        json!({
            "layer": if self.layer == Layer::L4 { "l4" } else { "l7" },
            "seconds": self.seconds,
            "rounds": self.rounds,
            "agents_rss_megabytes": self.agents_megabytes,
            "waypoints_rss_megabytes": self.waypoints_megabytes,
            "rows": rows,
        })
    }

    /// The two sides of one measurement, figure by figure.
    fn compare(&self, out: &mut fmt::Formatter<'_>, path: Path, measurement: Measurement) -> fmt::Result {
        let (Some(plain), Some(mesh)) = (
            self.rows.get(&(path, measurement, Side::Plain)),
            self.rows.get(&(path, measurement, Side::Mesh)),
        ) else {
            return Ok(());
        };
        for (name, figure) in FIGURES {
            let (Some(without), Some(with)) = (plain.median(figure), mesh.median(figure)) else {
                continue;
            };
            let what = format!("{}, {}", path.name(), measurement.name());
            let ratio = if without > 0.0 { with / without } else { 0.0 };
            writeln!(
                out,
                "{what:<36} {name:<11} {without:>11.1} {with:>11.1} {ratio:>7.2}"
            )?;
        }
        let turns = mesh.samples.len().max(1) as f64 * f64::from(self.seconds.max(1));
        let (agents, waypoints) = (mesh.agents_cpu / turns, mesh.waypoints_cpu / turns);
        writeln!(
            out,
            "{:<36} proxies used {agents:.2} cores in agents, {waypoints:.2} in waypoints",
            ""
        )?;
        match plain.errors() + mesh.errors() {
            0 => Ok(()),
            _ => writeln!(
                out,
                "{:<36} errors: {} without, {} with the mesh",
                "",
                plain.errors(),
                mesh.errors()
            ),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:<36} {:<11} {:>11} {:>11} {:>7}",
            "", "", "no mesh", "Aquifer", "ratio"
        )?;
        let keys = self.rows.keys().filter(|(_, _, side)| *side == Side::Plain);
        for (path, measurement, _) in keys {
            self.compare(out, *path, *measurement)?;
        }
        writeln!(
            out,
            "\nMemory at the end: {:.0} MB in all agents, {:.0} MB in all waypoints (resident).",
            self.agents_megabytes, self.waypoints_megabytes
        )?;
        write!(
            out,
            "Medians of {} turns of {} s each, both sides in turns on one machine that also carries clients and \
             servers.\nRead the ratios; absolute figures change with the machine and by the hour. Built with the \
             profile of the tests: no LTO.\nThe side without the mesh runs in the same lab, so it pays for the \
             kernel hooks that look at its sockets and let them pass.",
            self.rounds, self.seconds
        )
    }
}

fn row_json((path, measurement, side): (Path, Measurement, Side), row: &Row) -> Value {
    json!({
        "path": path.name(),
        "measurement": measurement.name(),
        "side": side.namespace(),
        "gigabits_per_second": row.median(|sample| sample.gigabits),
        "per_second": row.median(|sample| sample.rate),
        "p50_micros": row.median(|sample| sample.p50_micros),
        "p99_micros": row.median(|sample| sample.p99_micros),
        "errors": row.errors(),
        "agents_cpu_seconds": row.agents_cpu,
        "waypoints_cpu_seconds": row.waypoints_cpu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> (Sample, Usage) {
        (
            Sample {
                rate: Some(rate),
                ..Sample::default()
            },
            Usage::default(),
        )
    }

    #[test]
    fn one_slow_turn_does_not_move_the_median() {
        let mut row = Row::default();
        for rate in [100.0, 1.0, 110.0] {
            row.add(sample(rate));
        }
        assert_eq!(row.median(|sample| sample.rate), Some(100.0));
        assert_eq!(row.median(|sample| sample.gigabits), None);
    }

    #[test]
    fn a_measurement_with_many_errors_is_spoilt() {
        let spoilt = |errors| {
            let mut row = Row::default();
            row.add((
                Sample {
                    requests: 1000,
                    errors,
                    ..Sample::default()
                },
                Usage::default(),
            ));
            let rows = BTreeMap::from([((Path::SameNode, Measurement::OneConnection, Side::Mesh), row)]);
            let report = Report {
                layer: Layer::L4,
                seconds: 1,
                rounds: 1,
                rows,
                agents_megabytes: 0.0,
                waypoints_megabytes: 0.0,
            };
            report.spoilt().len()
        };
        assert_eq!((spoilt(5), spoilt(50)), (0, 1));
    }
}
