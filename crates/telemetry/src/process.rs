//! Metrics of the process itself, under the names that every Prometheus client library uses.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::registry::Registry;

/// Clock ticks per second of `/proc/PID/stat`; 100 on every Linux architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

/// Refreshes CPU time, memory and descriptor counts; call it before rendering.
pub fn refresh(registry: &Registry) {
    let none: &[(&'static str, String)] = &[];
    if let Some(stat) = std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|s| Stat::parse(&s))
    {
        registry
            .counter("process_cpu_seconds_total", none)
            .absolute(stat.cpu_seconds as u64);
        registry
            .gauge("process_resident_memory_bytes", none)
            .set(stat.resident_bytes);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        registry
            .gauge("process_open_fds", none)
            .set(entries.count() as f64);
    }
}

/// Tells the component and version, as `istio_build` does.
pub fn describe_build(registry: &Registry, component: &'static str) {
    let labels = [
        ("component", component.to_owned()),
        ("tag", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    registry.gauge("istio_build", &labels).set(1.0);
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64());
    registry.gauge("process_start_time_seconds", &[]).set(started);
}

/// Raises the soft limit of open files to the hard one: service managers and shells give 1024, which a proxy with two
/// descriptors for each connection reaches long before its own limits.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok((soft, hard))
    });
    match raised {
        Ok((soft, hard)) => tracing::debug!(soft, hard, "limit of open files raised"),
        Err(error) => tracing::warn!(%error, "limit of open files stays as it is"),
    }
}

struct Stat {
    cpu_seconds: f64,
    resident_bytes: f64,
}

impl Stat {
    /// Fields 14, 15 (user and system time) and 24 (resident pages) of proc(5), after the command name in brackets.
    fn parse(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |n: usize| fields.get(n - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (number(14)? + number(15)?) / TICKS_PER_SECOND,
            resident_bytes: number(24)? * PAGE_BYTES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_stat() {
        let stat = Stat::parse(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert!(stat.resident_bytes > 0.0);
    }
}
