//! What is up: each member's services, and the nodes and pods as the API server has them.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::layout::Member;
use super::{Cluster, ServiceState};

#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub members: Vec<MemberStatus>,
    /// Why the API server could not be asked.
    pub api_error: Option<String>,
    pub nodes: Vec<NodeStatus>,
    pub pods: Vec<PodStatus>,
    /// Of each part that has metrics, where they were asked for.
    pub metrics: Vec<MetricsStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct MetricsStatus {
    pub member: String,
    pub part: String,
    /// Samples that it shows.
    pub samples: usize,
    /// Why none could be read.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct MemberStatus {
    pub name: String,
    pub address: String,
    pub services: Vec<ServiceState>,
    pub error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    pub name: String,
    pub ready: bool,
    pub version: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct PodStatus {
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub phase: String,
    pub ready: bool,
    /// Of a container that waits or ended: why.
    pub reason: String,
}

impl Status {
    pub(super) fn look(cluster: &Cluster) -> Self {
        let members = [Member::Control].into_iter().chain(cluster.nodes());
        let members = members
            .map(|member| MemberStatus::look(cluster, member))
            .collect();
        let listed = list(cluster, "nodes").and_then(|nodes| Ok((nodes, list(cluster, "pods")?)));
        let (nodes, pods, api_error) = match listed {
            Ok((nodes, pods)) => (nodes, pods, None),
            Err(error) => (Vec::new(), Vec::new(), Some(error)),
        };
        Self {
            members,
            api_error,
            nodes: nodes.iter().map(NodeStatus::read).collect(),
            pods: pods.iter().map(PodStatus::read).collect(),
            metrics: Vec::new(),
        }
    }

    /// With what each part says of itself, which takes a request to each.
    pub(super) fn with_metrics(self, cluster: &Cluster) -> Self {
        let parts = cluster.parts_with_metrics().into_iter();
        let metrics = parts
            .map(|(member, part)| MetricsStatus::look(cluster, member, part))
            .collect();
        Self { metrics, ..self }
    }

    /// Every service runs, every node and pod is ready, all metrics that were asked for came.
    pub fn is_ready(&self) -> bool {
        let running = |member: &MemberStatus| {
            member.error.is_none() && member.services.iter().all(|service| service.pid.is_some())
        };
        let done = |pod: &PodStatus| pod.ready || pod.phase == "Succeeded";
        self.api_error.is_none()
            && self.members.iter().all(running)
            && self.nodes.iter().all(|node| node.ready)
            && self.pods.iter().all(done)
            && self.metrics.iter().all(|metrics| metrics.error.is_none())
    }
}

impl MemberStatus {
    fn look(cluster: &Cluster, member: Member) -> Self {
        let (services, error) = match cluster.services(member) {
            Ok(services) => (services, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Self {
            name: member.to_string(),
            address: member.address().to_string(),
            services,
            error,
        }
    }
}

impl MetricsStatus {
    fn look(cluster: &Cluster, member: Member, part: String) -> Self {
        let (samples, error) = match cluster.metrics(member, &part) {
            Ok(text) => (samples(&text), None),
            Err(error) => (0, Some(error.to_string())),
        };
        Self {
            member: member.to_string(),
            part,
            samples,
            error,
        }
    }
}

/// Lines of Prometheus's format that hold a value.
fn samples(text: &str) -> usize {
    let is_sample = |line: &&str| !line.is_empty() && !line.starts_with('#');
    text.lines().filter(is_sample).count()
}

impl NodeStatus {
    fn read(node: &Value) -> Self {
        Self {
            name: text(&node["metadata"]["name"]),
            ready: is_ready(node),
            version: text(&node["status"]["nodeInfo"]["kubeletVersion"]),
        }
    }
}

impl PodStatus {
    fn read(pod: &Value) -> Self {
        Self {
            namespace: text(&pod["metadata"]["namespace"]),
            name: text(&pod["metadata"]["name"]),
            node: text(&pod["spec"]["nodeName"]),
            phase: text(&pod["status"]["phase"]),
            ready: is_ready(pod),
            reason: reason(pod),
        }
    }
}

fn reason(pod: &Value) -> String {
    let containers = pod["status"]["containerStatuses"].as_array();
    let stuck = containers.into_iter().flatten().flat_map(|container| {
        let (waiting, ended) = (&container["state"]["waiting"], &container["state"]["terminated"]);
        [
            &waiting["reason"],
            &waiting["message"],
            &ended["reason"],
            &ended["message"],
        ]
    });
    let words: Vec<&str> = stuck.filter_map(Value::as_str).collect();
    words.join(" ")
}

fn list(cluster: &Cluster, kind: &str) -> Result<Vec<Value>, String> {
    let arguments = [
        "get",
        kind,
        "--all-namespaces",
        "-o",
        "json",
        "--request-timeout=5s",
    ];
    let output = cluster
        .kubectl()
        .run(&arguments)
        .map_err(|error| error.to_string())?;
    let mut list: Value = serde_json::from_str(&output).map_err(|error| error.to_string())?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Err(format!("kubectl listed no {kind}")),
    }
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        let ready = |condition: &&Value| condition["type"] == "Ready";
        conditions
            .iter()
            .find(ready)
            .is_some_and(|condition| condition["status"] == "True")
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for member in &self.members {
            writeln!(f, "{} {}", member.name, member.address)?;
            if let Some(error) = &member.error {
                writeln!(f, "  {error}")?;
            }
            for service in &member.services {
                writeln!(f, "  {}", describe(service))?;
            }
        }
        if let Some(error) = &self.api_error {
            return writeln!(f, "the API server does not answer: {error}");
        }
        for node in &self.nodes {
            writeln!(f, "node {} {} {}", node.name, ready(node.ready), node.version)?;
        }
        for pod in &self.pods {
            let PodStatus {
                namespace,
                name,
                node,
                phase,
                reason,
                ..
            } = pod;
            let line = format!(
                "pod {namespace}/{name} {} {phase} {node} {reason}",
                ready(pod.ready)
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        for MetricsStatus {
            member,
            part,
            samples,
            error,
        } in &self.metrics
        {
            match error {
                Some(error) => writeln!(f, "metrics of {member} {part}: {error}")?,
                None => writeln!(f, "metrics of {member} {part}: {samples} samples")?,
            }
        }
        Ok(())
    }
}

fn ready(ready: bool) -> &'static str {
    if ready { "ready" } else { "not-ready" }
}

fn describe(service: &ServiceState) -> String {
    let ServiceState {
        name, starts, ended, ..
    } = service;
    let state = match service.pid {
        Some(_) => "running",
        None if service.held => "stopped",
        None => "ended",
    };
    let before = ended
        .as_ref()
        .map(|how| format!(", last ended with {how}"))
        .unwrap_or_default();
    format!("{name} {state}, started {starts} times{before}")
}
