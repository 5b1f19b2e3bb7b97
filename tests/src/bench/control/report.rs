//! The figures, with the aims beside them.

use std::fmt;

use serde_json::{Value, json};

use super::shares::Shares;
use super::{Delays, Row, objects};

/// For the largest mesh: seconds until it serves, and until all clients have everything; megabytes; milliseconds.
const AIMS: &str = "aims for 50000 pods and 500 clients: 30 s, 1500 MB, p99 100 ms";

#[derive(Clone, Debug)]
pub struct Report {
    pub(super) clients: u32,
    pub(super) changes: u32,
    pub(super) rows: Vec<Row>,
}

impl Report {
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "pods": row.pods,
                "ready_seconds": row.ready.as_secs_f64(),
                "clients_synced_seconds": row.synced.as_secs_f64(),
                "first_bytes": row.first_bytes,
                "resident_megabytes": row.resident_megabytes,
                "peak_megabytes": row.peak_megabytes,
                "processor_seconds_until_ready": shares(&row.starting),
                "processor_seconds_while_syncing": shares(&row.syncing),
                "processor_seconds_while_pods_change": shares(&row.changing),
                "pod_change_ms": delays(row.of_pods),
                "service_change_ms": delays(row.of_services),
                "rule_change_ms": delays(row.of_rules),
                "bytes_per_pod_change": row.bytes_per_change,
            })
        });
        json!({"clients": self.clients, "changes": self.changes, "sizes": rows.collect::<Vec<_>>()})
    }
}

fn shares(shares: &Shares) -> Value {
    json!({
        "control": shares.control, "api_server": shares.api_server, "clients": shares.clients,
        "load_average": shares.load,
    })
}

fn delays(delays: Delays) -> Value {
    json!({"p50": delays.p50.as_secs_f64() * 1e3, "p99": delays.p99.as_secs_f64() * 1e3})
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} agents and {} waypoints, {} Services, {} VirtualServices; {} of each change, ten a second",
            self.clients,
            objects::NAMESPACES,
            objects::SERVICES,
            objects::VIRTUAL_SERVICES,
            self.changes
        )?;
        writeln!(f, "{AIMS}")?;
        writeln!(
            f,
            "{:>8} {:>8} {:>10} {:>10} {:>8} {:>8} {:>10}",
            "PODS", "ready", "all synced", "first data", "memory", "peak", "per change"
        )?;
        self.rows.iter().try_for_each(|row| figures(f, row))?;
        writeln!(f, "from a change to the last acknowledgement, p50 and p99 in ms:")?;
        writeln!(
            f,
            "{:>8} {:>14} {:>14} {:>14}",
            "PODS", "pod", "Service", "VirtualService"
        )?;
        self.rows.iter().try_for_each(|row| all_delays(f, row))?;
        writeln!(
            f,
            "processor seconds of control plane + API server and etcd + clients, at a load average of:"
        )?;
        for row in &self.rows {
            processors(f, row.pods, "until ready", &row.starting)?;
            processors(f, row.pods, "first pictures", &row.syncing)?;
            processors(f, row.pods, "pods change", &row.changing)?;
        }
        Ok(())
    }
}

fn figures(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    writeln!(
        f,
        "{:>8} {:>6.1} s {:>8.1} s {:>7} MB {:>5.0} MB {:>5.0} MB {:>7} kB",
        row.pods,
        row.ready.as_secs_f64(),
        row.synced.as_secs_f64(),
        row.first_bytes / 1_000_000,
        row.resident_megabytes,
        row.peak_megabytes,
        row.bytes_per_change / 1000,
    )
}

fn all_delays(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    write!(f, "{:>8}", row.pods)?;
    for Delays { p50, p99 } in [row.of_pods, row.of_services, row.of_rules] {
        write!(
            f,
            " {:>6.0} {:>7.0}",
            p50.as_secs_f64() * 1e3,
            p99.as_secs_f64() * 1e3
        )?;
    }
    writeln!(f)
}

fn processors(f: &mut fmt::Formatter<'_>, pods: u32, phase: &str, shares: &Shares) -> fmt::Result {
    let Shares {
        control,
        api_server,
        clients,
        load,
        ..
    } = shares;
    writeln!(
        f,
        "{pods:>8} {phase:<14} {control:>6.1} + {api_server:>5.1} + {clients:>5.1}, {load:.1}"
    )
}
