//! A pod as the daemon knows it, and the Pod object that says so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::names;
use super::super::network::{Family, NodeNumber};
use super::super::sandbox::Sandbox;
use super::super::spec::{self, Labels, PodSpec};
use super::super::store::{Key, object_field};
use super::kubelet::{Exit, PodCommand};

/// What the images of the mesh's own programs are called.
pub(super) const MESH_IMAGES: &str = "aquifer/";
/// Istio's mark for a pod whose traffic is captured.
const REDIRECTION: &str = "ambient.istio.io/redirection";

pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) owner: Option<Owner>,
    pub(super) node: NodeNumber,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) spec: PodSpec,
    /// metadata and spec as they were given.
    pub(super) manifest: Value,
    pub(super) sandbox: Sandbox,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) stage: Stage,
    pub(super) progress: Progress,
    pub(super) enrolment: Enrolment,
    pub(super) created: SystemTime,
}

/// The workload that made a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) workload: Key,
    /// Of the template; pods with another hash are replaced.
    pub(super) hash: String,
}

pub(super) enum Stage {
    /// Not started yet, and why.
    Waiting(String),
    Started(mpsc::Sender<PodCommand>),
    Stopping,
}

/// How far a pod has come that was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    #[default]
    Nowhere,
    /// Its namespace and cgroup are there; nothing runs in them.
    Placed,
    /// Its containers may run.
    Begun,
}

/// What the node's agent says of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Enrolment {
    pub(super) wanted: bool,
    pub(super) why: String,
    pub(super) enrolled: bool,
    /// The agent's reason, while it is not.
    pub(super) reason: String,
}

#[derive(Debug, Default)]
pub(super) struct Container {
    pub(super) starts: u32,
    pub(super) pid: Option<u32>,
    pub(super) last_exit: Option<Exit>,
    /// It has run for a while since its last start.
    pub(super) settled: bool,
    /// By kind: readiness, liveness, startup. Only those that the manifest has.
    pub(super) probes: BTreeMap<ProbeKind, ProbeState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProbeState {
    pub(super) healthy: Option<bool>,
    pub(super) detail: String,
}

impl ProbeKind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        [Self::Startup, Self::Readiness, Self::Liveness]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

impl Container {
    pub(super) fn started(&self) -> bool {
        let startup = self.probes.get(&ProbeKind::Startup);
        self.pid.is_some() && startup.is_none_or(|probe| probe.healthy == Some(true))
    }

    /// Without a probe: when it has started for the first time, or has outlived its last crash.
    fn ready(&self) -> bool {
        let calm = self.starts < 2 || self.settled;
        let readiness = self.probes.get(&ProbeKind::Readiness);
        self.started() && readiness.map_or(calm, |probe| probe.healthy == Some(true))
    }

    /// The lab's own look at the ports ends with its first success.
    pub(super) fn is_taken_for_ready(&self, container: &spec::Container) -> bool {
        let readiness = self.probes.get(&ProbeKind::Readiness);
        container.readiness_probe.is_none() && readiness.is_some_and(|probe| probe.healthy == Some(true))
    }

    fn finished(&self) -> Option<&Exit> {
        self.last_exit
            .as_ref()
            .filter(|exit| self.pid.is_none() && !exit.again)
    }

    fn trouble(&self, name: &str) -> Option<String> {
        let exit = self.last_exit.as_ref().map(|exit| exit.detail.as_str());
        if self.pid.is_none() {
            return Some(match exit {
                Some(exit) => format!("container {name}: {exit}, {} starts", self.starts),
                None => format!("container {name} is starting"),
            });
        }
        if !self.probes.contains_key(&ProbeKind::Readiness) && !self.ready() {
            return Some(format!(
                "container {name} was just started again after {}",
                exit.unwrap_or("its end")
            ));
        }
        let failing = self
            .probes
            .iter()
            .find(|(kind, probe)| **kind != ProbeKind::Liveness && probe.healthy != Some(true));
        failing.map(|(kind, probe)| {
            let detail = if probe.detail.is_empty() {
                "no result yet"
            } else {
                &probe.detail
            };
            format!("container {name}: {} probe: {detail}", kind.word())
        })
    }
}

impl Pod {
    pub(super) fn key(&self) -> Key {
        Key::core("Pod", &self.namespace, &self.name)
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping)
    }

    /// Whether its namespace and cgroup are there: they are made before the first container starts.
    pub(super) fn has_place(&self) -> bool {
        let begun = self.containers.values().any(|container| container.starts > 0);
        begun && matches!(self.stage, Stage::Started(_))
    }

    /// Whether its containers must not start yet: until the node's agent has it, all that they said would be plaintext.
    /// A CNI plugin does the same in a cluster. The mesh's own pods wait for nobody.
    pub(super) fn waits_for_agent(&self) -> bool {
        let own = |container: &spec::Container| container.image.starts_with(MESH_IMAGES);
        let waits = self.progress != Progress::Begun && self.enrolment.wanted && !self.enrolment.enrolled;
        waits && !self.spec.containers.iter().any(own)
    }

    pub(super) fn ready(&self) -> bool {
        let all = !self.containers.is_empty() && self.containers.values().all(Container::ready);
        matches!(self.stage, Stage::Started(_)) && all
    }

    pub(super) fn phase(&self) -> &'static str {
        let mut ends = self.containers.values().map(Container::finished);
        if !self.containers.is_empty() && ends.clone().all(|end| end.is_some()) {
            let success = ends.all(|end| end.is_some_and(|exit| exit.success));
            return if success { "Succeeded" } else { "Failed" };
        }
        if self.containers.values().any(|container| container.starts > 0) {
            "Running"
        } else {
            "Pending"
        }
    }

    pub(super) fn restarts(&self) -> u32 {
        self.containers
            .values()
            .map(|container| container.starts.saturating_sub(1))
            .sum()
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.containers
            .values()
            .filter_map(|container| container.pid)
            .collect()
    }

    /// Why the pod is not ready, or not enrolled though wanted; empty when all is well.
    pub(super) fn reason(&self) -> String {
        match &self.stage {
            Stage::Waiting(reason) => return reason.clone(),
            Stage::Stopping => return "stopping".to_owned(),
            Stage::Started(_) if self.waits_for_agent() => {
                return format!("waiting for its node's agent: {}", self.enrolment.reason);
            }
            Stage::Started(_) => {}
        }
        let mut troubles = self
            .containers
            .iter()
            .filter_map(|(name, container)| container.trouble(name));
        if let Some(trouble) = troubles.next() {
            return trouble;
        }
        if self.enrolment.wanted && !self.enrolment.enrolled {
            return format!("not enrolled: {}", self.enrolment.reason);
        }
        String::new()
    }

    /// A container has run for a while.
    pub(super) fn settled(&mut self, name: &str, pid: u32) {
        if let Some(container) = self.running(name, pid) {
            container.settled = true;
        }
    }

    /// A container whose ports nobody promised to open is taken for ready.
    pub(super) fn awaited(&mut self, name: &str, pid: u32) {
        let promised = |container: &spec::Container| container.readiness_probe.is_some();
        let own = self
            .spec
            .containers
            .iter()
            .find(|container| container.name == name);
        if own.is_some_and(promised) {
            return;
        }
        let container = self.running(name, pid);
        if let Some(probe) = container.and_then(|c| c.probes.get_mut(&ProbeKind::Readiness)) {
            probe.healthy = Some(true);
        }
    }

    /// A container, unless it was started again since.
    fn running(&mut self, name: &str, pid: u32) -> Option<&mut Container> {
        self.containers
            .get_mut(name)
            .filter(|container| container.pid == Some(pid))
    }

    /// The name of the workload, or of the pod itself.
    pub(super) fn workload(&self) -> &str {
        self.owner
            .as_ref()
            .map_or(&self.name, |owner| &owner.workload.name)
    }

    /// The Pod object as a kubelet would report it.
    pub(super) fn object(&self) -> Value {
        let mut object = self.manifest.clone();
        let meta = object_field(&mut object, "metadata");
        meta.insert("uid".to_owned(), json!(self.uid));
        meta.insert("labels".to_owned(), json!(self.labels));
        let mut annotations = self.annotations.clone();
        annotations.remove(REDIRECTION);
        if self.enrolment.enrolled {
            annotations.insert(REDIRECTION.to_owned(), "enabled".to_owned());
        }
        meta.insert("annotations".to_owned(), json!(annotations));
        if self.is_stopping() {
            meta.insert(
                "deletionTimestamp".to_owned(),
                json!(names::timestamp(self.created)),
            );
        }
        let spec = object_field(&mut object, "spec");
        spec.insert("nodeName".to_owned(), json!(self.node.name()));
        spec.insert(
            "serviceAccountName".to_owned(),
            json!(self.spec.service_account()),
        );
        object["status"] = self.status();
        object
    }

    fn status(&self) -> Value {
        let truth = |value: bool| if value { "True" } else { "False" };
        let condition = |kind: &str, value: bool| json!({ "type": kind, "status": truth(value) });
        let ready = self.ready();
        let ips: Vec<Value> = self.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let of_node = |ip: &IpAddr| self.node.address(Family::of(*ip));
        let host_ips: Vec<Value> = self
            .addresses
            .iter()
            .map(|ip| json!({ "ip": of_node(ip) }))
            .collect();
        let containers: Vec<Value> = self.containers.iter().map(container_status).collect();
        json!({
            "phase": self.phase(),
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", true),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ],
            "podIP": self.addresses.first(),
            "podIPs": ips,
            "hostIP": self.addresses.first().map(of_node),
            "hostIPs": host_ips,
            "startTime": names::timestamp(self.created),
            "containerStatuses": containers,
        })
    }
}

fn container_status((name, container): (&String, &Container)) -> Value {
    json!({
        "name": name,
        "ready": container.ready(),
        "started": container.started(),
        "restartCount": container.starts.saturating_sub(1),
    })
}
