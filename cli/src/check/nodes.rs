//! What the API server knows of each node.

use jiff::Timestamp;
use serde_json::Value;

use crate::check::causes::{Causes, NODES};
use crate::check::cluster::release;
use crate::check::report::Report;
use crate::kubectl::Kubectl;

/// Older kernels lack what the programs need.
pub(super) const OLDEST_KERNEL: (u32, u32) = (6, 1);
const RUNTIMES: [&str; 2] = ["containerd", "cri-o"];
/// Kubelets renew their lease every 10 s, by their own clock; certificates allow for a minute.
const MOST_SKEW: i64 = 75;

pub(super) fn check(kubectl: &Kubectl, report: &mut Report) -> anyhow::Result<()> {
    all(&kubectl.items(&["nodes"])?, report);
    clocks(
        &kubectl.items(&["leases.coordination.k8s.io", "-n", "kube-node-lease"])?,
        report,
    );
    Ok(())
}

fn all(nodes: &[Value], report: &mut Report) {
    let mut causes = Causes::default();
    nodes.iter().for_each(|node| one(node, &mut causes));
    causes.tell(NODES, report);
}

fn one<'n>(node: &'n Value, causes: &mut Causes<'n>) {
    let name = node["metadata"]["name"].as_str().unwrap_or("unknown");
    let info = &node["status"]["nodeInfo"];
    let text = |key: &str| info[key].as_str().unwrap_or("unknown");
    if text("operatingSystem") != "linux" {
        let detail = format!("runs {}, where no agent runs", text("operatingSystem"));
        causes.ok(name, "", detail);
        return;
    }
    let kernel = text("kernelVersion");
    let runtime = text("containerRuntimeVersion");
    if release(kernel).is_none_or(|release| release < OLDEST_KERNEL) {
        let remedy = "upgrade the node's kernel or image; until then its agent refuses, and the node's pods stay outside the mesh";
        let detail = format!(
            "kernel {kernel}, but {}.{} is needed",
            OLDEST_KERNEL.0, OLDEST_KERNEL.1
        );
        causes.fail(name, "", detail, remedy);
        return;
    }
    if !RUNTIMES.iter().any(|known| runtime.starts_with(known)) {
        let remedy =
            "use containerd or CRI-O: the agent finds pods' network namespaces where these keep them";
        let detail = format!("container runtime {runtime} is not known");
        causes.warn(name, "", detail, remedy);
        return;
    }
    causes.ok(name, "", format!("kernel {kernel}, {runtime}"));
}

/// Nodes whose clocks disagree see each other's certificates as not valid yet, or not any more.
fn clocks(leases: &[Value], report: &mut Report) {
    let times = leases.iter().filter_map(|lease| {
        let time: Timestamp = lease["spec"]["renewTime"].as_str()?.parse().ok()?;
        Some((time.as_second(), lease["metadata"]["name"].as_str()?))
    });
    let times: Vec<(i64, &str)> = times.collect();
    let (Some((oldest, behind)), Some((newest, _))) = (times.iter().min(), times.iter().max()) else {
        return;
    };
    if newest - oldest > MOST_SKEW {
        let detail = format!(
            "node {behind} is {} s behind the others, or does not answer",
            newest - oldest
        );
        report.warn(
            "clocks",
            detail,
            "run a time service on every node, or take the dead node away",
        );
    } else {
        report.ok("clocks", format!("{} nodes agree", times.len()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(kernel: &str, runtime: &str) -> String {
        let mut report = Report::default();
        let info = json!({ "operatingSystem": "linux", "kernelVersion": kernel, "containerRuntimeVersion": runtime });
        let node = json!({ "metadata": { "name": "a" }, "status": { "nodeInfo": info } });
        all(&[node], &mut report);
        report.lines[0]
            .to_string()
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn old_kernels_fail_and_unknown_runtimes_warn() {
        assert_eq!(outcome("6.1.0-18-amd64", "containerd://2.0.1"), "ok");
        assert_eq!(outcome("5.15.0-101-generic", "containerd://2.0.1"), "FAIL");
        assert_eq!(outcome("6.8.0", "docker://20.10"), "warn");
        assert_eq!(outcome("", ""), "FAIL");
    }

    #[test]
    fn clocks_that_disagree_are_named() {
        let lease =
            |name: &str, time: &str| json!({ "metadata": { "name": name }, "spec": { "renewTime": time } });
        let mut report = Report::default();
        clocks(
            &[
                lease("a", "2026-01-01T00:05:00.000000Z"),
                lease("b", "2026-01-01T00:00:00.000000Z"),
            ],
            &mut report,
        );
        assert!(
            report.lines[0].detail.starts_with("node b is 300 s behind"),
            "{:?}",
            report.lines
        );
        clocks(&[], &mut report);
        assert_eq!(report.lines.len(), 1);
    }
}
