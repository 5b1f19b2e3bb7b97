//! Processor time and memory of the proxies.

use std::fs;

use crate::lab::status::{PodStatus, Status};

/// Ticks per second in /proc/PID/stat, fixed by the kernel's interface to user space.
const TICKS: f64 = 100.0;
const PAGE: f64 = 4096.0;

/// Sums over all agents, waypoints and gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) agents: Share,
    pub(super) waypoints: Share,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Share {
    pub(super) cpu_seconds: f64,
    pub(super) rss_megabytes: f64,
}

impl Usage {
    pub(super) fn read(status: &Status) -> Self {
        let mut usage = Self::default();
        for pod in &status.pods {
            let Some(share) = usage.share_of(pod) else {
                continue;
            };
            for pid in &pod.pids {
                if let Some(process) = of_process(*pid) {
                    share.cpu_seconds += process.cpu_seconds;
                    share.rss_megabytes += process.rss_megabytes;
                }
            }
        }
        usage
    }

    fn share_of(&mut self, pod: &PodStatus) -> Option<&mut Share> {
        if pod.labels.get("app").is_some_and(|app| app == "ztunnel") {
            return Some(&mut self.agents);
        }
        pod.labels
            .contains_key("gateway.networking.k8s.io/gateway-name")
            .then_some(&mut self.waypoints)
    }

    /// Processor time since `before`; memory as it is now.
    pub(super) fn since(mut self, before: &Self) -> Self {
        self.agents.cpu_seconds -= before.agents.cpu_seconds;
        self.waypoints.cpu_seconds -= before.waypoints.cpu_seconds;
        self
    }
}

/// `None` where it is gone.
pub(super) fn of_process(pid: u32) -> Option<Share> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The most memory that a process ever had.
pub(super) fn peak_megabytes(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1e3)
}

/// Processor time of all parts of Kubernetes with these names: one program is all of them, by its first argument.
pub(super) fn cpu_seconds_of(names: &[&str]) -> f64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_named = |pid: &u32| {
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments
            .split('\0')
            .nth(1)
            .is_some_and(|name| names.contains(&name))
    };
    let shares = pids.filter(is_named).filter_map(of_process);
    shares.map(|share| share.cpu_seconds).sum()
}

/// The machine's load average over a minute; zero where it is not told.
pub(super) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|first| first.parse().ok());
    first.unwrap_or_default()
}

/// utime, stime and rss: fields 14, 15 and 24; the name before them may hold blanks.
fn parse(stat: &str) -> Option<Share> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Share {
        cpu_seconds: (field(14)? + field(15)?) / TICKS,
        rss_megabytes: field(24)? * PAGE / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 19 20 1000 22";
        assert_eq!(
            parse(stat),
            Some(Share {
                cpu_seconds: 3.0,
                rss_megabytes: 4.096
            })
        );
    }

    #[test]
    fn a_process_that_is_gone_counts_nothing() {
        assert_eq!(parse(""), None);
    }
}
