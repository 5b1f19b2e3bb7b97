//! What the mesh reads of Kubernetes' own objects. Fields that it does not read are not checked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::read::{lenient, or_default};
use super::{RawObject, Rejection};
use crate::compile::report::bound_waypoint;
use crate::compile::waypoints::WaypointKey;

fn part<'a>(raw: &'a RawObject, field: &str) -> &'a Value {
    raw.value.get(field).unwrap_or(&Value::Null)
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    pub spec: PodSpec,
    pub status: PodStatus,
}

impl Pod {
    pub(super) fn read(raw: &RawObject) -> Result<Self, Rejection> {
        Ok(Self {
            spec: lenient(part(raw, "spec"), "spec")?,
            status: lenient(part(raw, "status"), "status")?,
        })
    }

    /// All addresses, without the ones that do not parse.
    pub fn ips(&self) -> &[IpAddr] {
        &self.status.ips
    }

    pub fn is_ready(&self) -> bool {
        self.status.ready
    }

    pub fn is_finished(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }

    /// The number of a container port by its name.
    pub fn named_port(&self, name: &str) -> Option<u16> {
        let ports = self.spec.containers.iter().flat_map(|c| &c.ports);
        ports
            .into_iter()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
    }

    /// The container ports that have names; of two with one name the first.
    pub fn named_ports(&self) -> BTreeMap<&str, u16> {
        let ports = self.spec.containers.iter().flat_map(|c| &c.ports);
        let named = ports.filter_map(|p| Some((p.name.as_deref()?, p.container_port)));
        // Of equal keys the last one stays.
        named.collect::<Vec<_>>().into_iter().rev().collect()
    }

    pub fn service_account(&self) -> Arc<str> {
        match &self.spec.service_account_name {
            name if name.is_empty() => "default".into(),
            name => name.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    pub node_name: Arc<str>,
    #[serde(deserialize_with = "or_default")]
    pub service_account_name: Arc<str>,
    #[serde(deserialize_with = "or_default")]
    pub host_network: bool,
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Container {
    pub name: Arc<str>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    pub name: Option<Arc<str>>,
    pub container_port: u16,
}

/// What is read of a status, in few words: a mesh has many pods.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "WrittenStatus")]
pub struct PodStatus {
    pub phase: Arc<str>,
    pub ips: Box<[IpAddr]>,
    /// Of its node.
    pub host_ips: Box<[IpAddr]>,
    pub ready: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenStatus {
    #[serde(deserialize_with = "or_default")]
    phase: Arc<str>,
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pod_ip: Arc<str>,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pod_ips: Vec<PodIp>,
    #[serde(rename = "hostIP", deserialize_with = "or_default")]
    host_ip: Arc<str>,
    #[serde(rename = "hostIPs", deserialize_with = "or_default")]
    host_ips: Vec<PodIp>,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<PodCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodCondition {
    #[serde(rename = "type")]
    kind: Arc<str>,
    status: Arc<str>,
}

impl From<WrittenStatus> for PodStatus {
    fn from(written: WrittenStatus) -> Self {
        let mut conditions = written.conditions.iter();
        Self {
            ready: conditions.any(|c| &*c.kind == "Ready" && &*c.status == "True"),
            ips: each_once(&written.pod_ips, &written.pod_ip),
            host_ips: each_once(&written.host_ips, &written.host_ip),
            phase: written.phase,
        }
    }
}

fn each_once(all: &[PodIp], first: &Arc<str>) -> Box<[IpAddr]> {
    let mut ips: Vec<IpAddr> = Vec::new();
    let written = all.iter().map(|ip| &ip.ip).chain([first]);
    for ip in written.filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        if !ips.contains(&ip.to_canonical()) {
            ips.push(ip.to_canonical());
        }
    }
    ips.into()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Service {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: Arc<str>,
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: Arc<str>,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    #[serde(deserialize_with = "or_default")]
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub publish_not_ready_addresses: bool,
    #[serde(deserialize_with = "or_default")]
    pub internal_traffic_policy: Arc<str>,
    #[serde(deserialize_with = "or_default")]
    pub traffic_distribution: Arc<str>,
    #[serde(rename = "externalIPs", deserialize_with = "or_default")]
    pub external_ips: Vec<Arc<str>>,
    /// What a load balancer has given it, from its status.
    #[serde(skip)]
    pub load_balancer: Vec<LoadBalancerIngress>,
    /// The waypoint that its status says it is behind: what this or another replica decided.
    #[serde(skip)]
    pub bound: Option<WaypointKey>,
}

impl Service {
    pub(super) fn read(raw: &RawObject) -> Result<Self, Rejection> {
        let service: Self = lenient(part(raw, "spec"), "spec")?;
        Ok(Self {
            bound: bound_waypoint(&raw.value),
            load_balancer: lenient(
                raw.value
                    .pointer("/status/loadBalancer/ingress")
                    .unwrap_or(&Value::Null),
                "status.loadBalancer.ingress",
            )?,
            ..service
        })
    }

    /// Virtual addresses; none for a headless service.
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips: Vec<IpAddr> = Vec::new();
        for ip in self
            .cluster_ips
            .iter()
            .chain([&self.cluster_ip])
            .filter_map(|ip| ip.parse::<IpAddr>().ok())
        {
            if !vips.contains(&ip) {
                vips.push(ip);
            }
        }
        vips
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerIngress {
    pub ip: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    #[serde(deserialize_with = "or_default")]
    pub name: Arc<str>,
    pub port: u16,
    pub target_port: Option<TargetPort>,
    pub node_port: Option<u16>,
    #[serde(deserialize_with = "or_default")]
    pub protocol: Arc<str>,
    #[serde(deserialize_with = "or_default")]
    pub app_protocol: Arc<str>,
}

impl ServicePort {
    /// The pod's port behind this one; `None` where the pod has no port of that name.
    pub fn on_pod(&self, named: impl FnOnce(&str) -> Option<u16>) -> Option<u16> {
        match &self.target_port {
            None | Some(TargetPort::Number(0)) => Some(self.port),
            Some(TargetPort::Number(n)) => Some(*n),
            Some(TargetPort::Name(name)) => named(name),
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum TargetPort {
    Number(u16),
    Name(Arc<str>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSlice {
    /// The Service, from the label `kubernetes.io/service-name`.
    pub service: Arc<str>,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
    #[serde(rename = "targetRef")]
    pub target_ref: Option<TargetRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Unknown counts as ready.
    pub ready: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    #[serde(deserialize_with = "or_default")]
    pub name: Arc<str>,
    pub port: Option<u16>,
}

impl EndpointSlice {
    pub(super) fn read(raw: &RawObject) -> Result<Self, Rejection> {
        let labels = part(raw, "metadata")
            .get("labels")
            .and_then(|l| l.get("kubernetes.io/service-name"));
        Ok(Self {
            service: labels.and_then(Value::as_str).unwrap_or_default().into(),
            endpoints: lenient(part(raw, "endpoints"), "endpoints")?,
            ports: lenient(part(raw, "ports"), "ports")?,
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct ConfigMap {
    pub data: BTreeMap<Arc<str>, Arc<str>>,
}

impl ConfigMap {
    pub(super) fn read(raw: &RawObject) -> Result<Self, Rejection> {
        Ok(Self {
            data: lenient(part(raw, "data"), "data")?,
        })
    }
}
