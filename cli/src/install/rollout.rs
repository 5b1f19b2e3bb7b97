//! Waiting until everything of the release is ready, and saying what is not, and why.

use std::io::{BufRead as _, BufReader, Read as _};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::table::say;

const OURS: &str = "app.kubernetes.io/part-of=aquifer";
/// Lines of kubectl that are passed on; it repeats itself where it waits long.
const MAX_LINES: usize = 1000;

/// Waits for every Deployment and DaemonSet of the mesh in the namespace.
pub(crate) fn wait(kubectl: &Kubectl, namespace: &str, timeout: u32) -> anyhow::Result<()> {
    let workloads = kubectl.items(&["deployments,daemonsets", "-n", namespace, "-l", OURS])?;
    if workloads.is_empty() {
        bail!("nothing of the mesh is in namespace {namespace}; was it deleted meanwhile?");
    }
    let names: Vec<String> = workloads.iter().filter_map(name).collect();
    for name in &names {
        say(&format!("waiting for {name}"));
        if let Err(error) = follow(kubectl, namespace, name, timeout) {
            let reasons = reasons(kubectl, namespace).unwrap_or_default();
            let detail = if reasons.is_empty() {
                String::new()
            } else {
                format!("\n  {}", reasons.join("\n  "))
            };
            return Err(error.context(format!("{name} is not ready within {timeout} s{detail}")));
        }
    }
    let ready = kubectl.items(&["deployments,daemonsets", "-n", namespace, "-l", OURS])?;
    ready
        .iter()
        .for_each(|workload| say(&format!("ready: {}", described(workload))));
    Ok(())
}

fn name(workload: &Value) -> Option<String> {
    let kind = workload["kind"].as_str()?.to_ascii_lowercase();
    Some(format!("{kind}/{}", workload["metadata"]["name"].as_str()?))
}

/// `kubectl rollout status` watches and says each step.
fn follow(kubectl: &Kubectl, namespace: &str, name: &str, timeout: u32) -> anyhow::Result<()> {
    let timeout = format!("--timeout={timeout}s");
    let mut child = kubectl.spawn(&["rollout", "status", name, "-n", namespace, &timeout])?;
    if let Some(stdout) = child.stdout.take() {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        lines.take(MAX_LINES).for_each(|line| say(&format!("  {line}")));
    }
    let status = child.wait().context("kubectl was lost")?;
    if status.success() {
        return Ok(());
    }
    let mut message = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut message);
    }
    bail!("{}", message.trim())
}

/// Why pods of the mesh are not ready, one line each.
pub(crate) fn reasons(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<Vec<String>> {
    let pods = kubectl.items(&["pods", "-n", namespace, "-l", OURS])?;
    Ok(pods.iter().filter(|p| !is_ready(p)).map(why).collect())
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .into_iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn why(pod: &Value) -> String {
    let name = pod["metadata"]["name"].as_str().unwrap_or("a pod");
    let node = pod["spec"]["nodeName"]
        .as_str()
        .map_or_else(String::new, |n| format!(" on {n}"));
    let containers = pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten();
    let stuck = containers.into_iter().find_map(|c| {
        let waiting = &c["state"]["waiting"];
        let ended = &c["lastState"]["terminated"]["message"];
        let reason = waiting["reason"].as_str()?;
        let message = ended
            .as_str()
            .or_else(|| waiting["message"].as_str())
            .unwrap_or_default();
        // The end of a program's log stands there, and its last line says why it ended.
        let message = message.trim().lines().last().unwrap_or_default();
        Some(format!("{reason} {}", message.trim()))
    });
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let unmet = conditions
        .into_iter()
        .find(|c| c["status"] == "False")
        .and_then(|c| c["message"].as_str());
    let reason = stuck.or_else(|| unmet.map(str::to_owned)).unwrap_or_else(|| {
        pod["status"]["phase"]
            .as_str()
            .unwrap_or("no status yet")
            .to_owned()
    });
    format!("pod {name}{node}: {}", reason.trim())
}

fn described(workload: &Value) -> String {
    let status = &workload["status"];
    let number = |a: &str, b: &str| {
        status[a]
            .as_u64()
            .or_else(|| status[b].as_u64())
            .unwrap_or_default()
    };
    let name = name(workload).unwrap_or_default();
    let (ready, of) = (
        number("numberReady", "readyReplicas"),
        number("desiredNumberScheduled", "replicas"),
    );
    format!("{name} ({ready} of {of})")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn says_why_a_pod_is_not_ready() {
        let pod = json!({
            "metadata": { "name": "a" },
            "spec": { "nodeName": "n" },
            "status": {
                "containerStatuses": [{ "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } } }],
            },
        });
        assert_eq!(why(&pod), "pod a on n: ImagePullBackOff no such image");
        let unscheduled = json!({
            "metadata": { "name": "b" },
            "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes" }] },
        });
        assert_eq!(why(&unscheduled), "pod b: 0/1 nodes");
    }
}
