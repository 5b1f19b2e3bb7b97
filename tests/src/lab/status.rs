//! What a lab looks like to people and tools: `aquifer-lab status`, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub name: String,
    /// Grows with every change.
    pub generation: u64,
    pub ready: bool,
    /// What keeps the lab from being ready, one sentence each.
    pub not_ready: Vec<String>,
    pub nodes: Vec<NodeStatus>,
    pub pods: Vec<PodStatus>,
    pub services: Vec<ServiceStatus>,
    pub gateways: Vec<GatewayStatus>,
    /// Objects that the control plane does not follow.
    #[serde(default)]
    pub refused: Vec<RefusedObject>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedObject {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub netns: String,
    pub ready: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub workload: String,
    pub labels: BTreeMap<String, String>,
    pub node: String,
    pub ip: Option<IpAddr>,
    pub ips: Vec<IpAddr>,
    pub netns: String,
    pub cgroup: String,
    pub phase: String,
    pub ready: bool,
    pub enrolled: bool,
    /// Whether the pod's namespace and labels opt it in, and why.
    pub wanted: bool,
    pub restarts: u32,
    /// Why it is not ready or not enrolled; empty when all is well.
    pub reason: String,
    pub pids: Vec<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    pub namespace: String,
    pub name: String,
    pub r#type: String,
    /// Empty for headless Services.
    pub vips: Vec<IpAddr>,
    /// Addresses reachable from outside the cluster.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<PortStatus>,
    pub ready_endpoints: usize,
    /// Their addresses.
    #[serde(default)]
    pub endpoints: Vec<IpAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    pub name: String,
    pub port: u16,
    pub protocol: String,
    pub node_port: Option<u16>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

impl Status {
    /// The pods whose workload or own name is `name`.
    pub fn pods_of<'a>(&'a self, namespace: &'a str, name: &'a str) -> impl Iterator<Item = &'a PodStatus> {
        self.pods
            .iter()
            .filter(move |pod| pod.namespace == namespace && (pod.workload == name || pod.name == name))
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceStatus> {
        self.services
            .iter()
            .find(|service| service.namespace == namespace && service.name == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.ready { "ready" } else { "not ready" };
        writeln!(f, "lab {}: {state}", self.name)?;
        for reason in &self.not_ready {
            writeln!(f, "  {reason}")?;
        }
        table(
            f,
            &["NODE", "ADDRESSES", "READY"],
            self.nodes.iter().map(node_row),
        )?;
        let pods = [
            "NAMESPACE",
            "POD",
            "NODE",
            "IP",
            "PHASE",
            "READY",
            "ENROLLED",
            "RESTARTS",
            "REASON",
        ];
        table(f, &pods, self.pods.iter().map(pod_row))?;
        let services = [
            "NAMESPACE",
            "SERVICE",
            "TYPE",
            "VIP",
            "ADDRESSES",
            "PORTS",
            "ENDPOINTS",
        ];
        table(f, &services, self.services.iter().map(service_row))?;
        let gateways = ["NAMESPACE", "GATEWAY", "KIND", "ADDRESSES"];
        table(f, &gateways, self.gateways.iter().map(gateway_row))?;
        table(
            f,
            &["NAMESPACE", "REFUSED", "NAME", "REASON"],
            self.refused.iter().map(refused_row),
        )
    }
}

fn node_row(node: &NodeStatus) -> Vec<String> {
    vec![node.name.clone(), join(&node.addresses), yes(node.ready)]
}

fn pod_row(pod: &PodStatus) -> Vec<String> {
    vec![
        pod.namespace.clone(),
        pod.name.clone(),
        pod.node.clone(),
        join(&pod.ips),
        pod.phase.clone(),
        yes(pod.ready),
        yes(pod.enrolled),
        pod.restarts.to_string(),
        pod.reason.clone(),
    ]
}

fn service_row(service: &ServiceStatus) -> Vec<String> {
    let vips = if service.vips.is_empty() {
        "None".to_owned()
    } else {
        join(&service.vips)
    };
    let ports: Vec<String> = service.ports.iter().map(port_text).collect();
    vec![
        service.namespace.clone(),
        service.name.clone(),
        service.r#type.clone(),
        vips,
        join(&service.addresses),
        ports.join(","),
        service.ready_endpoints.to_string(),
    ]
}

fn port_text(port: &PortStatus) -> String {
    let node_port = port
        .node_port
        .map(|number| format!(":{number}"))
        .unwrap_or_default();
    format!("{}{node_port}/{}", port.port, port.protocol)
}

fn gateway_row(gateway: &GatewayStatus) -> Vec<String> {
    vec![
        gateway.namespace.clone(),
        gateway.name.clone(),
        gateway.kind.clone(),
        join(&gateway.addresses),
    ]
}

fn refused_row(refused: &RefusedObject) -> Vec<String> {
    vec![
        refused.namespace.clone(),
        refused.kind.clone(),
        refused.name.clone(),
        refused.reason.clone(),
    ]
}

fn join(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// Prints columns as wide as their longest cell; nothing when there is no row.
fn table(f: &mut fmt::Formatter<'_>, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> fmt::Result {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|cell| (*cell).to_owned()).collect()];
    lines.extend(rows);
    if lines.len() == 1 {
        return Ok(());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    writeln!(f)?;
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
