//! The figures, with the aims beside them.

use std::fmt;

use serde_json::{Value, json};

use super::shares::Shares;
use super::{Row, objects};

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
                "processors_while_syncing": shares(&row.syncing),
                "processors_while_changing": shares(&row.changing),
                "p50_ms": row.p50.as_secs_f64() * 1e3,
                "p99_ms": row.p99.as_secs_f64() * 1e3,
                "bytes_per_change": row.bytes_per_change,
            })
        });
        json!({"clients": self.clients, "changes": self.changes, "sizes": rows.collect::<Vec<_>>()})
    }
}

fn shares(shares: &Shares) -> Value {
    json!({"control": shares.control, "api_server": shares.api_server, "clients": shares.clients})
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} clients, {} Services, {} VirtualServices; {} pods change, ten a second",
            self.clients,
            objects::SERVICES,
            objects::VIRTUAL_SERVICES,
            self.changes
        )?;
        writeln!(f, "{AIMS}")?;
        writeln!(
            f,
            "{:>8} {:>9} {:>11} {:>11} {:>8} {:>8} {:>8} {:>8} {:>11}",
            "PODS", "ready", "all synced", "first data", "memory", "peak", "p50", "p99", "per change"
        )?;
        for row in &self.rows {
            figures(f, row)?;
        }
        writeln!(
            f,
            "processors' worth of time, control plane + API server and etcd + clients:"
        )?;
        for row in &self.rows {
            write!(f, "{:>8} first pictures ", row.pods)?;
            processors(f, &row.syncing)?;
            write!(f, ", changes ")?;
            processors(f, &row.changing)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

fn figures(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    writeln!(
        f,
        "{:>8} {:>7.1} s {:>9.1} s {:>8} MB {:>5.0} MB {:>5.0} MB {:>5.0} ms {:>5.0} ms {:>8} kB",
        row.pods,
        row.ready.as_secs_f64(),
        row.synced.as_secs_f64(),
        row.first_bytes / 1_000_000,
        row.resident_megabytes,
        row.peak_megabytes,
        row.p50.as_secs_f64() * 1e3,
        row.p99.as_secs_f64() * 1e3,
        row.bytes_per_change / 1000,
    )
}

fn processors(f: &mut fmt::Formatter<'_>, shares: &Shares) -> fmt::Result {
    let Shares {
        control,
        api_server,
        clients,
    } = shares;
    write!(f, "{control:.2} + {api_server:.2} + {clients:.2}")
}
