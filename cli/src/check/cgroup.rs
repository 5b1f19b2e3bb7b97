//! Whether the agents look for pods below the cgroup where the kubelets put them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::check::asked;
use crate::check::report::{Report, names_shown};
use crate::kubectl::Kubectl;

/// Of the chart.
const DEFAULT: &str = "kubepods.slice";
const VARIABLE: &str = "AQUIFER_CAPTURED_CGROUP";
/// Where the agent sees the node's cgroups.
const MOUNT: &str = "/host/cgroup/";

pub(super) fn check(kubectl: &Kubectl, namespace: &str, report: &mut Report) -> anyhow::Result<()> {
    let nodes = kubectl.items(&["nodes"])?;
    let linux = nodes
        .iter()
        .filter(|n| n["status"]["nodeInfo"]["operatingSystem"] == "linux");
    let names: Vec<&str> = linux.filter_map(|n| n["metadata"]["name"].as_str()).collect();
    let mut wanted: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (name, cgroup) in names
        .iter()
        .zip(asked::all(&names, |name| of_node(kubectl, name)))
    {
        match cgroup {
            Ok(Some(cgroup)) => wanted.entry(cgroup).or_default().push(name),
            Ok(None) | Err(_) => unknown.push(*name),
        }
    }
    if !unknown.is_empty() {
        report.ok(
            "cgroup of pods",
            format!(
                "kubelets of {} do not tell; agent.cgroup.captured has to be right there",
                names_shown(&unknown)
            ),
        );
    }
    let agents = kubectl.object(&["daemonset", "aquifer-agent", "-n", namespace])?;
    let captured = agents.as_ref().and_then(captured);
    for (cgroup, nodes) in wanted {
        judge(&cgroup, &names_shown(&nodes), captured, report);
    }
    Ok(())
}

/// None where the kubelet does not say.
fn of_node(kubectl: &Kubectl, name: &str) -> anyhow::Result<Option<String>> {
    let page = format!("/api/v1/nodes/{name}/proxy/configz");
    let text = kubectl.text(&["get", "--raw", &page])?;
    let page: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(above_pods(&page["kubeletconfig"]))
}

/// What the chart's value has to be on a node with such a kubelet.
fn above_pods(kubelet: &Value) -> Option<String> {
    let driver = kubelet["cgroupDriver"].as_str()?;
    let root = kubelet["cgroupRoot"].as_str().unwrap_or_default();
    let names: Vec<&str> = root
        .split('/')
        .filter(|part| !part.is_empty())
        .chain(["kubepods"])
        .collect();
    if driver != "systemd" {
        return Some(names.join("/"));
    }
    // As systemd has it, the name of a slice has those of all above it.
    let slices = (1..=names.len()).map(|depth| format!("{}.slice", names[..depth].join("-")));
    Some(slices.collect::<Vec<_>>().join("/"))
}

fn captured(agents: &Value) -> Option<&str> {
    let containers = agents["spec"]["template"]["spec"]["containers"].as_array()?;
    let mut variables = containers.iter().filter_map(|c| c["env"].as_array()).flatten();
    let variable = variables.find(|variable| variable["name"] == VARIABLE)?;
    variable["value"].as_str()?.strip_prefix(MOUNT)
}

fn judge(wanted: &str, nodes: &str, captured: Option<&str>, report: &mut Report) {
    let subject = "cgroup of pods";
    match captured {
        Some(captured) if captured == wanted => report.ok(subject, format!("{wanted} on {nodes}")),
        Some(captured) => report.fail(
            subject,
            format!("is {wanted} on {nodes}, but agents look below {captured}"),
            format!("`aquifer upgrade --set agent.cgroup.captured={wanted}`"),
        ),
        None if wanted == DEFAULT => report.ok(subject, format!("{wanted} on {nodes}")),
        None => report.warn(
            subject,
            format!("is {wanted} on {nodes}, and {DEFAULT} where nothing is said"),
            format!("install with --set agent.cgroup.captured={wanted}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_kubelets_settings_name_the_cgroup() {
        let of = |driver: &str, root: &str| {
            above_pods(&json!({ "cgroupDriver": driver, "cgroupRoot": root })).unwrap()
        };
        assert_eq!(of("systemd", ""), "kubepods.slice");
        assert_eq!(of("systemd", "/"), "kubepods.slice");
        assert_eq!(of("cgroupfs", ""), "kubepods");
        // As in kind.
        assert_eq!(of("systemd", "/kubelet"), "kubelet.slice/kubelet-kubepods.slice");
        assert_eq!(of("cgroupfs", "/kubelet"), "kubelet/kubepods");
        assert_eq!(above_pods(&Value::Null), None);
    }

    #[test]
    fn what_does_not_fit_fails_when_agents_are_there() {
        let mark = |wanted: &str, captured: Option<&str>| {
            let mut report = Report::default();
            judge(wanted, "a", captured, &mut report);
            report.lines[0].to_string().split(' ').next().unwrap().to_owned()
        };
        assert_eq!(mark("kubepods.slice", None), "ok");
        assert_eq!(mark("kubepods", None), "warn");
        assert_eq!(mark("kubepods", Some("kubepods")), "ok");
        assert_eq!(mark("kubepods", Some("kubepods.slice")), "FAIL");
        let agents = json!({ "spec": { "template": { "spec": { "containers": [
            { "env": [{ "name": VARIABLE, "value": "/host/cgroup/kubepods" }] },
        ] } } } });
        assert_eq!(captured(&agents), Some("kubepods"));
    }
}
