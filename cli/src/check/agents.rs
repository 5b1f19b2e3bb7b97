//! What each node's agent sees of its node: nobody else sees all of it, and a node may differ from all the others.

use jiff::Timestamp;
use serde_json::Value;

use crate::check::asked;
use crate::check::causes::{Causes, NODES};
use crate::check::node::{btf_missing, kernel, lacking};
use crate::check::report::Report;
use crate::fetch;
use crate::install::rollout::is_ready;
use crate::kubectl::Kubectl;
use crate::reach::Reach;

/// How the mesh's own certificates and tokens bear clocks that disagree, in seconds.
const MOST_SKEW: i64 = 10;

/// A pod of the agent, and its node.
struct Agent {
    pod: String,
    node: String,
}

/// What an agent said, and how far its clock is ahead of this machine's, in seconds: at least and at most.
struct Told {
    facts: Value,
    ahead: Option<(i64, i64)>,
}

pub(super) fn check(
    kubectl: &Kubectl,
    reach: &Reach,
    namespace: &str,
    labels: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let pods = kubectl.items(&["pods", "-n", namespace, "-l", labels])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // Those that are not ready have a line of their own already.
    let agents: Vec<Agent> = pods
        .iter()
        .filter(|pod| is_ready(pod))
        .map(|pod| Agent {
            pod: text(&pod["metadata"]["name"]),
            node: text(&pod["spec"]["nodeName"]),
        })
        .collect();
    let answers = asked::all(&agents, |agent| {
        let before = Timestamp::now();
        let facts = reach.proxy(namespace, &agent.pod, "/debug/node", fetch::NOTE)?;
        let ahead = ahead(&facts, before, Timestamp::now());
        Ok(Told { facts, ahead })
    });
    let mut clocks = Vec::new();
    let mut causes = Causes::default();
    let lines = report.lines.len();
    for (agent, answer) in agents.iter().zip(answers) {
        match answer {
            Ok(told) => {
                clocks.extend(told.ahead.map(|ahead| (agent.node.as_str(), ahead)));
                judge(&agent.node, &told.facts, &mut causes);
            }
            Err(error) => unread(agent, &error, &mut causes),
        }
    }
    causes.tell(NODES, report);
    disagreeing(&clocks, report);
    if report.lines.len() == lines && !agents.is_empty() {
        report.ok(
            "nodes",
            format!(
                "{} agents were asked, and find nothing wrong with their nodes",
                agents.len()
            ),
        );
    }
    Ok(())
}

fn ahead(facts: &Value, before: Timestamp, after: Timestamp) -> Option<(i64, i64)> {
    let told: Timestamp = facts["time"].as_str()?.parse().ok()?;
    let than = |mine: Timestamp| told.as_second() - mine.as_second();
    Some((than(after), than(before)))
}

/// The words about one pod are those about another, but for its name.
fn unread<'n>(agent: &'n Agent, error: &anyhow::Error, causes: &mut Causes<'n>) {
    let why = format!("{error:#}").replace(&agent.pod, "AGENT");
    causes.warn(
        &agent.node,
        "",
        format!("its agent's page cannot be read: {why}"),
        "is port-forwarding to the agents allowed to you? an agent of an earlier version has no such page: `aquifer upgrade`",
    );
}

/// What is wrong with a node, each on its own.
fn judge<'n>(node: &'n str, facts: &Value, causes: &mut Causes<'n>) {
    if let Some((detail, remedy)) = kernel(facts["kernel"].as_str().unwrap_or_default()) {
        causes.fail(node, "kernel", detail, remedy);
    }
    if facts["btf"] == false {
        let (detail, remedy) = btf_missing();
        causes.warn(node, "BTF", detail, remedy);
    }
    let missing = lacking(facts["capabilities"].as_str().unwrap_or_default());
    if !missing.is_empty() {
        causes.fail(
            node,
            "capabilities",
            format!("the agent lacks {}", missing.join(", ")),
            "an admission policy or the container runtime takes them away: docs/security-model.md says what each is for",
        );
    }
    let is_missing = |place: &Value| place["isThere"] == false;
    let path = |place: &Value| place["path"].as_str().unwrap_or_default().to_owned();
    if is_missing(&facts["capturedCgroup"]) {
        causes.fail(
            node,
            "cgroup of pods",
            format!("{} is gone", path(&facts["capturedCgroup"])),
            "`aquifer upgrade --set agent.cgroup.captured=CGROUP` with the one that the kubelet puts pods in",
        );
    }
    if is_missing(&facts["podNetns"]) {
        causes.fail(
            node,
            "pods' network namespaces",
            format!("{} is gone", path(&facts["podNetns"])),
            "`aquifer upgrade --set agent.podNetnsDir=FOLDER` with the container runtime's folder",
        );
    }
    if facts["cni"]["inPlace"] == false {
        let why = facts["cni"]["error"]
            .as_str()
            .unwrap_or("another program took it out");
        causes.warn(
            node,
            "CNI plugin",
            format!("is not in place: {why}"),
            "pods that start there talk plainly until they are captured; set agent.cni.confDir and agent.cni.binDir to the container runtime's folders",
        );
    }
}

/// Two clocks disagree where one is ahead of the other for certain, whenever the question arrived.
fn disagreeing(clocks: &[(&str, (i64, i64))], report: &mut Report) {
    let (Some(behind), Some(ahead)) = (
        clocks.iter().min_by_key(|(_, (_, most))| most),
        clocks.iter().max_by_key(|(_, (least, _))| least),
    ) else {
        return;
    };
    let by = ahead.1.0 - behind.1.1;
    if by > MOST_SKEW {
        report.warn(
            "clocks",
            format!("node {} is at least {by} s ahead of node {}", ahead.0, behind.0),
            "run a time service on every node: certificates seem not valid yet, or not any more",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(check: impl Fn(&mut Report)) -> Vec<String> {
        let mut report = Report::default();
        check(&mut report);
        report.lines.iter().map(ToString::to_string).collect()
    }

    fn judged(facts: &Value) -> Vec<String> {
        told(|report| {
            let mut causes = Causes::default();
            judge("a", facts, &mut causes);
            causes.tell(NODES, report);
        })
    }

    fn well() -> Value {
        json!({
            "kernel": "6.8.0", "btf": true, "capabilities": "CapEff:\t000001ffffffffff",
            "capturedCgroup": { "path": "/c", "isThere": true }, "podNetns": null, "cni": { "inPlace": true },
        })
    }

    #[test]
    fn a_node_without_a_fault_has_no_line() {
        assert_eq!(judged(&well()), Vec::<String>::new());
    }

    #[test]
    fn every_fault_of_a_node_has_a_line_with_its_name() {
        let faults = [
            ("kernel", json!("5.15.0"), "FAIL  node a: kernel"),
            ("btf", json!(false), "warn  node a: BTF"),
            (
                "capabilities",
                json!("CapEff:\t0"),
                "FAIL  node a: capabilities: the agent lacks BPF, NET_ADMIN, SYS_ADMIN",
            ),
            (
                "capturedCgroup",
                json!({ "path": "/c", "isThere": false }),
                "FAIL  node a: cgroup of pods: /c is gone",
            ),
            (
                "podNetns",
                json!({ "path": "/n", "isThere": false }),
                "FAIL  node a: pods' network namespaces: /n is gone",
            ),
            (
                "cni",
                json!({ "inPlace": false, "error": "no file" }),
                "warn  node a: CNI plugin: is not in place: no file",
            ),
        ];
        for (key, value, line) in faults {
            let mut facts = well();
            facts[key] = value;
            let lines = judged(&facts);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(
                lines[0].starts_with(line) && lines[0].contains("remedy: "),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn agents_that_cannot_be_asked_for_one_reason_share_a_line() {
        let agents = ["a", "b"].map(|node| Agent {
            pod: format!("aquifer-agent-{node}"),
            node: node.to_owned(),
        });
        let lines = told(|report| {
            let mut causes = Causes::default();
            for agent in &agents {
                let error = anyhow::anyhow!("cannot reach port 15000 of pod n/{}: forbidden", agent.pod);
                unread(agent, &error, &mut causes);
            }
            causes.tell(NODES, report);
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        let start = "warn  2 nodes: its agent's page cannot be read: cannot reach port 15000 of pod n/AGENT: forbidden (a, b); remedy: ";
        assert!(lines[0].starts_with(start), "{lines:?}");
    }

    #[test]
    fn clocks_disagree_only_where_the_questions_cannot_explain_it() {
        let slow = [("a", (-30, 0)), ("b", (0, 2))];
        assert_eq!(told(|r| disagreeing(&slow, r)), Vec::<String>::new());
        let lines = told(|r| disagreeing(&[("a", (-1, 0)), ("b", (60, 61)), ("c", (0, 0))], r));
        assert!(
            lines[0].contains("node b is at least 60 s ahead of node a"),
            "{lines:?}"
        );
        assert_eq!(told(|r| disagreeing(&[], r)), Vec::<String>::new());
    }

    #[test]
    fn a_clock_is_compared_with_before_and_after_the_question() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let facts = json!({ "time": "2026-01-01T00:01:00.000Z" });
        let told = ahead(&facts, time("2026-01-01T00:00:58Z"), time("2026-01-01T00:01:03Z"));
        assert_eq!(told, Some((-3, 2)));
        assert_eq!(
            ahead(
                &json!({}),
                time("2026-01-01T00:00:58Z"),
                time("2026-01-01T00:01:03Z")
            ),
            None
        );
    }
}
