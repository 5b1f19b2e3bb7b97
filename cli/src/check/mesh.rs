//! The mesh itself: control plane, an agent on every node, versions, webhook, proxies in sync, pods enrolled.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_control::mesh_config::CONFIG_MAP;
use serde_json::Value;

use crate::check::causes::{Causes, Subject};
use crate::check::certificates;
use crate::check::report::{Report, names_shown};
use crate::check::webhook;
use crate::install::rollout::{is_ready, reasons};
use crate::kubectl::Kubectl;
use crate::reach::Reach;

const VERSION: &str = "app.kubernetes.io/version";
/// How the reason of an agent that is not ready begins.
const AGENT_POD: &str = "pod aquifer-agent-";
const AGENTS_OF: Subject = Subject {
    one: "agent on",
    several: "nodes without a ready agent",
};
pub(super) const AGENTS: &str = "app=ztunnel,app.kubernetes.io/part-of=aquifer";

/// Whether a mesh is installed at all.
pub(super) fn check(kubectl: &Kubectl, namespace: &str, report: &mut Report) -> anyhow::Result<bool> {
    let Some(control) = kubectl.object(&["deployment", "aquifer-control", "-n", namespace])? else {
        report.warn(
            "mesh",
            format!("not installed in namespace {namespace}"),
            install_command(namespace),
        );
        return Ok(false);
    };
    control_plane(&control, namespace, &reasons(kubectl, namespace)?, report);
    agents(kubectl, namespace, report)?;
    versions(
        &control,
        &kubectl.items(&["pods", "-n", namespace, "-l", AGENTS])?,
        namespace,
        report,
    );
    webhook::check(kubectl, namespace, report)?;
    Ok(true)
}

fn install_command(namespace: &str) -> String {
    match namespace {
        crate::install::NAMESPACE => {
            "`aquifer install`; `-n` says where it is, if it is elsewhere".to_owned()
        }
        other => format!("`aquifer install -n {other}`"),
    }
}

fn control_plane(control: &Value, namespace: &str, reasons: &[String], report: &mut Report) {
    let logs = format!("`kubectl -n {namespace} logs deployment/aquifer-control` says more");
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let (ready, wanted) = (
        number(&control["status"]["readyReplicas"]),
        number(&control["spec"]["replicas"]),
    );
    let detail = format!("{ready} of {wanted} replicas are ready");
    let why: Vec<&str> = reasons
        .iter()
        .filter(|r| r.contains("aquifer-control"))
        .map(String::as_str)
        .collect();
    match (ready, wanted) {
        (0, _) => report.fail("control plane", format!("{detail}; {}", why.join("; ")), logs),
        (ready, wanted) if ready < wanted => {
            report.warn("control plane", format!("{detail}; {}", why.join("; ")), logs)
        }
        _ => report.ok("control plane", detail),
    }
}

/// Every Linux node that runs pods has a ready agent.
fn agents(kubectl: &Kubectl, namespace: &str, report: &mut Report) -> anyhow::Result<()> {
    let pods = kubectl.items(&["pods", "-n", namespace, "-l", AGENTS])?;
    let on = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let ready: BTreeSet<String> = pods.iter().filter(|p| is_ready(p)).map(on).collect();
    let nodes = kubectl.items(&["nodes"])?;
    let linux = nodes
        .iter()
        .filter(|n| n["status"]["nodeInfo"]["operatingSystem"] == "linux");
    let names: Vec<&str> = linux.filter_map(|n| n["metadata"]["name"].as_str()).collect();
    let without: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !ready.contains(*name))
        .collect();
    if without.is_empty() {
        report.ok("agents", format!("ready on all {} nodes", names.len()));
        return Ok(());
    }
    not_ready(&without, &reasons(kubectl, namespace)?, report);
    Ok(())
}

/// A line for each reason, which is a pod's without its name.
fn not_ready(nodes: &[&str], reasons: &[String], report: &mut Report) {
    const REMEDY: &str = "pods of this node are cut off (enrolled ones) or outside the mesh; see the log of the agent, and `aquifer check --node` on the node";
    let mut causes = Causes::default();
    for node in nodes {
        let on = format!(" on {node}: ");
        let of_agents = reasons.iter().filter(|reason| reason.starts_with(AGENT_POD));
        let why = of_agents.filter_map(|reason| reason.split_once(&on)).next();
        let why = why.map_or("no pod of the agent is scheduled", |(_, why)| why);
        causes.fail(node, "", why, REMEDY);
    }
    causes.tell(AGENTS_OF, report);
}

/// This program, the control plane and the agents.
fn versions(control: &Value, agents: &[Value], namespace: &str, report: &mut Report) {
    let label = |object: &Value| {
        object["metadata"]["labels"][VERSION]
            .as_str()
            .unwrap_or("unknown")
            .to_owned()
    };
    let mine = env!("CARGO_PKG_VERSION");
    let theirs = label(control);
    let mut nodes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for agent in agents {
        let node = agent["spec"]["nodeName"].as_str().unwrap_or("no node");
        nodes.entry(label(agent)).or_default().push(node);
    }
    let others: Vec<&str> = nodes.keys().map(String::as_str).collect();
    let detail = format!(
        "aquifer {mine}, control plane {theirs}, agents {}",
        others.join(", ")
    );
    let skewed = nodes.iter().filter(|(version, _)| **version != theirs);
    let skewed: Vec<String> = skewed
        .map(|(version, nodes)| format!("{version} on {}", names_shown(nodes)))
        .collect();
    if !skewed.is_empty() {
        let remedy = format!(
            "the roll-out goes on, or a node was left out: `kubectl -n {namespace} rollout status daemonset/aquifer-agent`"
        );
        report.warn("versions", format!("{detail}: {}", skewed.join("; ")), remedy);
    } else if mine != theirs {
        report.warn(
            "versions",
            detail,
            "`aquifer upgrade` brings the mesh to this program's version, or use the program of the mesh's",
        );
    } else {
        report.ok("versions", detail);
    }
}

/// What only the control plane itself knows.
pub(super) fn check_proxies(reach: &Reach, namespace: &str, report: &mut Report) {
    let pages = reach
        .proxies()
        .and_then(|s| Ok((s, reach.control("/debug/pods")?)));
    match pages {
        Ok((proxies, pods)) => {
            synced(&proxies, report);
            enrolled(&pods, report);
            let view = reach.control("/debug/ca").ok();
            authority(view.as_ref(), report);
            certificates::signer(view.as_ref(), report);
            settings(reach.control("/debug/objects").ok().as_ref(), namespace, report);
        }
        Err(error) => report.warn(
            "control plane's pages",
            format!("{error:#}"),
            "is port-forwarding allowed to you?",
        ),
    }
}

/// A control plane of an earlier version has no such page.
fn authority(view: Option<&Value>, report: &mut Report) {
    let Some(view) = view else { return };
    let text = |name: &str| view[name].as_str().unwrap_or_default().to_owned();
    match view["problem"].as_str() {
        Some(problem) => report.warn(
            "certificate authority",
            problem.to_owned(),
            "the authority before signs on; put right what is wrong in the Secret",
        ),
        None => report.ok(
            "certificate authority",
            format!("{}, from {}", text("stage"), text("origin")),
        ),
    }
}

/// Whether the mesh's settings are rejected; the keys of them that do not act, a line for each.
fn settings(page: Option<&Value>, namespace: &str, report: &mut Report) {
    let Some(objects) = page.and_then(|page| page["objects"].as_array()) else {
        return;
    };
    let is_it = |object: &&Value| {
        object["kind"] == "ConfigMap" && object["name"] == CONFIG_MAP && object["namespace"] == namespace
    };
    let found = objects.iter().find(is_it);
    if let Some(reason) = found.and_then(rejection) {
        let remedy = format!(
            "`kubectl -n {namespace} edit configmap {CONFIG_MAP}`, or the chart's value meshConfig; until then a control plane that starts serves nobody"
        );
        report.fail("mesh settings", reason, remedy);
        return;
    }
    let notices = found.and_then(|object| object["notices"].as_array());
    let Some(notices) = notices.filter(|all| !all.is_empty()) else {
        report.ok("mesh settings", "every key that is set acts");
        return;
    };
    for notice in notices {
        let text = |name: &str| notice[name].as_str().unwrap_or_default();
        let key = text("field").trim_start_matches("data.mesh.");
        report.warn(
            format!("mesh settings: {key}"),
            text("message"),
            "set it as the message says, or take it out of the chart's value meshConfig; docs/install.md lists the keys that act",
        );
    }
}

/// Why an object is rejected, and what is in effect instead.
fn rejection(object: &Value) -> Option<&str> {
    let conditions = object["conditions"].as_array()?;
    let is_rejection = |c: &&Value| c["type"] == "Accepted" && c["status"] == "False";
    conditions.iter().find(is_rejection)?["message"].as_str()
}

fn synced(proxies: &Value, report: &mut Report) {
    let all: Vec<&Value> = proxies.as_array().into_iter().flatten().collect();
    let late: Vec<&str> = all
        .iter()
        .filter(|p| p["synced"] != true)
        .filter_map(|p| p["proxy"].as_str())
        .collect();
    if late.is_empty() {
        report.ok("proxies", format!("{} connected, all in sync", all.len()));
        return;
    }
    let detail = format!(
        "{} of {} are not in sync: {}",
        late.len(),
        all.len(),
        names_shown(&late)
    );
    report.warn(
        "proxies",
        detail,
        "`aquifer status` says what each waits for or rejected",
    );
}

fn enrolled(pods: &Value, report: &mut Report) {
    let all: Vec<&Value> = pods.as_array().into_iter().flatten().collect();
    let enrolled = all.iter().filter(|p| p["state"] == "enrolled").count();
    let waiting = all
        .iter()
        .filter(|p| p["state"] == "pending" && p["phase"] == "Running");
    let names: Vec<String> = waiting.map(|p| name(p)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        report.ok("pods", format!("{enrolled} enrolled, none waits for it"));
    } else {
        let detail = format!(
            "{enrolled} enrolled, {} that run and are to be are not: {}",
            names.len(),
            names_shown(&names)
        );
        report.warn(
            "pods",
            detail,
            "`aquifer status` gives each reason; the agent of its node may not be ready",
        );
    }
}

/// These pages are the control plane's own, without Kubernetes' metadata.
fn name(pod: &Value) -> String {
    let text = |key: &str| pod[key].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(page: &Value) -> Vec<String> {
        let mut report = Report::default();
        settings(Some(page), "istio-system", &mut report);
        report.lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nodes_whose_agents_have_another_version_are_named() {
        let labels = |version: &str| json!({ "labels": { VERSION: version } });
        let agent =
            |node: &str, version: &str| json!({ "metadata": labels(version), "spec": { "nodeName": node } });
        let mine = env!("CARGO_PKG_VERSION");
        let control = json!({ "metadata": labels(mine) });
        let line = |agents: &[Value]| {
            let mut report = Report::default();
            versions(&control, agents, "n", &mut report);
            report.lines[0].to_string()
        };
        assert!(line(&[agent("a", mine), agent("b", mine)]).starts_with("ok"));
        let said = line(&[agent("a", mine), agent("b", "0.0.1"), agent("c", "0.0.1")]);
        assert!(
            said.starts_with("warn") && said.contains(": 0.0.1 on b, c; remedy"),
            "{said}"
        );
    }

    #[test]
    fn settings_that_do_not_act_have_a_line_each() {
        let notices = json!([{ "field": "data.mesh.foo", "message": "is not read by this version" }]);
        let object =
            json!({ "kind": "ConfigMap", "namespace": "istio-system", "name": "istio", "notices": notices });
        let lines = told(&json!({ "objects": [{ "kind": "Service", "name": "istio" }, object] }));
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with("warn  mesh settings: foo: is not read"),
            "{lines:?}"
        );
        assert!(told(&json!({ "objects": [] }))[0].starts_with("ok"));
    }

    #[test]
    fn settings_that_are_rejected_fail() {
        let conditions = json!([{ "type": "Accepted", "status": "False", "message": "data.mesh: is not YAML; the last accepted version stays in effect" }]);
        let object = |namespace: &str| json!({ "kind": "ConfigMap", "namespace": namespace, "name": "istio", "notices": [], "conditions": conditions });
        let lines = told(&json!({ "objects": [object("istio-system")] }));
        assert_eq!(lines.len(), 1);
        let start = "FAIL  mesh settings: data.mesh: is not YAML; the last accepted version stays in effect; remedy: `kubectl -n istio-system edit configmap istio`";
        assert!(lines[0].starts_with(start), "{lines:?}");
        assert!(told(&json!({ "objects": [object("shop")] }))[0].starts_with("ok"));
    }

    #[test]
    fn agents_that_are_not_ready_for_one_reason_share_a_line() {
        let reasons = [
            "pod aquifer-agent-1 on a: CrashLoopBackOff is the kernel 6.1 or later?".to_owned(),
            "pod aquifer-agent-2 on b: CrashLoopBackOff is the kernel 6.1 or later?".to_owned(),
            "pod aquifer-agent-3 on c: ImagePullBackOff no such image".to_owned(),
            "pod aquifer-control-4 on d: CrashLoopBackOff no authority".to_owned(),
        ];
        let mut report = Report::default();
        not_ready(&["a", "b", "c", "d"], &reasons, &mut report);
        let lines: Vec<String> = report.lines.iter().map(ToString::to_string).collect();
        let starts = [
            "FAIL  2 nodes without a ready agent: CrashLoopBackOff is the kernel 6.1 or later? (a, b); remedy: ",
            "FAIL  agent on c: ImagePullBackOff no such image; remedy: ",
            "FAIL  agent on d: no pod of the agent is scheduled; remedy: ",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}
