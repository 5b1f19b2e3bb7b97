//! Which pods there should be, and where: the workload controllers and the scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::super::layout::Layout;
use super::super::manifest::HOSTNAME_LABEL;
use super::super::names;
use super::super::network::NodeNumber;
use super::super::sandbox::{PodNetwork, Sandbox};
use super::super::spec::{Meta, PodSpec, WorkloadSpec};
use super::super::store::{self, Key, object_field};
use super::cluster::Cluster;
use super::complaints::Subject;
use super::kubelet::PodCommand;
use super::pod::{Enrolment, Owner, Pod, Progress, Stage};

const WORKLOAD_KINDS: [&str; 3] = ["Deployment", "DaemonSet", "StatefulSet"];
/// Pod addresses of a node end here: host 1 is the gateway, 255 IPv4's broadcast.
const POD_HOSTS: std::ops::RangeInclusive<u8> = 2..=254;

/// A pod that is wanted.
struct Plan {
    /// Fixed for StatefulSets and bare pods; others get a suffix.
    name: Name,
    node: Option<NodeNumber>,
}

enum Name {
    Fixed(String),
    Generated(String),
}

impl Cluster {
    /// Starts what is missing and stops what is too much.
    pub(super) fn reconcile_workloads(&mut self) {
        let mut workloads: Vec<(Key, WorkloadSpec, Value)> = Vec::new();
        for kind in WORKLOAD_KINDS {
            for (key, value) in self.store.kind(kind) {
                if let Some(spec) = store::part(value, "/spec") {
                    workloads.push((key.clone(), spec, value["spec"]["template"].clone()));
                }
            }
        }
        self.complaints.retain_placing(|namespace, name| {
            workloads
                .iter()
                .any(|(key, ..)| key.namespace == namespace && key.name == name)
        });
        let wanted: BTreeSet<&Key> = workloads.iter().map(|(key, ..)| key).collect();
        let orphan = |pod: &&mut Pod| {
            pod.owner
                .as_ref()
                .is_some_and(|owner| !wanted.contains(&owner.workload))
        };
        self.pods.values_mut().filter(orphan).for_each(stop);
        for (key, spec, template) in &workloads {
            self.reconcile_workload(key, spec, template);
        }
    }

    fn reconcile_workload(&mut self, key: &Key, spec: &WorkloadSpec, template: &Value) {
        let owner = Owner {
            workload: key.clone(),
            hash: names::template_hash(&template.to_string()),
        };
        let current: Vec<&Pod> = self
            .pods_owned(key)
            .filter(|pod| pod.owner.as_ref() == Some(&owner))
            .collect();
        let settled = current.iter().filter(|pod| pod.ready()).count();
        let plans = plans(key, spec, &owner, &current, &self.nodes);
        let surplus = surplus(key, spec, &current);
        let complete = plans.is_empty() && settled == current.len();
        for plan in plans {
            self.create_pod(key, spec, template, &owner, plan);
        }
        // Pods of an older template serve until those of the new one are ready.
        let old = |pod: &Pod| {
            pod.owner
                .as_ref()
                .is_some_and(|was| was.workload == *key && was.hash != owner.hash)
        };
        let ordered = key.kind == "StatefulSet";
        for pod in self.pods.values_mut() {
            if surplus.contains(&pod.uid) || (old(pod) && (complete || ordered)) {
                stop(pod);
            }
        }
    }

    fn pods_owned<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Pod> {
        let owned = |pod: &&Pod| pod.owner.as_ref().is_some_and(|owner| owner.workload == *key);
        self.pods
            .values()
            .filter(move |pod| owned(pod) && !pod.is_stopping())
    }

    fn create_pod(&mut self, key: &Key, spec: &WorkloadSpec, template: &Value, owner: &Owner, plan: Plan) {
        let name = match plan.name {
            Name::Fixed(name) => name,
            Name::Generated(prefix) => format!("{prefix}-{}", names::random_suffix()),
        };
        if self.pods.contains_key(&(key.namespace.clone(), name.clone())) {
            // A StatefulSet's pod of that name is still stopping.
            return;
        }
        let mut pod = spec.template.spec.clone();
        let mut meta = spec.template.metadata.clone();
        meta.name = name.clone();
        meta.namespace = Some(key.namespace.clone());
        let owner_uid = self.store.get(key).map(|value| value["metadata"]["uid"].clone());
        let (label, owner_kind, owner_name) = ownership(key, &owner.hash);
        meta.labels.insert(label.to_owned(), owner.hash.clone());
        if key.kind == "StatefulSet" {
            meta.labels
                .insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone());
            pod.hostname = Some(name);
            pod.subdomain = spec.service_name.clone();
        }
        let mut manifest = json!({ "apiVersion": "v1", "kind": "Pod" });
        manifest["metadata"] = template["metadata"].clone();
        manifest["spec"] = template["spec"].clone();
        object_field(&mut manifest, "metadata").insert(
            "ownerReferences".to_owned(),
            json!([{ "apiVersion": "apps/v1", "kind": owner_kind, "name": owner_name, "uid": owner_uid,
                     "controller": true, "blockOwnerDeletion": true }]),
        );
        let subject = Subject::Placing(key.namespace.clone(), key.name.clone());
        match self.add_pod(meta, pod, manifest, Some(owner.clone()), plan.node) {
            Ok(()) => self.complaints.settle(&subject),
            Err(reason) => self.complaints.raise(subject, format!("{key}: {reason}")),
        }
    }

    /// Schedules a pod and gives it addresses; it starts when nothing it needs is missing.
    pub(super) fn add_pod(
        &mut self,
        meta: Meta,
        spec: PodSpec,
        manifest: Value,
        owner: Option<Owner>,
        node: Option<NodeNumber>,
    ) -> Result<(), String> {
        let namespace = meta.namespace.unwrap_or_default();
        let node = node.map_or_else(|| self.schedule(&spec), Ok)?;
        let addresses = self.pod_addresses(node, spec.host_network);
        let addresses = addresses.ok_or_else(|| format!("{} has no free address", node.name()))?;
        let sandbox = self.sandbox(&namespace, &meta.name, node, &addresses, spec.host_network);
        let containers = spec
            .containers
            .iter()
            .map(|container| (container.name.clone(), Default::default()));
        let pod = Pod {
            uid: names::uid(),
            owner,
            node,
            addresses,
            labels: meta.labels,
            annotations: meta.annotations,
            containers: containers.collect::<BTreeMap<_, _>>(),
            spec,
            manifest,
            sandbox,
            stage: Stage::Waiting("not started yet".to_owned()),
            progress: Progress::default(),
            enrolment: Enrolment::default(),
            created: SystemTime::now(),
            namespace: namespace.clone(),
            name: meta.name.clone(),
        };
        self.pods.insert((namespace, meta.name), pod);
        Ok(())
    }

    fn schedule(&mut self, spec: &PodSpec) -> Result<NodeNumber, String> {
        let asked = spec
            .node_name
            .as_ref()
            .or_else(|| spec.node_selector.get(HOSTNAME_LABEL));
        if let Some(name) = asked {
            let found = self.nodes.iter().find(|node| node.name() == *name);
            return found
                .copied()
                .ok_or_else(|| format!("no node {name} in this lab"));
        }
        let node = self.nodes[self.next_node % self.nodes.len()];
        self.next_node += 1;
        Ok(node)
    }

    fn pod_addresses(&mut self, node: NodeNumber, host_network: bool) -> Option<Vec<IpAddr>> {
        let families = self.config.families.list();
        if host_network {
            return Some(families.iter().map(|family| node.address(*family)).collect());
        }
        let taken: BTreeSet<IpAddr> = self
            .pods
            .values()
            .flat_map(|pod| pod.addresses.iter().copied())
            .collect();
        let last = self.last_host.entry(node).or_insert(*POD_HOSTS.start() - 1);
        // Onward from the last one: an address that was just given back rests as long as possible.
        let hosts = (*last + 1..=*POD_HOSTS.end()).chain(POD_HOSTS);
        let free = |host: &u8| {
            families
                .iter()
                .all(|family| !taken.contains(&node.pod_address(*family, *host)))
        };
        let host = hosts.into_iter().find(free)?;
        *last = if host == *POD_HOSTS.end() {
            *POD_HOSTS.start() - 1
        } else {
            host
        };
        Some(
            families
                .iter()
                .map(|family| node.pod_address(*family, host))
                .collect(),
        )
    }

    fn sandbox(
        &mut self,
        namespace: &str,
        name: &str,
        node: NodeNumber,
        addresses: &[IpAddr],
        host_network: bool,
    ) -> Sandbox {
        let layout = Layout::new(&self.config.name);
        let node_netns = layout.netns(&node.name());
        let network = if host_network {
            PodNetwork::Node { netns: node_netns }
        } else {
            self.next_interface += 1;
            PodNetwork::Own {
                netns: layout.pod_netns(namespace, name),
                node_netns,
                node,
                interface: format!("veth{}", self.next_interface),
                addresses: addresses.to_vec(),
            }
        };
        Sandbox {
            cgroup: self
                .cgroup
                .join(node.name())
                .join("kubepods")
                .join(namespace)
                .join(name),
            folder: layout.pod_dir(namespace, name),
            network,
        }
    }
}

/// Tells a pod's task to stop; a pod without one is gone at the next look.
pub(super) fn stop(pod: &mut Pod) {
    if let Stage::Started(commands) = &pod.stage {
        // The queue is never full: commands come from people.
        drop(commands.try_send(PodCommand::Stop));
        pod.stage = Stage::Stopping;
    } else if matches!(pod.stage, Stage::Waiting(_)) {
        pod.stage = Stage::Waiting(NEVER_STARTED.to_owned());
    }
}

/// Marks a pod that was told to stop before it started.
pub(super) const NEVER_STARTED: &str = "stopped before it started";

/// The label with the template's hash, and the kind and name that pods name as their owner.
fn ownership(key: &Key, hash: &str) -> (&'static str, &'static str, String) {
    match key.kind.as_str() {
        "Deployment" => ("pod-template-hash", "ReplicaSet", format!("{}-{hash}", key.name)),
        "DaemonSet" => ("controller-revision-hash", "DaemonSet", key.name.clone()),
        _ => ("controller-revision-hash", "StatefulSet", key.name.clone()),
    }
}

fn plans(key: &Key, spec: &WorkloadSpec, owner: &Owner, current: &[&Pod], nodes: &[NodeNumber]) -> Vec<Plan> {
    match key.kind.as_str() {
        "DaemonSet" => {
            let selected = |node: &&NodeNumber| {
                spec.template
                    .spec
                    .node_selector
                    .get(HOSTNAME_LABEL)
                    .is_none_or(|name| *name == node.name())
            };
            let missing = nodes
                .iter()
                .filter(selected)
                .filter(|node| !current.iter().any(|pod| pod.node == **node));
            let plan = |node: &NodeNumber| Plan {
                name: Name::Generated(key.name.clone()),
                node: Some(*node),
            };
            missing.map(plan).collect()
        }
        "StatefulSet" => {
            let names = (0..spec.replicas).map(|ordinal| format!("{}-{ordinal}", key.name));
            let missing = names.filter(|name| !current.iter().any(|pod| pod.name == *name));
            let plan = |name| Plan {
                name: Name::Fixed(name),
                node: None,
            };
            missing.map(plan).collect()
        }
        _ => {
            let missing = usize::from(spec.replicas).saturating_sub(current.len());
            let prefix = format!("{}-{}", key.name, owner.hash);
            let plan = |_| Plan {
                name: Name::Generated(prefix.clone()),
                node: None,
            };
            (0..missing).map(plan).collect()
        }
    }
}

/// The uids of pods beyond `replicas`, the youngest first.
fn surplus(key: &Key, spec: &WorkloadSpec, current: &[&Pod]) -> BTreeSet<String> {
    if key.kind == "DaemonSet" {
        return BTreeSet::new();
    }
    let mut by_age: Vec<&&Pod> = current.iter().collect();
    by_age.sort_by_key(|pod| (pod.created, pod.name.clone()));
    by_age
        .iter()
        .skip(spec.replicas.into())
        .map(|pod| pod.uid.clone())
        .collect()
}
